"""Normalisation layers: standardise, then optional scale, then optional bias.

One NamedTuple of parameters serves all: ``Norm(scale, bias)``, each None if absent. What batch norm carries
from step to step is a NamedTuple of its own, ``BatchStats(mean, var)``. Statistics are two-pass
(the mean of (x - mean)², never E[x²] - E[x]²) and accumulated in at least float32; defaults are Flax's.
"""

from __future__ import annotations

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike, DTypeLike

from biasjax import check

__all__ = [
    "BatchStats",
    "Norm",
    "batch_norm",
    "batch_stats_init",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "norm_init",
    "rms_norm",
]


def __dir__() -> list[str]:
    return __all__


_Standard = tuple[jax.Array, jax.Array, jax.Array]


class Norm(NamedTuple):
    """Parameters of any norm, ``(features,)`` each, None if absent."""

    scale: jax.Array | None = None
    bias: jax.Array | None = None


class BatchStats(NamedTuple):
    """Running statistics of batch norm, ``(features,)`` each."""

    mean: jax.Array
    var: jax.Array


def norm_init(
    features: int,
    *,
    use_scale: bool = True,
    use_bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Norm:
    """Make the parameters of a norm: ones and zeros; others are a ``_replace`` away.

    Parameters
    ----------
    features
        Size of the normalised channel axis.
    use_scale, use_bias
        Whether there is a scale (gamma) and a bias (beta); without, None.

    Examples
    --------
    >>> norm_init(2, use_bias=False)
    Norm(scale=Array([1., 1.], dtype=float32), bias=None)
    """
    shape, dtype = (check.positive_int("features", features),), check.dtype(dtype)
    check.flags(use_scale=use_scale, use_bias=use_bias)
    return Norm(jnp.ones(shape, dtype) if use_scale else None, jnp.zeros(shape, dtype) if use_bias else None)


def batch_stats_init(features: int, dtype: DTypeLike = jnp.float32) -> BatchStats:
    """Make the running statistics that batch norm starts from, mean 0 and variance 1.

    Examples
    --------
    >>> batch_stats_init(2)
    BatchStats(mean=Array([0., 0.], dtype=float32), var=Array([1., 1.], dtype=float32))
    """
    shape, dtype = (check.positive_int("features", features),), check.dtype(dtype)
    return BatchStats(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def batch_norm(
    params: Norm,
    state: BatchStats,
    x: jax.Array,
    *,
    train: bool,
    momentum: ArrayLike = 0.99,
    epsilon: ArrayLike = 1e-5,
    unbiased_running_var: bool = False,
    channels_first: bool = False,
) -> tuple[jax.Array, BatchStats]:
    """Normalise each channel over batch and positions (Ioffe & Szegedy, arXiv 1502.03167).

    In training with the batch's own mean and (biased) variance, which cancel a bias added just before;
    otherwise with the running ones, which do when they have caught up.

    Parameters
    ----------
    params, state
        From `norm_init` and `batch_stats_init`.
    x
        ``(batch, *positions, features)``, or ``(batch, features, *positions)`` with ``channels_first``.
    train
        Whether to use, and to learn, the statistics of this batch.
    momentum
        Weight of the *old* running value, as in Flax and Keras; PyTorch's 0.1 is 0.9 here.
    epsilon
        Added to the variance; 1e-5 in Flax and PyTorch, 1e-3 in Keras.
    unbiased_running_var
        Whether the running variance has the factor n / (n - 1), as PyTorch's alone has.

    Returns
    -------
    y : jax.Array
        Like ``x``.
    state : BatchStats
        Updated in training, unchanged otherwise.

    Examples
    --------
    >>> x = jnp.array([[1.0], [3.0]])
    >>> y, state = batch_norm(norm_init(1), batch_stats_init(1), x, train=True, momentum=0.9)
    >>> y.ravel().round(3), state.mean.round(3)
    (Array([-1.,  1.], dtype=float32), Array([0.2], dtype=float32))
    """
    check.flags(train=train, unbiased_running_var=unbiased_running_var)
    check.number("momentum", momentum, 0.0, 1.0)
    x = _prepare("batch_norm", params, x, epsilon, channels_first)
    _check_stats(state, x.shape[-1])
    wide = _wide(x)
    if not train:
        mean, var = (_per_channel(leaf, wide) for leaf in state)
        y = _normalize(wide, mean, var, epsilon)
        return _finish(params, y, x.dtype, channels_first), state
    axes = tuple(range(x.ndim - 1))
    size = math.prod(x.shape[:-1])
    y, mean, var = _standardize("batch_norm", wide, axes, epsilon)
    running_var = var * (size / (size - 1)) if unbiased_running_var else var
    new = BatchStats(mean.reshape(-1), running_var.reshape(-1))
    state = BatchStats(*(_decay(old, now, momentum) for old, now in zip(state, new, strict=True)))
    return _finish(params, y, x.dtype, channels_first), state


def layer_norm(
    params: Norm, x: jax.Array, *, epsilon: ArrayLike = 1e-6, channels_first: bool = False
) -> jax.Array:
    """Normalise over the channels at each position (Ba et al., arXiv 1607.06450).

    Parameters
    ----------
    params, x, channels_first
        As in `batch_norm`.

    Examples
    --------
    >>> layer_norm(norm_init(2), jnp.array([[1.0, 3.0]])).round(3)
    Array([[-1.,  1.]], dtype=float32)
    """
    x = _prepare("layer_norm", params, x, epsilon, channels_first)
    y, _, _ = _standardize("layer_norm", _wide(x), (x.ndim - 1,), epsilon)
    return _finish(params, y, x.dtype, channels_first)


def rms_norm(
    params: Norm, x: jax.Array, *, epsilon: ArrayLike = 1e-6, channels_first: bool = False
) -> jax.Array:
    """Divide by the root mean square of the channels, uncentred (Zhang & Sennrich, arXiv 1910.07467).

    Examples
    --------
    >>> rms_norm(norm_init(2, use_bias=False), jnp.array([[1.0, -1.0]])).round(2)
    Array([[ 1., -1.]], dtype=float32)
    """
    x = _prepare("rms_norm", params, x, epsilon, channels_first)
    wide = _wide(x)
    y = _normalize(wide, jnp.zeros((), wide.dtype), jnp.mean(jnp.square(wide), -1, keepdims=True), epsilon)
    return _finish(params, y, x.dtype, channels_first)


def group_norm(
    params: Norm,
    x: jax.Array,
    *,
    groups: int,
    epsilon: ArrayLike = 1e-6,
    channels_first: bool = False,
) -> jax.Array:
    """Normalise each group of channels over the group and all positions (Wu & He, arXiv 1803.08494).

    Parameters
    ----------
    groups
        Number of groups; it divides the features.

    Examples
    --------
    >>> group_norm(norm_init(4), jnp.array([[1.0, 3.0, 10.0, 30.0]]), groups=2).round(3)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    x = _prepare("group_norm", params, x, epsilon, channels_first)
    check.positive_int("groups", groups)
    features = x.shape[-1]
    if features % groups:
        check.fail("group_norm", f"groups that divide {features} features", groups, "Choose a divisor.")
    grouped = _wide(x).reshape(*x.shape[:-1], groups, features // groups)
    axes = (*range(1, x.ndim - 1), x.ndim)
    y = _standardize("group_norm", grouped, axes, epsilon)[0].reshape(x.shape)
    return _finish(params, y, x.dtype, channels_first)


def instance_norm(
    params: Norm, x: jax.Array, *, epsilon: ArrayLike = 1e-6, channels_first: bool = False
) -> jax.Array:
    """Normalise each channel of each example over its positions (Ulyanov et al., arXiv 1607.08022).

    Examples
    --------
    >>> instance_norm(norm_init(1), jnp.array([[[1.0], [3.0]]])).ravel().round(3)
    Array([-1.,  1.], dtype=float32)
    """
    x = _prepare("instance_norm", params, x, epsilon, channels_first)
    y, _, _ = _standardize("instance_norm", _wide(x), tuple(range(1, x.ndim - 1)), epsilon)
    return _finish(params, y, x.dtype, channels_first)


def _prepare(what: str, params: Norm, x: jax.Array, epsilon: ArrayLike, channels_first: bool) -> jax.Array:
    """Check the input and move its channels last."""
    x = check.floating(what, x)
    check.number("epsilon", epsilon, 0.0, float(cast(Any, jnp.finfo(check.accumulator(x.dtype))).max))
    check.flags(channels_first=channels_first)
    check.record(what, params, Norm, "Make it with norm_init.")
    if x.ndim < 2:
        check.fail(what, "at least two axes, batch and features", x.shape, "Add a batch axis with x[None].")
    x = jnp.moveaxis(x, 1, -1) if channels_first else x
    for name, leaf in params._asdict().items():
        if leaf is not None and leaf.shape != x.shape[-1:]:
            fix = f"The parameters' {name} has shape {leaf.shape}; see channels_first for the layout."
            check.fail(what, f"{leaf.size} features", x.shape[-1], fix)
    return x


def _check_stats(state: BatchStats, features: int) -> None:
    check.record("batch_norm", state, BatchStats, "Make it with batch_stats_init.")
    if {state.mean.shape, state.var.shape} != {(features,)}:
        check.fail("batch_norm", f"{state.mean.size} features", features, "Make state and x agree.")


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(check.accumulator(x.dtype))


def _per_channel(leaf: jax.Array, x: jax.Array) -> jax.Array:
    # All axes, for rank promotion may be forbidden
    return leaf.astype(x.dtype).reshape(*[1] * (x.ndim - 1), -1)


def _standardize(what: str, x: jax.Array, axes: tuple[int, ...], epsilon: ArrayLike) -> _Standard:
    """Standardised values, their mean and their variance."""
    if math.prod(x.shape[axis] for axis in axes) <= 1:
        fix = "Add examples (batch norm), positions (instance norm) or channels."
        check.fail(what, "more than one value to normalise over", f"an input of shape {x.shape}", fix)
    return cast(_Standard, _standard(x, jnp.asarray(epsilon, x.dtype), axes))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _standard(x: jax.Array, epsilon: jax.Array, axes: tuple[int, ...]) -> _Standard:
    mean = jnp.mean(x, axes, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axes, keepdims=True)
    return _normalize(x, mean, var, epsilon), mean, var


@functools.partial(_standard.defjvp, symbolic_zeros=True)
def _standard_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> tuple[_Standard, _Standard]:
    """Derive in fewer passes over the values than JAX does: dy = (c - y <y c>) / std, where c = dx - <dx>.

    Transposed, the mean is taken off last, so that what a bias before gets is zero up to its own rounding.
    """
    (x, epsilon), (dx, depsilon) = primals, tangents
    y, mean, var = cast(_Standard, _standard(x, epsilon, axes))
    rate = jax.lax.rsqrt(var + epsilon)
    dy, dmean, dvar = jnp.zeros_like(y), jnp.zeros_like(mean), jnp.zeros_like(var)
    if not isinstance(dx, SymbolicZero):
        dmean = jnp.mean(dx, axes, keepdims=True)
        centred = dx - dmean
        along = jnp.mean(y * centred, axes, keepdims=True)
        dy, dvar = rate * (centred - y * along), 2 * along / rate
    if not isinstance(depsilon, SymbolicZero):
        dy = dy - y * (depsilon / 2 * rate * rate)
    return (y, mean, var), (dy, dmean, dvar)


def _normalize(x: jax.Array, mean: jax.Array, var: jax.Array, epsilon: ArrayLike) -> jax.Array:
    var = var.astype(x.dtype) + jnp.asarray(epsilon, x.dtype)
    return (x - mean.astype(x.dtype)) * jax.lax.rsqrt(var)


def _finish(params: Norm, y: jax.Array, dtype: DTypeLike, channels_first: bool) -> jax.Array:
    """Scale, add the bias, and return to the caller's dtype and layout."""
    if params.scale is not None:
        y = y * _per_channel(params.scale, y)
    if params.bias is not None:
        y = y + _per_channel(params.bias, y)
    y = y.astype(dtype)
    return jnp.moveaxis(y, -1, 1) if channels_first else y


def _decay(old: jax.Array, now: jax.Array, momentum: ArrayLike) -> jax.Array:
    # momentum · old + (1 - momentum) · now, in the dtype of the state
    momentum = jnp.asarray(momentum, old.dtype)
    return momentum * old + (1 - momentum) * now.astype(old.dtype)
