import dataclasses

import numpy as np
import pytest
import xarray as xr

from experiments import batch_norm_gradients as experiment
from experiments._parts import curves

CONFIG = dataclasses.replace(experiment.SMOKE, batch_sizes=(8, 16), sigma_b=(0.0, 1.0))
DEAD = {"bias before bn: change of growth", "bias before bn: |grad|² / kernel's"}
ALIVE = {
    "dense-tanh-bn: growth / theory - 1",
    "relu-bn: growth ratio, 95% low end",
    "tanh-bn: growth ratio, 95% low end",
    "bn-relu: correlation - kernel",
}


@pytest.fixture(scope="module")
def ideal():
    """Networks whose layers do what theory says; behind ReLU a bias makes the growth half as steep again."""
    order = [*experiment.BEFORE, *experiment.AFTER]
    coords = {"order": order, "batch_size": list(CONFIG.batch_sizes), "sigma_b": list(CONFIG.sigma_b)}
    found = experiment.with_theory(xr.Dataset(coords=coords), CONFIG).assign_attrs(width=512)
    rate = found.rate_theory.fillna(1.5 * found.rate_theory.sel(sigma_b=0.0))
    noise = np.random.default_rng(0).normal(0, 1e-3, (10, CONFIG.depth))
    noise = xr.DataArray(noise, dims=("seed", "layer"))
    alive = xr.DataArray([0.0, 0.0, 1.0, 1.0], {"order": order})
    return found.assign(
        log_grad_features=-found.layer * np.log(rate) + noise,
        log_grad_kernels=0 * rate + noise,
        log_grad_biases=60 * (alive - 1) - 5 + 0 * rate + noise,
        correlation=found.correlation_theory + 0 * rate + noise,
    )


def _verdicts(dataset):
    return {claim.name: claim.verdict for claim in experiment.claims(dataset)}


def test_claims_hold_for_ideal_networks(ideal):
    found = _verdicts(ideal)
    assert set(found.values()) == {"holds"}
    assert set(found) >= DEAD | ALIVE
    assert max(map(len, found)) <= 36


def test_claims_about_a_bias_fail_where_it_is_off(ideal):
    found = _verdicts(curves.at_bias(ideal, experiment.MEASURED, 0.0))
    assert {name for name, verdict in found.items() if verdict != "holds"} == {
        *ALIVE,
        "bias before bn: change of growth",
    }


def test_claims_about_a_dead_bias_fail_where_it_is_alive(ideal):
    swapped = ideal[list(experiment.MEASURED)].isel(order=[2, 3, 0, 1]).assign_coords(order=ideal.order)
    found = _verdicts(ideal.assign(swapped))
    assert {found[name] for name in DEAD} == {"fails"}
