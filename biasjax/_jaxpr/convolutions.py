"""Convolutions in float64 as products, where these are faster than what XLA does on the CPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def by_products(eqn: Any) -> Callable[..., Any] | None:
    """Function of the operands and parameters of a convolution that is faster than it; None if it is fast."""
    out = eqn.outvars[0].aval
    if jnp.issubdtype(out.dtype, jnp.complexfloating) or not out.size:
        return None
    if _is_depthwise(eqn):
        return _depthwise
    return _dense if _is_slow(eqn) else None


def _is_depthwise(eqn: Any) -> bool:
    """Whether each channel has its own filters, which XLA's float64 convolutions do four times slower."""
    p = eqn.params
    channels = eqn.invars[0].aval.shape[p["dimension_numbers"].lhs_spec[1]]
    return 1 < p["feature_group_count"] == channels and p["batch_group_count"] == 1


def _is_slow(eqn: Any) -> bool:
    """XLA's float64 convolutions are 10 to 100 times slower than a matmul on images of a few pixels.

    So are the derivatives of those with strides.
    """
    p, out = eqn.params, eqn.outvars[0].aval
    pixels = math.prod(out.shape[d] for d in p["dimension_numbers"].out_spec[2:])
    most = 1024 if max(p["window_strides"], default=1) > 1 else 16
    return p["feature_group_count"] == p["batch_group_count"] == 1 and pixels <= most


def _dense(x: Any, kernel: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    """Convolution as one matmul over patches."""
    x, kernel = _channels_last(x, kernel, dimension_numbers)
    patches = [patch for _, patch in _patches(x, kernel.shape[:-2], **params)]
    y = jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])
    return _as_given(y, dimension_numbers)


def _depthwise(x: Any, kernel: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    """Depthwise convolution as a sum of products."""
    x, kernel = _channels_last(x, kernel, dimension_numbers)
    window, channels = kernel.shape[:-2], x.shape[-1]
    filters = kernel.reshape(*window, channels, -1)
    seen = [patch[..., None] * filters[tap] for tap, patch in _patches(x, window, **params)]
    y = functools.reduce(jnp.add, seen)
    return _as_given(y.reshape(*y.shape[:-2], -1), dimension_numbers)


def _channels_last(x, kernel, numbers):
    lhs, rhs, _ = numbers
    return jnp.transpose(x, (lhs[0], *lhs[2:], lhs[1])), jnp.transpose(kernel, (*rhs[2:], rhs[1], rhs[0]))


def _as_given(y, numbers):
    out = numbers.out_spec
    return jnp.transpose(y, [int(i) for i in np.argsort((out[0], *out[2:], out[1]))])


def _patches(x, window: Sequence[int], *, window_strides, padding, lhs_dilation, rhs_dilation, **_):
    """For every tap of a window what it sees, channels last."""
    inside = [(low, high, dilation - 1) for (low, high), dilation in zip(padding, lhs_dilation, strict=True)]
    x = jax.lax.pad(x, np.float64(0.0), [(0, 0, 0), *inside, (0, 0, 0)])
    spans = [(n - 1) * d for n, d in zip(window, rhs_dilation, strict=True)]
    for tap in np.ndindex(*window):
        start = [i * d for i, d in zip(tap, rhs_dilation, strict=True)]
        stop = [n - s + i for n, s, i in zip(x.shape[1:-1], spans, start, strict=True)]
        strides = (1, *window_strides, 1)
        yield tap, jax.lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), strides)
