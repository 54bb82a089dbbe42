import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import biasjax as bj
from experiments import layer_norm_mean
from experiments._parts import mean_part

TINY = dataclasses.replace(
    layer_norm_mean.SMOKE,
    width=16,
    depth=1,
    batch=16,
    steps=6,
    seeds=3,
    drawn=400,
)
SMALL = types.SimpleNamespace(width=12, depth=2, bias=3.0, batch=16, steps=4)


@pytest.fixture(scope="module")
def dataset():
    return layer_norm_mean.run(TINY)


def test_a_tiny_run_holds_what_no_size_matters_to(dataset):
    claims = {claim.name: claim for claim in layer_norm_mean.claims(dataset)}
    assert all(len(name) <= 38 for name in claims)
    sure = [claim for name, claim in claims.items() if name.startswith(("new, n cos²", "dead", "SGD, LN: n"))]
    assert len(sure) == 5
    assert all(claim.holds for claim in sure), sure
    assert len(layer_norm_mean.figure(dataset).axes) == 4
    assert len(layer_norm_mean.table(dataset).splitlines()) == 2 + 16 + 1


def test_a_constant_bias_is_nothing_to_layer_norm(dataset):
    one = dataset.sel(place="stream", norm="LN")
    for optimizer in mean_part.OPTIMIZERS:
        zeros, constant = (one.sel(optimizer=optimizer, bias=bias) for bias in ("zeros", "constant"))
        np.testing.assert_allclose(zeros.accuracy, constant.accuracy, atol=0.01)


@pytest.mark.parametrize(("centred", "layer"), [(1.0, nn.LayerNorm), (0.0, nn.RMSNorm)])
def test_norms_are_those_of_flax(centred, layer):
    x, scale = jax.random.normal(jax.random.key(0), (5, 12)) + 2.0, jnp.linspace(0.5, 2.0, 12)
    options = {"use_bias": False} if centred else {}
    expected = layer(**options).apply({"params": {"scale": scale}}, x)
    np.testing.assert_allclose(mean_part.norm(x, scale, centred), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", mean_part.PLACES)
def test_networks_are_those_of_numpy_in_float64(place):
    params = mean_part.draw(SMALL, jax.random.key(1), 2)
    x = np.random.default_rng(0).uniform(size=(4, 64)).astype(np.float32)
    logits, given = mean_part.forward(params, jnp.asarray(x), 1.0, mean_part.PLACES.index(place))

    def dense(layer, h):
        return h @ np.asarray(layer.kernel, float) + np.asarray(layer.bias, float)

    def standardised(h):
        return (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)

    h = dense(params.embed, x)
    for block in params.blocks:
        if place == "stream":
            h = h + dense(block.outer, np.maximum(dense(block.inner, standardised(h)), 0))
        else:
            h = h + dense(block.outer, standardised(np.maximum(dense(block.inner, h), 0)))
    expected = dense(params.head, standardised(h) if place == "stream" else h)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)
    assert len(given) == SMALL.depth


def test_starts_are_what_they_are_called():
    biases = [mean_part.draw(SMALL, jax.random.key(2), start).embed.bias for start in range(4)]
    none, zeros, random, constant = map(np.asarray, biases)
    assert not none.any()
    assert not zeros.any()
    assert 1.0 < random.std() < 6.0
    assert (constant == SMALL.bias).all()


def test_alignment_is_one_along_the_ones_and_none_across():
    x = jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 2.0, -2.0]])
    assert float(mean_part.alignment(x)) == pytest.approx(0.5)
    assert float(mean_part.alignment(jnp.array([[1.0, 0.0, 0.0, 0.0]]))) == pytest.approx(0.25)


def test_the_share_of_ones_is_one_for_random_updates_and_width_along_them():
    first = mean_part.draw(SMALL, jax.random.key(3), 1)
    leaves, tree = jax.tree.flatten(first)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    noise = [a + jax.random.normal(key, a.shape) for a, key in zip(leaves, keys, strict=True)]
    assert float(mean_part.share_of_ones(first, tree.unflatten(noise))) == pytest.approx(1.0, abs=0.3)
    along = tree.unflatten([a + 1.0 for a in leaves])
    assert float(mean_part.share_of_ones(first, along)) == pytest.approx(SMALL.width)


def test_only_networks_with_biases_train_them():
    data = bj.data.flatten(bj.data.digits())
    for start, moved in ((0, False), (1, True)):
        kind = mean_part.Kind(place=0, optimizer=1, centred=0.0, start=start)
        first, params = mean_part.train(SMALL, jax.random.key(5), data, 0.01, kind)
        assert bool(jnp.any(params.embed.bias != first.embed.bias)) == moved
        assert bool(jnp.any(params.embed.kernel != first.embed.kernel))
