import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import norms


def _params(features, *, use_scale=True, use_bias=True):
    params = norms.norm_init(features, use_scale=use_scale, use_bias=use_bias)
    keys = iter(jax.random.split(jax.random.key(3), 2))
    return jax.tree.map(lambda leaf: leaf + 0.5 * jax.random.normal(next(keys), leaf.shape), params)


def _x(*shape, seed=5):
    return 2.0 + 3.0 * jax.random.normal(jax.random.key(seed), shape)


def _agree(ours, theirs, tolerance=1e-6):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1, np.abs(theirs).max()))


def _present(params):
    return {name: leaf for name, leaf in params._asdict().items() if leaf is not None}


@pytest.mark.parametrize(
    ("use_scale", "use_bias"), [(True, True), (True, False), (False, True), (False, False)]
)
@pytest.mark.parametrize("shape", [(7, 6), (4, 3, 5, 6)])
def test_batch_norm_agrees_with_flax_over_steps(shape, use_scale, use_bias):
    params, state = _params(6, use_scale=use_scale, use_bias=use_bias), norms.batch_stats_init(6)
    options: Any = {"momentum": 0.8, "epsilon": 1e-3}
    layer = nn.BatchNorm(use_scale=use_scale, use_bias=use_bias, use_fast_variance=False, **options)
    variables = {"params": _present(params), "batch_stats": {"mean": jnp.zeros(6), "var": jnp.ones(6)}}
    for step in range(4):
        x = _x(*shape, seed=step)
        theirs, update = layer.apply(variables, x, use_running_average=False, mutable="batch_stats")
        variables = {**variables, **update}
        ours, state = norms.batch_norm(params, state, x, train=True, **options)
        _agree(ours, theirs)
    _agree(state.mean, variables["batch_stats"]["mean"])
    _agree(state.var, variables["batch_stats"]["var"])
    ours, same = norms.batch_norm(params, state, x, train=False, **options)
    _agree(ours, layer.apply(variables, x, use_running_average=True))
    assert same is state


def test_defaults_are_those_of_flax():
    params, x = norms.norm_init(6), 1e-2 * _x(4, 5, 6)  # small, so that epsilon counts
    empty = {"params": _present(params)}
    stats = {"batch_stats": norms.batch_stats_init(6)._asdict()}
    theirs, update = nn.BatchNorm(use_running_average=False).apply(empty | stats, x, mutable="batch_stats")
    ours, state = norms.batch_norm(params, norms.batch_stats_init(6), x, train=True)
    _agree(ours, theirs, 1e-5)  # Flax's one-pass variance of a small spread around a mean
    _agree(state.mean, update["batch_stats"]["mean"])
    _agree(norms.layer_norm(params, x), nn.LayerNorm(use_fast_variance=False).apply(empty, x))
    _agree(norms.group_norm(params, x, groups=3), nn.GroupNorm(3, use_fast_variance=False).apply(empty, x))
    _agree(norms.instance_norm(params, x), nn.InstanceNorm(use_fast_variance=False).apply(empty, x))
    _agree(
        norms.rms_norm(params._replace(bias=None), x),
        nn.RMSNorm().apply({"params": {"scale": params.scale}}, x),
    )


@pytest.mark.parametrize("shape", [(7, 6), (4, 3, 5, 6)])
def test_other_norms_agree_with_flax(shape):
    params, x = _params(6), _x(*shape)
    variables = {"params": _present(params)}
    _agree(norms.layer_norm(params, x, epsilon=1e-5), nn.LayerNorm(1e-5).apply(variables, x))
    theirs = nn.GroupNorm(2, epsilon=1e-4).apply(variables, x)
    _agree(norms.group_norm(params, x, groups=2, epsilon=1e-4), theirs)
    rms = {"params": {"scale": params.scale}}
    _agree(norms.rms_norm(params._replace(bias=None), x), nn.RMSNorm().apply(rms, x))
    if len(shape) > 2:
        _agree(norms.instance_norm(params, x), nn.InstanceNorm().apply(variables, x))


def test_channels_first_is_the_same_function():
    params, state, x = _params(6), norms.batch_stats_init(6), _x(4, 3, 5, 6)
    first = jnp.moveaxis(x, -1, 1)
    train = functools.partial(norms.batch_norm, params, state, train=True)
    (last_y, last_state), (first_y, first_state) = train(x), train(first, channels_first=True)
    _agree(jnp.moveaxis(first_y, 1, -1), last_y)
    _agree(first_state.var, last_state.var)
    grouped = functools.partial(norms.group_norm, groups=3)
    for norm in (norms.layer_norm, norms.rms_norm, norms.instance_norm, grouped):
        _agree(jnp.moveaxis(norm(params, first, channels_first=True), 1, -1), norm(params, x))


