"""Shift biases by finite amounts, against round-off: what a derivative cannot see.

Units that are dead at every draw, rounding and comparisons have no derivative; a shift may bring them to
life.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from biasjax._audit import budget, compiling, drawing, nullspaces
from biasjax._audit.findings import Shifted
from biasjax._audit.model import Model
from biasjax._audit.points import Draws, Weights, inputs_at, on_device, rms, size_of, within_domain

# Sizes of shifts beside 1, in units of the bias (at least 1/2).
# Large ones of both signs: one of them brings a dead ReLU to life.
_SIZES = (1e-2, 1e2, -1e2)
# A change of the outputs by this share, at the bias's own size, needs no other sizes.
_PLAIN = 1e-3


# Round-off of numbers of size one
EPS = float(np.finfo(float).eps)
NONE = Shifted(0.0, EPS)


class _Shift(NamedTuple):
    """A step of some entries of the flat vector of biases."""

    place: slice
    step: np.ndarray


class _Point(NamedTuple):
    """Biases and all leaves at one draw, on the device, and the outputs there."""

    flat: np.ndarray
    leaves: list
    base: np.ndarray


class _Pair(NamedTuple):
    """A point, and one beside it within round-off."""

    exact: _Point
    nudged: _Point


class Shifts(NamedTuple):
    """What it takes to shift the biases of a model.

    Attributes
    ----------
    model, draws
        The model and what is drawn.
    run
        ``run(flat, leaves, shifts) -> f(flat + shift)``, compiled, for `budget.shifts_at_once` rows.
    weights
        `biasjax._audit.points.on_device` of these.
    pair
        ``pair(draw of the parameters) -> _Pair``; the last two are kept.
    """

    model: Model
    draws: Draws
    run: Callable
    weights: Weights
    pair: Callable[[int], _Pair]


def prepare(model: Model, draws: Draws) -> Shifts:
    """Return what the functions below take; draw close by what leads out of the function's domain."""

    def run(flat, leaves, shifts):
        return jax.vmap(lambda shift: model.outputs(flat + shift, leaves))(shifts)

    def finite(leaves):
        return np.isfinite(run(model.biases.gather(leaves), leaves, _still(model))).all()

    run = compiling.quick_jit(run)
    weights = on_device(model, draws)
    within = within_domain(model, draws, weights, finite)
    if within != draws:
        weights = on_device(model, within)

    @functools.lru_cache(2)
    def made(draw: int) -> _Pair:
        return _pair(model, within, run, weights(draw), draw)

    def pair(draw: int) -> _Pair:
        # So that both keep the same two draws, once in memory
        weights(draw)
        return made(draw)

    return Shifts(model, within, run, weights, pair)


def each(
    given: Shifts, bases: Sequence[np.ndarray], weights: int, slopes: np.ndarray | None = None
) -> list[Shifted]:
    """Shift every bias by a random vector in the span of its basis (size, k), by several sizes.

    Parameters
    ----------
    bases
        For each bias; with no columns it is left alone.
    weights
        Number of the draw of the parameters.
    slopes
        For each bias the derivative along its basis that is lost in round-off (`Sample.slopes`): it lets a
        change through that grows with the shift.
    """
    places = given.model.biases.slices
    steps = _steps(given, bases, weights)
    shifts = [_Shift(places[b], step) for b, step in steps.items()]
    slopes = np.zeros(len(places)) if slopes is None else slopes
    found = dict(zip(steps, _against_noise(given, weights, shifts, slopes[list(steps)]), strict=True))
    return [found.get(b, NONE) for b in range(len(bases))]


def together(given: Shifts, bases: Sequence[np.ndarray], weights: int, slopes: np.ndarray) -> Shifted:
    """Shift all biases of `each` at once: where nothing moves, none of them is alive."""
    places = given.model.biases.slices
    whole = np.zeros(given.model.biases.total)
    for b, step in _steps(given, bases, weights).items():
        whole[places[b]] = step
    if not whole.any():
        return NONE
    return _against_noise(given, weights, [_Shift(slice(None), whole)], slopes.max(keepdims=True))[0]


def whole(given: Shifts, step: np.ndarray, weights: int, slope: float) -> Shifted:
    """Shift all biases by a given step; ``slope`` as in `each`."""
    return _against_noise(given, weights, [_Shift(slice(None), step)], np.array([slope]))[0]


