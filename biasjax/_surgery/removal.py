"""How far others have to move so that biases can be zero: solved for the given values, exactly.

What a bias does is moved along shifts that change nothing together in training
(`biasjax._audit.invariances`). As these change nothing whatever their size, the amounts solve a linear
system. Running means then move by what the inputs of their norms do, norm after norm, and so does what the
next means are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from biasjax._audit import drawing, frontiers, invariances, proving, shifts, spans
from biasjax._audit.invariances import Invariance
from biasjax._audit.model import trace
from biasjax._audit.points import Draws
from biasjax._jaxpr.unrolled import unrolled
from biasjax._surgery import running
from biasjax._surgery.numbered import numbered
from biasjax._surgery.whole import TRAINING, Whole, in_double, paths, replaced

# Share of a bias that may be left where it was: what is more does not go
_LEFT = 1e-9
_DRAWS = 8
# Of a mean over a batch in float64
_ROUNDED = 1e-13


class Amounts(NamedTuple):
    """What to add to each leaf, who takes over from each bias, and the biases that nobody can take over."""

    steps: dict[str, np.ndarray]
    into: dict[str, tuple[str, ...]]
    stuck: tuple[str, ...]


def amounts(given: Whole, going: Sequence[str], staying: Sequence[str], seed: int) -> Amounts:
    """Find what others have to do for biases that go.

    Parameters
    ----------
    given
        The model.
    going, staying
        Paths of biases that go, and of those that may take over.
    seed
        Of the draws.
    """
    chosen = {*going, *staying}

    def training(params: Any, *args: Any) -> Any:
        return given.training({**given.values, "params": params}, *args)[TRAINING]

    def is_chosen(path: str, leaf: Any) -> bool:
        return path in chosen

    model = trace(unrolled(training), given.values["params"], *given.args, is_bias=is_chosen)
    with jax.enable_x64(True):
        shifter = shifts.prepare(model, Draws(seed, True, True))
        front, minds, *_ = proving.local(shifter, _DRAWS)
        known = frontiers.known(front, model.leaves)
        found = invariances.find(front.flow, known, front.biases, minds)
    values = [np.ravel(model.leaf(i)) for i in model.biases.indices]
    unused = {b for b, i in enumerate(model.biases.indices) if not model.program.used[i]}
    left = {model.names.index(path) for path in going} - unused
    steps, into, stuck = _solved(found, left, values)
    steps |= {b: -values[b] for b in unused if model.names[b] in going}
    named = {model.names[b]: step.reshape(model.biases.shapes[b]) for b, step in steps.items()}
    takers = {model.names[b]: tuple(model.names[j] for j in sorted(some)) for b, some in into.items()}
    means, state = _followed(given, named)
    takers |= {path: takers.get(path, ()) + some for path, some in means.items()}
    named |= state
    return Amounts(named | _hidden(given, named), takers, tuple(model.names[b] for b in sorted(stuck)))


def _followed(
    given: Whole, steps: Mapping[str, np.ndarray]
) -> tuple[dict[str, tuple[str, ...]], dict[str, np.ndarray]]:
    """By bias the running means that follow it at once, and their steps: those of their norms' inputs."""
    model = numbered(given)
    norms = running.norms(model)
    if not norms or not steps:
        return {}, {}
    leaves = {path: np.asarray(leaf, np.float64) for path, leaf in paths(given.values).items()}
    moved = replaced(given.values, {path: leaves[path] + step for path, step in steps.items()})
    values = model.pieces.apart([drawing.to_host(leaf) for leaf in jax.tree.leaves(moved)])
    moments = running.measured(given, model, norms, [given.args[:-1]])
    before = moments(model.values)
    for norm, old, new in zip(norms, before, moments(values, before), strict=True):
        by = new.mean - old.mean
        if np.abs(by).max() > _ROUNDED * (1 + np.abs(old.mean).max()):
            values[norm.mean] = running.with_mean(model, norm, model.values, by)
    changed = model.together(given, values)
    state = {path: x - leaves[path] for path, x in changed.items() if path.startswith("state/")}
    state = {path: step for path, step in state.items() if step.any()}
    followers: dict[str, dict[str, None]] = {}
    depends = running.behind(model)
    for norm in norms:
        mean = model.names[norm.mean].partition("[")[0]
        before_it = depends.get(running.input_of(model, norm.stretch, norm.taken), frozenset())
        for path in {
            model.names[leaf].partition("[")[0] for leaf in before_it - _seen(norms, norm, depends, model)
        }:
            if mean in state and path in steps:
                followers.setdefault(path, {})[mean] = None
    return {path: tuple(some) for path, some in followers.items()}, state


