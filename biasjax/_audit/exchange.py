"""Exchange what differs between two sets of parameters, in parts, and see what changes in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from biasjax import check
from biasjax._audit import compiling, drawing
from biasjax._audit.model import Model
from biasjax._audit.points import Draws, Varies, inputs_at

# Inputs at which parts are exchanged, the given ones first; and a change that needs no others
_INPUTS, _PLAIN = 3, 1e-3
# How many times round-off a change exceeds at least
_ROUND_OFF = 50.0
# Of the rounding of stored values: for a set of leaves, which were computed from each other; for one alone
_COMPUTED, _STORED = 8.0, 2.0
# What is left of the smallest change in a set that cancels
_LEFT = 0.1
# Outputs that tell candidates from others
_SEEN = 256
# Share of a part by which derivatives are taken: few units switch within it
_STEP = 1e-6
# Of so few parts all sets are tried
_FEW = 6

_EPS = float(np.finfo(float).eps)


class Part(NamedTuple):
    """A difference that is exchanged as one.

    Attributes
    ----------
    leaf
        Number of its leaf.
    value, added
        What is added to the leaf; or what stands in for it.
    rounding
        Relative rounding of what is stored.
    """

    leaf: int
    value: Any
    added: bool
    rounding: float


class Exchange(NamedTuple):
    """What it takes to exchange parts between the first parameters and the second.

    Attributes
    ----------
    parts, values
        All that differs; and by what, on the device, as the inputs are.
    run
        ``run(leaves, values, which) -> outputs`` with some parts of the second parameters, flat and in units
        of their size; compiled.
    inputs, ends
        All leaves of the first parameters, once for each input; and the outputs of both.
    round_off
        Largest change of the outputs that is round-off of float64.
    """

    parts: Sequence[Part]
    values: Sequence
    run: Callable
    inputs: Sequence[Sequence]
    ends: Sequence[tuple[np.ndarray, np.ndarray]]
    round_off: float

    def chosen(self, which: Sequence[int]) -> np.ndarray:
        """Vector of ones at some parts."""
        one = np.zeros(len(self.parts))
        one[list(which)] = 1.0
        return one


def prepare(model: Model, parts: Sequence[Part], vary_inputs: Varies, seed: int) -> Exchange:
    """Return what the functions below take; call all of them inside ``jax.enable_x64(True)``.

    Parameters
    ----------
    model
        Trace of the function at the first parameters, of which all real floating ones count as biases.
    parts
        What leads to the second parameters.
    vary_inputs, seed
        As of `audit_biases`.
    """
    run = _program(model, parts)
    draws, rng = Draws(seed, False, vary_inputs), np.random.default_rng([seed, 6])
    # To the device once: of millions of parameters a copy takes as long as the model
    given, values = jax.device_put((list(model.leaves[: model.parameters]), [part.value for part in parts]))
    inputs, ends, noise = [], [], 0.0
    sides = np.zeros(len(parts)), np.ones(len(parts))
    for index in range(_INPUTS):
        leaves = [*given, *inputs_at(model, draws, 0, index)]
        at = tuple(np.asarray(run(leaves, values, side)) for side in sides)
        if all(np.isfinite(end).all() for end in at):
            inputs.append(leaves)
            ends.append(at)
            nudged = [drawing.nudge(rng, leaf) for leaf in leaves], [drawing.nudge(rng, v) for v in values]
            noise = max(noise, *(_far(run(*nudged, side), end) for side, end in zip(sides, at, strict=True)))
        elif not index:  # drawn ones may lead out of the function's domain
            fix = "Compare parameters that both give finite outputs."
            check.fail("explain_difference", "finite outputs of both parameters", "NaN or infinite ones", fix)
    return Exchange(parts, values, run, inputs, ends, _ROUND_OFF * (noise + _EPS))


def _program(model: Model, parts: Sequence[Part]) -> Callable:
    def outputs(leaves, values, which):
        moved = list(leaves)
        for i, (part, value) in enumerate(zip(parts, values, strict=True)):
            leaf = moved[part.leaf]
            moved[part.leaf] = (
                leaf + which[i] * value if part.added else jnp.where(which[i] > 0.5, value, leaf)
            )
        return model.outputs([moved[i].reshape(-1) for i in model.biases.indices], moved)

    return compiling.quick_jit(outputs)


def change(given: Exchange, which: Sequence[int]) -> float:
    """Largest change of an output when some parts are exchanged, in the first parameters or in the second.

    Of a plain change no more is asked.
    """
    one, largest = given.chosen(which), 0.0
    for leaves, (first, second) in zip(given.inputs, given.ends, strict=True):
        for side, end in ((one, first), (1 - one, second)):
            largest = max(largest, _far(given.run(leaves, given.values, side), end))
            if largest > _PLAIN:
                return largest
    return largest


def is_stored(given: Exchange, i: int, change: float) -> bool:
    """Whether the rounding of what is stored of one part accounts for a change."""
    return change <= given.round_off or change <= _STORED * _rounded(given, [i])


def _rounded(given: Exchange, which: Sequence[int]) -> float:
    """Largest change of an output when the leaves of some parts are moved by the rounding of their dtypes."""
    rng, far = np.random.default_rng(7), 0.0
    sizes = {given.parts[i].leaf: given.parts[i].rounding for i in which}
    for leaves, ends in zip(given.inputs, given.ends, strict=True):
        nudged = [drawing.nudge(rng, leaf, sizes[i]) if i in sizes else leaf for i, leaf in enumerate(leaves)]
        values = [
            drawing.nudge(rng, value, sizes[part.leaf]) if part.leaf in sizes else value
            for part, value in zip(given.parts, given.values, strict=True)
        ]
        for side, end in enumerate(ends):
            far = max(far, _far(given.run(nudged, values, np.full(len(values), float(side))), end))
    return far


def groups(given: Exchange, changes: Sequence[float], alive: Sequence[int]) -> list[tuple[int, ...]]:
    """Smallest sets found of parts that change outputs each, and together do not.

    Biases that make up for each other do so all the way: their derivatives sum to zero. Of what is left (a
    scale folded into a kernel) all sets are tried if it is little, and neighbours in the tree otherwise.

    Parameters
    ----------
    changes
        Of each part.
    alive
        Parts to group.
    """
    found: list[tuple[int, ...]] = []
    for candidates in (_by_slope(given, alive), _by_outputs(given, alive, found)):
        for group in candidates:
            if not {*group} & {i for one in found for i in one} and _cancels(given, changes, group):
                found.append(group)
    return found


def _cancels(given: Exchange, changes: Sequence[float], group: Sequence[int]) -> bool:
    left = change(given, group)
    if left > _LEFT * min(changes[i] for i in group):
        return False
    return left <= given.round_off or left <= _COMPUTED * _rounded(given, group)


def _by_slope(given: Exchange, alive: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Sets of parts whose derivatives sum to zero: pairs, and those that a basis of the null space shows."""
    rows = -(-2 * len(alive) // _seen_at(given).size)
    columns = [_slope(given, i, rows) for i in alive]
    tolerance = 20 * max((given.parts[i].rounding for i in alive), default=0.0) + 1e-7
    norms = np.array([np.linalg.norm(column) for column in columns])
    kept = [k for k in range(len(alive)) if 0 < norms[k] < np.inf]
    if len(kept) < 2:
        return
    norms, slopes = norms[kept], np.stack([columns[k] for k in kept], 1) / norms[kept]
    for i, j in zip(*np.triu_indices(len(kept), 1), strict=True):
        both = norms[i] * slopes[:, i] + norms[j] * slopes[:, j]
        if np.linalg.norm(both) <= tolerance * (norms[i] + norms[j]):
            yield alive[kept[i]], alive[kept[j]]
    _, singular, rows = np.linalg.svd(slopes, full_matrices=True)
    null = rows[(singular > tolerance * np.sqrt(len(kept))).sum() :]
    if not len(null):
        return
    # Indicators of disjoint sets, whatever the basis, once each row is alone in one column
    _, order = cast(Any, scipy.linalg.qr)(null, mode="r", pivoting=True)
    pivots = order[: len(null)]
    shares = np.linalg.solve(null[:, pivots], null) / norms * norms[pivots][:, None]
    for row in sorted(shares, key=lambda row: (np.abs(row) > 0.5).sum()):
        chosen = np.abs(row - 1) < 0.1
        if (chosen | (np.abs(row) < 0.1)).all() and chosen.sum() > 1:
            yield tuple(alive[kept[k]] for k in np.flatnonzero(chosen))


def _by_outputs(
    given: Exchange, alive: Sequence[int], found: Sequence[Sequence[int]]
) -> Iterator[tuple[int, ...]]:
    """Sets of the parts that are left with which outputs are what they were without, the smallest first."""
    left = [i for i in alive if not any(i in group for group in found)]
    if len(left) <= _FEW:
        for count in range(2, len(left) + 1):
            yield from itertools.combinations(left, count)
        return
    after = [_seen(given, 0, given.chosen(left[:k])) for k in range(len(left) + 1)]
    for count in range(2, len(left) + 1):
        for k in range(len(left) + 1 - count):
            if _far(after[k + count], after[k]) <= _PLAIN:
                yield tuple(left[k : k + count])


def _slope(given: Exchange, i: int, inputs: int) -> np.ndarray:
    """Derivatives of some outputs by one part, at the first parameters and some inputs."""
    step = _STEP * given.chosen([i])
    places = range(min(inputs, len(given.inputs)))
    return np.concatenate([_seen(given, n, step) - _seen(given, n, -step) for n in places]) / (2 * _STEP)


def _seen(given: Exchange, n: int, which: np.ndarray) -> np.ndarray:
    """Some outputs at one input, always the same."""
    return np.asarray(given.run(given.inputs[n], given.values, which))[_seen_at(given)]


def _seen_at(given: Exchange) -> np.ndarray:
    return np.random.default_rng(0).permutation(given.ends[0][0].size)[:_SEEN]


def _far(outputs: Any, others: np.ndarray) -> float:
    off = np.abs(np.asarray(outputs) - others).max()
    return float(off) if np.isfinite(off) else np.inf
