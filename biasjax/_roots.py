"""All roots of the equations of mean-field theory, for many scales at once.

Both the fixed points of the variance map and the edge of chaos solve a m(log q) + b/q = 1 for some Gaussian
moment m. The moment on a grid is shared by all a and b; each root is then refined by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# Roots are looked for between these, on a grid in log q
Q_MIN, Q_MAX, _PER_DECADE = 1e-10, 1e10, 16


def find(
    m: Callable[[jax.Array], jax.Array], a: jax.Array, b: jax.Array, slots: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Find the roots of r(t) = a m(t) + b exp(-t) - 1 for arrays of a and b.

    Parameters
    ----------
    m
        Function of t = log q, elementwise and differentiable; evaluated once on a grid for all a and b.
    a, b
        Coefficients, of one shape and floating dtype.
    slots
        Most roots to find for each a and b.

    Returns
    -------
    t
        Roots in ascending order, infinite in unused slots, ``(..., slots)``.
    slope
        dr/dt there.
    count
        Number of roots in range, ``(...)``.
    neutral
        Whether r is zero everywhere, up to rounding.

    Examples
    --------
    0.24 q + 1/q = 1 has two solutions:

    >>> t, slope, count, neutral = find(jnp.exp, jnp.array(0.24), jnp.array(1.0), 2)
    >>> print(f"{jnp.exp(t[0]):.3f} {jnp.exp(t[1]):.3f} {count}")
    1.667 2.500 2
    """
    dtype = a.dtype
    decades = round(math.log10(Q_MAX / Q_MIN))
    grid = jnp.asarray(np.linspace(math.log(Q_MIN), math.log(Q_MAX), decades * _PER_DECADE + 1), dtype)
    value, slope = jax.jvp(m, (grid,), (jnp.ones_like(grid),))
    a, b = a[..., None], b[..., None]
    r = _times(a, value) + b * jnp.exp(-grid) - 1
    dr = _times(a, slope) - b * jnp.exp(-grid)
    # Where phi^2 overflows, the variance grows; where even m is unknown, it crosses nothing
    r = jnp.where(jnp.isinf(value), jnp.where(a > 0, 1.0, b * jnp.exp(-grid) - 1), r)
    r = jnp.where(jnp.isfinite(r), r, 0.0)
    dr = jnp.where(jnp.isfinite(dr), dr, 0.0)
    low, high, r_low, r_high = _cells(grid, r, dr)
    neutral = jnp.all(_sign(r) == 0, axis=-1)
    s_low, s_high = _filled_signs(r_low, r_high)
    crossing = (s_low * s_high < 0) & ~neutral[..., None]
    rank = jnp.cumsum(crossing, axis=-1, dtype=jnp.int32)
    picks = [crossing & (rank == k + 1) for k in range(slots)]
    index = jnp.stack([jnp.argmax(pick, axis=-1) for pick in picks], axis=-1)
    used = jnp.stack([jnp.any(pick, axis=-1) for pick in picks], axis=-1)
    bracket = [jnp.take_along_axis(x, index, axis=-1) for x in (low, high, r_low, r_high, s_low)]
    a, b = a[..., 0], b[..., 0]

    def residual(t):
        value, slope = jax.jvp(m, (t,), (jnp.ones_like(t),))
        return _times(a, value) + b * jnp.exp(-t) - 1, _times(a, slope) - b * jnp.exp(-t)

    # Slot by slot: one that no network of a batch uses then costs nothing
    by_slot = [jnp.moveaxis(x, -1, 0) for x in (*bracket, used)]
    t, slope = jax.lax.map(lambda slot: _newton(residual, *slot), by_slot)
    t, slope = jnp.moveaxis(t, 0, -1), jnp.moveaxis(slope, 0, -1)
    return jnp.where(used, t, jnp.inf), slope, rank[..., -1], neutral


def _times(a, value):
    """Multiply; 0 times an overflow is 0."""
    return jnp.where(a > 0, a * value, 0.0)


