"""Where biases are made: the line of this file that calls for them, whatever the framework."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from biasjax import adapters, attention, linear, norms
from biasjax._audit import origins
from biasjax._audit.model import trace
from biasjax.audit import in_mode

X = jnp.ones((4, 6))
LINES = Path(__file__).read_text().splitlines()


def found(pure, x=X):
    """What is found of every bias: the text of the line, function, layer, flag and part."""
    by_path = {}
    for path, made in traced(pure, x).items():
        if made is not None and made.where.startswith(__file__):
            line, _, function = made.where.removeprefix(f"{__file__}:").partition(" ")
            made = (LINES[int(line) - 1].strip(), function.strip("()").split(".")[-1], *made[1:-1])
        by_path[path] = made
    return by_path


def traced(pure, x=X):
    """What is found of every bias, as it is."""
    fn, keys = in_mode(pure.apply, pure.state, True)
    model = trace(fn, pure.params, x, keys)
    return {
        path: origins.made(model.program.jaxpr.jaxpr, i, path)
        for i, path in zip(model.biases.indices, model.names, strict=True)
    }


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(6)(x), None


class Linen(nn.Module):
    def setup(self):
        self.dense = nn.Dense(6)

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = self.dense(x)
        x = nn.Sequential([nn.Dense(6, name="first"), nn.relu])(x)
        scanned = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = scanned(name="loop")(x, None)
        return nn.MultiHeadDotProductAttention(2, name="heads")(x[None])


def test_linen():
    made = found(adapters.from_linen(Linen(), Linen().init(jax.random.key(0), X, False)))
    norm = 'x = nn.BatchNorm(use_running_average=not train, name="norm")(x)'
    assert made["norm/bias"] == (norm, "__call__", "flax.linen.BatchNorm", "use_bias=False", "")
    assert made["dense/bias"] == ("x = self.dense(x)", "__call__", "flax.linen.Dense", "use_bias=False", "")
    assert made["first/bias"][0].startswith("x = nn.Sequential")
    assert made["first/bias"][2] == "flax.linen.Dense"
    assert made["loop/Dense_0/bias"][0] == "return nn.Dense(6)(x), None"
    line, _, *layer = made["heads/key/bias"]
    assert line.startswith("return nn.MultiHead")
    assert layer == ["flax.linen.MultiHeadDotProductAttention", "use_bias=False", "key"]


def test_layers_with_a_private_base_have_their_public_name():
    conv = nn.Conv(3, (2,))
    made = found(adapters.from_linen(conv, conv.init(jax.random.key(0), X)))
    assert made["bias"][1:3] == ("flax.linen.Conv", "use_bias=False")


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(6, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)

    def __call__(self, x):
        x = self.dense(x)
        return self.norm(x)


def test_nnx():
    made = found(adapters.from_nnx(Nnx(nnx.Rngs(0))))
    assert made == {
        "dense/bias": ("x = self.dense(x)", "__call__", "flax.nnx.Linear", "use_bias=False", ""),
        "norm/bias": ("return self.norm(x)", "__call__", "flax.nnx.LayerNorm", "use_bias=False", ""),
    }


def test_steps_follow_the_program_not_the_tree():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a_last, self.z_first = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
            self.m_looped = nnx.Param(jnp.ones(6))

        def __call__(self, x):
            x = self.z_first(x)
            x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x + self.m_looped[...]), None), x, length=3)
            return self.a_last(x)

    def is_bias(path, leaf):
        return path.endswith(("bias", "m_looped"))

    pure = adapters.from_nnx(Net(nnx.Rngs(0)))
    fn, keys = in_mode(pure.apply, pure.state, True)
    model = trace(fn, pure.params, X, keys, is_bias=is_bias)
    program = model.program.jaxpr.jaxpr
    made = {
        path: origins.made(program, i, path)
        for i, path in zip(model.biases.indices, model.names, strict=True)
    }
    steps = {path: one.step for path, one in made.items() if one}
    assert sorted(steps, key=steps.__getitem__) == ["z_first/bias", "m_looped", "a_last/bias"]
    assert program.eqns[steps["m_looped"]].primitive.name == "scan"


def test_equinox():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        dense: Any
        norm: Any
        heads: Any

        def __init__(self):
            key = jax.random.key(0)
            self.dense = eqx.nn.Linear(6, 6, key=key)
            self.norm = eqx.nn.GroupNorm(2, 6)
            self.heads = eqx.nn.MultiheadAttention(2, 6, use_key_bias=True, key=key)

        def __call__(self, x):
            x = self.dense(x)
            x = self.norm(x)
            return self.heads(x[None], x[None], x[None])[0]

    assert found(adapters.from_equinox(Net())) == {
        "dense/bias": ("x = self.dense(x)", "__call__", "equinox.nn.Linear", "use_bias=False", ""),
        "norm/bias": ("x = self.norm(x)", "__call__", "equinox.nn.GroupNorm", "", ""),
        "heads/key_proj/bias": (
            *("return self.heads(x[None], x[None], x[None])[0]", "__call__"),
            *("equinox.nn.MultiheadAttention", "use_key_bias=False", ""),
        ),
    }


def test_haiku(standard_promotion):
    hk = pytest.importorskip("haiku")

    def net(x, is_training):
        x = hk.nets.MLP([8, 6])(x)
        x = hk.BatchNorm(True, True, 0.9)(x, is_training)
        return hk.Linear(3)(x)

    transformed = hk.transform_with_state(net)
    made = found(adapters.from_haiku(transformed, *transformed.init(jax.random.key(0), X, True)))
    assert made["linear/b"] == ("return hk.Linear(3)(x)", "net", "haiku.Linear", "with_bias=False", "")
    norm = "x = hk.BatchNorm(True, True, 0.9)(x, is_training)"
    assert made["batch_norm/offset"] == (norm, "net", "haiku.BatchNorm", "create_offset=False", "")
    mlp = ("x = hk.nets.MLP([8, 6])(x)", "net", "haiku.nets.MLP", "with_bias=False", "linear_1")
    assert made["mlp/~/linear_1/b"] == mlp


def test_keras(standard_promotion):
    keras = pytest.importorskip("keras")

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(6, name="dense")
            self.norm = keras.layers.BatchNormalization(name="norm")
            self.heads = keras.layers.MultiHeadAttention(2, 3, name="heads")

        def call(self, x, training=None):
            x = self.dense(x)
            x = self.norm(x, training=training)
            return self.heads(x[None], x[None])

    net = Net()
    net(X)
    made = {path.split("/", 1)[1]: one for path, one in found(adapters.from_keras(net)).items()}
    assert made["dense/bias"] == ("x = self.dense(x)", "call", "keras.layers.Dense", "use_bias=False", "")
    norm = "x = self.norm(x, training=training)"
    assert made["norm/beta"] == (norm, "call", "keras.layers.BatchNormalization", "center=False", "")
    assert made["heads/key/bias"][2:] == ("keras.layers.MultiHeadAttention", "use_bias=False", "key")


def test_keras_without_a_line_of_the_users(standard_promotion):
    keras = pytest.importorskip("keras")
    net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, name="dense")])
    (made,) = found(adapters.from_keras(net)).values()
    assert "keras/src/layers/core/dense.py" in made.where
    assert (made.layer, made.flag, made.part) == ("keras.layers.Dense", "use_bias=False", "")


def test_own_layers_and_none():
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "dense": linear.dense_init(keys[0], 6, 6),
        "norm": norms.norm_init(6),
        "heads": attention.attention_init(keys[1], 6, 2),
        **{f"{name}_bias": jnp.zeros(6) for name in ("own", "steps", "test", "branch", "last", "unused")},
    }
    params["scan_bias"] = jnp.zeros((3, 6))

    def net(p, state, x, train):
        p = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), p)
        x = linear.dense(p["dense"], x)
        x = norms.layer_norm(p["norm"], x)
        x = attention.attention(p["heads"], x[None], heads=2)[0]
        x = jax.jit(lambda x, b: x + b)(x, p["own_bias"])

        def step(x, b):
            return jnp.tanh(x + b), None

        x, _ = jax.lax.scan(step, x, p["scan_bias"])

        def going(carry):
            return (carry[0] + p["test_bias"]).sum() < carry[1]

        def advance(carry):
            return carry[0] + 1 + p["steps_bias"], carry[1]

        x, _ = jax.lax.while_loop(going, advance, (x, 1.0))

        def shifted(x, b):
            return x + b

        x = jax.lax.cond(x.sum() > 0, lambda x, b: x, shifted, x, p["branch_bias"])
        return (x, p["last_bias"].reshape(2, 3)), state

    made = found(adapters.Pure(net, params, ()))
    assert made["unused_bias"] is None
    assert made["dense/bias"] == (
        *('x = linear.dense(p["dense"], x)', "net"),
        *("biasjax.linear.dense_init", "use_bias=False", ""),
    )
    assert made["norm/bias"][2] == "biasjax.norms.norm_init"
    assert made["heads/key/bias"][2:] == ("biasjax.attention.attention_init", "use_bias=False", "key")
    lines = {name: made[f"{name}_bias"][0] for name in ("own", "scan", "test", "steps", "branch", "last")}
    assert lines == {
        "own": 'x = jax.jit(lambda x, b: x + b)(x, p["own_bias"])',
        "scan": "return jnp.tanh(x + b), None",
        "test": 'return (carry[0] + p["test_bias"]).sum() < carry[1]',
        "steps": 'return carry[0] + 1 + p["steps_bias"], carry[1]',
        "branch": "return x + b",
        "last": 'return (x, p["last_bias"].reshape(2, 3)), state',
    }
