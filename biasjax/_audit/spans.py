"""Spans of rows most of which have one entry, of which there may be thousands."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
from scipy import sparse

# Rows of length one are dependent where less than this is left of one
_DEPENDENT = 1e-9
# Weights of rows of length one that are round-off
_ROUNDED = 1e-12
# Random combinations beyond the number of rows
_SPARE = 32
# What is left of a row, squared, is right to 1e-15
_PLAINLY = 1e-4


def singles(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns in which some row has its only entry, and the number of that with the largest for each.

    Examples
    --------
    >>> singles(np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]))
    (array([2]), array([1]))
    """
    nonzero = rows != 0
    single = np.flatnonzero(nonzero.sum(1) == 1)
    at = nonzero[single].argmax(1)
    largest = np.argsort(-np.abs(rows[single, at]), kind="stable")
    columns, first = np.unique(at[largest], return_index=True)
    return columns, single[largest[first]]


def left_null(rows: np.ndarray) -> np.ndarray:
    """Combinations of the rows that vanish, (dimension, rows): the identity on the weakest of them.

    Examples
    --------
    >>> found = left_null(np.array([[1.0, 2.0], [3.0, 6.0]]))
    >>> (found / found[0, 0]).round(6)
    array([[ 1.      , -0.333333]])
    """
    if not rows.size:
        return np.eye(len(rows))
    narrow = _narrowed(rows)
    weights = _vanishing(narrow)
    # Rows of few entries may fall into the same few combinations of columns
    if narrow is rows or _vanish(weights, rows):
        return weights
    return _vanishing(rows)


def _vanish(weights: np.ndarray, rows: np.ndarray) -> bool:
    """Whether combinations of rows are nothing beside what is combined."""
    combined = np.linalg.norm(weights @ rows, axis=1)
    return bool((combined <= _DEPENDENT * np.abs(weights) @ np.linalg.norm(rows, axis=1)).all())


def _vanishing(rows: np.ndarray) -> np.ndarray:
    if _independent(rows):
        return np.zeros((0, len(rows)))
    r, order, rank, lengths = _pivoted(rows)
    weights = np.zeros((len(rows) - rank, len(rows)))
    solved = scipy.linalg.solve_triangular(r[:rank, :rank], r[:rank, rank:], check_finite=False)
    solved[np.abs(solved) < _ROUNDED] = 0.0
    weights[:, order[:rank]] = -solved.T * lengths[order[rank:], None] / lengths[order[:rank]]
    weights[:, order[rank:]] = np.eye(len(rows) - rank)
    return weights


def rank(rows: np.ndarray) -> int:
    """Dimension of the span of rows."""
    if not rows.size:
        return 0
    return min(rows.shape) if _independent(rows) or _independent(rows.T) else _pivoted(rows)[2]


def _narrowed(rows: np.ndarray) -> np.ndarray:
    """Random combinations of many columns (logits), as many as show the same dependences, of a few each."""
    count, width = rows.shape
    enough = count + _SPARE
    if width <= 4 * enough:
        return rows
    rng = np.random.default_rng(0)
    columns = np.resize(rng.permutation(width), (-(-width // enough), enough))
    return functools.reduce(np.add, (rows[:, some] * rng.standard_normal(enough) for some in columns))


def _independent(rows: np.ndarray) -> bool:
    """Whether rows are plainly independent, by products of them: a tenth of the time of a factorisation."""
    if len(rows) > rows.shape[1]:
        return False
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        return False
    scaled = rows / lengths[:, None]
    try:
        # On the diagonal stands what is left of a row beside those before it
        return bool(np.diag(np.linalg.cholesky(scaled @ scaled.T)).min() > _PLAINLY)
    except np.linalg.LinAlgError:
        return False


def _pivoted(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Triangular factor of the rows as columns of length one, their order, rank and lengths."""
    lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
    factors: Any = scipy.linalg.qr((rows / lengths[:, None]).T, mode="r", pivoting=True, check_finite=False)
    r, order = factors
    return r, order, int((np.abs(np.diag(r)) > _DEPENDENT).sum()), lengths


def common(spans: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Dimension of the intersection of the spans of rows (k, entries), and a random vector in it.

    Examples
    --------
    >>> rows = np.eye(3)[:2], np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> dimension, vector = common(rows, np.random.default_rng(0))
    >>> dimension, vector != 0
    (1, array([False,  True, False]))
    """
    covered = [singles(rows)[0] for rows in spans]
    everywhere = covered[0]
    for columns in covered[1:]:
        everywhere = np.intersect1d(everywhere, columns)
    rest = np.setdiff1d(np.arange(spans[0].shape[1]), everywhere)
    vector = rng.standard_normal(spans[0].shape[1])
    shared = None
    for rows in spans:
        some = rows[:, rest]
        some = some[some.any(1)]
        if len(some) >= len(rest) and rank(some) == len(rest):
            continue
        if shared is None:
            shared = some
        else:
            shared = left_null(np.concatenate([shared, some]))[:, : len(shared)] @ shared
            shared = shared[np.abs(shared).max(1, initial=0.0) > _DEPENDENT]
    if shared is None:
        return len(vector), vector
    vector[rest] = rng.standard_normal(len(shared)) @ shared
    return len(everywhere) + rank(shared), vector


def solve(rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Weights of the rows that make up a target in their span: the least of those with several entries.

    Examples
    --------
    >>> solve(np.array([[1.0, 2.0], [0.0, 3.0]]), np.array([2.0, 1.0]))
    array([ 2., -1.])
    """
    columns, pivots = singles(rows)
    rest, others = (
        np.setdiff1d(np.arange(n), some) for n, some in ((rows.shape[1], columns), (len(rows), pivots))
    )
    weights = np.zeros(len(rows))
    if rest.size:
        weights[others] = _least(rows[np.ix_(others, rest)], target[rest])
    owed = target[columns] - weights[others] @ rows[np.ix_(others, columns)]
    weights[pivots] = owed / rows[pivots, columns]
    return weights


def _least(rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least weights of rows that span the target."""
    weights = np.zeros(len(rows))
    used = np.flatnonzero(rows.any(1))
    rows = rows[used]
    if _independent(rows.T):
        factor = scipy.linalg.cho_factor(rows.T @ rows, check_finite=False)
        found = rows @ scipy.linalg.cho_solve(factor, target, check_finite=False)
        # Once more for what rounding in the products left
        found += rows @ scipy.linalg.cho_solve(factor, target - found @ rows, check_finite=False)
    else:
        solved: Any = scipy.linalg.lstsq(rows.T, target, lapack_driver="gelsy", check_finite=False)
        found = solved[0]
    weights[used] = found
    return weights


def mixed(weights: np.ndarray, rows: Any) -> Any:
    """Combinations of rows, most of which may have no weights."""
    used = weights.any(1)
    flat = rows if rows.ndim == 2 else rows.reshape(len(rows), -1)
    if _is_diagonal(flat):
        return (weights * flat.diagonal()).reshape(len(weights), *rows.shape[1:])
    made = np.zeros((len(weights), flat.shape[1]))
    made[used] = weights[used] @ flat
    return made.reshape(len(weights), *rows.shape[1:])


def _is_diagonal(flat: Any) -> bool:
    square = isinstance(flat, np.ndarray) and flat.shape[0] == flat.shape[1]
    return square and np.count_nonzero(flat) == np.count_nonzero(flat.diagonal())


def dense(rows: Any) -> np.ndarray:
    """Rows as an array."""
    return rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
