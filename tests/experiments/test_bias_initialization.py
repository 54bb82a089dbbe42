import dataclasses
import math

import numpy as np
import pytest

from experiments import bias_initialization
from experiments._parts import initial_biases

INDEPENDENT = ("Xavier", "PyTorch", "ReLU from -1", "from ones: share", "rare class", "the same: |gradient")


@pytest.fixture(scope="module")
def dataset():
    config = dataclasses.replace(
        bias_initialization.SMOKE, steps=30, rare_rates=(0.1,), early=(10, 50), rare_steps=51, seeds=2
    )
    return bias_initialization.run(config)


def test_a_tiny_run_holds_what_no_size_matters_to(dataset):
    claims = {claim.name: claim for claim in bias_initialization.claims(dataset)}
    assert all(len(name) <= 38 for name in claims)
    for name, claim in claims.items():
        assert claim.holds or not name.startswith(INDEPENDENT), claim
    assert "log prior" in bias_initialization.table(dataset)
    assert len(bias_initialization.figure(dataset).axes) == 6


def test_initial_biases_are_those_that_are_asked_for(dataset):
    before = dataset.biases.sel(activation="relu", when="before").isel(rate=0)
    for init, value in (("zeros", 0), ("0.1", 0.1), ("ones", 1), ("-1", -1)):
        np.testing.assert_allclose(before.sel(init=init), value, rtol=1e-6)
    width = dataset.sizes["unit"]
    for init, limit in (("Xavier", (3 / width) ** 0.5), ("PyTorch", width**-0.5)):
        greatest = float(abs(before.sel(init=init)).max())
        assert 0.97 * limit < greatest <= limit


def test_the_first_loss_of_a_constant_logit_by_hand():
    bias = initial_biases.log_prior(0.01)
    assert bias == pytest.approx(-4.595, abs=1e-3)  # as RetinaNet has it
    for b, share in ((bias, 0.01), (bias, 0.02), (0.0, 0.3), (1.5, 0.4)):
        p = 1 / (1 + math.exp(-b))
        expected = -(share * math.log(p) + (1 - share) * math.log(1 - p))
        assert initial_biases.first_loss(b, share) == pytest.approx(expected)
    assert initial_biases.first_loss(0.0, 0.01) == pytest.approx(math.log(2))


def test_the_area_under_roc_is_that_of_scikit_learn():
    import jax.numpy as jnp
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 60), generator.integers(0, 9, 60)  # with ties
    found = initial_biases.area(jnp.asarray(scores, jnp.float32), jnp.asarray(labels))
    assert float(found) == pytest.approx(roc_auc_score(labels, scores), rel=1e-6)


def test_shares_weigh_the_loss_as_a_sample_of_that_share_would():
    import jax.numpy as jnp

    logits, labels = jnp.array([2.0, -1.0, 0.5, 0.5]), jnp.array([1, 0, 0, 0])
    even = initial_biases.weighted_loss(logits, labels, 0.25)
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    expected = -np.mean(np.where(labels == 1, np.log(p), np.log(1 - p)))
    assert float(even) == pytest.approx(expected, rel=1e-5)