def survivors(given: Shifts, b: int, basis: np.ndarray, slope: float) -> np.ndarray:
    """Directions of a basis (size, k) of a bias that no finite shift brings to life.

    For programs whose derivative says nothing (rounding, units dead at every draw). Directions are judged
    by the changes that the basis vectors cause, which for a nonlinear function can find too few dead; and too
    many where a basis has more than 64 times as many directions as there are outputs. Where no shift leaves
    the outputs finite, none is dead.
    """
    place, found = given.model.biases.slices[b], []
    points = budget.points_shifted(basis.shape[1], given.model.width)
    for weights, size in [(0, 1.0), *((w, 30.0 * (-1) ** (w + 1)) for w in range(points))]:
        pair = given.pair(weights)
        length = size * size_of(pair.exact.flat[place]) * np.sqrt(len(basis))
        shifts = [_Shift(place, length * direction) for direction in basis.T]
        exact, nudged = (np.stack([*_changes(given.run, side, shifts)]) for side in pair)
        if np.isfinite(exact).all() and np.isfinite(nudged).all():
            let_through = slope * abs(length)
            found.append(exact.T / max(rms(exact - nudged) + EPS, let_through))
    return basis @ nullspaces.null_basis(np.concatenate(found)) if found else basis[:, :0]


def _steps(given: Shifts, bases: Sequence[np.ndarray], weights: int) -> dict[int, np.ndarray]:
    """For each bias that has a basis and is used, a step in its span, of the bias's own size."""
    model = given.model
    rng = np.random.default_rng([given.draws.seed, 3, weights])
    steps = {}
    for b, (i, place, basis) in enumerate(zip(model.biases.indices, model.biases.slices, bases, strict=True)):
        if basis.shape[1] and model.program.used[i]:
            direction = basis @ rng.standard_normal(basis.shape[1])
            size = size_of(given.pair(weights).exact.flat[place])
            steps[b] = direction * (size / max(rms(direction), 1e-300))
    return steps


def _still(model: Model) -> np.ndarray:
    return np.zeros((budget.shifts_at_once(model.biases.total), model.biases.total))


def _pair(model: Model, draws: Draws, run: Callable, weights: list, draw: int) -> _Pair:
    leaves = [*weights, *jax.device_put(inputs_at(model, draws, draw, 1))]
    rng = np.random.default_rng([draws.seed, 5, draw])

    def at(leaves: list) -> _Point:
        flat = model.biases.gather(leaves)
        return _Point(flat, leaves, np.asarray(run(flat, leaves, _still(model)))[0])

    return _Pair(at(leaves), at(jax.device_put(drawing.nudged(rng, leaves))))


def _changes(run: Callable, at: _Point, shifts: Sequence[_Shift]) -> Iterator[np.ndarray]:
    """Change of the outputs under each shift."""
    at_once = budget.shifts_at_once(at.flat.size)
    for start in range(0, len(shifts), at_once):
        some = shifts[start : start + at_once]
        batch = np.zeros((at_once, at.flat.size))
        for row, shift in zip(batch, some, strict=False):
            row[shift.place] = shift.step
        yield from np.asarray(run(at.flat, at.leaves, batch))[: len(some)] - at.base


def _against_noise(
    given: Shifts, weights: int, shifts: Sequence[_Shift], slopes: np.ndarray
) -> list[Shifted]:
    """For each shift the first size if its change is plain, else the one that stands out most."""
    run, pair = given.run, given.pair(weights)
    let_through = slopes * [np.linalg.norm(shift.step) for shift in shifts]
    rounding = np.abs(pair.exact.base - pair.nudged.base).max() + EPS
    first = [float(np.abs(change).max()) for change in _changes(run, pair.exact, shifts)]
    found = [Shifted(*one) for one in zip(first, np.maximum(rounding, let_through).tolist(), strict=True)]
    for i, one in enumerate(found):
        if not (one.alive and _PLAIN < one.change < np.inf):
            found[i] = _clearest(run, pair, shifts[i], rounding, let_through[i])
    return found


def _clearest(run: Callable, pair: _Pair, shift: _Shift, rounding: float, let_through: float) -> Shifted:
    """The size of shift whose change stands out most, against round-off where it leads."""
    sizes = [_Shift(shift.place, size * shift.step) for size in _SIZES]
    exact = np.stack([*_changes(run, pair.exact, sizes)])
    change = np.abs(exact).max(1)
    largest = Shifted(float(change.max()), float(max(rounding, let_through)))
    if not largest.alive and change.max() < np.inf:
        return largest
    nudged = np.stack([*_changes(run, pair.nudged, sizes)])
    off = np.abs(exact - nudged).max(1)
    noise = np.maximum(off + EPS, let_through * np.abs(_SIZES))
    finite = np.isfinite(change) & np.isfinite(off)
    if not finite.any():
        return Shifted(np.inf, EPS)
    best = int(np.argmax(np.where(finite, change / noise, -1.0)))
    return Shifted(float(change[best]), float(noise[best]))
