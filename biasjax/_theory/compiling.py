"""`jax.jit` that keeps what a type checker knows of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def compiled(*, static: int = 0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function whose first ``static`` arguments are static.

    Examples
    --------
    >>> @compiled(static=1)
    ... def power(n: int, x: jax.Array) -> jax.Array:
    ...     return x**n
    >>> print(power(3, jax.numpy.float32(2.0)))
    8.0
    """

    def wrap(fn: Callable[P, R]) -> Callable[P, R]:
        return jax.jit(fn, static_argnums=tuple(range(static)))

    return wrap
