"""Where the variance map stands still, and where chi_1 = 1 besides: roots on a grid in log q.

The Gaussian moments on the grid do not depend on the scales, so that a whole phase diagram shares them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from biasjax import _text
from biasjax._theory import implicit, moments, roots
from biasjax._theory.compiling import compiled
from biasjax.activations import Activation

# Variance that stands for the limit zero, whose square stays finite in float32
Q_ZERO = 1e-30
# How far from its limit 1 a ratio may still be at the ends of the range, for phi that tends to a line slowly
LIMIT_TOLERANCE = 1e-3
# Variance beside zero at which the approach to it shows in float32, in terms of order q
_NEAR_ZERO = 1e-2


class FixedPoints(NamedTuple):
    """All fixed points of the variance map, in ascending order along the last axis.

    Attributes
    ----------
    q
        Variances, shape ``(..., slots)``; unused slots are infinite.
    slope
        V'(q); 0 in unused slots.
    stable
        ``|slope| < 1``.
    count
        Number of fixed points found, shape ``(...)``.
    neutral
        Every q is a fixed point (ReLU at sigma_w^2 = 2 without bias); ``count`` is then 0.
    resolved
        Whether these are all. False where the quadrature of `gaussian.expectation` does not resolve the
        activation at some q, which may hide fixed points, and where a traced scale is no number.
    """

    q: jax.Array
    slope: jax.Array
    stable: jax.Array
    count: jax.Array
    neutral: jax.Array
    resolved: jax.Array

    def __repr__(self) -> str:
        return _text.brief(self)


class CriticalLine(NamedTuple):
    """Scales at which chi_1 = 1 at a fixed point, along the last axis.

    The first slot is for what networks approach, so that ``sigma_w[..., 0]`` is the edge of chaos: a stable
    point, or a neutral one, or none. Further stable ones follow, then unstable ones, from the second slot on
    (GELU, SiLU): networks at that ``sigma_w`` start there only with this q, and leave it.

    Attributes
    ----------
    sigma_w
        Weight scale, shape ``(..., slots)``; infinite in unused slots.
    q
        Variance at that fixed point; infinite in unused slots.
    slope, stable
        V'(q), and whether the variance is attracted to q at all: ``|slope| < 1``, or at q = 0, where it is 1,
        V(q) < q nearby.
    count
        Number of critical points found, shape ``(...)``.
    neutral
        Every q is a critical fixed point (ReLU, linear, without bias); the one at q = 1 is reported.
    resolved
        Whether these are all, as in `FixedPoints`.
    """

    sigma_w: jax.Array
    q: jax.Array
    slope: jax.Array
    stable: jax.Array
    count: jax.Array
    neutral: jax.Array
    resolved: jax.Array

    def __repr__(self) -> str:
        return _text.brief(self)


def known(*scales: jax.Array) -> jax.Array:
    """Whether scales, which may be traced, are numbers from 0 on whose squares are finite."""
    return functools.reduce(jnp.logical_and, ((x >= 0) & jnp.isfinite(x**2) for x in scales))


@compiled(static=2)
@implicit.elementwise(static=2)
def fixed_points(act: Activation, slots: int, sigma_w: jax.Array, sigma_b: jax.Array) -> FixedPoints:
    """Zero where it is a fixed point, and the roots of V(q)/q - 1."""
    # It is sigma_w^2 m(log q) + sigma_b^2/q - 1 and has the slope V'(q) - 1 at a root
    growth = growth_of(act)
    numbers = known(sigma_w, sigma_b)
    sigma_w, sigma_b = (jnp.where(numbers, x, 1.0) for x in (sigma_w, sigma_b))
    t, slope, count, neutral, resolved = roots.find(growth, sigma_w**2, sigma_b**2, slots)
    used = jnp.isfinite(t) & numbers[..., None]
    q = jnp.where(used, jnp.exp(jnp.where(used, t, 0.0)), jnp.inf)
    at_zero = (sigma_b == 0) & (act(jnp.zeros_like(sigma_b)) == 0) & ~neutral
    zero_slope = sigma_w**2 * growth(jnp.full_like(sigma_w, math.log(Q_ZERO)))
    q = jnp.concatenate([jnp.where(at_zero, 0.0, jnp.inf)[..., None], q], axis=-1)
    slope = jnp.concatenate([(zero_slope - 1)[..., None], slope], axis=-1)
    count = count + at_zero.astype(count.dtype)
    order = jnp.argsort(q, axis=-1)[..., :slots]
    q, slope = (jnp.take_along_axis(x, order, axis=-1) for x in (q, slope))
    slope = jnp.where(jnp.isfinite(q), 1 + slope, 0.0)
    stable = jnp.isfinite(q) & (jnp.abs(slope) < 1)
    count = jnp.where(numbers, count, 0)
    return FixedPoints(q, slope, stable, count, neutral & numbers, resolved & numbers)


@compiled(static=2)
@implicit.elementwise(static=2)
def critical_line(act: Activation, slots: int, sigma_b: jax.Array) -> CriticalLine:
    """Zero where phi is a line there, and the roots of V(q)/q - 1 at sigma_w^2 = 1 / E[phi'^2]."""
    # V(q)/q - 1 reads E[phi^2] / (q E[phi'^2]) + sigma_b^2/q - 1
    growth = growth_of(act)

    def ratio(t: jax.Array) -> jax.Array:
        return growth(t) / moments.slope_moment(act, jnp.exp(t))

    numbers = known(sigma_b)
    sigma_b = jnp.where(numbers, sigma_b, 1.0)
    t, _, count, neutral, resolved = roots.find(ratio, jnp.ones_like(sigma_b), sigma_b**2, slots)
    t = t.at[..., 0].set(jnp.where(neutral, 0.0, t[..., 0]))
    # phi(u) ~ u near zero is critical there, phi(u) ~ u^3 is not
    limit = ratio(jnp.full_like(sigma_b, math.log(Q_ZERO)))
    at_zero = (sigma_b == 0) & (jnp.abs(limit - 1) < LIMIT_TOLERANCE) & ~neutral
    t = jnp.concatenate([jnp.where(at_zero, math.log(Q_ZERO), jnp.inf)[..., None], t], axis=-1)
    count = count + at_zero.astype(count.dtype)
    used = jnp.isfinite(t) & numbers[..., None]
    t = jnp.where(used, t, 0.0)
    sigma_w = 1 / jnp.sqrt(moments.slope_moment(act, jnp.exp(t)))
    above_zero = t > math.log(Q_ZERO) + 1
    slope = jnp.where(used, sigma_w**2 * implicit.still(~above_zero, slope_of(act, t)), 0.0)
    stable = used & (jnp.abs(slope) < 1)
    # The slope is 1 at q = 0, and V(q) - q of the sign that it has nearby
    near = growth(jnp.full_like(sigma_b, math.log(_NEAR_ZERO))) * sigma_w[..., 0] ** 2
    stable = stable.at[..., 0].set(at_zero & numbers & (near < 1)) & ~neutral[..., None]
    q = jnp.where(used, jnp.where(above_zero, jnp.exp(t), 0.0), jnp.inf)
    sigma_w = jnp.where(used, sigma_w, jnp.inf)
    points = _in_slots(CriticalLine(sigma_w, q, slope, stable, count, neutral, resolved), slots)
    count = jnp.where(numbers, count + neutral.astype(count.dtype), 0)
    return points._replace(count=count, neutral=neutral & numbers, resolved=resolved & numbers)


def _in_slots(line: CriticalLine, slots: int) -> CriticalLine:
    """Sort points, with an empty slot before unstable ones if there is nothing else."""
    approached = line.stable | (line.neutral[..., None] & jnp.isfinite(line.q))
    gap = ~jnp.any(approached, axis=-1, keepdims=True)
    rank = jnp.concatenate([jnp.where(gap, 1, 3), jnp.where(approached, 0, 2)], axis=-1)

    def padded(x: jax.Array, fill: float) -> jax.Array:
        return jnp.concatenate([jnp.full_like(x[..., :1], fill), x], axis=-1)

    q = padded(line.q, jnp.inf)
    order = jnp.lexsort((q, rank), axis=-1)[..., :slots]
    columns = padded(line.sigma_w, jnp.inf), q, padded(line.slope, 0), padded(line.stable, False)
    sigma_w, q, slope, stable = (jnp.take_along_axis(x, order, axis=-1) for x in columns)
    return line._replace(sigma_w=sigma_w, q=q, slope=slope, stable=stable)


def growth_of(act: Activation) -> Callable[[jax.Array], jax.Array]:
    """E[phi(u)^2] / q as a function of log q."""

    def growth(t: jax.Array) -> jax.Array:
        return moments.second_moment(act, jnp.exp(t)) * jnp.exp(-t)

    return growth


def slope_of(act: Activation, t: jax.Array) -> jax.Array:
    """Slope of E[phi(u)^2] at q = exp(t): V'(q) over sigma_w^2."""
    growth, change = roots.with_slope(growth_of(act), t)
    return growth + change