def test_norms_agree_with_torch():
    torch = pytest.importorskip("torch")

    def load(layer, params):
        for name, leaf in zip(("weight", "bias"), params, strict=True):
            getattr(layer, name).data = torch.from_numpy(np.array(leaf))
        return layer

    params, state = _params(6), norms.batch_stats_init(6)
    layer = load(torch.nn.BatchNorm2d(6), params)  # momentum 0.1 of the new value, epsilon 1e-5
    for step in range(4):
        x = _x(4, 6, 3, 5, seed=step)
        theirs = layer(torch.from_numpy(np.array(x)))
        options = {"momentum": 0.9, "unbiased_running_var": True, "channels_first": True}
        ours, state = norms.batch_norm(params, state, x, train=True, **options)
        _agree(ours, theirs.detach())
    _agree(state.mean, layer.running_mean)
    _agree(state.var, layer.running_var)
    layer.eval()
    ours, _ = norms.batch_norm(params, state, x, train=False, channels_first=True)
    _agree(ours, layer(torch.from_numpy(np.array(x))).detach())

    tensor = torch.from_numpy(np.array(x))
    theirs = load(torch.nn.GroupNorm(3, 6), params)(tensor).detach()
    _agree(norms.group_norm(params, x, groups=3, epsilon=1e-5, channels_first=True), theirs)
    theirs = load(torch.nn.InstanceNorm2d(6, affine=True), params)(tensor).detach()
    _agree(norms.instance_norm(params, x, epsilon=1e-5, channels_first=True), theirs)
    x = _x(4, 6)
    rms = torch.nn.RMSNorm(6, eps=1e-4)
    rms.weight.data = torch.from_numpy(np.array(params.scale))
    theirs = rms(torch.from_numpy(np.array(x))).detach()
    _agree(norms.rms_norm(params._replace(bias=None), x, epsilon=1e-4), theirs)
    theirs = load(torch.nn.LayerNorm(6), params)(torch.from_numpy(np.array(x))).detach()
    _agree(norms.layer_norm(params, x, epsilon=1e-5), theirs)


def test_batch_norm_agrees_with_keras():
    keras = pytest.importorskip("keras")
    params, state = _params(6), norms.batch_stats_init(6)
    layer = keras.layers.BatchNormalization()  # momentum 0.99 of the old value, epsilon 1e-3
    layer.build((4, 3, 5, 6))
    layer.set_weights([np.asarray(leaf) for leaf in (*params, *state)])
    for step in range(4):
        x = _x(4, 3, 5, 6, seed=step)
        theirs = layer(x, training=True)
        ours, state = norms.batch_norm(params, state, x, train=True, momentum=0.99, epsilon=1e-3)
        _agree(ours, theirs)
    _agree(state.mean, layer.moving_mean)
    _agree(state.var, layer.moving_variance)
    _agree(norms.batch_norm(params, state, x, train=False, epsilon=1e-3)[0], layer(x, training=False))


def test_other_norms_agree_with_keras():
    layers = pytest.importorskip("keras").layers
    params, x = _params(6), _x(4, 3, 5, 6)
    weights = [np.asarray(leaf) for leaf in params]
    without = params._replace(bias=None)
    for layer, kept, ours in (
        (layers.LayerNormalization(epsilon=1e-3), weights, norms.layer_norm(params, x, epsilon=1e-3)),
        (layers.GroupNormalization(3), weights, norms.group_norm(params, x, groups=3, epsilon=1e-3)),
        (layers.GroupNormalization(-1), weights, norms.instance_norm(params, x, epsilon=1e-3)),
        (layers.RMSNormalization(epsilon=1e-3), weights[:1], norms.rms_norm(without, x, epsilon=1e-3)),
    ):
        layer.build(x.shape)
        layer.set_weights(kept)
        _agree(ours, layer(x))


def test_two_pass_variance_survives_a_large_offset():
    # One-pass E[x²] - E[x]² is off by 0.24 at an offset of 1e3, two-pass by 9e-5
    x = jax.random.normal(jax.random.key(0), (4096, 1)) + 1e3
    truth = np.var(np.asarray(x, np.float64))
    _, state = norms.batch_norm(norms.Norm(), norms.batch_stats_init(1), x, train=True, momentum=0.0)
    assert abs(float(state.var[0]) - truth) < 1e-3
    one_pass = jnp.mean(x**2) - jnp.mean(x) ** 2
    assert abs(float(one_pass) - truth) > 1e-2


def test_a_bias_before_batch_norm_cancels_in_training_alone():
    x, shift = _x(64, 6), jnp.arange(6.0)
    state = norms.batch_stats_init(6)
    train = functools.partial(norms.batch_norm, norms.norm_init(6), state)
    np.testing.assert_allclose(train(x + shift, train=True)[0], train(x, train=True)[0], atol=2e-5)
    moved = train(x + shift, train=False)[0] - train(x, train=False)[0]
    np.testing.assert_allclose(moved, jnp.broadcast_to(shift / np.sqrt(1 + 1e-5), (64, 6)), rtol=1e-4)


