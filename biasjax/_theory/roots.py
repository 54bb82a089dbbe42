"""All roots of the equations of mean-field theory, for many scales at once.

Both the fixed points of the variance map and the edge of chaos solve a m(log q) + b/q = 1 for some Gaussian
moment m. The moment on a grid is shared by all a and b; each root is then refined by itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax._theory import implicit

# Roots are looked for between these, on a grid in log q
Q_MIN, Q_MAX, _PER_DECADE = 1e-10, 1e10, 16
# |r| at a root, which is rounding error, but finite where the quadrature stops to resolve m
_SOLVED = 1e-3

Moment = Callable[[jax.Array], jax.Array]


class Roots(NamedTuple):
    """Roots of r(t) = a m(t) + b exp(-t) - 1.

    Attributes
    ----------
    t
        Roots in ascending order, infinite in unused slots, ``(..., slots)``.
    slope
        dr/dt there, 0 in unused slots.
    count
        Number of roots in range, ``(...)``.
    neutral
        Whether r is zero everywhere, up to rounding.
    resolved
        Whether m is known on the whole grid, and r is zero at every root found. Where m is NaN, nothing
        crosses.
    """

    t: jax.Array
    slope: jax.Array
    count: jax.Array
    neutral: jax.Array
    resolved: jax.Array


class _Cells(NamedTuple):
    """Intervals of t, and r at their ends."""

    low: jax.Array
    high: jax.Array
    r_low: jax.Array
    r_high: jax.Array


def find(m: Moment, a: jax.Array, b: jax.Array, slots: int) -> Roots:
    """Find the roots of a m(t) + b exp(-t) - 1 for arrays of a and b, of one shape and floating dtype.

    Roots and slopes have derivatives of every order in a and b, infinite where two roots meet.

    Parameters
    ----------
    m
        Function of t = log q, elementwise and differentiable; evaluated once on a grid for all a and b.
    a, b
        Coefficients, at least 0.
    slots
        Most roots to find for each a and b.

    Examples
    --------
    0.24 q + 1/q = 1 has two solutions:

    >>> found = find(jnp.exp, jnp.array(0.24), jnp.array(1.0), 2)
    >>> print(f"{jnp.exp(found.t[0]):.3f} {jnp.exp(found.t[1]):.3f} {found.count}")
    1.667 2.500 2
    """
    decades = round(math.log10(Q_MAX / Q_MIN))
    grid = jnp.asarray(np.linspace(math.log(Q_MIN), math.log(Q_MAX), decades * _PER_DECADE + 1), a.dtype)
    fixed_a, fixed_b = (jax.lax.stop_gradient(x)[..., None] for x in (a, b))
    moment = with_slope(m, grid)
    known = ~jnp.isnan(moment[0])
    r, dr = _on_grid(moment, known, fixed_a, fixed_b * jnp.exp(-grid))
    neutral = jnp.all(_sign(r) == 0, axis=-1) & jnp.all(known)
    cells = _cells(grid, r, dr)
    sign_low, sign_high = _filled_signs(cells)
    crossing = (sign_low * sign_high < 0) & ~neutral[..., None]
    rank = jnp.cumsum(crossing, axis=-1, dtype=jnp.int32)
    picks = [crossing & (rank == k + 1) for k in range(slots)]
    index = jnp.stack([jnp.argmax(pick, axis=-1) for pick in picks], axis=-1)
    used = jnp.stack([jnp.any(pick, axis=-1) for pick in picks], axis=-1)
    brackets = [jnp.take_along_axis(x, index, axis=-1) for x in (*cells, sign_low)]
    # Slot by slot: one that no network of a batch uses then costs nothing
    by_slot = [jnp.moveaxis(x, -1, 0) for x in (*brackets, used)]
    refine, residual = functools.partial(_newton, m), functools.partial(_residual, m)
    found = jax.lax.map(lambda slot: implicit.root(refine, residual, (a, b), *slot), by_slot)
    t, slope, r = (jnp.moveaxis(x, 0, -1) for x in (found[0], *found[1]))
    solved = used & (jnp.abs(r) < _SOLVED)
    missed = jnp.sum(used & ~solved, axis=-1, dtype=rank.dtype)
    # Roots stay in the first slots
    order = jnp.argsort(~solved, axis=-1)
    t, slope = jnp.where(solved, t, jnp.inf), jnp.where(solved, slope, 0.0)
    t, slope = (jnp.take_along_axis(x, order, axis=-1) for x in (t, slope))
    return Roots(t, slope, rank[..., -1] - missed, neutral, jnp.all(known) & (missed == 0))


def with_slope(fn: Moment, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Value and derivative of an elementwise function."""
    return jax.jvp(fn, (t,), (jnp.ones_like(t),))


