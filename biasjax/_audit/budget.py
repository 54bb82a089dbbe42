"""How much work an audit may do: every count that trades certainty for time, in one place.

``sizes`` are the entries of each bias, ``entries`` their sum, ``width`` is the number of outputs, ``draws``
and ``limit`` (``joint_limit``) are options of `biasjax.audit.audit_biases`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Beyond so many bias entries rows cost more than compiling programs for some of the biases
_LARGE = 2048
# Up to so many a comparison of all biases takes less than a second
_FEW = 512
# Cotangents per call, of small and of large models. More inputs serve a rank better than more rows at one
# input (a unit that few inputs switch on is seen by some), but each call costs a forward pass.
_ROWS, _MANY_ROWS = 8, 64
# Rows of the Jacobian beyond the number of unknowns: a random square matrix would be near singular
_SPARE = 32
# The same where biases are compared, so that round-off cannot hide a rank
_SPARE_COMPARED = 64
# A wide layer before few outputs shows them a few directions at each draw of the parameters only
_MANY_DRAWS = 16
# Inputs at each draw of the parameters of a small model: few may reach a branch, or a unit's other piece
_INPUTS = 16
# Draws at most that compare more than a few entries: each takes seconds
_MOST_DRAWS = 16
# Of few outputs a shift at one point says little: finite shifts take so many points at most
_MOST_POINTS = 64

# Draws that tell whether a function is defined around the given point
TRIALS = 2
# Draws of the inputs that tell whether any vary
VARIED = 4
# Directions at a time of a Jacobian in forward mode or by differences
DIRECTIONS = 32
# Biases that absorb another are looked for one by one among so many neighbours, all others at once
NEIGHBOURS = 6


class RoundOff(NamedTuple):
    """Where round-off is measured: at ``inputs`` of a draw, ``calls`` in all, at ``neighbours`` of each."""

    inputs: int
    calls: int
    neighbours: int


def is_large(entries: int) -> bool:
    """Whether passes through the model cost more than compiling it."""
    return entries > _LARGE


def rows_at_once(entries: int, width: int) -> int:
    """Jacobian rows per call."""
    return min(width, _MANY_ROWS if is_large(entries) else _ROWS)


def round_off(entries: int) -> RoundOff:
    """Measure it everywhere in small models, where rounding has a few outcomes and two may well agree."""
    return RoundOff(1, 2, 1) if is_large(entries) else RoundOff(sys.maxsize, sys.maxsize, 4)


def death_shifts(entries: int) -> tuple[float, ...]:
    """Sizes of the shifts that are followed to where they die.

    In a large model something of every layer is on, and no shift dies at a ReLU by chance.
    """
    return (3.0,) if is_large(entries) else (3.0, -0.5)


def points_shifted(directions: int, width: int) -> int:
    """Points at which directions are shifted one by one: a row for each, and one of the bias's own size."""
    return 3 + min(-(-directions // width), _MOST_POINTS)


def rows_to_span(entries: int) -> int:
    """Rows that show the directions of one bias at one draw."""
    return 2 * entries + 64


def rows_of_sample(size: int, samples: int) -> int:
    """Rows that each of some samples gives to the dead directions of one bias."""
    return -(-2 * (size + _SPARE) // max(samples, 1))


def rows_wanted(sizes: Sequence[int], width: int, draws: int, limit: int) -> list[np.ndarray]:
    """Rows wanted for each bias at each draw of the parameters; a limit of 0 compares no biases.

    Examples
    --------
    >>> rows_wanted([2000, 100], 5000, draws=4, limit=0)
    [array([1016,   66]), array([1016,   66])]
    """
    large = is_large(sum(sizes))
    counts = _unknowns(np.array(sizes), large) + _SPARE
    calls = -(-counts // width)
    least = max(draws // 2, 1) if large else draws
    most = np.maximum(least, -(-calls // -(-calls // _MANY_DRAWS)))
    plan = [np.where(w < most, -(-counts // most), 0) for w in range(max(most))]
    if not large:
        plan = [np.maximum(wanted, _INPUTS * _ROWS) for wanted in plan]
    if limit:
        together, first = rows_compared(sizes, limit), draws_compared(sizes, draws)
        plan[:first] = [np.maximum(wanted, together) for wanted in plan[:first]]
    return plan


def _unknowns(sizes: np.ndarray, large: bool) -> np.ndarray:
    if not large:
        return np.full_like(sizes, max(sizes))
    unknowns = sizes.copy()
    # Small biases need few rows, and often lie in early layers, the dearest to go back to
    for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 1.0)):
        some = (sizes > low * max(sizes)) & (sizes <= high * max(sizes))
        unknowns[some] = max(sizes[some], default=0)
    return unknowns


def draws_compared(sizes: Sequence[int], draws: int) -> int:
    """Draws at which biases are compared at first: it costs the cube of their size."""
    return draws if sum(sizes) <= _FEW else max(draws // 4, 1)


def may_draw_more(sizes: Sequence[int], drawn: int) -> bool:
    """Whether biases may be compared at more draws than those before."""
    return sum(sizes) <= _FEW or drawn < _MOST_DRAWS


def rows_compared(sizes: Sequence[int], limit: int) -> int:
    """Jacobian rows that a comparison of biases takes at each of these draws."""
    return rows_to_compare(min(sum(sizes), max(at_once(sizes, limit), max(sizes))))


def rows_to_compare(entries: int) -> int:
    """Rows that compare biases of so many entries in all."""
    return entries + _SPARE_COMPARED


def at_once(sizes: Sequence[int], limit: int) -> int:
    """Entries compared at once: a factorisation costs the cube, so windows are smaller than one for all."""
    return limit if sum(sizes) <= limit else limit // 2


def windows(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Overlapping runs of neighbours of at most so many entries in all, each half new.

    Examples
    --------
    >>> windows([2, 2, 2, 2], 4)
    [[0, 1], [1, 2], [2, 3]]
    """
    runs, start = [], 0
    while start < len(sizes):
        stop, total = start, 0
        while stop < len(sizes) and (stop == start or total + sizes[stop] <= most):
            total += sizes[stop]
            stop += 1
        runs.append(list(range(start, stop)))
        if stop >= len(sizes):
            break
        half, passed = start + 1, sizes[start]
        while half < stop - 1 and passed + sizes[half] <= total / 2:
            passed += sizes[half]
            half += 1
        start = half
    return runs
