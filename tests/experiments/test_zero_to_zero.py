import dataclasses

import numpy as np
import pytest

from experiments import zero_to_zero


@pytest.fixture(scope="module")
def dataset():
    config = dataclasses.replace(zero_to_zero.SMOKE, width=16, depth=2, seeds=3, rotations=500)
    return zero_to_zero.run(config)


def test_a_tiny_run_holds_what_no_size_matters_to(dataset):
    claims = {claim.name: claim for claim in zero_to_zero.claims(dataset)}
    assert all(len(name) <= 38 for name in claims)
    for name, claim in claims.items():
        assert claim.holds or name.startswith("rotation: error / theory"), claim
    assert len(zero_to_zero.figure(dataset).axes) == 4


def test_errors_of_rotations_are_those_of_least_squares_in_float64(dataset):
    generator, d, n = np.random.default_rng(1), 8, 24
    found = {False: [], True: []}
    for _ in range(4000):
        x, noise = generator.normal(size=(n, d)), generator.normal(size=n)
        for use_bias, errors in found.items():
            design = np.concatenate([x, np.ones((n, 1))], 1) if use_bias else x
            weights = np.linalg.lstsq(design, noise, rcond=None)[0]
            direction = np.eye(d)[0] * 4.0
            errors.append((np.append(direction, 1.0)[: len(weights)] @ weights) ** 2)
    for use_bias, errors in found.items():
        theory = float(dataset.theory.sel(use_bias=use_bias, radius=4.0))
        assert np.mean(errors) == pytest.approx(theory, rel=0.1)
