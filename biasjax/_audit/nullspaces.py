"""Ranks, null spaces and who can stand in for whom, from rows of a Jacobian with a known noise level.

A singular value counts as zero when it lies within the noise that round-off puts on the rows. The noise is
measured (rows at parameters moved by a few units in the last place), never assumed, so that a bias of
tiny but real effect is alive and one whose gradient is pure round-off is dead, whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from biasjax._audit import budget

# A random k x n matrix of unit noise has norm sqrt(k) + sqrt(n); this many times it is no longer noise.
_MARGIN = 50.0
# Directions this much above noise can be compared with others: an angle of a thousandth is seen.
_CLEAR = 1e3
# A unit null vector involves a bias when the part of it there is longer than this (round-off gives 1e-15).
_SHARED = 1e-10
# Directions of subspaces are the same where round-off may have turned one into the other
_TURNED = 1e-6


def null_basis(rows: np.ndarray, noise: float = 1.0) -> np.ndarray:
    """Orthonormal basis of the directions that the rows map to noise.

    Rows are (k, n) and finite, ``noise`` is the standard deviation of the round-off in an entry; the basis is
    (n, n - rank).

    Examples
    --------
    >>> (null_basis(np.array([[1.0, -1.0], [2.0, -2.0]]), noise=1e-15).ravel() ** 2).round(3)
    array([0.5, 0.5])
    """
    k, n = rows.shape
    if k == 0:
        return np.eye(n)
    r, order, rank = _pivoted(rows, noise)
    if rank == n:
        return np.zeros((n, 0))
    # rows P = Q [R1 R2; 0 ~0], so P [-R1⁻¹ R2; I] spans the null space
    basis = np.empty((n, n - rank))
    basis[order[:rank]] = -scipy.linalg.solve_triangular(r[:rank, :rank], r[:rank, rank:], check_finite=False)
    basis[order[rank:]] = np.eye(n - rank)
    factors: Any = scipy.linalg.qr(basis, mode="economic", check_finite=False)
    return factors[0]


def _pivoted(rows: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Triangular factor, order of the columns and rank."""
    factors: Any = scipy.linalg.qr(rows, mode="r", pivoting=True, check_finite=False)
    r, order = factors
    floor = max(noise, np.finfo(float).eps * np.abs(rows).max(initial=0.0))
    return r, order, int((np.abs(np.diag(r)) > threshold(*rows.shape) * floor).sum())


def threshold(k: int, n: int) -> float:
    """How large noise of size one may look in a matrix of so many rows and columns."""
    return _MARGIN * (np.sqrt(k) + np.sqrt(n))


class Reproducible(NamedTuple):
    """What other biases can do of what one can, at one draw of the weights.

    Attributes
    ----------
    rest
        Orthonormal basis (n, unique) of the complement of the reproducible directions.
    absorbed
        Number of directions that change the output and that the others reproduce.
    by
        Which of the others suffice for that: one if one does, else none of them to spare.
    compensation
        How far their farthest entry moves for a shift of such directions whose farthest entry moves by one.
    """

    rest: np.ndarray
    absorbed: int
    by: tuple[int, ...]
    compensation: float


class Live(NamedTuple):
    """What one bias can do at one draw of the weights, in orthonormal bases (n, dimension).

    ``directions`` change the outputs clearly, ``weak`` ones too little to compare them with what others do.
    """

    directions: np.ndarray
    weak: np.ndarray


def live(rows: np.ndarray, noise: float) -> Live:
    """Directions of one bias by the size of what they do, from its Jacobian rows and their noise."""
    some = levelled(spread(rows, budget.rows_to_span(rows.shape[1])), noise)
    _, sizes, directions = np.linalg.svd(some / noise, full_matrices=False)
    level = threshold(*some.shape)
    clear, dead = int((sizes > _CLEAR * level).sum()), int((sizes > level).sum())
    return Live(directions[:clear].T, directions[clear:dead].T)


