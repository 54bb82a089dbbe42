"""The table that every layer passes: bias on/off x dtype x eager, jit, vmap over params, grad."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import attention, check, conditional, linear, norms, recurrent, transformer, tree

DTYPES = ("float32", "float64", "bfloat16")


def _batch_norm(train):
    def apply(params, x):
        stats = norms.batch_stats_init(x.shape[-1], check.accumulator(x.dtype))
        return norms.batch_norm(params, stats, x, train=train)[0]

    return apply


def _norm_init(key, use_bias, dtype):
    params = norms.norm_init(6, use_bias=use_bias, dtype=dtype)
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(key, p.shape, p.dtype), params)


def _conv_init(key, use_bias, dtype, *, window=(3, 3), **options):
    return linear.conv_init(
        key, 6, 4, window, use_bias=use_bias, bias_init="standard_normal", dtype=dtype, **options
    )


def _dense_init(key, use_bias, dtype):
    return linear.dense_init(key, 6, 4, use_bias=use_bias, bias_init="torch_uniform", dtype=dtype)


def _attention_init(key, use_bias, dtype):
    options = {"use_bias": use_bias, "bias_init": "standard_normal", "dtype": dtype}
    return attention.attention_init(key, 6, 3, qk_norm=True, sink=True, **options)


def _block_init(key, use_bias, dtype):
    options = {"use_bias": use_bias, "bias_init": "standard_normal", "dtype": dtype}
    return transformer.block_init(key, 6, 3, hidden=8, qk_norm=True, sink=True, **options)


def _recurrent_init(init, key, use_bias, dtype):
    return init(key, 6, 4, use_bias=use_bias, bias_init="standard_normal", dtype=dtype)


def _lstm(params, x):
    zeros = jnp.zeros((*x.shape[:-1], 4), x.dtype)
    return recurrent.lstm_cell(params, recurrent.LSTMState(zeros + 0.5, zeros - 1), x)[1]


def _gru(params, x):
    return recurrent.gru_cell(params, jnp.full((*x.shape[:-1], 4), 0.5, x.dtype), x)[1]


def _film_init(key, use_bias, dtype):
    return conditional.film_init(key, 3, 6, use_bias=use_bias, bias_init="standard_normal", dtype=dtype)


def _condition(x):
    return jnp.linspace(-1, 1, 3 * len(x)).reshape(len(x), 3).astype(x.dtype)


def _conditional_batch_norm(params, x):
    stats = norms.batch_stats_init(x.shape[-1], check.accumulator(x.dtype))
    return conditional.conditional_batch_norm(params, stats, x, _condition(x), train=True)[0]


def _has_bias(params):
    return tree.count(params).biases > 0


UNTIED = {"untie_biases": True, "output_size": (4, 4)}
# name: (init(key, use_bias, dtype), apply(params, x), input shape, output shape)
LAYERS = {
    "dense": (_dense_init, linear.dense, (3, 6), (3, 4)),
    "conv1d": (functools.partial(_conv_init, window=(3,)), linear.conv, (2, 4, 6), (2, 4, 4)),
    "conv2d": (_conv_init, linear.conv, (2, 4, 4, 6), (2, 4, 4, 4)),
    "conv3d": (
        functools.partial(_conv_init, window=(2, 2, 2)),
        functools.partial(linear.conv, padding="VALID"),
        (2, 3, 3, 3, 6),
        (2, 2, 2, 2, 4),
    ),
    "conv2d_strides": (
        _conv_init,
        functools.partial(linear.conv, strides=2, padding=1),
        (2, 4, 4, 6),
        (2, 2, 2, 4),
    ),
    "conv2d_groups": (
        functools.partial(_conv_init, groups=2),
        functools.partial(linear.conv, groups=2),
        (2, 4, 4, 6),
        (2, 4, 4, 4),
    ),
    "conv2d_channels_first": (
        _conv_init,
        functools.partial(linear.conv, channels_first=True),
        (2, 6, 4, 4),
        (2, 4, 4, 4),
    ),
    "conv2d_untied": (functools.partial(_conv_init, **UNTIED), linear.conv, (2, 4, 4, 6), (2, 4, 4, 4)),
    "conv_transpose": (
        _conv_init,
        functools.partial(linear.conv_transpose, strides=2),
        (2, 3, 3, 6),
        (2, 6, 6, 4),
    ),
    "batch_norm_train": (_norm_init, _batch_norm(True), (5, 6), (5, 6)),
    "batch_norm_eval": (_norm_init, _batch_norm(False), (5, 2, 2, 6), (5, 2, 2, 6)),
    "layer_norm": (_norm_init, norms.layer_norm, (3, 6), (3, 6)),
    "rms_norm": (_norm_init, norms.rms_norm, (3, 6), (3, 6)),
    "group_norm": (_norm_init, functools.partial(norms.group_norm, groups=3), (2, 4, 6), (2, 4, 6)),
    "instance_norm": (_norm_init, norms.instance_norm, (2, 4, 4, 6), (2, 4, 4, 6)),
    "attention": (
        _attention_init,
        functools.partial(attention.attention, heads=3, causal=True),
        (2, 4, 6),
        (2, 4, 6),
    ),
    "transformer_pre_norm": (
        _block_init,
        functools.partial(transformer.block, heads=3, causal=True, norm=norms.rms_norm),
        (2, 4, 6),
        (2, 4, 6),
    ),
    "transformer_post_norm": (
        _block_init,
        functools.partial(transformer.block, heads=3, pre_norm=False),
        (2, 4, 6),
        (2, 4, 6),
    ),
    "lstm": (functools.partial(_recurrent_init, recurrent.lstm_init), _lstm, (3, 6), (3, 4)),
    "gru": (functools.partial(_recurrent_init, recurrent.gru_init), _gru, (3, 6), (3, 4)),
    "film": (_film_init, lambda params, x: conditional.film(params, x, _condition(x)), (5, 2, 6), (5, 2, 6)),
    "conditional_batch_norm": (_film_init, _conditional_batch_norm, (5, 2, 6), (5, 2, 6)),
    "conditional_layer_norm": (
        _film_init,
        lambda params, x: conditional.conditional_layer_norm(params, x, _condition(x)),
        (5, 2, 6),
        (5, 2, 6),
    ),
}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_shapes_dtypes_and_absent_bias(name, dtype, use_bias):
    init, apply, shape, out = LAYERS[name]
    with jax.enable_x64(dtype == "float64"):
        keys = jax.random.split(jax.random.key(0), 3)
        params = init(keys[0], use_bias, dtype)
        x = jax.random.normal(keys[1], shape, dtype)
        assert _has_bias(params) == use_bias
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))

        eager = apply(params, x)
        chex.assert_shape(eager, out)
        assert eager.dtype == dtype
        # The compiler may fuse and reorder: a few units in the last place
        tolerance = {"float32": 2e-5, "float64": 1e-12, "bfloat16": 5e-2}[dtype]
        close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
        compiled = jax.jit(apply)(params, x)
        assert compiled.dtype == dtype
        close(np.asarray(compiled, np.float64), np.asarray(eager, np.float64))

        stacked = jax.vmap(lambda key: init(key, use_bias, dtype))(keys)
        assert _has_bias(stacked) == use_bias
        batched = jax.vmap(apply, in_axes=(0, None))(stacked, x)
        one = apply(jax.tree.map(lambda leaf: leaf[2], stacked), x)
        close(np.asarray(batched[2], np.float64), np.asarray(one, np.float64))

        gradient = jax.grad(lambda p: jnp.sum(jnp.sin(apply(p, x)).astype(jnp.float32)))(params)
        chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_against_finite_differences(name, use_bias, x64):
    init, apply, shape, _ = LAYERS[name]
    keys = jax.random.split(jax.random.key(1), 2)
    params = init(keys[0], use_bias, "float64")
    point = params, jax.random.normal(keys[1], shape, "float64")
    draws = np.random.default_rng(0)
    direction = jax.tree.map(lambda leaf: draws.standard_normal(leaf.shape), point)

    @jax.jit
    def along(step):
        return jnp.sum(jnp.sin(apply(*jax.tree.map(lambda leaf, way: leaf + step * way, point, direction))))

    step = 1e-6
    central = (along(step) - along(-step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(along)(0.0), central, rtol=1e-6, atol=1e-7)