def _cells(grid, r, dr):
    """Cut grid cells at the extremum of their cubic interpolant, so that close pairs of roots show."""
    step = grid[1] - grid[0]
    r0, r1, d0, d1 = r[..., :-1], r[..., 1:], dr[..., :-1] * step, dr[..., 1:] * step
    quadratic, cubic = 3 * (r1 - r0) - 2 * d0 - d1, d0 + d1 - 2 * (r1 - r0)
    turns = d0 * d1 < 0
    # 3 cubic x^2 + 2 quadratic x + d0 = 0, the root at which the slope changes from d0's sign to d1's
    root = jnp.sqrt(jnp.maximum(quadratic**2 - 3 * cubic * d0, 0.0))
    down = jnp.sign(d0) * root - quadratic
    x = jnp.where(turns, d0 / jnp.where(turns & (down != 0), down, 1.0), 0.5)
    x = jnp.clip(x, 0.0, 1.0)
    middle = r0 + x * (d0 + x * (quadratic + x * cubic))
    middle = jnp.where(turns, middle, jnp.where(r0 * r1 < 0, r1, r0))
    x = jnp.where(turns, x, jnp.where(r0 * r1 < 0, 1.0, 0.0))
    cut = grid[:-1] + x * step
    ends = jnp.broadcast_to(grid, r.shape)
    low, high = jnp.stack([ends[..., :-1], cut], -1), jnp.stack([cut, ends[..., 1:]], -1)
    r_low, r_high = jnp.stack([r0, middle], -1), jnp.stack([middle, r1], -1)
    return tuple(z.reshape(*r.shape[:-1], -1) for z in (low, high, r_low, r_high))


def _sign(r):
    """Sign, 0 within rounding error of the quadrature."""
    return jnp.where(jnp.abs(r) < 64 * jnp.finfo(r.dtype).eps, 0.0, jnp.sign(r))


def _filled_signs(r_low, r_high):
    """Signs at the ends of cells, in which a zero counts as positive, but at the ends of the range not.

    r tends to zero towards an end when the network is marginal there; that is no crossing.
    """
    signs = jnp.concatenate([_sign(r_low), _sign(r_high[..., -1:])], axis=-1)
    known = signs != 0
    first = jnp.take_along_axis(signs, jnp.argmax(known, -1, keepdims=True), -1)
    last = jnp.take_along_axis(
        signs, signs.shape[-1] - 1 - jnp.argmax(known[..., ::-1], -1, keepdims=True), -1
    )
    before = jnp.cumsum(known, -1) == 0
    after = jnp.cumsum(known[..., ::-1], -1)[..., ::-1] == 0
    signs = jnp.where(before, first, jnp.where(after, last, jnp.where(known, signs, 1.0)))
    return signs[..., :-1], signs[..., 1:]


def _newton(residual, low, high, r_low, r_high, sign_low, active):
    """Newton's method kept inside brackets by bisection, for all entries at once."""
    eps = jnp.finfo(low.dtype).eps

    def cond(state):
        return (state[0] < 60) & jnp.any(state[-1])

    def body(state):
        step, low, high, t, _, active = state
        r, slope = residual(t)
        left = jnp.sign(r) * sign_low > 0
        low, high = jnp.where(left, t, low), jnp.where(left, high, t)
        newton = t - r / jnp.where(slope == 0, 1.0, slope)
        inside = (newton >= low) & (newton <= high) & (slope != 0)
        new = jnp.where(inside, newton, (low + high) / 2)
        moves = (jnp.abs(new - t) > 16 * eps * (1 + jnp.abs(t))) & (jnp.abs(r) > 4 * eps)
        return step + 1, low, high, jnp.where(active, new, t), slope, active & moves

    fall = jnp.where(r_low == r_high, 1.0, r_low - r_high)
    secant = low + (high - low) * jnp.clip(r_low / fall, 0.01, 0.99)
    state = 0, low, high, secant, jnp.zeros_like(low), active
    state = jax.lax.while_loop(cond, body, state)
    return state[3], state[4]
