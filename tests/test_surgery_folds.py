"""Folds of norms: exact, or refused with the reason and the model untouched."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_nets
import trained_nets

from biasjax import adapters, norms, surgery, tree


@pytest.fixture(autouse=True)
def _promotion(standard_promotion):
    """Frameworks promote types."""


def outputs(pure, x, train=False):
    return np.asarray(pure.apply(pure.params, pure.state, x, train=train)[0])


def reasons(receipt):
    return {change.path: change.why for change in receipt.kept}


def bare(norm_params, stats):
    """Whether a norm does nothing but add."""
    ones = jnp.arange(4.0)[:, None] * jnp.ones_like(stats.mean)
    y = np.asarray(norms.batch_norm(norm_params, stats, ones, train=False)[0])
    return np.allclose(y - y[0], ones - ones[0], rtol=2e-3)  # epsilon is unknown here


@pytest.mark.parametrize("seed", range(6))
def test_any_convolution_and_norm_is_folded_or_kept_for_a_reason(seed):
    pure, x = random_nets.conv_net(seed)
    new, receipt = surgery.fold_batch_norm(pure, x)
    before = outputs(pure, x)
    assert np.abs(outputs(new, x) - before).max() <= 1e-4 * np.abs(before).max()
    assert all(e.change < 1e-10 for e in receipt.errors if e.precision == "float64")
    assert len(receipt.changes) == 3
    for change in receipt.kept:
        assert "does not follow a linear layer" in change.why
        assert "padding" in change.why or "has no bias" in change.why


@pytest.mark.parametrize("name", ["conv-bn-relu", "residual v1", "mobilenet", "conditional"])
def test_trained_models_fold_whole(name):
    pure, x = trained_nets.trained(name)
    new, receipt = surgery.fold_batch_norm(pure, x)
    assert receipt.done
    assert not receipt.kept
    before = outputs(pure, x)
    assert np.abs(outputs(new, x) - before).max() <= 1e-5 * np.abs(before).max()
    stats = new.state[0]["batch_stats"]
    for path, own in stats.items():
        affine = new.params.get(path, {})
        assert bare(
            norms.Norm(affine.get("scale"), affine.get("bias")), norms.BatchStats(own["mean"], own["var"])
        )


def test_norms_before_activations_of_a_shared_stream_are_kept():
    pure, x = trained_nets.trained("residual v2")
    _, receipt = surgery.fold_batch_norm(pure, x)
    assert set(reasons(receipt).values()) == {"what it takes is read elsewhere, too"}
    assert len(receipt.done) == 1


@pytest.mark.parametrize("name", ["pre-norm", "rotary", "grouped queries", "rms"])
def test_pre_norms_fold_into_all_that_read_them(name):
    pure, x = trained_nets.trained(name)
    new, receipt = surgery.fold_layer_norm(pure, x)
    assert len(receipt.done) == 2
    assert set(reasons(receipt).values()) == {"no linear layer reads it, but reduce_sum"}  # pooled first
    for train in (False, True):
        before = outputs(pure, x, train)
        assert np.abs(outputs(new, x, train) - before).max() <= 1e-5 * np.abs(before).max()
    for path in (change.path for change in receipt.done):
        np.testing.assert_allclose(new.params[path]["scale"], 1, rtol=1e-6)
        assert not np.any(new.params[path].get("bias", 0))


def test_post_norms_are_refused_and_untouched():
    pure, x = trained_nets.trained("post-norm")
    new, receipt = surgery.fold_layer_norm(pure, x)
    assert not receipt.done
    assert len(receipt.kept) == 2
    assert new is pure


def test_centred_writers_make_a_layer_norm_an_rms_norm():
    pure, x = trained_nets.trained("pre-norm")
    new, receipt = surgery.fold_layer_norm(pure, x, centre=True)
    centred = {change.path for change in receipt.changes if change.action == "centred"}
    writers = {"Attention_0/DenseGeneral_3/kernel", "Dense_0/kernel", "Dense_1/kernel", "positions"}
    assert writers < centred
    for path in writers:
        leaf = tree.paths(new.params)[path]
        assert np.abs(leaf.mean(-1)).max() < 1e-6 * np.abs(leaf).max()
    before = outputs(pure, x)
    assert np.abs(outputs(new, x) - before).max() <= 1e-5 * np.abs(before).max()


def test_a_kernel_that_two_layers_share_is_not_folded_into():
    def apply(params, state, x, train):
        y, stats = norms.batch_norm(params["norm"], state, x @ params["kernel"], train=train)
        return jnp.tanh(y) @ params["kernel"], stats

    stats = norms.BatchStats(jnp.ones(4), 2 * jnp.ones(4))
    pure = adapters.Pure(apply, {"norm": norms.norm_init(4), "kernel": jnp.eye(4)}, stats)
    new, receipt = surgery.fold_batch_norm(pure, jnp.ones((3, 4)))
    assert "kernel is used elsewhere" in reasons(receipt)["state"]
    assert new is pure


def test_a_scale_that_data_makes_is_not_folded():
    """Batch norm whose variance meets a scale computed from the input."""

    def apply(params, state, x, train):
        y = x @ params["kernel"]
        scale = 1 + jnp.tanh(x @ params["conditions"])
        return (y - state.mean) * (scale / jnp.sqrt(state.var + 1e-3)), state

    stats = norms.BatchStats(jnp.ones(4), 2 * jnp.ones(4))
    pure = adapters.Pure(apply, {"kernel": jnp.eye(4), "conditions": jnp.eye(4)}, stats)
    new, receipt = surgery.fold_batch_norm(pure, jax.random.normal(jax.random.key(0), (3, 4)))
    assert not receipt.done
    assert new is pure
    assert all("conditional" in why or "elsewhere" in why for why in reasons(receipt).values())


def test_readers_that_share_their_kernel_keep_a_layer_norm():
    def apply(params, state, x, train):
        h = params["embedding"][x]
        y = norms.layer_norm(params["norm"], h)
        return y @ params["embedding"].T, state

    norm = norms.Norm(jnp.arange(1.0, 5.0), jnp.ones(4))
    params = {"embedding": jax.random.normal(jax.random.key(0), (7, 4)), "norm": norm}
    pure = adapters.Pure(apply, params, None)
    new, receipt = surgery.fold_layer_norm(pure, jnp.arange(6).reshape(2, 3))
    assert "used elsewhere" in reasons(receipt)["norm"]
    assert new is pure


def test_a_scale_of_one_plus_a_parameter_becomes_one():
    def apply(params, state, x, train):
        y = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
        return (y * (1 + params["scale"])) @ params["kernel"], state

    params = {"scale": jnp.array([1.0, 2.0, 3.0]), "kernel": jnp.eye(3)}
    new, _ = surgery.fold_layer_norm(adapters.Pure(apply, params, None), jnp.arange(6.0).reshape(2, 3))
    np.testing.assert_allclose(new.params["scale"], 0, atol=1e-7)
    np.testing.assert_allclose(new.params["kernel"], np.diag([2.0, 3.0, 4.0]), rtol=1e-6)


def test_a_pruned_channel_is_folded():
    def apply(params, state, x, train):
        return norms.batch_norm(params["norm"], state, x @ params["kernel"], train=train)

    norm = norms.Norm(jnp.array([0.0, 2.0]), jnp.array([3.0, 4.0]))
    stats = norms.BatchStats(jnp.ones(2), jnp.array([1.0, 4.0]))
    pure = adapters.Pure(apply, {"norm": norm, "kernel": jnp.ones((3, 2))}, stats)
    new, _ = surgery.fold_batch_norm(pure, jnp.ones((4, 3)))
    assert not np.any(new.params["kernel"][:, 0])
    np.testing.assert_allclose(outputs(new, jnp.ones((4, 3))), outputs(pure, jnp.ones((4, 3))), rtol=1e-5)


@pytest.mark.parametrize("framework", ["nnx", "equinox", "haiku", "keras"])
def test_norms_of_every_framework_fold_and_go_back_into_its_own_model(framework):
    before, after = ROUND_TRIPS[framework](jax.random.normal(jax.random.key(0), (6, 8)))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def trained_statistics(pure, x):
    for _ in range(3):
        pure = pure._replace(state=pure.apply(pure.params, pure.state, x, train=True)[1])
    return pure


def folded(pure, x):
    new, receipt = surgery.fold_batch_norm(trained_statistics(pure, x), x)
    assert receipt.done
    assert not receipt.kept
    return new


def through_nnx(x):
    from flax import nnx

    model = nnx.Sequential(nnx.Linear(8, 5, rngs=nnx.Rngs(0)), nnx.BatchNorm(5, rngs=nnx.Rngs(1)), nnx.relu)
    pure = adapters.from_nnx(model)
    before = outputs(trained_statistics(pure, x), x)
    new = folded(pure, x)
    nnx.update(model, new.params, new.state)
    model.eval()
    return before, model(x)


def through_equinox(x):
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        hidden: Any
        norm: Any

        def __init__(self):
            self.hidden = eqx.nn.Linear(8, 5, key=jax.random.key(0))
            self.norm = eqx.nn.BatchNorm(5, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(self.hidden(x), state)

    model, state = eqx.nn.make_with_state(Net)()
    pure = adapters.from_equinox(model, state)
    new = folded(pure, x)
    mended = eqx.nn.inference_mode(eqx.combine(new.params, model))
    run = jax.vmap(mended, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return outputs(trained_statistics(pure, x), x), run(x, new.state)[0]


def through_haiku(x):
    hk = pytest.importorskip("haiku")

    def fn(x, is_training):
        return hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), is_training)

    net = hk.transform_with_state(fn)
    pure = adapters.from_haiku(net, *net.init(jax.random.key(0), x, True))
    new = folded(pure, x)
    return outputs(trained_statistics(pure, x), x), net.apply(new.params, new.state[0], None, x, False)[0]


def through_keras(x):
    keras = pytest.importorskip("keras")
    x = np.asarray(x)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(5), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    )
    pure = adapters.from_keras(model)
    new = folded(pure, x)
    before = outputs(trained_statistics(pure, x), x)
    for variable in [*model.trainable_variables, *model.non_trainable_variables]:
        variable.assign({**new.params, **new.state}[variable.path])
    return before, np.asarray(model(x, training=False))


ROUND_TRIPS = {
    "nnx": through_nnx,
    "equinox": through_equinox,
    "haiku": through_haiku,
    "keras": through_keras,
}


def test_linen_models_keep_their_tree():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.BatchNorm(use_running_average=not train, use_bias=False)(nn.Dense(5, use_bias=False)(x))

    x = jax.random.normal(jax.random.key(0), (6, 8))
    variables = Net().init(jax.random.key(1), x, False)
    pure = adapters.from_linen(Net(), variables)
    new = folded(pure, x)
    assert jax.tree.structure(new.params) == jax.tree.structure(variables["params"])
    y: Any = Net().apply({"params": new.params, **new.state[0]}, x, False)
    np.testing.assert_allclose(y, outputs(trained_statistics(pure, x), x), rtol=1e-5, atol=1e-6)
