"""Shifts of several biases that change nothing together: proven a few equations from where they enter.

What a bias adds is the same for all data until it meets an equation that is not linear in it
(`biasjax._jaxpr.constant`). The values it has reached by then are its *frontier*: where none of them moves,
nothing behind them does, whatever the size of the shift. So the shifts of all biases that change nothing are
those that cancel at every frontier, up to what a frontier itself does not mind (batch norm any constant,
softmax one number per row). They are found in one walk through the program: each entry of a bias starts a
row, and at every frontier rows are combined into those that pass it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from jax.extend import core as jex
from scipy import sparse

from biasjax._audit import spans
from biasjax._jaxpr import constant

# Rows that only stand for what a frontier does not mind
_MINDLESS = -1

# By group of rows: (rows, *reduced shape)
Groups = dict[int, np.ndarray]
# For each new group the rows that it takes of old ones, each with a matrix (None for as they are)
Recipe = dict[int, list[tuple[int, np.ndarray, np.ndarray | None]]]


class Flow(NamedTuple):
    """What depends on what in a program.

    Attributes
    ----------
    jaxpr
        Program in float64 without calls.
    data
        Variables that depend on its arguments.
    last
        For each variable the number of the last equation that uses it.
    """

    jaxpr: jex.ClosedJaxpr
    data: frozenset[Any]
    last: dict[Any, int]


class Invariance(NamedTuple):
    """Shifts of several biases that together change nothing: for each bias (shifts, entries), or sparse."""

    parts: dict[int, Any]


def flow(closed: jex.ClosedJaxpr, parameters: int) -> Flow:
    """Follow a program whose first inputs are parameters and whose others are data."""
    data, last = set(closed.jaxpr.invars[parameters:]), dict[Any, int]()
    for i, eqn in enumerate(closed.jaxpr.eqns):
        named = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
        last |= dict.fromkeys(named, i)
        if not data.isdisjoint(named):
            data.update(eqn.outvars)
    return Flow(closed, frozenset(data), last)


def known(given: Flow, leaves: Sequence, row_sum: Callable[[Any, int], float | None]) -> constant.Known:
    """What rules may ask at one draw of the parameters; values are computed when they are asked for."""
    jaxpr = given.jaxpr.jaxpr
    made = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*given.jaxpr.consts, *leaves], strict=True))

    def value(atom: Any) -> np.ndarray | None:
        if isinstance(atom, jex.Literal):
            return np.asarray(atom.val, cast(Any, atom.aval).dtype)
        if atom in given.data:
            return None
        if atom not in values:
            eqn = made[atom]
            ins: list[Any] = [*map(value, eqn.invars)]
            values.update(zip(eqn.outvars, constant.evaluate(eqn, ins), strict=True))
        return np.asarray(values[atom])

    return constant.Known(value, row_sum)


def frontier(given: Flow, ask: constant.Known, biases: Mapping[Any, int]) -> dict[Any, tuple[int, ...]]:
    """Values at which shifts of biases stop being constant, with the reduced shapes of what reaches them.

    Parameters
    ----------
    given, ask
        Program, and what is known at one draw.
    biases
        Number of each variable that is a bias.
    """
    met: set[Any] = {v for v in given.jaxpr.jaxpr.outvars if not isinstance(v, jex.Literal)}
    rng = np.random.default_rng(0)
    starts = {v: rng.standard_normal((1, *v.aval.shape)) for v in biases}
    shapes: dict[Any, tuple[int, ...]] = {}

    def stop(variable: Any, env: dict[Any, Groups]) -> None:
        if variable in met:
            found = [x.shape[1:] for x in env.pop(variable).values()]
            shapes[variable] = tuple(map(max, *found)) if len(found) > 1 else found[0]

    for _ in range(2):  # with all equations that shifts may meet; then without those behind a frontier
        shapes.clear()
        for variable, _ in _walk(given, ask, lambda v: {biases[v]: starts[v]} if v in starts else None, stop):
            met.add(variable)
    return shapes


def find(
    given: Flow,
    ask: constant.Known,
    biases: Mapping[Any, int],
    minds: Mapping[Any, np.ndarray | None],
    chosen: frozenset[int] | None = None,
) -> list[Invariance]:
    """All shifts of some biases that together change nothing.

    Parameters
    ----------
    given, ask
        Program, and what is known at one draw.
    biases
        Number of each variable that is a bias.
    minds
        For each variable of the frontier a basis (dimension, *reduced shape) of what it does not mind; None
        for all.
    chosen
        Numbers of the biases that may be shifted; all by default.
    """
    parts: dict[int, dict[int, Any]] = {}
    done: list[Invariance] = []
    fresh = itertools.count(len(biases))

    def start(variable: Any) -> Groups | None:
        b = biases.get(variable)
        if b is None or (chosen is not None and b not in chosen):
            return None
        size = int(np.prod(variable.aval.shape))
        parts[b] = {b: sparse.eye_array(size, format="csr")}
        return {b: np.eye(size).reshape(size, *variable.aval.shape)}

    def stop(variable: Any, env: dict[Any, Groups]) -> None:
        if variable in minds and variable in env:
            pass_on(env.pop(variable), minds[variable], env)

    def pass_on(groups: Groups, unminded: np.ndarray | None, env: dict[Any, Groups]) -> None:
        if unminded is None:
            return
        recipe = _passing(groups, unminded, fresh)
        for name, there in env.items():
            others = {group: x for group, x in there.items() if group not in groups}
            env[name] = others | _cooked(there, recipe)
        old = {group: parts.pop(group) for group in groups}
        for b in {b for shifted in old.values() for b in shifted}:
            of_bias = {group: shifted[b] for group, shifted in old.items() if b in shifted}
            for group, rows in _cooked(of_bias, recipe).items():
                parts.setdefault(group, {})[b] = rows

    def closed(env: dict[Any, Groups]) -> None:
        alive = {group for groups in env.values() for group in groups}
        for group in [g for g in parts if g not in alive]:
            done.append(Invariance(parts.pop(group)))

    # What is met here and was not at another draw may not move
    for variable, env in _walk(given, ask, start, stop, closed):
        groups = env.pop(variable)
        pass_on(groups, np.zeros((0, *(1 for _ in variable.aval.shape))), env)
    return done


def _walk(
    given: Flow,
    ask: constant.Known,
    start: Callable[[Any], Groups | None],
    stop: Callable[[Any, dict[Any, Groups]], None],
    closed: Callable[[dict[Any, Groups]], None] = lambda env: None,
) -> Iterator[tuple[Any, dict[Any, Groups]]]:
    """Carry shifts through a program; yield variables whose shifts an equation does not carry on, and all.

    ``start`` gives the shifts of a parameter when it is first used, ``stop`` sees every variable that gets
    shifts and may take them out, ``closed`` is called when others are no longer used.
    """
    env: dict[Any, Groups] = {}
    started: set[Any] = set()
    inputs = set(given.jaxpr.jaxpr.invars)
    for i, eqn in enumerate(given.jaxpr.jaxpr.eqns):
        named = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
        for variable in named:
            if variable in inputs and variable not in started:
                started.add(variable)
                if (groups := start(variable)) is not None:
                    env[variable] = groups
                    stop(variable, env)
        reached = [v for v in named if v in env]
        if not reached:
            continue
        outs = _carried(eqn, [env.get(v, {}) if v in reached else {} for v in _atoms(eqn)], ask)
        if outs is None:
            for variable in dict.fromkeys(reached):
                yield variable, env
        for variable, groups in zip(eqn.outvars, outs or (), strict=False):
            if groups:
                env[variable] = groups
                stop(variable, env)
        for variable in reached:
            if given.last[variable] <= i and variable in env:
                del env[variable]
        closed(env)
    env.clear()
    closed(env)


def _atoms(eqn: Any) -> list[Any]:
    return [None if isinstance(v, jex.Literal) else v for v in eqn.invars]


def _carried(eqn: Any, ins: Sequence[Groups], ask: constant.Known) -> list[Groups] | None:
    outs: list[Groups] = [{} for _ in eqn.outvars]
    for group in dict.fromkeys(group for groups in ins for group in groups):
        found = constant.shifts(eqn, [groups.get(group) for groups in ins], ask)
        if found is None:
            return None
        for out, x in zip(outs, found, strict=True):
            if x is not None:
                out[group] = x
    return outs


def _passing(groups: Groups, unminded: np.ndarray, fresh: Iterator[int]) -> Recipe:
    """How rows of groups combine into those that a frontier does not mind."""
    stacked = ({_MINDLESS: unminded} if len(unminded) else {}) | groups
    shape = tuple(map(max, zip(*(x.shape[1:] for x in stacked.values()), strict=True)))
    flat = [np.broadcast_to(x, (len(x), *shape)).reshape(len(x), -1) for x in stacked.values()]
    rows, counts = np.concatenate(flat) if len(flat) > 1 else flat[0], [len(x) for x in flat]
    owner, local = np.repeat([*stacked], counts), np.concatenate([np.arange(n) for n in counts])
    # A row with one entry pays for whatever others do there, without elimination
    columns, pivots = spans.singles(rows)
    left = np.setdiff1d(np.flatnonzero(rows.any(0)), columns)
    free = np.setdiff1d(np.arange(len(rows)), pivots)
    mixed = free[_at(rows, free, left).any(1)]
    recipe: Recipe = {}

    def add(new: int, chosen: np.ndarray, weights: np.ndarray | None) -> None:
        at = rows[np.ix_(chosen, columns)]
        owed = -(at if weights is None else weights @ at) / rows[pivots, columns]
        taken = [(owner[chosen] == old, chosen, weights) for old in groups]
        paid = [((owner[pivots] == old) & owed.any(0), pivots, owed) for old in groups]
        recipe[new] = [
            (old, local[of[some]], None if matrix is None else matrix[:, some])
            for both in zip(groups, taken, paid, strict=True)
            for old, (some, of, matrix) in ((both[0], both[1]), (both[0], both[2]))
            if some.any()
        ]

    plain = np.setdiff1d(free, mixed)
    for old in stacked:
        chosen = plain[owner[plain] == old]
        if chosen.size:
            add(next(fresh) if old == _MINDLESS else old, chosen, None)
    weights = spans.left_null(_at(rows, mixed, left))
    if len(weights):
        add(next(fresh), mixed, weights)
    return recipe


def _at(rows: np.ndarray, some: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Some rows and columns, in their order; no copy of all."""
    return rows if (len(some), len(columns)) == rows.shape else rows[np.ix_(some, columns)]


def _cooked(rows: Mapping[int, Any], recipe: Recipe) -> dict[int, Any]:
    """Rows of the new groups, of those of the old ones; sparse ones, of the identity, as long as they are."""
    made: dict[int, Any] = {}
    for new, dishes in recipe.items():
        for old, chosen, weights in dishes:
            if old in rows:
                some = rows[old][chosen]
                if weights is not None:
                    some = spans.mixed(weights, some)
                made[new] = made[new] + some if new in made else some
    return made