def _residual(
    m: Moment, t: jax.Array, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The equation r = 0, and what is reported of a root: dr/dt and r."""
    value, slope = with_slope(m, t)
    r = times(a, value) + b * jnp.exp(-t) - 1
    return r, (times(a, slope) - b * jnp.exp(-t), r)


def _on_grid(
    moment: tuple[jax.Array, jax.Array], known: jax.Array, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Finite r and dr/dt, of the moment and its slope on the grid; b is over q already."""
    value, slope = moment
    r, dr = times(a, value) + b - 1, times(a, slope) - b
    # Where phi^2 overflows, the variance grows; where m is unknown, it crosses nothing
    r = jnp.where(jnp.isinf(value), jnp.where(a > 0, 1.0, b - 1), r)
    last_known = jax.lax.cummax(jnp.where(known, jnp.arange(known.size), 0))
    r, dr = r[..., last_known], jnp.where(known, dr, 0.0)
    return jnp.where(jnp.isfinite(r), r, 0.0), jnp.where(jnp.isfinite(dr), dr, 0.0)


def times(a: jax.Array, value: jax.Array) -> jax.Array:
    """Multiply; 0 times an overflow is 0."""
    return jnp.where(a > 0, a * value, 0.0)


def _cells(grid: jax.Array, r: jax.Array, dr: jax.Array) -> _Cells:
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
    halves = (ends[..., :-1], cut), (cut, ends[..., 1:]), (r0, middle), (middle, r1)
    shape = *r.shape[:-1], 2 * (grid.size - 1)
    return _Cells(*(jnp.stack(pair, -1).reshape(shape) for pair in halves))


def _sign(r: jax.Array) -> jax.Array:
    """Sign, 0 within rounding error of the quadrature."""
    return jnp.where(jnp.abs(r) < 64 * jnp.finfo(r.dtype).eps, 0.0, jnp.sign(r))


def _filled_signs(cells: _Cells) -> tuple[jax.Array, jax.Array]:
    """Signs at the ends of cells, in which a zero counts as positive, but at the ends of the range not.

    r tends to zero towards an end when the network is marginal there; that is no crossing.
    """
    signs = jnp.concatenate([_sign(cells.r_low), _sign(cells.r_high[..., -1:])], axis=-1)
    known = signs != 0
    first = jnp.argmax(known, -1, keepdims=True)
    last = signs.shape[-1] - 1 - jnp.argmax(known[..., ::-1], -1, keepdims=True)
    before = jnp.cumsum(known, -1) == 0
    after = jnp.cumsum(known[..., ::-1], -1)[..., ::-1] == 0
    inside = jnp.where(known, signs, 1.0)
    at_end = jnp.where(after, jnp.take_along_axis(signs, last, -1), inside)
    signs = jnp.where(before, jnp.take_along_axis(signs, first, -1), at_end)
    return signs[..., :-1], signs[..., 1:]


def _newton(
    m: Moment,
    scales: tuple[jax.Array, jax.Array],
    low: jax.Array,
    high: jax.Array,
    r_low: jax.Array,
    r_high: jax.Array,
    sign_low: jax.Array,
    active: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Newton's method kept inside brackets by bisection, for all entries at once: t, and dr/dt and r."""
    eps = jnp.finfo(low.dtype).eps

    def cond(state: tuple[jax.Array, ...]) -> jax.Array:
        return (state[0] < 60) & jnp.any(state[-1])

    def body(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        step, low, high, t, _, last, active = state
        r, (slope, _) = _residual(m, t, *scales)
        left = jnp.sign(r) * sign_low > 0
        low, high = jnp.where(left, t, low), jnp.where(left, high, t)
        newton = t - r / jnp.where(slope == 0, 1.0, slope)
        inside = (newton >= low) & (newton <= high) & (slope != 0)
        new = jnp.where(inside, newton, (low + high) / 2)
        moves = (jnp.abs(new - t) > 16 * eps * (1 + jnp.abs(t))) & (jnp.abs(r) > 4 * eps)
        t, last = jnp.where(active, new, t), jnp.where(active, r, last)
        return step + 1, low, high, t, slope, last, active & moves

    fall = jnp.where(r_low == r_high, 1.0, r_low - r_high)
    secant = low + (high - low) * jnp.clip(r_low / fall, 0.01, 0.99)
    zero = jnp.zeros_like(low)
    start = jnp.zeros((), jnp.int32), low, high, secant, zero, zero, active
    _, _, _, t, slope, r, _ = jax.lax.while_loop(cond, body, start)
    return t, (slope, r)
