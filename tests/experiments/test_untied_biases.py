import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import biasjax as bj
from experiments import untied_biases
from experiments._parts import untied, untied_costs

INDEPENDENT = ("VGG16", "kept for backward")


@pytest.fixture(scope="module")
def dataset():
    config = dataclasses.replace(untied_biases.SMOKE, sizes=(50,), steps=20, repeats=2, seeds=2)
    return untied_biases.run(config)


def test_a_tiny_run_holds_what_no_size_matters_to(dataset):
    claims = {claim.name: claim for claim in untied_biases.claims(dataset)}
    assert all(len(name) <= 38 for name in claims)
    for name, claim in claims.items():
        assert claim.holds or not name.startswith(INDEPENDENT), claim
    assert "an update, median" in untied_biases.table(dataset)
    assert len(untied_biases.figure(dataset).axes) == 6
    # Before the first update both are the same network
    first = dataset.loss.isel(step=0)
    np.testing.assert_allclose(first.sel(biases="tied"), first.sel(biases="untied"), rtol=1e-5)


def test_vgg16_has_the_biases_that_are_counted_by_hand():
    assert untied_costs.vgg16_biases("tied") == 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512
    by_hand = 64 * 224**2 * 2 + 128 * 112**2 * 2 + 256 * 56**2 * 3 + 512 * 28**2 * 3 + 512 * 14**2 * 3
    assert untied_costs.vgg16_biases("untied") == by_hand


def _shape(layer: bj.linear.Linear) -> tuple[int, ...]:
    assert layer.bias is not None
    return layer.bias.shape


@pytest.mark.parametrize("head", untied_biases.HEADS)
def test_equal_untied_biases_are_tied_ones(head):
    x = jax.random.normal(jax.random.key(1), (3, 14, 14, 1))
    tied, free = (untied.draw(jax.random.key(0), biases, head) for biases in untied.BIASES)
    shapes = [_shape(layer) for layer in free.convs]
    assert shapes == [(14, 14, 4), (7, 7, 16)]
    values = [jnp.arange(float(n)) / 10 for n in untied.CHANNELS[1:]]
    both = [
        params._replace(
            convs=tuple(
                p._replace(bias=jnp.broadcast_to(b, _shape(p)))
                for p, b in zip(params.convs, values, strict=True)
            )
        )
        for params in (tied, free)
    ]
    np.testing.assert_allclose(*(untied.forward(params, x) for params in both), rtol=1e-5)


def test_before_a_mean_tied_biases_answer_alike_wherever_the_digit_stands():
    tied, free = (untied.draw(jax.random.key(0), biases, "mean") for biases in untied.BIASES)
    bias = jax.random.normal(jax.random.key(2), _shape(free.convs[0]))
    free = free._replace(convs=(free.convs[0]._replace(bias=bias), free.convs[1]))
    blob = jnp.zeros((1, 14, 14, 1)).at[:, 4:8, 4:8].set(1.0)
    moved = jnp.roll(blob, 2, 1)  # by the stride of the second layer, and away from the borders
    here, there = (untied.forward(tied, x) for x in (blob, moved))
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-6)
    assert float(abs(untied.forward(free, blob) - untied.forward(free, moved)).max()) > 1e-3


def test_one_fits_what_it_is_given(dataset):
    """More updates lower the training loss of few examples, by the pure function that the sweep runs."""
    assert bool(
        (dataset.train_loss.sel(head="flatten") < dataset.loss.sel(head="flatten").isel(step=0)).all()
    )
    assert bj.tree.count(untied.draw(jax.random.key(0), "tied", "mean")).total == 4 * 10 + 36 * 16 + 16 + 170
