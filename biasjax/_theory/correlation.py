"""Stable fixed points of the correlation map f(c) = a E[phi(u) phi(v)] + b, u, v ~ N(0, q), corr(u, v) = c.

f is convex on [0, 1], so that Newton's method from the left of the first fixed point climbs to it without
overshooting. It starts from the Hermite series, whose every truncation gives a lower bound, and is refined
by quadrature only where the series has not converged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from biasjax import gaussian
from biasjax._theory import implicit, moments, sines
from biasjax.activations import Activation


def fixed_point(
    act: Activation, q: jax.Array, a: jax.Array, b: jax.Array, known: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Solve c = f(c) where the answer is not ``known`` (0 there): c and f'(c), and all their derivatives."""
    solve, equation = functools.partial(_solve, act), functools.partial(_gap, act)
    found = implicit.root(solve, equation, (q, a, b), known)
    c, slope = (jnp.where(known, 0.0, x) for x in found)
    return c, slope


def _gap(
    act: Activation, c: jax.Array, q: jax.Array, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """f(c) - c and f'(c), by quadrature."""
    value = a * gaussian.joint_expectation(act, act, c, jnp.sqrt(q)) + b
    return value - c, a * q * moments.slope_covariance(act, c, q)


def _solve(
    act: Activation, scales: tuple[jax.Array, jax.Array, jax.Array], known: jax.Array
) -> tuple[jax.Array, jax.Array]:
    q, a, b = scales
    c, slope, done = jnp.zeros_like(q), jnp.zeros_like(q), known
    if not act.kinks and act.fn not in sines.SIGNS:
        c, slope, done = _climb_series(act, q, a, b, known)

    # One network after the other, so that those that are done cost nothing
    @jax.custom_batching.sequential_vmap
    def refine(q, a, b, c, slope, done):
        def gap(c: jax.Array) -> tuple[jax.Array, jax.Array]:
            return _gap(act, c, q, a, b)

        return jax.lax.cond(done, lambda: (c, slope), lambda: _climb(gap, c, done))

    flat = [x.reshape(-1) for x in (q, a, b, c, slope, done)]
    c, slope = jax.vmap(refine)(*flat)
    return c.reshape(q.shape), slope.reshape(q.shape)


def _climb_series(
    act: Activation, q: jax.Array, a: jax.Array, b: jax.Array, known: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Climb on the Hermite series a sum_k a_k^2 c^k + b; tell where that was enough."""
    weights = a[..., None] * jnp.square(gaussian.hermite_coefficients(act, jnp.sqrt(q)))
    weights = weights.at[..., 0].add(b)
    # f(1) = 1: where rounding is all that the sum misses, take it out, for it counts near the edge of chaos
    total = jnp.sum(weights, axis=-1, keepdims=True)
    complete = jnp.abs(total - 1) < 64 * jnp.finfo(q.dtype).eps
    weights = jnp.where(complete, weights / jnp.where(complete, total, 1.0), weights)
    powers = jnp.arange(weights.shape[-1], dtype=q.dtype)

    def series(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _polynomial(weights, c) - c, _polynomial((weights * powers)[..., 1:], c)

    c, slope = _climb(series, jnp.zeros_like(q), known)
    # The terms left out are positive, and no more than a few times the last quarter of those kept, as long
    # as these decay at all
    tail = 8 * _polynomial(jnp.where(powers < 0.75 * weights.shape[-1], 0.0, weights), c)
    tolerance = (1e-11 if q.dtype == jnp.float64 else 1e-6) * (1 - c)
    return c, slope, known | (tail <= tolerance * jnp.maximum(1 - slope, 0.0))


def _climb(
    fn: Callable[[jax.Array], tuple[jax.Array, jax.Array]], c: jax.Array, done: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Newton's method for c = f(c) on convex f, of f(c) - c and f', from below; also f' at the last step."""
    eps = jnp.finfo(c.dtype).eps

    def body(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        step, c, _, done = state
        gap, slope = fn(c)
        gap = jnp.where(slope < 1, gap / jnp.where(slope < 1, 1 - slope, 1.0), 0.0)
        gap = jnp.where(done, 0.0, jnp.maximum(gap, 0.0))
        new = jnp.minimum(c + gap, 1.0)
        return step + 1, new, slope, done | (gap <= 4 * eps * (1 - c) + eps * c)

    def cond(state: tuple[jax.Array, ...]) -> jax.Array:
        return (state[0] < 100) & ~jnp.all(state[-1])

    start = jnp.zeros((), jnp.int32), c, jnp.zeros_like(c), done
    _, c, slope, _ = jax.lax.while_loop(cond, body, start)
    return c, slope


def _polynomial(coefficients: jax.Array, c: jax.Array) -> jax.Array:
    """sum_k coefficients[..., k] c^k, by Horner's rule on blocks of 16 powers."""
    count = -(-coefficients.shape[-1] // 16) * 16
    padding = [(0, 0)] * c.ndim + [(0, count - coefficients.shape[-1])]
    blocks = jnp.pad(coefficients, padding).reshape(*c.shape, count // 16, 16)
    within = jnp.sum(blocks * c[..., None, None] ** jnp.arange(16, dtype=c.dtype), axis=-1)
    total = jnp.zeros_like(c)
    for k in reversed(range(within.shape[-1])):
        total = total * c**16 + within[..., k]
    return total
