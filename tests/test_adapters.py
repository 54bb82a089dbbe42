"""Adapters: the framework's own outputs, both modes, and parameters that differentiate.

Audits of what they give are in test_audit_frameworks.
"""

import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import adapters, tree

X = jax.random.normal(jax.random.key(0), (4, 6))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


def linen():
    variables = Linen().init(jax.random.key(0), X, False)
    pure = adapters.from_linen(Linen(), variables, rngs={"dropout": jax.random.key(1)})
    return pure, Linen().apply(variables, X, False), "Dense_0/bias"


def nnx():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(6, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))

    model = Net(nnx.Rngs(0))
    pure = adapters.from_nnx(model)
    model.eval()
    return pure, model(X), "hidden/bias"


def equinox():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        hidden: Any
        norm: Any
        head: Any

        def __init__(self):
            keys = jax.random.split(jax.random.key(0), 2)
            self.hidden = eqx.nn.Linear(6, 8, key=keys[0])
            self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
            self.head = eqx.nn.Linear(8, 3, key=keys[1])

        def __call__(self, x, state):
            y, state = self.norm(self.hidden(x), state)
            return self.head(jax.nn.relu(y)), state

    model, state = eqx.nn.make_with_state(Net)()
    moded = eqx.nn.inference_mode(model)
    y, _ = jax.vmap(moded, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(X, state)
    return adapters.from_equinox(model, state), y, "hidden/bias"


def haiku():
    hk = pytest.importorskip("haiku")

    def net(x, is_training):
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(8, name="hidden")(x), is_training)
        x = jax.nn.relu(x)
        return hk.Linear(3)(hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x)

    transformed = hk.transform_with_state(net)
    params, state = transformed.init(jax.random.key(0), X, True)
    pure = adapters.from_haiku(transformed, params, state, key=jax.random.key(1))
    return pure, transformed.apply(params, state, None, X, False)[0], "hidden/b"


def keras():
    if os.environ.get("KERAS_BACKEND") != "jax":
        pytest.skip("KERAS_BACKEND is not jax")
    keras = pytest.importorskip("keras")
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, name="hidden"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    return adapters.from_keras(model), model(X), model.layers[0].bias.path


FRAMEWORKS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku, "keras": keras}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_contract(name, standard_promotion):
    pure, expected, hidden = FRAMEWORKS[name]()
    train, infer = (
        jax.jit(lambda p, s, mode=mode: pure.apply(p, s, X, train=mode)) for mode in (True, False)
    )
    y, state = infer(pure.params, pure.state)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    assert jax.tree.structure(state) == jax.tree.structure(pure.state)
    trained, state = train(pure.params, pure.state)
    assert trained.shape == (4, 3)
    train(pure.params, state)
    grads = jax.grad(lambda p: infer(p, pure.state)[0].sum())(pure.params)
    assert jax.tree.structure(grads) == jax.tree.structure(pure.params)

    # Batch norm takes away what a bias before it adds, but only in training
    def moved(path, leaf):
        return leaf + jnp.arange(8.0) if tree.path_string(path) == hidden else leaf

    params = jax.tree_util.tree_map_with_path(moved, pure.params)
    np.testing.assert_allclose(train(params, pure.state)[0], trained, atol=1e-4)
    assert np.abs(infer(params, pure.state)[0] - y).max() > 0.1


def test_linen_without_a_mode():
    dense = nn.Dense(3)
    pure = adapters.from_linen(dense, dense.init(jax.random.key(0), X), mode=lambda train: {})
    y, state = pure.apply(pure.params, pure.state, X, train=True)
    assert y.shape == (4, 3)
    assert jnp.array_equal(y, pure.apply(pure.params, state, X, train=False)[0])


def test_haiku_without_state():
    hk = pytest.importorskip("haiku")
    transformed = hk.transform(lambda x: hk.Linear(3)(x))
    params = transformed.init(jax.random.key(0), X)
    pure = adapters.from_haiku(transformed, params, mode=lambda train: {})
    assert pure.apply(pure.params, pure.state, X, train=True)[0].shape == (4, 3)


def test_equinox_without_state():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(6, 3, 8, 1, key=jax.random.key(0))
    pure = adapters.from_equinox(model)
    y, _ = pure.apply(pure.params, pure.state, X, train=True)
    np.testing.assert_allclose(y, jax.vmap(model)(X), atol=1e-6)
