"""Fixed points, phases and depth scales of wide random networks, and the edge of chaos.

`meanfield` has the maps of variance and correlation from layer to layer; here they are followed to the end.
Roots are found on a grid in log q whose Gaussian moments do not depend on the scales, so that a whole phase
diagram shares them, and then refined one by one. The correlation's fixed point starts from the Hermite
series, whose every truncation gives a lower bound, and is refined by quadrature only where the series has
not converged. Everything broadcasts, works under `jax.jit` and `jax.vmap`, and holds no NaN: where there is
no fixed point, a status says so.

References: Poole et al., arXiv 1606.05340; Schoenholz et al., arXiv 1611.01232;
Hayou et al., arXiv 1902.06853.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from biasjax import _roots, activations, check, gaussian, meanfield
from biasjax.activations import Activation

# What the variance does when the map is iterated; results hold positions in this tuple
STATUSES = ("converges", "vanishes", "diverges", "neutral")
CONVERGES, VANISHES, DIVERGES, NEUTRAL = range(4)

# Variances that stand for the limits zero and infinity; cubes and their squares stay finite in float32
_Q_ZERO, _Q_INFINITY = 1e-30, 1e10
# How far from its limit 1 a ratio may still be at _Q_INFINITY, for phi that tends to a line slowly
_LIMIT_TOLERANCE = 1e-3


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
    """

    q: jax.Array
    slope: jax.Array
    stable: jax.Array
    count: jax.Array
    neutral: jax.Array


class OrderParameters(NamedTuple):
    """Where a deep network ends up, and how fast.

    Attributes
    ----------
    q
        Variance that is approached: a fixed point, 0, or infinity (see ``status``).
    slope
        V'(q), of which ``xi_q = -1 / ln |V'(q)|``.
    chi_1
        Factor of the squared gradient norm per layer, sigma_w^2 E[phi'^2].
    c
        Stable fixed point of the correlation of two inputs; 1 in the ordered phase.
    chi_c
        sigma_w^2 E[phi'(u) phi'(v)] at ``c``, of which ``xi_c = -1 / ln chi_c``.
    xi_q, xi_c
        Depth scales in layers, infinite where the approach is no longer exponential.
    status
        Position in `STATUSES`. Where q diverges, all else is the limit q -> infinity.
    """

    q: jax.Array
    slope: jax.Array
    chi_1: jax.Array
    c: jax.Array
    chi_c: jax.Array
    xi_q: jax.Array
    xi_c: jax.Array
    status: jax.Array


class CriticalLine(NamedTuple):
    """Scales at which chi_1 = 1 at a fixed point, stable ones first along the last axis.

    Attributes
    ----------
    sigma_w
        Weight scale, shape ``(..., slots)``; infinite in unused slots.
    q
        Variance at that fixed point; infinite in unused slots.
    slope, stable
        V'(q), and whether the variance is attracted to q at all: ``|slope| < 1``.
    count
        Number of critical points found, shape ``(...)``.
    neutral
        Every q is a critical fixed point (ReLU, linear, without bias); the one at q = 1 is reported.
    """

    sigma_w: jax.Array
    q: jax.Array
    slope: jax.Array
    stable: jax.Array
    count: jax.Array
    neutral: jax.Array


def fixed_points(
    activation: gaussian.Function, sigma_w: ArrayLike, sigma_b: ArrayLike = 0.0, *, slots: int = 4
) -> FixedPoints:
    """Find all fixed points of the variance map with their slopes.

    Parameters
    ----------
    activation
        Name, `Activation` or elementwise callable.
    sigma_w, sigma_b
        Scales of weights and bias; shapes broadcast.
    slots
        Most fixed points to report; ``count`` tells if there are more.

    Returns
    -------
    FixedPoints
        q = 0 (without bias, if phi(0) = 0) and those between 1e-10 and 1e10.

    Raises
    ------
    ValueError
        If a scale is negative, ``slots`` not positive or the activation unknown.

    Examples
    --------
    GELU has an unstable fixed point beside the stable one at zero (Hayou et al.):

    >>> points = fixed_points("gelu", 1.6)
    >>> print(points.q, points.stable)
    [0. ... inf inf] [ True False False False]
    """
    act = activations.get(activation)
    check.positive_int("slots", slots)
    (sigma_w, sigma_b), dtype = meanfield.inputs(sigma_w, sigma_b)
    return _cast(_fixed_points(act, slots, sigma_w, sigma_b), dtype)


