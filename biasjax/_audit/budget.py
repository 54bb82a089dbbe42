"""How much work an audit may do: every count that trades certainty for time, in one place.

``sizes`` are the entries of each bias, ``entries`` their sum, ``width`` is the number of outputs, ``draws``
and ``limit`` (``joint_limit``) are options of `biasjax.audit.audit_biases`. Up to ``limit`` entries the
Jacobian is known in full (the exact method); beyond, verdicts are proven locally (`biasjax._audit.proving`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

# Beyond so many bias entries passes cost more than compiling programs
_LARGE = 2048
# Up to so many a comparison of all biases takes less than a second
_FEW = 512
# Cotangents per call. More inputs serve a rank better than more rows at one input (a unit that few inputs
# switch on is seen by some), but each call costs a forward pass.
_ROWS = 8
# Numbers in the cotangents of a call, at most: 192 MB
_NUMBERS = 3 * 2**23
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

# Passes of a large model that follow the dead shifts of all its biases
_DEATH_PASSES = 4

# Draws that tell whether a function is defined around the given point
TRIALS = 2
# Draws of the inputs that tell whether any vary
VARIED = 4
# Directions at a time of a Jacobian in forward mode or by differences
DIRECTIONS = 32
# Biases that absorb another are looked for one by one among so many neighbours, all others at once
NEIGHBOURS = 6
# Rows at each draw that tell a pattern of dead entries from chance
ROWS_PROVING = 12


class RoundOff(NamedTuple):
    """Where round-off is measured: at ``inputs`` of a draw, ``calls`` in all, at ``neighbours`` of each."""

    inputs: int
    calls: int
    neighbours: int


def rows_at_once(width: int) -> int:
    """Jacobian rows per call."""
    return min(width, _ROWS, max(1, _NUMBERS // width))


def round_off(entries: int) -> RoundOff:
    """Measure it everywhere in small models, where rounding has a few outcomes and two may well agree."""
    return RoundOff(1, 1, 1) if entries > _LARGE else RoundOff(sys.maxsize, sys.maxsize, 4)


def death_shifts(entries: int) -> tuple[float, ...]:
    """Sizes of the shifts that are followed to where they die.

    In a large model something of every layer is on, and no shift dies at a ReLU by chance.
    """
    return (3.0,) if entries > _LARGE else (3.0, -0.5)


def shifts_at_once(entries: int) -> int:
    """Finite shifts per call: in a small model, where a call costs more than it does, the sizes of one."""
    return 1 if entries > _LARGE else 3


def death_passes(entries: int, biases: int) -> int:
    """Passes in which the dead shifts of so many biases are followed."""
    return min(biases, _DEATH_PASSES) if entries > _LARGE else biases


def points_shifted(directions: int, width: int) -> int:
    """Points at which directions are shifted one by one: a row for each, and one of the bias's own size."""
    return 3 + min(-(-directions // width), _MOST_POINTS)


def rows_to_span(entries: int) -> int:
    """Rows that show the directions of one bias at one draw."""
    return 2 * entries + 64


def rows_of_sample(size: int, samples: int) -> int:
    """Rows that each of some samples gives to the dead directions of one bias."""
    return -(-2 * (size + _SPARE) // max(samples, 1))


def rows_wanted(sizes: Sequence[int], width: int, draws: int, joint: bool) -> list[int]:
    """Rows of the Jacobian wanted at each draw of the parameters by the exact method.

    Examples
    --------
    >>> rows_wanted([200, 100], 5000, draws=2, joint=False)
    [128, 128]
    """
    count = max(sizes) + _SPARE
    calls = -(-count // width)
    most = max(draws, -(-calls // -(-calls // _MANY_DRAWS)))
    plan = [max(-(-count // most), _INPUTS * _ROWS)] * most
    first = draws_compared(sizes, draws) if joint else 0
    return [max(rows, rows_to_compare(sum(sizes))) for rows in plan[:first]] + plan[first:]


def draws_compared(sizes: Sequence[int], draws: int) -> int:
    """Draws at which biases are compared at first: it costs the cube of their size."""
    return draws if sum(sizes) <= _FEW else max(draws // 4, 1)


def may_draw_more(sizes: Sequence[int], drawn: int) -> bool:
    """Whether biases may be compared at more draws than those before."""
    return sum(sizes) <= _FEW or drawn < _MOST_DRAWS


def rows_to_compare(entries: int) -> int:
    """Rows that compare biases of so many entries in all."""
    return entries + _SPARE_COMPARED


def draws_proving(draws: int) -> tuple[int, ...]:
    """Draws that a proof starts with, and how many it goes on to where finite shifts refute it."""
    few = max(draws // 4, 2)
    return few, 2 * few, 4 * few
