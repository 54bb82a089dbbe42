"""Directions of a shift that do nothing, from fewer rows of a Jacobian than it has entries.

As many rows as entries show every direction; fewer show those of a known pattern: single entries, and groups
of entries that may be shifted alike. Groups are runs of neighbours or every k-th entry, of the shape's last
axis or of all entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from biasjax._audit import nullspaces

# Rows beyond the number of entries that make a null space of random rows certain
_SPARE = 8


def unminded(rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Orthonormal basis (entries, dimension) of the directions that do nothing.

    Parameters
    ----------
    rows
        (k, entries), in units of their round-off.
    shape
        Of the shift, whose entries are in C order.

    Examples
    --------
    >>> rows = np.random.default_rng(0).standard_normal((4, 100)) * 1e9
    >>> rows[:, 50:] -= rows[:, 50:].mean(1, keepdims=True)
    >>> unminded(rows, (100,)).sum(0).round(6)
    array([7.071068])
    """
    count, size = rows.shape
    if count >= size + _SPARE:
        return nullspaces.null_basis(rows)
    dead = _silent(rows)
    found = [_alike(rows * ~dead, ~dead, grouped) for grouped in _groupings(shape)]
    alike = max(found, key=lambda basis: basis.shape[1], default=np.zeros((size, 0)))
    return np.concatenate([np.eye(size)[:, dead], alike], 1)


def _silent(rows: np.ndarray) -> np.ndarray:
    """Which columns are round-off."""
    return np.linalg.norm(rows, axis=0) <= nullspaces.threshold(len(rows), 1)


def _alike(rows: np.ndarray, alive: np.ndarray, grouped: np.ndarray) -> np.ndarray:
    """Basis of the groups, entries by number (groups, members), that may be shifted alike."""
    members = np.maximum(alive[grouped].sum(1), 1)
    sums = rows[:, grouped].sum(2) / np.sqrt(members)
    silent = np.flatnonzero(_silent(sums) & (members > 1))
    basis = np.zeros((rows.shape[1], len(silent)))
    for column, group in enumerate(silent):
        basis[grouped[group], column] = alive[grouped[group]] / np.sqrt(members[group])
    return basis


def _groupings(shape: Sequence[int]) -> Iterator[np.ndarray]:
    """Entries by number, (groups, members)."""
    size = math.prod(shape)
    index = np.arange(size)
    for count in (d for d in range(1, size // 2 + 1) if size % d == 0):
        yield index.reshape(count, -1)
        yield index.reshape(-1, count).T
    for axis, n in enumerate(shape):
        if 1 < n < size:
            yield np.moveaxis(index.reshape(shape), axis, -1).reshape(-1, n)
