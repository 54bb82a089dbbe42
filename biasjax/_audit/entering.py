"""How the entries of one input enter a coefficient of a program: found by evaluating it at other values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Coefficients that agree to this
_SAME = 1e-9


class Entry(NamedTuple):
    """A coefficient is ``zero + slope * leaf.ravel()[index]``; all are like the coefficient."""

    zero: np.ndarray
    slope: np.ndarray
    index: np.ndarray

    def placed(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Values like the coefficient as an input of that shape."""
        made = np.zeros(int(np.prod(shape)))
        index, value = np.broadcast_arrays(self.index, value)
        made[index.ravel()] = value.ravel()
        return made.reshape(shape)


def entry(coefficient: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> Entry | None:
    """Find how an input of that shape enters; None if it does not, entry by entry and affinely.

    Examples
    --------
    >>> found = entry(lambda x: 3 * x.T[None] + 1, (2, 2))
    >>> found.index.tolist(), found.slope.ravel().tolist()
    ([[[0, 2], [1, 3]]], [3.0, 3.0, 3.0, 3.0])
    """
    size = int(np.prod(shape))

    def at(flat: np.ndarray) -> np.ndarray:
        return coefficient(flat.reshape(shape))

    with np.errstate(all="ignore"):
        zero, one = at(np.zeros(size)), at(np.ones(size))
        slope = one - zero
        places = (at(np.arange(size, dtype=float)) - zero) / slope
    if not np.isfinite(places).all() or not slope.all():
        return None
    index = np.rint(places).astype(int)
    if np.abs(places - index).max() > 1e-3 or index.min() < 0 or index.max() >= size:
        return None
    zero, slope = np.broadcast_arrays(zero, slope)
    return Entry(zero, slope, index)


def solved(
    coefficient: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], wanted: np.ndarray
) -> np.ndarray | None:
    """Value of the input at which a coefficient is what is wanted; None if there is none."""
    found = entry(coefficient, shape)
    if found is None:
        return None
    value = found.placed((wanted - found.zero) / found.slope, shape)
    largest = max(float(np.abs(wanted).max()), 1e-30)
    right = np.allclose(coefficient(value), wanted, rtol=_SAME, atol=_SAME * largest)
    return value if right else None
