"""What is measured of a layer: moments of its signal, what went wrong in it, and norms of its gradients."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from biasjax import check
from biasjax._propagation.layerwise import Kept, Layer, Pulled, Seen, Setting, multiply


def statistics(seen: Seen) -> tuple[dict[str, Any], tuple[jax.Array, ...]]:
    """Moments of a layer, and whether it has infinities or NaNs or is all zero."""
    pre, kept = seen.pre, seen.features
    top, v = _normalize(kept)
    mean = jnp.mean(v)
    std = jnp.sqrt(jnp.mean(jnp.square(v - mean)))
    unit = jnp.log(top) + seen.unit
    pre_top, u = _normalize(pre)
    square = jnp.mean(jnp.square(u))
    log_q = jnp.log(square) + 2 * (jnp.log(pre_top) + seen.unit)
    correlation, distance = _correlation(u)
    moments = {
        "mean": _restore(mean * top, seen.unit),
        "std": _restore(std * top, seen.unit),
        "log_std": jnp.log(std) + unit,
        "q": _restore(jnp.sqrt(square) * pre_top, seen.unit) ** 2,
        "log_q": log_q,
        "correlation": correlation,
        "distance": distance,
        "dead": jnp.mean(seen.dead.astype(mean.dtype)),
    }
    infinite, nan = (found(pre).any() | found(kept).any() for found in (jnp.isinf, jnp.isnan))
    return moments, (infinite, nan, jnp.all(pre == 0))


def _normalize(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Largest entry (1 if none is positive and finite), and the array over it."""
    x = x.astype(check.accumulator(x.dtype))
    top = jnp.max(jnp.abs(x))
    top = jnp.where((top > 0) & jnp.isfinite(top), top, 1.0)
    return top, x / top


def _restore(value: jax.Array, unit: jax.Array) -> jax.Array:
    return jnp.where(value == 0, value, value * jnp.exp(unit))


def _correlation(x: jax.Array) -> tuple[Any, Any]:
    """Mean cosine of all pairs of examples, and what is left to 1.

    With v_i of unit length and mean m, the mean of 1 - v_i · v_j over pairs is sum_i |v_i - m|²/(B - 1).
    """
    batch = x.shape[0]
    if batch == 1:
        return None, None
    x = x.reshape(batch, -1)
    top = jnp.max(jnp.abs(x), 1, keepdims=True)
    x = x / jnp.where(top > 0, top, 1.0)
    norm = jnp.sqrt(jnp.sum(jnp.square(x), 1, keepdims=True))
    v = x / jnp.where(norm > 0, norm, 1.0)
    distance = jnp.sum(jnp.square(v - jnp.mean(v, 0))) / (batch - 1)
    # A zero vector has no direction: distance 1, where the sum has 1/2 for one and 0 for two in a pair
    distance = distance + jnp.mean((norm == 0).astype(x.dtype))
    return 1 - distance, distance


def events(infinite: jax.Array, nan: jax.Array, zero: jax.Array) -> dict[str, jax.Array]:
    """Layers and status of the first infinity, NaN and all-zero layer."""
    depth = infinite.shape[0]
    overflow, invalid, underflow = (
        jnp.where(jnp.any(flags), jnp.argmax(flags), depth).astype(jnp.int32)
        for flags in (infinite, nan, zero)
    )
    # An overflow makes infinities and NaNs at once; which comes out first says nothing
    firsts = jnp.stack([jnp.asarray(depth - 0.5), *(t.astype(float) for t in (overflow, invalid, underflow))])
    return {
        "overflow_layer": jnp.where(overflow < depth, overflow + 1, 0),
        "underflow_layer": jnp.where(underflow < depth, underflow + 1, 0),
        "status": jnp.argmin(firsts).astype(jnp.int32),
    }


def gradients(settings: Setting, kept: Kept, pulled: Pulled, layer: Layer) -> dict[str, Any]:
    """Logs of squared gradient norms at one layer."""
    unit = 2 * pulled.unit
    z = pulled.z.astype(unit.dtype)
    kernel = _kernel_gradient(settings, kept.y, pulled.z, layer.kernel)
    found = {
        "log_grad_features": _log_square(pulled.features.astype(unit.dtype)) + unit,
        "log_grad_kernels": kernel + unit + 2 * kept.unit,
    }
    if layer.bias is not None:
        found["log_grad_biases"] = _log_square(jnp.sum(z, tuple(range(z.ndim - 1)))) + unit
    return found


def _log_square(x: jax.Array) -> jax.Array:
    top, v = _normalize(x)
    return jnp.log(jnp.sum(jnp.square(v))) + 2 * jnp.log(top)


def _kernel_gradient(settings, y: jax.Array, z: jax.Array, kernel: jax.Array) -> jax.Array:
    """Log of the squared norm of sum_b y_b z_b^T, for a convolution also over positions."""
    y_top, y = _normalize(y)
    z_top, z = _normalize(z)
    tops = 2 * (jnp.log(y_top) + jnp.log(z_top))
    if z.ndim == 2 and y.shape[0] < math.sqrt(kernel.size):
        # |Y^T Z|² = sum of (Y Y^T) ∘ (Z Z^T): no array of the kernel's size for each point of a grid
        return jnp.log(jnp.maximum(jnp.sum((y @ y.T) * (z @ z.T)), 0.0)) + tops
    _, pull = jax.vjp(lambda w: multiply(settings, w, y), kernel.astype(y.dtype))
    return _log_square(pull(z)[0]) + tops
