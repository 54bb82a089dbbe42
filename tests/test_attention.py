"""Attention against Flax, and its options against their definitions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import attention
from biasjax.attention import attention_init, rotate
from biasjax.linear import Linear

X = jax.random.normal(jax.random.key(0), (2, 5, 8))


def from_flax(p):
    def flat(name):
        return Linear(p[name]["kernel"].reshape(8, 8), p[name]["bias"].reshape(8))

    return attention.Attention(flat("query"), flat("key"), flat("value"), flat("out"))


@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_flax(causal):
    net = nn.MultiHeadDotProductAttention(2, bias_init=nn.initializers.normal(1.0))
    mask = nn.make_causal_mask(X[..., 0]) if causal else None
    variables = net.init(jax.random.key(1), X)
    y = attention.attention(from_flax(variables["params"]), X, heads=2, causal=causal)
    truth: Any = net.apply(variables, X, mask=mask)
    np.testing.assert_allclose(y, truth, atol=1e-5)


def test_absent_biases_are_none():
    params = attention_init(jax.random.key(0), 8, 2, use_bias=("query", "out"))
    assert params.key.bias is None
    assert params.value.bias is None
    assert params.query.bias is not None
    none = attention_init(jax.random.key(0), 8, 2, use_bias=False)
    zeros = attention_init(jax.random.key(0), 8, 2)
    y, z = (attention.attention(p, X, heads=2) for p in (none, zeros))
    np.testing.assert_array_equal(y, z)


def test_causal_attention_does_not_see_the_future():
    params = attention_init(jax.random.key(0), 8, 2, bias_init="standard_normal")
    y = attention.attention(params, X, heads=2, causal=True, rotary=True)
    z = attention.attention(params, X.at[:, 3:].add(1.0), heads=2, causal=True, rotary=True)
    np.testing.assert_allclose(y[:, :3], z[:, :3], atol=1e-6)
    mask = jnp.tril(jnp.ones((5, 5), bool))
    w = attention.attention(params, X, heads=2, mask=mask, rotary=True)
    np.testing.assert_allclose(y, w, atol=1e-6)


def test_rotation_depends_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(1), (2, 4))
    turned = [rotate(jnp.broadcast_to(v, (6, 1, 4)))[:, 0] for v in (q, k)]
    np.testing.assert_allclose(turned[0][3] @ turned[1][1], turned[0][5] @ turned[1][3], rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(turned[0], axis=1), jnp.linalg.norm(q), rtol=1e-5)


def test_query_key_norm_ignores_the_scale_of_queries():
    params = attention_init(jax.random.key(0), 8, 2, qk_norm=True, use_bias=False)
    scaled = params._replace(query=Linear(100 * params.query.kernel))
    y, z = (attention.attention(p, X, heads=2) for p in (params, scaled))
    np.testing.assert_allclose(y, z, atol=1e-4)


def test_a_strong_sink_takes_all_weight():
    params = attention_init(jax.random.key(0), 8, 2, sink=True)
    strong = params._replace(sink=jnp.full(2, 100.0))
    np.testing.assert_allclose(attention.attention(strong, X, heads=2), 0.0, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_jit_and_vmap(dtype):
    params = attention_init(jax.random.key(0), 8, 2, qk_norm=True, sink=True, dtype=dtype)
    x = X.astype(dtype)

    def apply(x):
        return attention.attention(params, x, heads=2, causal=True, rotary=True)

    y = apply(x)
    assert (y.dtype, y.shape) == (dtype, x.shape)
    for z in (jax.jit(apply)(x), jax.vmap(apply)(x)):
        np.testing.assert_allclose(np.float32(y), np.float32(z), atol=0.05 if dtype == jnp.bfloat16 else 1e-5)


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", 8e-3), ("float16", 5e-3), ("float32", 5e-3)])
def test_angles_do_not_round_as_the_input_does(dtype, precision):
    a, b = np.array([1.0, 0.5]), np.array([0.0, 0.25])
    turned = rotate(jnp.broadcast_to(jnp.asarray([*a, *b], dtype), (70_001, 1, 4)))
    assert turned.dtype == dtype
    angle = np.arange(70_001)[:, None] * 10_000.0 ** (-np.arange(2) / 2)
    cos, sin = np.cos(angle), np.sin(angle)
    truth = np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    np.testing.assert_allclose(np.float64(turned[:, 0]), truth, atol=precision)


def test_a_mask_of_numbers_is_refused_not_inverted():
    params = attention_init(jax.random.key(0), 8, 2)
    for mask in (jnp.where(jnp.tril(jnp.ones((5, 5), bool)), 0.0, -jnp.inf), jnp.ones((5, 5), int)):
        with pytest.raises(TypeError, match=r"expected a boolean mask, got .*mask == 0"):
            attention.attention(params, X, heads=2, mask=mask)


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_query_that_sees_no_key_attends_to_nothing(dtype, sink):
    params = attention_init(jax.random.key(0), 8, 2, bias_init=1.0, sink=sink, dtype=dtype)
    padded = jnp.arange(5) > 1  # under causal, queries 0 and 1 see nothing

    def apply(params, x):
        return attention.attention(params, x, heads=2, causal=True, mask=padded)

    y = apply(params, X.astype(dtype))
    np.testing.assert_array_equal(y[:, :2], jnp.ones((2, 2, 8)))
    assert (y[:, 2:] != 1).any()
    gradient = jax.grad(lambda *args: apply(*args).astype("float32").sum(), (0, 1))(params, X.astype(dtype))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_bad_input():
    with pytest.raises(ValueError, match="heads that divide 8 features, got 3"):
        attention_init(jax.random.key(0), 8, 3)
    with pytest.raises(ValueError, match="Did you mean 'query'"):
        attention_init(jax.random.key(0), 8, 2, use_bias=("qeury",))
    params = attention_init(jax.random.key(0), 6, 2)
    with pytest.raises(ValueError, match="an even depth"):
        attention.attention(params, X[..., :6], heads=2, rotary=True)
    with pytest.raises(TypeError, match="a floating dtype"):
        attention.attention(params, jnp.ones((1, 2, 6), int), heads=2)
    wrong = [
        (lambda: attention_init(jax.random.key(0), 8, 0), ValueError, "heads: expected an integer of at"),
        (lambda: attention.attention(params, X[..., :6], heads=0), ValueError, "heads: expected an integer"),
        (lambda: attention.attention(params, X[0, 0, :6], heads=2), ValueError, r"shape \(..., length, fea"),
        (lambda: attention.attention(None, X, heads=2), TypeError, "expected Attention, got None"),  # pyright: ignore
        (lambda: attention.attention([1.0], X, heads=2), TypeError, "expected Attention, got list"),  # pyright: ignore
        (
            lambda: rotate(jnp.ones((3, 4))),
            ValueError,
            r"rotate: expected shape \(..., length, heads, depth\)",
        ),
    ]
    for call, error, message in wrong:
        with pytest.raises(error, match=message):
            call()
    with pytest.raises(ValueError, match="a mask that broadcasts to"):
        attention.attention(params, X[..., :6], heads=2, mask=jnp.ones((4, 5), bool))
