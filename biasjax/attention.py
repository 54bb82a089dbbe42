"""Multi-head attention with a bias per projection, or none.

A key bias shifts all scores of a query alike, so that the softmax cancels it; rotary embedding and
query-key norm undo that. A value bias passes through the weights, which sum to one, into the output bias;
an attention sink undoes that. `biasjax.audit` finds all of this without being told.
"""

# jax is typed in part only
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from biasjax import check
from biasjax._text import brief
from biasjax.initializers import Initializer
from biasjax.linear import Linear, dense, dense_init
from biasjax.norms import Norm, norm_init, rms_norm

__all__ = ["Attention", "attention", "attention_init", "rotate"]


def __dir__() -> list[str]:
    return __all__


_PROJECTIONS = ("query", "key", "value", "out")


class Attention(NamedTuple):
    """Parameters of multi-head attention.

    Attributes
    ----------
    query, key, value, out
        Linear layers (features, features), head h in columns h * depth to (h + 1) * depth; biases may be
        None.
    query_norm, key_norm
        RMS norm over the depth of a head before scores are taken (query-key norm); None if absent.
    sink
        (heads,) score of a key that attends to nothing; None if absent.
    """

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    sink: jax.Array | None = None

    def __repr__(self) -> str:
        return brief(self)


def attention_init(
    key: jax.Array,
    features: int,
    heads: int,
    *,
    use_bias: bool | Collection[str] = True,
    bias_init: str | float | Initializer = "zeros",
    qk_norm: bool = False,
    sink: bool = False,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Attention:
    """Draw the parameters of multi-head attention.

    Parameters
    ----------
    key
        Typed PRNG key.
    features, heads
        Width and number of heads, which divides it.
    use_bias
        For all projections, or the names of those that have one, of "query", "key", "value" and "out".
    bias_init
        Name, number or initialiser.
    qk_norm
        Whether queries and keys are RMS-normed per head, with a scale and without a bias.
    sink
        Whether there is an attention sink.
    dtype
        Dtype of the parameters.

    Returns
    -------
    Attention

    Examples
    --------
    >>> params = attention_init(jax.random.key(0), 8, 2, use_bias=("query", "value", "out"))
    >>> params.key.bias is None, attention(params, jnp.ones((1, 5, 8)), heads=2).shape
    (True, (1, 5, 8))

    References
    ----------
    Vaswani et al., arXiv 1706.03762; query-key norm: arXiv 2010.04245; sinks: arXiv 2309.17453.
    """
    check.positive_int("heads", heads)
    _check_heads(check.positive_int("features", features), heads)
    if isinstance(use_bias, bool):
        use_bias = _PROJECTIONS if use_bias else ()
    for name in use_bias:
        check.choice("use_bias", name, _PROJECTIONS)
    layers = {
        name: dense_init(k, features, features, use_bias=name in use_bias, bias_init=bias_init, dtype=dtype)
        for name, k in zip(_PROJECTIONS, jax.random.split(key, 4), strict=True)
    }
    norm = norm_init(features // heads, use_bias=False, dtype=dtype) if qk_norm else None
    return Attention(
        **layers, query_norm=norm, key_norm=norm, sink=jnp.zeros((heads,), dtype) if sink else None
    )


def attention(
    params: Attention,
    x: jax.Array,
    *,
    heads: int,
    causal: bool = False,
    mask: jax.Array | None = None,
    rotary: bool = False,
) -> jax.Array:
    """Apply multi-head self-attention, softmax(q kᵀ / sqrt(depth)) v.

    Parameters
    ----------
    params
        From `attention_init`.
    x
        (..., length, features), floating.
    heads
        Number of heads.
    causal
        Whether a query sees only keys at its own and earlier positions.
    mask
        Boolean, broadcastable to (..., heads, length, length), True where a query sees a key.
    rotary
        Whether queries and keys are rotated by their position (Su et al., arXiv 2104.09864).

    Returns
    -------
    jax.Array
        (..., length, features).

    """
    x = check.floating("attention", x)
    features, length = params.query.kernel.shape[1], x.shape[-2]
    depth = _check_heads(features, heads)
    q, k, v = (_split(dense(layer, x), heads) for layer in params[:3])
    if params.query_norm is not None and params.key_norm is not None:
        q, k = rms_norm(params.query_norm, q), rms_norm(params.key_norm, k)
    if rotary:
        q, k = rotate(q), rotate(k)
    scores = jnp.einsum("...qhd,...khd->...hqk", q, k) / jnp.sqrt(depth).astype(x.dtype)
    if causal:
        seen = jnp.tril(jnp.ones((length, length), bool))
        mask = seen if mask is None else mask & seen
    if mask is not None:
        lowest = cast(float, jnp.finfo(scores.dtype).min)
        scores = jnp.where(mask, scores, lowest)
    weights = _softmax(scores, params.sink)
    y = jnp.einsum("...hqk,...khd->...qhd", weights, v)
    return dense(params.out, y.reshape(*x.shape[:-1], features))


def rotate(x: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Rotate pairs of features by an angle that grows with the position.

    Parameters
    ----------
    x
        (..., length, heads, depth), depth even; feature i is paired with i + depth / 2.
    base
        Pair i turns by position * base^(-2 i / depth).

    Examples
    --------
    >>> rotate(jnp.ones((1, 1, 2)))  # position 0 stays
    Array([[[1., 1.]]], dtype=float32)
    """
    length, _, depth = x.shape[-3:]
    if depth % 2:
        check.fail("rotate", "an even depth per head", depth, "Choose features and heads to fit.")
    rate = base ** (-jnp.arange(0, depth, 2, dtype=jnp.float32) / depth)
    angle = (jnp.arange(length, dtype=jnp.float32)[:, None] * rate)[:, None].astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _softmax(scores: jax.Array, sink: jax.Array | None) -> jax.Array:
    if sink is None:
        return jax.nn.softmax(scores)
    extra = jnp.broadcast_to(sink.astype(scores.dtype)[:, None, None], (*scores.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate([scores, extra], -1))[..., :-1]


def _split(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, -1)


def _check_heads(features: int, heads: int) -> int:
    if features % heads:
        check.fail("attention", f"heads that divide {features} features", heads, "Choose a divisor.")
    return features // heads
