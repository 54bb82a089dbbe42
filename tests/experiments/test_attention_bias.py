import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import biasjax as bj
from experiments import attention_bias
from experiments._parts import bias_tuning, transformers

SIZES = {"inputs": 8, "length": 8, "outputs": 5}
CONFIG = dataclasses.replace(attention_bias.SMOKE, width=8, hidden=8)


@pytest.fixture(scope="module")
def dataset():
    small = {"audited": (), "seeds": 2, "steps": 20, "tuning_steps": 10, "width": 8, "hidden": 8}
    audited = {"audited": ("pre LN", "sigmoid")}
    return attention_bias.run(dataclasses.replace(attention_bias.SMOKE, **small | audited))


@pytest.fixture(scope="module")
def model():
    """One whose biases are no zeros."""
    drawn = transformers.init(jax.random.key(0), transformers.Variant(), **SIZES, config=CONFIG)
    leaves, tree = jax.tree.flatten(drawn)
    rng = np.random.default_rng(0)
    return tree.unflatten([leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def test_a_tiny_run_holds_what_no_size_matters_to(dataset):
    claims = attention_bias.claims(dataset)
    assert all(len(claim.name) <= 38 for claim in claims)
    for claim in claims:
        assert claim.holds or "accuracy" in claim.name, claim
    assert len(attention_bias.figure(dataset).axes) == 4
    assert "pre LN" in attention_bias.table(dataset)


def test_logits_are_those_of_the_formula_in_float64(model):
    x = np.random.default_rng(1).normal(size=(3, 8, 8))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model)

    def dense(layer, x):
        return x @ layer.kernel + (0 if layer.bias is None else layer.bias)

    def norm(layer, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * layer.scale + layer.bias

    def attend(layer, x):
        q, k, v = (dense(one, x).reshape(3, 8, 2, 4) for one in layer[:3])
        scores = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) / 2)
        weights = scores / scores.sum(-1, keepdims=True)
        return dense(layer.out, np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(3, 8, 8))

    (block,) = p.blocks
    h = dense(p.embed, x) + p.position
    h = h + attend(block.attention, norm(block.norm, h))
    hidden = dense(block.up, norm(block.inner_norm, h))
    h = h + dense(block.down, np.asarray(jax.nn.gelu(jnp.asarray(hidden, jnp.float32)), np.float64))
    logits = dense(p.head, norm(p.norm, h)).mean(1)
    found = transformers.classify(model, jnp.asarray(x, jnp.float32), transformers.Variant(), 2)
    assert np.allclose(found, logits, atol=1e-4)


@pytest.mark.parametrize(("number", "norm"), [(0.0, bj.norms.layer_norm), (1.0, bj.norms.rms_norm)])
def test_a_number_chooses_the_norm(number, norm, model):
    x = jax.random.normal(jax.random.key(1), (4, 8))
    mixed = transformers.norm_of(transformers.Variant(rms=jnp.asarray(number)))
    assert np.allclose(mixed(model.norm, x), norm(model.norm, x), atol=1e-6)


def test_parts_with_rate_zero_stay_and_the_others_are_adams(model):
    batches = jnp.arange(3)

    def loss(model, row):
        del row
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(model))

    rates = jnp.asarray([0.1 * (part == "value") for part in transformers.PARTS])
    found, _, _ = transformers.train(model, rates, loss, batches)
    value = model.blocks[0].attention.value.bias
    adam = optax.adam(0.1)
    state = adam.init(value)
    for _ in range(3):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(2 * value, state)
        value = value + updates
    assert np.allclose(found.blocks[0].attention.value.bias, value, rtol=1e-5)
    moved = jax.tree.map(lambda new, old: bool(jnp.any(new != old)), found, model)
    assert sum(jax.tree.leaves(moved)) == 1


def test_kinds_of_leaves(model):
    parts = transformers.spread(jnp.arange(9.0), model)
    names = transformers.PARTS
    block = parts.blocks[0]
    assert names[int(block.norm.bias[0])] == names[int(parts.norm.bias[0])] == "norm"
    assert names[int(block.inner_norm.scale[0])] == names[int(parts.position[0, 0])] == "rest"
    assert names[int(block.up.bias[0])] == "up"
    assert names[int(parts.head.bias[0])] == names[int(parts.head.kernel[0, 0])] == "head"


def test_a_folded_value_bias_gives_the_same_logits_unless_there_is_a_sink(model):
    x, (block,) = jax.random.normal(jax.random.key(2), (3, 8, 8)), model.blocks
    value = block.attention.value
    was = block._replace(attention=block.attention._replace(value=value._replace(bias=value.bias + 1.0)))
    sink = block._replace(attention=block.attention._replace(sink=jnp.zeros(2)))
    for one, same in ((block, True), (sink, False)):
        folded = model._replace(blocks=(bias_tuning.fold(one, was),))
        logits, moved = (
            transformers.classify(each, x, transformers.Variant(), 2)
            for each in (model._replace(blocks=(one,)), folded)
        )
        assert np.allclose(logits, moved, atol=1e-4) == same


def test_classes_are_counted_from_their_first():
    new = bias_tuning.of_classes(5, 9)
    assert set(new["test"][1].tolist()) == set(range(5))
    assert len(new["test"][1]) + len(bias_tuning.of_classes(0, 4)["test"][1]) == 360
