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

    query, key, value, out = map(flat, ("query", "key", "value", "out"))
    return attention.Attention(query, key, value, out)


@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_flax(causal):
    net: Any = nn.MultiHeadDotProductAttention(2, bias_init=nn.initializers.normal(1.0))
    mask = nn.make_causal_mask(X[..., 0]) if causal else None
    variables = net.init(jax.random.key(1), X)
    y = attention.attention(from_flax(variables["params"]), X, heads=2, causal=causal)
    np.testing.assert_allclose(y, net.apply(variables, X, mask=mask), atol=1e-5)


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
