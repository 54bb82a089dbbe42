"""Which biases can stand in for which others in a large model, and how far they have to move for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from biasjax._audit import budget, frontiers, invariances, shifts, spans
from biasjax._audit.cancellation import FRESH
from biasjax._audit.evidence import USABLE, Joint
from biasjax._audit.frontiers import Frontier
from biasjax._audit.invariances import Invariance
from biasjax._audit.model import first_uses
from biasjax._audit.points import size_of
from biasjax._audit.shifts import Shifts
from biasjax._jaxpr.constant import Known

# Part of the outputs, for a shift of length one, that solving for what others do leaves
_SOLVED = 1e-11


class _Stand(NamedTuple):
    """What others do for one bias: of how many directions, and what all biases move for a random one."""

    absorbed: int
    moves: dict[int, np.ndarray]

    def compensation(self, b: int) -> float:
        """`Joint.compensation` of bias ``b``."""
        others = [np.abs(move).max() for other, move in self.moves.items() if other != b]
        return float(max(others, default=0.0) / np.abs(self.moves[b]).max())


class _Likeness(NamedTuple):
    """What a bias shares with those of layers that are alike, and others that stand in, nearest first."""

    key: tuple
    others: list[int]


# Likeness of a bias and others
_Alike = Callable[[int, Container[int]], _Likeness]
# Invariances of some biases, or of all, at a draw of the parameters
_Find = Callable[[int, frozenset[int] | None], Sequence[Invariance]]


def find(
    shifter: Shifts, front: Frontier, minds: Mapping[Any, np.ndarray | None], dead: Sequence[np.ndarray]
) -> Joint:
    """Find who can stand in for whom, and hold it to a finite shift of the whole model.

    Parameters
    ----------
    shifter
        From `biasjax._audit.shifts.prepare`.
    front, minds
        Frontier and what its values do not mind.
    dead
        For each bias a basis of the directions that do nothing.
    """
    model = shifter.model
    sizes = model.biases.sizes

    @functools.lru_cache(1)
    def known(weights: int) -> Known:
        return frontiers.known(front, shifter.pair(weights).exact.leaves)

    def at(weights: int, chosen: frozenset[int] | None) -> list[Invariance]:
        return invariances.find(front.flow, known(weights), front.biases, minds, chosen)

    order = first_uses(model)
    alike = functools.partial(_likeness, order, sizes)
    stands = _stands(at, dead, alike, shifter.draws.seed)
    for b in _refuted(shifter, stands):
        del stands[b]
    names = _absorbers(at, stands, dead, alike)
    return Joint(
        [n - (stands[b].absorbed if b in stands else dead[b].shape[1]) for b, n in enumerate(sizes)],
        [tuple(model.names[j] for j in sorted(names.get(b, ()), key=order.index)) for b in range(len(sizes))],
        [stands[b].compensation(b) if b in stands else None for b in range(len(sizes))],
        exact=False,
    )


def _likeness(order: Sequence[int], sizes: Sequence[int], b: int, others: Container[int]) -> _Likeness:
    own = order.index(b)
    apart = {j: place - own for place, j in enumerate(order) if j in others and j != b}
    near = sorted(apart, key=lambda j: (abs(apart[j]), apart[j]))
    return _Likeness((sizes[b], *((apart[j], sizes[j]) for j in near)), near)


def _stands(at: _Find, dead: Sequence[np.ndarray], alike: _Alike, seed: int) -> dict[int, _Stand]:
    """For each bias of which others do something usable, what they do."""
    first = at(0, None)
    rng = np.random.default_rng([seed, 7])
    found, partly = dict[int, _Stand](), list[int]()
    for b in (b for b, basis in enumerate(dead) if basis.shape[1] < len(basis)):
        rows = _rows(first, b, dead[b])
        dimension, direction = spans.common([rows], rng)
        if dimension == len(dead[b]):
            found[b] = _Stand(dimension, _moves(first, b, rows, direction))
        elif dimension > dead[b].shape[1]:
            partly.append(b)

    def ask_again(some: Collection[int]) -> None:
        # At one draw of the parameters others reach some directions of a wide bias, at the next draw others
        second = at(FRESH, _connected(first, frozenset(some))) if some else ()
        for b in some:
            both = [_rows(one, b, dead[b]) for one in (first, second)]
            dimension, direction = spans.common(both, rng)
            if dimension > dead[b].shape[1]:
                found[b] = _Stand(dimension, _moves(first, b, both[0], direction))

    likeness = {
        b: alike(b, set[int]().union(*(one.parts for one in first if b in one.parts))) for b in partly
    }
    asked = {likeness[b].key: b for b in partly}
    ask_again(asked.values())
    ask_again([b for b in partly if b not in asked.values() and asked[likeness[b].key] in found])
    return {b: stand for b, stand in sorted(found.items()) if stand.compensation(b) <= USABLE}


def _rows(found: Sequence[Invariance], b: int, dead: np.ndarray) -> np.ndarray:
    """Shifts of one bias that the others can make up for, behind them those that change nothing."""
    rows = [spans.dense(one.parts[b]) for one in found if b in one.parts]
    return np.concatenate([*rows, dead.T])


def _connected(found: Sequence[Invariance], some: frozenset[int]) -> frozenset[int]:
    """Biases that share invariances with some, and with those that do."""
    while True:
        wider = some.union(*(one.parts for one in found if not some.isdisjoint(one.parts)))
        if wider == some:
            return some
        some = wider


def _moves(
    found: Sequence[Invariance], b: int, rows: np.ndarray, direction: np.ndarray
) -> dict[int, np.ndarray]:
    """What all biases move so that a shift of one, in the span of its `_rows`, changes nothing."""
    own = [one for one in found if b in one.parts]
    weights = spans.solve(rows, direction)
    moves: dict[int, np.ndarray] = {b: direction}
    ends = np.cumsum([one.parts[b].shape[0] for one in own])
    for one, some in zip(own, np.split(weights, ends), strict=False):
        for j, part in one.parts.items():
            if j != b:
                moves[j] = moves.get(j, 0.0) + some @ part
    return moves


def _refuted(shifter: Shifts, stands: Mapping[int, _Stand]) -> list[int]:
    """Biases whose stand-ins do not keep the outputs."""
    model = shifter.model

    def whole(some: Sequence[int]) -> np.ndarray:
        step = np.zeros(model.biases.total)
        for b in some:
            size = size_of(model.given[model.biases.indices[b]]) / np.abs(stands[b].moves[b]).max()
            for j, move in stands[b].moves.items():
                step[model.biases.slices[j]] += size * move
        return step

    def alive(some: Sequence[int]) -> bool:
        return shifts.whole(shifter, whole(some), 0, _SOLVED).alive

    return [b for b in stands if alive([b])] if stands and alive([*stands]) else []


def _absorbers(
    at: _Find, stands: Mapping[int, _Stand], dead: Sequence[np.ndarray], alike: _Alike
) -> dict[int, tuple[int, ...]]:
    """For each bias the fewest others found that suffice: one if one does, else none of them to spare."""
    known: dict[Any, tuple[int, ...]] = {}
    found = {}
    for b, stand in stands.items():
        key, others = alike(b, stand.moves)
        # Layers that are alike are asked once
        if (key, stand.absorbed) not in known:
            enough = _enough(at, b, stand.absorbed, others, dead)
            known[key, stand.absorbed] = tuple(others.index(j) for j in enough)
        found[b] = tuple(others[i] for i in known[key, stand.absorbed])
    return found


def _enough(
    at: _Find, b: int, absorbed: int, others: Sequence[int], dead: Sequence[np.ndarray]
) -> Sequence[int]:
    def do(some: Sequence[int]) -> bool:
        rows = _rows(at(0, frozenset([b, *some])), b, dead[b])
        return spans.common([rows], np.random.default_rng(0))[0] >= absorbed

    if len(others) < 2:
        return others
    for j in others[: budget.NEIGHBOURS]:
        if do([j]):
            return [j]
    kept = list(others)
    for j in reversed(others):
        if do(fewer := [k for k in kept if k != j]):
            kept = fewer
    return kept