def test_statistics_of_bfloat16_are_float32():
    x = _x(512, 6).astype(jnp.bfloat16)
    y, state = norms.batch_norm(_params(6), norms.batch_stats_init(6), x, train=True, momentum=0.0)
    assert y.dtype == jnp.bfloat16
    assert state.mean.dtype == jnp.float32
    _agree(state.mean, np.asarray(x, np.float64).mean(0))


def _bn(x, train=True, **options):
    return norms.batch_norm(norms.norm_init(6), norms.batch_stats_init(6), x, train=train, **options)


BAD = [
    (lambda: _bn(_x(1, 6)), ValueError, "more than one value .* got an input of shape"),
    (
        lambda: _bn(_x(4, 6), epsilon=-1e-5),
        ValueError,
        r"epsilon: expected a number in \[0.0, 3.4\d+e\+38\], got -1e-05",
    ),
    (lambda: _bn(_x(4, 6), epsilon=1e300), ValueError, r"e\+38\], got 1e\+300"),
    (lambda: _bn(_x(4, 6), momentum=1.5), ValueError, "momentum: expected a number in"),
    (lambda: _bn(_x(4, 5)), ValueError, "6 features, got 5"),
    (lambda: _bn(jnp.ones((4, 6), int)), TypeError, "floating dtype, got int32"),
    (lambda: _bn(_x(6)), ValueError, "at least two axes"),
    (
        lambda: norms.batch_norm(norms.Norm(), norms.batch_stats_init(5), _x(4, 6), train=True),
        ValueError,
        "5 features",
    ),
    (lambda: norms.group_norm(_params(6), _x(4, 6), groups=4), ValueError, "groups that divide 6 features"),
    (lambda: norms.group_norm(_params(6), _x(4, 6), groups=6), ValueError, "more than one value"),
    (lambda: norms.instance_norm(_params(6), _x(4, 6)), ValueError, "more than one value"),
    (lambda: norms.layer_norm(_params(1), _x(4, 1)), ValueError, "more than one value"),
    (lambda: norms.norm_init(0), ValueError, "features: expected an integer of at least 1"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused_clearly(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_one_example_with_many_positions_is_enough():
    assert _bn(_x(1, 4, 4, 6))[0].shape == (1, 4, 4, 6)


SCALAR = norms.Norm(jnp.ones(()))
WRONG = [
    (
        lambda: norms.layer_norm(SCALAR, jnp.ones((2, 3))),
        ValueError,
        "layer_norm: expected 1 features, got 3",
    ),
    (lambda: norms.layer_norm(norms.Norm(), jnp.ones(())), ValueError, "at least two axes"),
    (lambda: norms.rms_norm(None, jnp.ones((2, 3))), TypeError, "rms_norm: expected Norm, got None"),  # pyright: ignore
    (lambda: norms.group_norm([1.0], jnp.ones((2, 3)), groups=1), TypeError, "expected Norm, got"),  # pyright: ignore
    (lambda: _batch_norm(None), TypeError, "batch_norm: expected BatchStats, got None"),
    (
        lambda: _batch_norm(norms.BatchStats(jnp.ones(()), jnp.ones(()))),
        ValueError,
        "expected 1 features, got 3",
    ),
]


def _batch_norm(state):
    return norms.batch_norm(norms.norm_init(3), state, jnp.ones((2, 3)), train=True)


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_what_is_no_parameter_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("wanted", ["values", "mean", "var"])
def test_derivatives_are_those_of_the_formula(wanted, x64):
    """In every mode and order, by the values and by epsilon."""
    x, weights = jax.random.normal(jax.random.key(0), (2, 5, 3), jnp.float64)

    def ours(x, epsilon):
        y, state = norms.batch_norm(
            norms.norm_init(3, dtype=x.dtype),
            norms.batch_stats_init(3, x.dtype),
            x,
            train=True,
            epsilon=epsilon,
            momentum=0.0,
        )
        return y if wanted == "values" else getattr(state, wanted)

    def formula(x, epsilon):
        mean, var = jnp.mean(x, 0), jnp.var(x, 0)
        found = {"values": (x - mean) / jnp.sqrt(var + epsilon), "mean": mean, "var": var}
        return found[wanted]

    def derivatives(fn):
        def loss(x, epsilon):
            return jnp.sum(jnp.sin(weights * fn(x, epsilon)))

        point = x, jnp.float64(0.3)
        return [
            jax.grad(loss, (0, 1))(*point),
            jax.jacfwd(fn, (0, 1))(*point),
            jax.hessian(loss, (0, 1))(*point),
            jax.jacrev(jax.grad(loss))(*point),
        ]

    for one, other in zip(*(jax.tree.leaves(derivatives(fn)) for fn in (ours, formula)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)