def order_parameters(
    activation: gaussian.Function, sigma_w: ArrayLike, sigma_b: ArrayLike = 0.0, *, q: ArrayLike = 1.0
) -> OrderParameters:
    """Follow variance and correlation to their fixed points, with the depth scales of the approach.

    Parameters
    ----------
    activation
        Name, `Activation` or elementwise callable.
    sigma_w, sigma_b
        Scales of weights and bias; shapes broadcast.
    q
        Variance at the first layer (default 1): where there are several fixed points, it decides between
        them. V is taken to increase with q, as it does for every named activation.

    Returns
    -------
    OrderParameters

    Raises
    ------
    ValueError
        If a scale or ``q`` is negative or the activation unknown.

    Examples
    --------
    >>> deep = order_parameters("tanh", jnp.sqrt(2.0), jnp.sqrt(0.05))
    >>> print(f"{deep.q:.4f} {deep.chi_1:.4f} {deep.c:.3f} {deep.xi_c:.1f} {STATUSES[deep.status]}")
    0.7218 1.0477 0.744 25.2 converges
    """
    act = activations.get(activation)
    (sigma_w, sigma_b, q), dtype = meanfield.inputs(sigma_w, sigma_b, q=q)
    return _cast(_order_parameters(act, sigma_w, sigma_b, q), dtype)


def critical_line(activation: gaussian.Function, sigma_b: ArrayLike = 0.0, *, slots: int = 4) -> CriticalLine:
    """Weight scales at which chi_1 = 1: the edge of chaos.

    Parameters
    ----------
    activation
        Name, `Activation` or elementwise callable.
    sigma_b
        Scale of the bias, any shape.
    slots
        Most critical points to report for each bias scale.

    Returns
    -------
    CriticalLine
        ``count`` is 0 where there is none (ReLU with a bias).

    Raises
    ------
    ValueError
        If ``sigma_b`` is negative, ``slots`` not positive or the activation unknown.

    Examples
    --------
    >>> line = critical_line("tanh", jnp.sqrt(0.05))
    >>> print(f"{line.sigma_w[0] ** 2:.4f} {line.stable[0]}")
    1.7610 True
    """
    act = activations.get(activation)
    check.positive_int("slots", slots)
    (_, sigma_b), dtype = meanfield.inputs(1.0, sigma_b)
    return _cast(_critical_line(act, slots, sigma_b), dtype)


def depth_scale(factor: ArrayLike) -> jax.Array:
    """Layers over which ``factor ** depth`` decays by e: -1 / ln |factor|, infinite from 1 on.

    Examples
    --------
    >>> print(depth_scale(jnp.array([0.0, 0.5, 1.0, 2.0])))
    [0.        1.442695       inf       inf]
    """
    factor = jnp.abs(jnp.asarray(factor))
    decays = (factor > 0) & (factor < 1)
    scale = -1 / jnp.log(jnp.where(decays, factor, 0.5))
    return jnp.where(decays, scale, jnp.where(factor == 0, 0.0, jnp.inf))


