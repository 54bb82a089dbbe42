"""Ranks, null spaces and who can stand in for whom, from rows of a Jacobian with a known noise level.

A singular value counts as zero when it lies within the noise that round-off puts on the rows. The noise is
measured (rows at parameters moved by a few units in the last place), never assumed, so that a bias of
tiny but real effect is alive and one whose gradient is pure round-off is dead, whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

# A random k x n matrix of unit noise has norm sqrt(k) + sqrt(n); this many times it is no longer noise.
_MARGIN = 50.0
# Two subspaces share a direction when the sine between them is below this (round-off gives 1e-8 or less).
_SHARED = 1e-4


def null_basis(rows: np.ndarray, noise: float = 1.0) -> np.ndarray:
    """Orthonormal basis of the directions that the rows map to noise.

    Parameters
    ----------
    rows
        Matrix (k, n) of finite entries.
    noise
        Standard deviation of the round-off in an entry.

    Returns
    -------
    array (n, n - rank)

    Examples
    --------
    >>> (null_basis(np.array([[1.0, -1.0], [2.0, -2.0]]), noise=1e-15).ravel() ** 2).round(3)
    array([0.5, 0.5])
    """
    k, n = rows.shape
    if k == 0:
        return np.eye(n)
    r, order = scipy.linalg.qr(rows, mode="r", pivoting=True, check_finite=False)
    floor = max(noise, np.finfo(float).eps * np.abs(rows).max())
    pivots = np.abs(np.diag(r))
    rank = int((pivots > _MARGIN * (np.sqrt(k) + np.sqrt(n)) * floor).sum())
    if rank == n:
        return np.zeros((n, 0))
    # rows P = Q [R1 R2; 0 ~0], so P [-R1⁻¹ R2; I] spans the null space
    basis = np.empty((n, n - rank))
    basis[order[:rank]] = -scipy.linalg.solve_triangular(r[:rank, :rank], r[:rank, rank:], check_finite=False)
    basis[order[rank:]] = np.eye(n - rank)
    return scipy.linalg.qr(basis, mode="economic", check_finite=False)[0]


def rank(rows: np.ndarray, noise: float = 1.0) -> int:
    """Rank of rows of a known noise level."""
    return rows.shape[1] - null_basis(rows, noise).shape[1]


class Reproducible(NamedTuple):
    """What other biases can do of what one can, at one draw of the weights.

    Attributes
    ----------
    rest
        Orthonormal basis (n, unique) of the complement of the reproducible directions.
    absorbed
        Number of directions that change the output and that the others reproduce.
    """

    rest: np.ndarray
    absorbed: int


def scaled(rows: np.ndarray, blocks: Sequence[slice], noises: Sequence[float]) -> tuple[np.ndarray, float]:
    """Rows with every block of unit size (or zero, where it is noise), and the noise level that holds for all."""
    parts, worst = [], 0.0
    for block, noise in zip(blocks, noises, strict=True):
        size = np.sqrt(np.mean(rows[:, block] ** 2))
        dead = size <= _MARGIN * noise
        parts.append(rows[:, block] * (0.0 if dead else 1 / size))
        worst = worst if dead else max(worst, noise / size)
    return np.concatenate(parts, axis=1), worst


def reproducible(rows: np.ndarray, blocks: Sequence[slice], noises: Sequence[float]) -> list[Reproducible]:
    """For each bias, what the others can reproduce of it.

    With all biases' Jacobian J = [J_1 ... J_n], a shift v of bias i is reproducible when J_i v = sum_j J_j w_j
    for some shifts w of the others: exactly when (v, -w) is in the null space of J. So the reproducible
    shifts are block i of that null space, and one factorisation answers for every bias.

    Parameters
    ----------
    rows
        Jacobian rows (k, entries), k well above the number of entries in ``blocks``.
    blocks
        Place of each bias, none of them dead.
    noises
        Round-off of an entry in each block.

    Returns
    -------
    list of Reproducible
    """
    joint, noise = scaled(rows, blocks, noises)
    null = null_basis(joint, noise)
    found, start = [], 0
    for block, own_noise in zip(blocks, noises, strict=True):
        n = block.stop - block.start
        part = null[start : start + n]
        squares, directions = np.linalg.eigh(part @ part.T)  # ascending
        unique = int((squares <= _SHARED**2).sum())
        alone = n - rank(rows[:, block], own_noise) if unique < n else 0
        found.append(Reproducible(directions[:, :unique], n - unique - alone))
        start += n
    return found


def common_rank(subspaces: Sequence[np.ndarray]) -> int:
    """Dimension of the sum of subspaces, each given by an orthonormal basis."""
    values = np.linalg.svd(np.concatenate(subspaces, axis=1), compute_uv=False)
    return int((values > _SHARED).sum())


def windows(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Overlapping runs of neighbours of at most ``limit`` entries in all, each half new.

    Examples
    --------
    >>> windows([2, 2, 2, 2], 4)
    [[0, 1], [1, 2], [2, 3]]
    >>> windows([2, 2], 100)
    [[0, 1]]
    """
    runs, start = [], 0
    while True:
        stop, total = start, 0
        while stop < len(sizes) and (stop == start or total + sizes[stop] <= limit):
            total += sizes[stop]
            stop += 1
        runs.append(list(range(start, stop)))
        if stop >= len(sizes):
            return runs
        half, passed = start + 1, sizes[start]
        while half < stop - 1 and passed + sizes[half] <= total / 2:
            passed += sizes[half]
            half += 1
        start = half
