"""Shift biases by finite amounts, against round-off: what a derivative cannot see.

Units that are dead at every draw, rounding and comparisons have no derivative; a shift may bring them to
life.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import draws, probe, ranks
from biasjax.probe import Draws, Model

# Sizes of shifts, in units of the bias (at least 1/2), and how far above round-off a change is one.
_SIZES = (1.0, 1e-2, -1e2)
_ALIVE = 50.0
# A change of the outputs by this share, at the bias's own size, needs no other sizes.
_PLAIN = 1e-6


class Shifted(NamedTuple):
    """Largest relative output change under finite shifts of a bias, and the round-off it is held against."""

    change: float
    noise: float

    @property
    def alive(self) -> bool:
        """Whether the change is more than round-off."""
        return self.change > _ALIVE * self.noise


class _Point(NamedTuple):
    """Biases and all leaves at one draw, on the device, and the outputs there."""

    flat: np.ndarray
    leaves: list
    base: np.ndarray


class _Pair(NamedTuple):
    """A point, and one beside it within round-off."""

    exact: _Point
    nudged: _Point


def runner(outputs: Callable) -> Callable:
    """``run(flat, leaves, shifts, count) -> f(flat + shift)``, for the first ``count`` rows, compiled."""

    def run(flat, leaves, shifts, count):
        def one(i, found):
            return found.at[i].set(outputs(flat + shifts[i], leaves))

        width = jax.eval_shape(outputs, flat, leaves).shape[0]
        return jax.lax.fori_loop(0, count, one, jnp.zeros((len(shifts), width), flat.dtype))

    # Compiling it costs more than the few dozen times it runs
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(run, compiler_options=options)


def each(
    m: Model, d: Draws, run: Callable, bases: Sequence[np.ndarray], weights: int, slopes: Any = None
) -> list[Shifted]:
    """Shift every bias by a random vector in the span of its basis (size, k), by several sizes.

    Parameters
    ----------
    m, d
        Model and draws.
    run
        From `runner`.
    bases
        For each bias; with no columns it is left alone.
    weights
        Number of the draw of the parameters.
    slopes
        For each bias the derivative along its basis that is lost in round-off (`Sample.slopes`): it lets a
        change through that grows with the shift.

    Returns
    -------
    list of Shifted
    """
    pair, shifts = _start(m, d, run, bases, weights)
    slopes = np.zeros(len(bases)) if slopes is None else slopes
    none = Shifted(0.0, np.finfo(float).eps)
    return [
        none if shift is None else _against_noise(run, pair, shift, slope)
        for shift, slope in zip(shifts, slopes, strict=True)
    ]


def together(
    m: Model, d: Draws, run: Callable, bases: Sequence[np.ndarray], weights: int, slopes: Any
) -> Shifted:
    """Shift all biases of `each` at once: where nothing moves, none of them is alive."""
    pair, shifts = _start(m, d, run, bases, weights)
    some = [shift for shift in shifts if shift is not None]
    if not some:
        return Shifted(0.0, np.finfo(float).eps)
    return _against_noise(run, pair, np.sum(some, 0), float(np.max(slopes)))


def survivors(m: Model, d: Draws, run: Callable, b: int, basis: np.ndarray, slope: float) -> np.ndarray:
    """Directions of a basis (size, k) of a bias that no finite shift brings to life.

    For programs whose derivative says nothing (rounding, units dead at every draw). Directions are judged
    by the changes that the basis vectors cause, which for a nonlinear function can only find too few dead.
    """
    place, rows = m.biases.slices[b], []
    for weights, size in ((0, 1.0), (0, -30.0), (1, 1.0), (2, -30.0)):
        leaves = probe.point(m, d, weights, 1)
        shifts = np.zeros((basis.shape[1], m.biases.slices[-1].stop))
        shifts[:, place] = size * probe.size_of(leaves[m.biases.indices[b]]) * np.sqrt(len(basis)) * basis.T
        pair = _pair(m, run, leaves, np.random.default_rng(0))
        exact, nudged = (_changes(run, point, shifts).T for point in pair)
        if np.isfinite(exact).all() and np.isfinite(nudged).all():
            let_through = slope * np.linalg.norm(shifts[0])
            rows.append(exact / max(probe.rms(exact - nudged) + np.finfo(float).eps, let_through))
    return basis @ ranks.null_basis(np.concatenate(rows)) if rows else basis


def _start(m: Model, d: Draws, run: Callable, bases, weights: int) -> tuple[_Pair, list]:
    """The points, and for each bias its shifts (sizes, bias entries), None where there are none."""
    rng = np.random.default_rng([d.seed, 3, weights])
    leaves = probe.point(m, d, weights, 1)
    pair = _pair(m, run, leaves, rng)
    shifts: list = []
    for place, i, basis in zip(m.biases.slices, m.biases.indices, bases, strict=True):
        if not basis.shape[1] or not m.program.used[i]:
            shifts.append(None)
            continue
        direction = basis @ rng.standard_normal(basis.shape[1])
        direction *= probe.size_of(leaves[i]) / max(probe.rms(direction), 1e-300)
        shift = np.zeros((len(_SIZES), m.biases.slices[-1].stop))
        shift[:, place] = np.outer(_SIZES, direction)
        shifts.append(shift)
    return pair, shifts


def _pair(m: Model, run: Callable, leaves: list, rng) -> _Pair:
    moved = [draws.nudge(rng, leaf) for leaf in leaves]
    still = np.zeros((len(_SIZES), m.biases.slices[-1].stop))
    points = []
    for drawn in (leaves, moved):
        flat, drawn = m.biases.gather(drawn), jax.device_put(drawn)
        points.append(_Point(flat, drawn, np.asarray(run(flat, drawn, still, 1))[0]))
    return _Pair(*points)


def _changes(run: Callable, at: _Point, shifts: np.ndarray) -> np.ndarray:
    """Change of the outputs under each shift."""
    count = len(shifts)
    padded = np.pad(shifts, [(0, max(len(_SIZES) - count, 0)), (0, 0)])  # one program for one and for all
    return np.asarray(run(at.flat, at.leaves, padded, count))[:count] - at.base


def _against_noise(run: Callable, pair: _Pair, shifts: np.ndarray, slope: float) -> Shifted:
    """The first size of shift if its change is plain, else the one that stands out most."""
    exact = _changes(run, pair.exact, shifts[:1])
    if not _PLAIN < np.abs(exact).max() < np.inf:
        exact = np.concatenate([exact, _changes(run, pair.exact, shifts[1:])])
    shifts = shifts[: len(exact)]
    change, off = (np.abs(x).max(1) for x in (exact, exact - _changes(run, pair.nudged, shifts)))
    noise = np.maximum(off + np.finfo(float).eps, slope * np.linalg.norm(shifts, axis=1))
    finite = np.isfinite(change) & np.isfinite(off)
    if not finite.any():
        return Shifted(np.inf, np.finfo(float).eps)
    best = int(np.argmax(np.where(finite, change / noise, -1.0)))
    return Shifted(float(change[best]), float(noise[best]))
