"""Long computations in steps, which can be stopped between any two and resumed with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Stepwise"]


def __dir__() -> list[str]:
    return __all__


class Stepwise(NamedTuple):
    """A computation that `sweep.run` takes in place of a function when a chunk of it runs for long.

    Attributes
    ----------
    start
        ``start(key, **point) -> carry``, any pytree of arrays.
    advance
        ``advance(carry, key, **point) -> carry``, one step; what it counts is in the carry.
    finish
        ``finish(carry, key, **point) -> dict`` of outputs.
    steps
        Number of steps.

    Examples
    --------
    >>> from biasjax import sweep
    >>> double = Stepwise(
    ...     start=lambda key, *, x: x,
    ...     advance=lambda carry, key, *, x: 2 * carry,
    ...     finish=lambda carry, key, *, x: {"y": carry},
    ...     steps=10,
    ... )
    >>> sweep.run(double, {"x": [1.0, 3.0]}).y.values
    array([1024., 3072.], dtype=float32)
    """

    start: Callable[..., Any]
    advance: Callable[..., Any]
    finish: Callable[..., Any]
    steps: int