def reproducible(
    rows: np.ndarray, blocks: Sequence[slice], noises: Sequence[float]
) -> tuple[list[Reproducible], int]:
    """For each bias, what the others can reproduce of it.

    With all biases' Jacobian J = [J_1 ... J_n], a shift v of bias i is reproducible when J_i v = sum_j J_j
    w_j for some shifts w of the others: exactly when (v, -w) is in the null space of J. So the reproducible
    shifts are block i of that null space, and one factorisation answers for every bias. It is done in units
    of round-off, strong columns first; shares in a null vector are measured by what they do to the outputs.

    Parameters
    ----------
    rows
        Jacobian rows (k, entries), k well above the number of entries in ``blocks``.
    blocks
        Place of each bias, in the order of use.
    noises
        Round-off of an entry in each block.

    Returns
    -------
    list of Reproducible
    int
        Number of directions too weak to be compared: they count as not reproducible, nor reproducing.
    """
    alive = [live(rows[:, block], noise) for block, noise in zip(blocks, noises, strict=True)]
    what_each_does = [
        rows[:, block] @ one.directions / noise
        for block, noise, one in zip(blocks, noises, alive, strict=True)
    ]
    columns = levelled(np.concatenate(what_each_does, axis=1))
    ends = np.cumsum([one.directions.shape[1] for one in alive])[:-1]
    sizes = np.linalg.norm(columns, axis=0)
    parts, sizes = np.split(_shares(columns, sizes), ends), np.split(sizes, ends)
    found = []
    for i, one in enumerate(alive):
        coordinates, shares, mixed = np.linalg.svd(parts[i])
        absorbed = int((shares > _SHARED).sum())
        some = mixed[:absorbed].T @ (np.random.default_rng(0).standard_normal(absorbed) / shares[:absorbed])
        moves = [
            np.abs(each.directions @ (part @ some / size / noise)).max(initial=0.0)
            for each, part, size, noise in zip(alive, parts, sizes, noises, strict=True)
        ]
        others = max((move for j, move in enumerate(moves) if j != i), default=0.0)
        # v = V S⁻¹ c moves the outputs by c: what is orthogonal to all v of the others' c is V S c'
        rest = one.directions @ np.linalg.qr(sizes[i][:, None] * coordinates[:, absorbed:])[0]
        rest = np.concatenate([rest, one.weak], axis=1)
        by, farthest = (_by(parts, i), others / moves[i]) if absorbed else ((), 0.0)
        found.append(Reproducible(rest, absorbed, by, float(farthest)))
    return found, sum(one.weak.shape[1] for one in alive)


def _shares(columns: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Orthonormal basis (n, n - rank) of the null space, a column's entry weighted with its length.

    Columns (k, n) have unit noise and are far above it.
    """
    n, level = columns.shape[1], threshold(*columns.shape)
    r, order, rank = _pivoted(columns, 1.0)
    lengths = lengths[order]
    # What makes up for a weak column has noise of its own, which grows with how much of it there is
    while rank and abs(r[rank - 1, rank - 1]) <= level * np.linalg.norm(_solved(r, rank - 1, rank)):
        rank -= 1
    basis = np.zeros((n, n - rank))
    weights = _solved(r, rank, n)
    noise = level * np.sqrt(1 + (weights**2).sum(0))
    weights *= lengths[:rank, None] / lengths[rank:]
    # Shares that noise could have made are none
    weights[np.abs(weights) <= noise / lengths[rank:]] = 0.0
    basis[order[:rank]] = -weights
    basis[order[rank:]] = np.eye(n - rank)
    factors: Any = scipy.linalg.qr(basis, mode="economic", check_finite=False)
    return factors[0]


def _solved(r: np.ndarray, rank: int, stop: int) -> np.ndarray:
    """How the columns behind the first ``rank`` of a triangular factor are made of these."""
    return scipy.linalg.solve_triangular(r[:rank, :rank], r[:rank, rank:stop], check_finite=False)


def levelled(rows: np.ndarray, noise: float = 1.0) -> np.ndarray:
    """Rows no longer than the median one above noise: round-off grows with a row, its null space stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    clear = lengths[lengths > _MARGIN * np.sqrt(rows.shape[1]) * noise]
    if not clear.size:
        return rows
    middle = np.median(clear)
    return rows * (middle / np.maximum(lengths, middle))


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """About ``count`` of the rows, from all parts of the matrix."""
    return rows[:: max(1, len(rows) // count)]


def _by(parts: Sequence[np.ndarray], i: int) -> tuple[int, ...]:
    """Biases that suffice for what all reproduce of bias i: the nearest alone, or else all that one needs."""
    wanted = _dimension(parts[i])
    members = sorted((j for j in range(len(parts)) if j != i), key=lambda j: (abs(j - i), j < i))
    for j in members[: budget.NEIGHBOURS]:
        free = _without(parts, [k for k in members if k != j])
        if _dimension(parts[i] @ free) == wanted:
            return (j,)
    gone: set[int] = set()
    # Leave out whom one can, the farthest first
    for group in (members[budget.NEIGHBOURS :], *([j] for j in reversed(members))):
        if not group or gone.issuperset(group):
            continue
        free = _without(parts, group)
        if free.shape[1] and _dimension(parts[i] @ free) == wanted:
            parts = [part @ free for part in parts]
            gone.update(group)
    return tuple(j for j in range(len(parts)) if j != i and j not in gone)


def _without(parts: Sequence[np.ndarray], group: Sequence[int]) -> np.ndarray:
    """Combinations of null vectors that leave some biases alone: their blocks are zero."""
    if not group:
        return np.eye(parts[0].shape[1])
    _, shares, directions = np.linalg.svd(np.concatenate([parts[j] for j in group]))
    return directions[int((shares > _SHARED).sum()) :].T


def _dimension(part: np.ndarray) -> int:
    return int((np.linalg.svd(part, compute_uv=False) > _SHARED).sum())


def common_rank(subspaces: Sequence[np.ndarray]) -> int:
    """Dimension of the sum of subspaces, each given by an orthonormal basis."""
    values = np.linalg.svd(np.concatenate(subspaces, axis=1), compute_uv=False)
    return int((values > _TURNED).sum())