def _seen(norms: Sequence[running.Norm], norm: running.Norm, depends: Any, model: Any) -> frozenset[int]:
    """Values that norms before this one have seen already."""
    earlier = [one for one in norms if one.level < norm.level]
    inputs = (running.input_of(model, one.stretch, one.taken) for one in earlier)
    return frozenset[int]().union(*(depends.get(v, frozenset()) for v in inputs))


def _hidden(given: Whole, steps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Steps of state that evaluation does not read, but the next running means (Haiku's hidden sums).

    After a training pass a mean that has moved by some step should have moved by the same.
    """
    means = {path.removeprefix("state/"): step for path, step in steps.items() if path.startswith("state/")}
    others = [path for path in given.values["state"] if path not in means]
    if not means or not others:
        return {}
    run, leaves = in_double(given.stepped, given), paths(given.values)

    def after(new: Mapping[str, Any]) -> dict[str, np.ndarray]:
        moved = {path: np.asarray(leaves[path], np.float64) + step for path, step in new.items()}
        return run(replaced(given.values, moved), given.args)

    before, now = after({}), after(steps)
    owed = {path: now[path] - before[path] - step for path, step in means.items()}
    owed = {path: off for path, off in owed.items() if np.abs(off).max() > _LEFT * np.abs(means[path]).max()}
    found: dict[str, np.ndarray] = {}
    for path in others if owed else ():
        slopes = after({f"state/{path}": np.ones(np.shape(given.values["state"][path]))})
        for mean, off in owed.items():
            slope = slopes[mean] - before[mean]
            if np.shape(off) == np.shape(given.values["state"][path]) and slope.all():
                found[f"state/{path}"] = -off / slope
    return found


def _solved(
    found: Sequence[Invariance], left: set[int], values: Sequence[np.ndarray]
) -> tuple[dict[int, np.ndarray], dict[int, set[int]], set[int]]:
    """Steps of all biases, who takes over from each that goes, and which of them cannot go."""
    stuck: set[int] = set()
    while True:
        steps: dict[int, np.ndarray] = {}
        into: dict[int, set[int]] = {}
        worst = (0.0, -1)
        for some in _connected(found, left):
            own = [one for one in found if not some.isdisjoint(one.parts)]
            moved = _moves(own, {b: -values[b] for b in some})
            for b in some:
                into[b] = {j for j, step in moved.items() if j not in some and step.any()}
                size = np.abs(values[b]).max()
                off = np.abs(moved.get(b, 0.0) + values[b]).max() / (size or 1.0)
                worst = max(worst, (float(off), b))
            for b, step in moved.items():
                steps[b] = steps.get(b, 0.0) + step
        if worst[0] <= _LEFT:
            return steps, into, stuck
        left, stuck = left - {worst[1]}, stuck | {worst[1]}


def _connected(found: Sequence[Invariance], left: set[int]) -> list[set[int]]:
    """Biases that go, those together that share shifts."""
    groups = [{b} for b in left]
    for one in found:
        touched = [group for group in groups if not group.isdisjoint(one.parts)]
        groups = [group for group in groups if group not in touched]
        groups += [set[int]().union(*touched)] if touched else []
    return groups


def _moves(own: Sequence[Invariance], wanted: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Steps of all biases that change nothing, the wanted ones of some."""
    if not own:
        return {}
    counts = [next(iter(one.parts.values())).shape[0] for one in own]
    rows = np.block(
        [
            [spans.dense(one.parts.get(b, np.zeros((n, x.size)))) for b, x in wanted.items()]
            for one, n in zip(own, counts, strict=True)
        ]
    )
    weights: Any = spans.solve(rows, np.concatenate([*wanted.values()]))
    moved: dict[int, np.ndarray] = {}
    for one, some in zip(own, np.split(weights, np.cumsum(counts)), strict=False):
        for b, part in one.parts.items():
            moved[b] = moved.get(b, 0.0) + some @ part
    return moved