def _cast(results, dtype):
    """Give numbers the dtype of the input; statuses and counts stay."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, results)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fixed_points(act, slots, sigma_w, sigma_b):
    # V(q)/q - 1 = sigma_w^2 m(log q) + sigma_b^2/q - 1 has the slope V'(q) - 1 at a root
    t, slope, count, neutral = _roots.find(_growth(act), sigma_w**2, sigma_b**2, slots)
    q = jnp.exp(t)
    at_zero = (sigma_b == 0) & (act(jnp.zeros_like(sigma_b)) == 0) & ~neutral
    zero_slope = sigma_w**2 * _growth(act)(jnp.full_like(sigma_w, math.log(_Q_ZERO)))
    q = jnp.concatenate([jnp.where(at_zero, 0.0, jnp.inf)[..., None], q], axis=-1)
    slope = jnp.concatenate([(zero_slope - 1)[..., None], slope], axis=-1)
    count = count + at_zero.astype(count.dtype)
    order = jnp.argsort(q, axis=-1)[..., :slots]
    q, slope = (jnp.take_along_axis(x, order, axis=-1) for x in (q, slope))
    slope = jnp.where(jnp.isfinite(q), 1 + slope, 0.0)
    return FixedPoints(q, slope, jnp.isfinite(q) & (jnp.abs(slope) < 1), count, neutral)


@functools.partial(jax.jit, static_argnums=0)
def _order_parameters(act, sigma_w, sigma_b, q_start):
    found = _fixed_points(act, 4, sigma_w, sigma_b)
    # V increases, so iteration walks from q_start to the next root in the direction of V(q) - q
    rises = meanfield.variance_map(act, q_start, sigma_w, sigma_b) >= q_start
    start = q_start[..., None]
    above = jnp.min(jnp.where(found.q >= start, found.q, jnp.inf), axis=-1)
    below = jnp.max(jnp.where(found.q <= start, found.q, 0.0), axis=-1)
    q = jnp.where(found.neutral, q_start, jnp.where(rises, above, below))
    status = jnp.where(q == 0, VANISHES, jnp.where(jnp.isinf(q), DIVERGES, CONVERGES))
    status = jnp.where(found.neutral, NEUTRAL, status).astype(jnp.int32)

    limit = status == DIVERGES
    inside = jnp.where(limit, _Q_INFINITY, jnp.maximum(q, _Q_ZERO))
    growth, slope = jax.jvp(_growth(act), (jnp.log(inside),), (jnp.ones_like(q),))
    slope = sigma_w**2 * (growth + slope)
    chi_1 = sigma_w**2 * meanfield.slope_moment(act, inside)
    variance = sigma_w**2 * meanfield.second_moment(act, inside) + sigma_b**2
    # phi grows so fast that its moments overflow: correlations are lost at once
    wild = ~(jnp.isfinite(variance) & jnp.isfinite(slope) & jnp.isfinite(chi_1))
    slope, chi_1 = (jnp.where(wild, jnp.inf, x) for x in (slope, chi_1))
    c, chi_c = _correlation_fixed_point(act, inside, sigma_w, sigma_b, variance, chi_1, status, wild)
    chi_c = jnp.where(wild, jnp.inf, chi_c)

    # Where q does not stand still, the correlation's rate is that of the covariance over the variance
    rate = jnp.where(wild, 0.0, jnp.where(limit, chi_c * inside / variance, chi_c))
    edge = 1 - jnp.where(limit, _LIMIT_TOLERANCE, 64 * jnp.finfo(q.dtype).eps)
    xi_q = depth_scale(jnp.where((jnp.abs(slope) < edge) & ~limit, slope, 1.0))
    xi_c = depth_scale(jnp.where(rate < edge, rate, 1.0))
    return OrderParameters(q, slope, chi_1, c, chi_c, xi_q, xi_c, status)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _critical_line(act, slots, sigma_b):
    # At sigma_w^2 = 1 / E[phi'^2], V(q) = q reads E[phi^2] / (q E[phi'^2]) + sigma_b^2/q - 1 = 0
    def ratio(t):
        return _growth(act)(t) / meanfield.slope_moment(act, jnp.exp(t))

    t, _, count, neutral = _roots.find(ratio, jnp.ones_like(sigma_b), sigma_b**2, slots)
    t = t.at[..., 0].set(jnp.where(neutral, 0.0, t[..., 0]))
    # phi(u) ~ u near zero is critical there, phi(u) ~ u^3 is not
    limit = ratio(jnp.full_like(sigma_b, math.log(_Q_ZERO)))
    at_zero = (sigma_b == 0) & (jnp.abs(limit - 1) < _LIMIT_TOLERANCE) & ~neutral
    t = jnp.concatenate([jnp.where(at_zero, math.log(_Q_ZERO), jnp.inf)[..., None], t], axis=-1)
    count = count + at_zero.astype(count.dtype)
    used = jnp.isfinite(t)
    t = jnp.where(used, t, 0.0)
    sigma_w = 1 / jnp.sqrt(meanfield.slope_moment(act, jnp.exp(t)))
    growth, slope = jax.jvp(_growth(act), (t,), (jnp.ones_like(t),))
    slope = jnp.where(used, sigma_w**2 * (growth + slope), 0.0)
    stable = used & (jnp.abs(slope) < 1)
    q = jnp.where(used, jnp.where(t > math.log(_Q_ZERO) + 1, jnp.exp(t), 0.0), jnp.inf)
    sigma_w = jnp.where(used, sigma_w, jnp.inf)
    order = jnp.lexsort((q, ~stable), axis=-1)[..., :slots]
    sigma_w, q, slope, stable = (jnp.take_along_axis(x, order, axis=-1) for x in (sigma_w, q, slope, stable))
    return CriticalLine(sigma_w, q, slope, stable, count + neutral.astype(count.dtype), neutral)


def _growth(act: Activation) -> Callable:
    """E[phi(u)^2] / q as a function of log q."""
    return lambda t: meanfield.second_moment(act, jnp.exp(t)) * jnp.exp(-t)


def _correlation_fixed_point(act, q, sigma_w, sigma_b, variance, chi_1, status, wild):
    """Solve c = f(c), the correlation map; f is convex on [0, 1], and f(1) = 1 is stable iff f'(1) <= 1.

    Newton's method from the left of the first fixed point therefore climbs to it without overshooting.
    """
    eps = jnp.finfo(q.dtype).eps
    variance = jnp.where(variance > 0, variance, 1.0)
    slope_at_one = jnp.where(wild, jnp.inf, chi_1 * q / variance)
    # Where the variance vanishes or runs away, f tends to the identity or to f'(1) = 1 (for ReLU-like phi)
    marginal = (status == DIVERGES) | (status == VANISHES)
    ordered = slope_at_one <= 1 + jnp.where(marginal, _LIMIT_TOLERANCE, 64 * eps)

    c, slope, done = jnp.zeros_like(q), slope_at_one, ordered | wild
    if not act.kinks:
        c, slope, done = _climb_series(act, q, sigma_w**2 / variance, sigma_b**2 / variance, slope, done)

    # One network after the other, so that those that are done cost nothing
    @jax.custom_batching.sequential_vmap
    def refine(q, a, b, c, slope, done):
        def exact(c):
            value = a * gaussian.joint_expectation(act, act, c, jnp.sqrt(q)) + b
            return value, a * q * meanfield.slope_covariance(act, c, q)

        return jax.lax.cond(done, lambda: (c, slope), lambda: _climb(exact, c, done))

    flat = [x.reshape(-1) for x in (q, sigma_w**2 / variance, sigma_b**2 / variance, c, slope, done)]
    c, slope = (x.reshape(q.shape) for x in jax.vmap(refine)(*flat))
    c = jnp.where(ordered, 1.0, jnp.clip(c, 0.0, 1.0))
    return c, jnp.where(ordered, chi_1, slope * variance / q)


def _climb_series(act, q, a, b, slope, done):
    """Climb on the Hermite series a sum_k a_k^2 c^k + b; tell where that was enough."""
    weights = a[..., None] * jnp.square(gaussian.hermite_coefficients(act, jnp.sqrt(q)))
    weights = weights.at[..., 0].add(b)
    # f(1) = 1: where rounding is all that the sum misses, take it out, for it counts near the edge of chaos
    total = jnp.sum(weights, axis=-1, keepdims=True)
    complete = jnp.abs(total - 1) < 64 * jnp.finfo(q.dtype).eps
    weights = jnp.where(complete, weights / jnp.where(complete, total, 1.0), weights)
    powers = jnp.arange(weights.shape[-1], dtype=q.dtype)

    def series(c):
        return _polynomial(weights, c), _polynomial((weights * powers)[..., 1:], c)

    c, climbed = _climb(series, jnp.zeros_like(q), done)
    # The terms left out are positive, and no more than a few times the last quarter of those kept, as long
    # as these decay at all
    tail = 8 * _polynomial(jnp.where(powers < 0.75 * weights.shape[-1], 0.0, weights), c)
    tolerance = (1e-11 if q.dtype == jnp.float64 else 1e-6) * (1 - c)
    return c, jnp.where(done, slope, climbed), done | (tail <= tolerance * jnp.maximum(1 - climbed, 0.0))


def _climb(fn, c, done):
    """Newton's method for c = f(c) on convex f, from below; also f' at the last step."""
    eps = jnp.finfo(c.dtype).eps

    def body(state):
        step, c, _, done = state
        value, slope = fn(c)
        gap = jnp.where(slope < 1, (value - c) / jnp.where(slope < 1, 1 - slope, 1.0), 0.0)
        gap = jnp.where(done, 0.0, jnp.maximum(gap, 0.0))
        new = jnp.minimum(c + gap, 1.0)
        return step + 1, new, slope, done | (gap <= 4 * eps * (1 - c) + eps * c)

    def cond(state):
        return (state[0] < 100) & ~jnp.all(state[-1])

    state = jax.lax.while_loop(cond, body, (0, c, jnp.zeros_like(c), done))
    return state[1], state[2]


def _polynomial(coefficients, c):
    """sum_k coefficients[..., k] c^k, by Horner's rule on blocks of 16 powers."""
    count = -(-coefficients.shape[-1] // 16) * 16
    padding = [(0, 0)] * c.ndim + [(0, count - coefficients.shape[-1])]
    blocks = jnp.pad(coefficients, padding).reshape(*c.shape, -1, 16)
    within = jnp.sum(blocks * c[..., None, None] ** jnp.arange(16, dtype=c.dtype), axis=-1)
    total = jnp.zeros_like(c)
    for k in reversed(range(within.shape[-1])):
        total = total * c**16 + within[..., k]
    return total
