import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from experiments import conditioning
from experiments._parts import conditional_gan as gan

CONFIG = dataclasses.replace(
    conditioning.SMOKE, width=16, steps=25, samples=20, features=4, judge_steps=20, seeds=2, modes=gan.MODES
)


@pytest.fixture(scope="module")
def dataset():
    return conditioning.run(CONFIG)


def test_what_no_training_is_needed_for_holds_in_a_tiny_run(dataset):
    claims = {claim.name: claim for claim in conditioning.claims(dataset)}
    assert all(len(name) <= 38 for name in claims)
    for name, claim in claims.items():
        assert claim.holds or name.endswith("accuracy lost"), claim
    assert len(conditioning.figure(dataset).axes) == 4
    assert "FiLM" in conditioning.table(dataset)


def test_the_distance_is_that_of_normal_distributions():
    draws = np.random.default_rng(0)
    (a, b), means = draws.normal(size=(2, 30, 4)), draws.normal(size=(2, 4))
    c, d = np.cov(a.T), np.cov(b.T)
    truth = ((means[0] - means[1]) ** 2).sum() + np.trace(c + d - 2 * linalg.sqrtm(c @ d)).real
    assert gan.frechet(means[0], c, means[1], d) == pytest.approx(truth, rel=1e-6)
    stacked = gan.frechet(np.stack([means[0], means[1]]), np.stack([c, d]), means[1], d)
    np.testing.assert_allclose(stacked, [truth, 0.0], atol=1e-6)


@pytest.mark.parametrize("mode", gan.MODES)
def test_a_bias_that_is_switched_off_is_not_there(mode):
    params, state = gan.generator_init(jax.random.key(0), mode, 4, 6)
    biased = params._replace(first=params.first._replace(bias=jnp.ones(6)))
    without = params._replace(first=params.first._replace(bias=None))
    latents, condition = jax.random.normal(jax.random.key(1), (5, 4)), jax.nn.one_hot(np.arange(5), 10)
    off, none, on = (
        gan.generate(p, state, latents, condition, train=True)[0]
        for p in (gan.switched(biased, jnp.array(0.0)), without, gan.switched(biased, jnp.array(1.0)))
    )
    np.testing.assert_array_equal(off, none)
    assert (np.abs(on - off).max() < 1e-5) == (state is not None)
