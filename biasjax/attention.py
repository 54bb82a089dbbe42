"""Multi-head attention with a bias per projection, or none.

A key bias shifts all scores of a query alike, so that the softmax cancels it; rotary embedding, query-key
norm and weights that are no softmax undo that. A value bias passes through the weights, which sum to one,
into the output bias; an attention sink undoes that. `biasjax.audit` finds all of this without being told.
"""

# jax is typed in part only
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from biasjax import check
from biasjax._text import brief
from biasjax.initializers import Initializer
from biasjax.linear import Linear, dense, dense_init
from biasjax.norms import Norm, norm_init, rms_norm

__all__ = ["Attention", "attention", "attention_init", "attention_weights", "rotate"]


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
    check.flags(qk_norm=qk_norm, sink=sink)
    depth = _depth(check.positive_int("features", features), heads)
    use_bias = check.names("use_bias", use_bias, _PROJECTIONS)
    layers = {
        name: dense_init(k, features, features, use_bias=name in use_bias, bias_init=bias_init, dtype=dtype)
        for name, k in zip(_PROJECTIONS, jax.random.split(check.key(key), 4), strict=True)
    }
    norm = norm_init(depth, use_bias=False, dtype=dtype) if qk_norm else None
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
    weighting: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
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
        Boolean, broadcastable to (..., heads, length, length), True where a query sees a key. What a query
        that sees no key gives to the output projection is zero.
    rotary
        Whether queries and keys are rotated by their position (Su et al., arXiv 2104.09864).
    weighting
        From scores (..., queries, keys) to weights. With `jax.nn.sigmoid` a key bias is not cancelled.

    Returns
    -------
    jax.Array
        (..., length, features).

    """
    weights = attention_weights(
        params, x, heads=heads, causal=causal, mask=mask, rotary=rotary, weighting=weighting
    )
    y = jnp.einsum("...hqk,...khd->...qhd", weights, _split(dense(params.value, x), heads))
    return dense(params.out, y.reshape(*y.shape[:-2], -1))


def attention_weights(
    params: Attention,
    x: jax.Array,
    *,
    heads: int,
    causal: bool = False,
    mask: jax.Array | None = None,
    rotary: bool = False,
    weighting: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> jax.Array:
    """Return what each query takes of each key's value.

    Parameters
    ----------
    params, x, heads, causal, mask, rotary, weighting
        As in `attention`.

    Returns
    -------
    jax.Array
        (..., heads, queries, keys). They add up to one with softmax, to less with a sink.

    Examples
    --------
    >>> params = attention_init(jax.random.key(0), 8, 2)
    >>> weights = attention_weights(params, jnp.ones((1, 5, 8)), heads=2, causal=True)
    >>> weights.shape, weights[0, 0, 1].tolist()
    ((1, 2, 5, 5), [0.5, 0.5, 0.0, 0.0, 0.0])
    """
    check.flags(causal=causal, rotary=rotary)
    check.function("weighting", weighting)
    x, depth = _check_input(params, x, heads)
    q, k = (_split(dense(layer, x), heads) for layer in params[:2])
    if params.query_norm is not None and params.key_norm is not None:
        q, k = rms_norm(params.query_norm, q), rms_norm(params.key_norm, k)
    if rotary:
        q, k = rotate(q), rotate(k)
    scores = jnp.einsum("...qhd,...khd->...hqk", q, k) / jnp.sqrt(depth).astype(x.dtype)
    seen = _seen(scores.shape, mask, causal)
    if seen is not None:
        lowest = cast(float, jnp.finfo(scores.dtype).min)
        scores = jnp.where(seen, scores, lowest)
    weights = _weigh(scores, params.sink, weighting)
    if seen is not None and mask is not None:
        # Scores that are all the lowest have equal weights
        weights = jnp.where(seen, weights, 0)
    return weights


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
    x = check.floating("rotate", x)
    check.number("base", base, low=0.0)
    if x.ndim < 3:
        check.fail("rotate", "shape (..., length, heads, depth)", x.shape, "Add an axis of heads.")
    length, _, depth = x.shape[-3:]
    if depth % 2:
        check.fail("rotate", "an even depth per head", depth, "Choose features and heads to fit.")
    # Positions beyond 256 are no bfloat16, those beyond 65,504 no float16
    wide = check.accumulator(x.dtype)
    rate = jnp.asarray(base, wide) ** (-jnp.arange(0, depth, 2, dtype=wide) / max(depth, 1))
    angle = (jnp.arange(length, dtype=wide)[:, None] * rate)[:, None]
    a, b = jnp.split(x.astype(wide), 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _check_input(params: Attention, x: jax.Array, heads: int) -> tuple[jax.Array, int]:
    """Return the input as an array, and the depth of a head."""
    fix = "Draw it with attention_init."
    if not isinstance(cast(object, params), Attention):
        check.fail("attention", "Attention", type(params).__name__, fix, TypeError)
    for layer in params[:4]:
        check.record("attention", layer, Linear, fix)
    x = check.floating("attention", x)
    if x.ndim < 2:
        check.fail("attention", "shape (..., length, features)", x.shape, "Add an axis with x[None].")
    if len({layer.kernel.shape for layer in params[:3]}) > 1:
        got = [layer.kernel.shape for layer in params[:3]]
        check.fail("attention", "query, key and value of one shape", got, fix)
    depth = _depth(params.query.kernel.shape[-1], heads)
    if params.sink is not None and params.sink.shape != (heads,):
        check.fail("attention", f"a sink of shape ({heads},)", params.sink.shape, fix)
    return x, depth


def _seen(shape: tuple[int, ...], mask: jax.Array | None, causal: bool) -> jax.Array | None:
    """Where queries see keys, for scores of this shape; None if everywhere."""
    seen = jnp.tril(jnp.ones(shape[-2:], bool)) if causal else None
    if mask is None:
        return seen
    got = getattr(mask, "dtype", type(mask).__name__)
    if str(got) != "bool":
        fix = "A mask of numbers to add is mask == 0 here, True where a query sees a key."
        check.fail("attention", "a boolean mask", got, fix, TypeError)
    mask = jnp.asarray(mask)
    # Axes of size 1 are repeated
    fits = zip(mask.shape[::-1], shape[::-1], strict=False)
    if mask.ndim > len(shape) or any(size not in (1, whole) for size, whole in fits):
        check.fail("attention", f"a mask that broadcasts to {shape}", mask.shape, "Add or drop axes.")
    return mask if seen is None else mask & seen


def _weigh(
    scores: jax.Array, sink: jax.Array | None, weighting: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    if sink is None:
        return weighting(scores)
    extra = jnp.broadcast_to(sink.astype(scores.dtype)[:, None, None], (*scores.shape[:-1], 1))
    return weighting(jnp.concatenate([scores, extra], -1))[..., :-1]


def _split(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, -1)


def _depth(features: int, heads: int) -> int:
    check.positive_int("heads", heads)
    if features % heads:
        check.fail("attention", f"heads that divide {features} features", heads, "Choose a divisor.")
    return features // heads
