"""Derivatives of what a search finds: by the equation it solves, not through the search.

If r(x, theta) = 0, then dx = -r_theta dtheta / r_x. Where r_x is 0 (a fold), dx is infinite or undefined.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

Pair = tuple[jax.Array, Any]


def root(
    solve: Callable[..., Pair], equation: Callable[..., Pair], theta: tuple[jax.Array, ...], *hints: Any
) -> Pair:
    """Search for x, and report a quantity there, or a tree of them; with derivatives of every order in theta.

    Parameters
    ----------
    solve
        ``(theta, *hints) -> x, reported``; never differentiated.
    equation
        ``(x, *theta) -> r, reported``, elementwise; x is where r = 0.
    hints
        What else the search needs; has no derivatives.

    Examples
    --------
    >>> def solve(theta):
    ...     return jnp.sqrt(theta[0]), 2 * jnp.sqrt(theta[0])
    >>> def equation(x, a):
    ...     return x**2 - a, 2 * x
    >>> jax.jvp(lambda a: root(solve, equation, (a,)), (4.0,), (1.0,))[1]
    (Array(0.25, dtype=float32, ...), Array(0.5, dtype=float32, ...))
    """
    found = jax.custom_jvp(solve)

    @found.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Pair, Pair]:
        (theta, *_), (d_theta, *_) = primals, tangents
        x, reported = found(*primals)
        _, (r_x, reported_x) = jax.jvp(lambda x: equation(x, *theta), (x,), (jnp.ones_like(x),))
        _, (r_theta, reported_theta) = jax.jvp(functools.partial(equation, x), theta, d_theta)
        dx = -r_theta / r_x
        return (x, reported), (
            dx,
            jax.tree.map(lambda by, along: by + along * dx, reported_theta, reported_x),
        )

    return found(theta, *hints)


def elementwise(*, static: int = 0) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Take every derivative of a function forwards, entry by entry; reverse mode multiplies by them.

    In forward mode branches of `jnp.where` that are not taken drop out. In reverse mode their infinite slopes
    become NaN, and spread through sums over entries. The first ``static`` arguments are no arrays, the others
    have one shape and dtype; results may have axes behind that shape.

    Examples
    --------
    >>> @elementwise()
    ... def root_or_zero(x):
    ...     return jnp.where(x > 0, jnp.sqrt(x), 0.0)
    >>> print(jax.grad(lambda x: root_or_zero(x).sum())(jnp.array([0.0, 4.0])))
    [0.   0.25]
    """

    def wrap(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def by_entries(*args: Any) -> Any:
            return _forwards(functools.partial(fn, *args[:static]))(*args[static:])

        return by_entries

    return wrap


def still(where: jax.Array, x: jax.Array) -> jax.Array:
    """Drop derivatives where x does not move, which may be 0 times an overflow."""
    return jnp.where(where, jax.lax.stop_gradient(x), x)


def _forwards(fn: Callable[..., Any]) -> Callable[..., Any]:
    forwards = jax.custom_jvp(fn)

    @functools.partial(forwards.defjvp, symbolic_zeros=True)
    def _(primals: tuple[jax.Array, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        moved = {i: t for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero)}
        slopes = iter(_forwards(functools.partial(_slopes, fn, tuple(moved)))(*primals))

        def move(result: jax.Array) -> Any:
            if not jnp.issubdtype(result.dtype, jnp.floating):
                return np.zeros(result.shape, jax.dtypes.float0)
            slope, behind = next(slopes), result.ndim - primals[0].ndim
            return sum(
                slope[..., k] * t.reshape(t.shape + (1,) * behind) for k, t in enumerate(moved.values())
            )

        results = forwards(*primals)
        return results, jax.tree.map(move, results)

    return forwards


def _slopes(fn: Callable[..., Any], by: tuple[int, ...], *at: jax.Array) -> list[jax.Array]:
    """Derivatives of the floating results by some arguments, along a new last axis."""
    units = tuple(jnp.stack([jnp.full_like(x, float(i == j)) for j in by], axis=-1) for i, x in enumerate(at))

    def along(unit: tuple[jax.Array, ...]) -> list[jax.Array]:
        moved = jax.tree.leaves(jax.jvp(fn, at, unit)[1])
        return [t for t in moved if t.dtype != jax.dtypes.float0]

    return jax.vmap(along, in_axes=-1, out_axes=-1)(units)
