"""Measure a model's biases: Jacobian rows over draws, and dead directions.

The numbers behind `biasjax.audit`, which turns them into verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from biasjax._audit import drawing, nullspaces, sensitivity
from biasjax._audit.model import Model

# Rows of the Jacobian beyond the number of unknowns: a random square matrix would be near singular.
SPARE = 32
# Beyond so many bias entries a model is large: rows cost more than compiling programs for some of the biases.
LARGE = 2048
# Cotangents per call, of small and of large models. More inputs serve a rank better than more rows at one
# input (a unit that few inputs switch on is seen by some), but each call costs a forward pass.
ROWS, _MOST_ROWS = 8, 64
# Draws that tell whether a function is defined around the given point.
_TRIALS = 2
# Of large models round-off is measured at one input of so many draws; the worst stands for all others.
_NOISES = 2
# Neighbours it is measured at, of small models: where rounding has a few outcomes only, two may well agree.
_NEIGHBOURS = 4


class Draws(NamedTuple):
    """What is drawn: parameters that ``randomize`` chooses, arguments that ``vary_inputs`` does.

    Leaves in ``close`` are drawn close to the given ones.
    """

    seed: int
    randomize: drawing.Varies
    vary_inputs: drawing.Varies
    close: frozenset[int] = frozenset()


class Sample(NamedTuple):
    """Jacobian rows at one draw of the parameters.

    Attributes
    ----------
    rows
        (rows, bias entries), over several inputs.
    counts
        For each bias the number of rows, from the first, that were asked for it; it is zero in the others.
    noises
        (inputs, biases), round-off of an entry in the rows at each input; infinite where the derivative is
        not finite.
    size
        Root mean square of the rows before they were brought to size one.
    """

    rows: np.ndarray
    counts: np.ndarray
    noises: np.ndarray
    size: float

    @property
    def noise(self) -> np.ndarray:
        """For each bias the round-off of an entry, over all inputs with derivatives."""
        finite = np.isfinite(self.noises)
        squares = np.where(finite, self.noises, 0.0) ** 2
        return np.where(finite.any(0), np.sqrt(squares.sum(0) / np.maximum(finite.sum(0), 1)), np.inf)

    @property
    def slopes(self) -> np.ndarray:
        """For each bias the derivative that is lost in round-off: what it is in a dead direction."""
        return np.where(np.isfinite(self.noises), self.noises, 0.0).max(0, initial=0.0) * self.size

    def in_noise(self, b: int, place: slice) -> np.ndarray:
        """Rows asked for bias ``b`` in units of their round-off."""
        each = np.repeat(self.noises[:, b], len(self.rows) // max(len(self.noises), 1))
        return self.rows[: self.counts[b], place] / each[: self.counts[b], None]


# Rows at a draw of the parameters, of which so many are wanted for each bias
Draw = Callable[[int, Sequence[int]], Sample]


def weights_at(m: Model, d: Draws, draw: int) -> list:
    """Parameters of one draw.

    Draw 0 has the given parameters unless they are randomised. From draw 1 on biases are also moved by up to
    several times their size, so that no unit is dead at all draws.
    """
    rng = np.random.default_rng([d.seed, 0, draw])
    leaves = list(m.leaves[: m.parameters])
    for i, leaf in enumerate(leaves):
        # Biases as given once: large ones leave units on whatever the input, which then look linear
        given = draw == 0 and i in m.biases.indices
        if not given and drawing.varies(d.randomize, m.paths[i], leaf):
            leaves[i] = drawing.close(rng, leaf) if i in d.close else drawing.parameter(rng, leaf)
    move = (0.0, 0.3, 1.0, 3.0)[draw % 4]
    for i in m.biases.indices:
        leaves[i] = leaves[i] + move * size_of(leaves[i]) * rng.standard_normal(leaves[i].shape)
    return leaves


def inputs_at(m: Model, d: Draws, draw: int, index: int) -> list:
    """Arguments of one draw; the very first are those given."""
    rng = np.random.default_rng([d.seed, 1, draw, index])
    leaves = list(m.leaves[m.parameters :])
    for i, leaf in enumerate(leaves):
        path = m.paths[m.parameters + i].removeprefix("args/")
        if (draw or index) and drawing.varies(d.vary_inputs, path, leaf):
            close = m.parameters + i in d.close
            leaves[i] = drawing.close(rng, leaf) if close else drawing.argument(rng, leaf)
    return leaves


def point(m: Model, d: Draws, draw: int, index: int) -> list:
    """Leaves at one draw of parameters and one of inputs."""
    return [*weights_at(m, d, draw), *inputs_at(m, d, draw, index)]


def within_domain(m: Model, d: Draws, finite: Callable[[Sequence], bool]) -> Draws:
    """Draw close by what leads out of the function's domain otherwise (a probability, a graph's edges).

    Parameters
    ----------
    m, d
        Model, and what is drawn.
    finite
        Whether the outputs at some leaves are finite.

    Returns
    -------
    Draws
    """
    points = [point(m, d, draw, 1) for draw in range(1, _TRIALS + 1)]
    if all(map(finite, points)):
        return d

    def alone(i: int) -> list[list]:
        return [[*m.leaves[:i], drawn[i], *m.leaves[i + 1 :]] for drawn in points]

    return d._replace(close=frozenset(i for i in range(len(m.leaves)) if not all(map(finite, alone(i)))))


def size_of(bias: np.ndarray) -> float:
    """Root mean square of the finite entries of a bias, at least 1/2: the unit of its shifts."""
    return max(rms(bias[np.isfinite(bias)]), 0.5)


def sampler(m: Model, d: Draws) -> Draw:
    """Return ``sample(draw of the parameters, rows wanted for each bias)``, compiled once per set of biases.

    The Jacobian comes from reverse mode; from forward mode, then from central differences, where a program
    has no such derivative.
    """
    large = m.biases.slices[-1].stop > LARGE
    size = min(m.width, _MOST_ROWS if large else ROWS)
    rows, start, floor = _rows_in_first_mode(m, d, size)
    one, *others = (_inputs(m, d, i) for i in range(1, 5))
    fixed = all(np.array_equal(a, b) for other in others for a, b in zip(one, other, strict=True))
    known: dict[tuple[int, int], np.ndarray] = {}

    def sample(weights: int, wanted: Sequence[int]) -> Sample:
        # Where inputs cannot vary, more rows than outputs say nothing new
        calls = -(-np.minimum(wanted, m.width if fixed else max(wanted)) // size)
        drawn = weights_at(m, d, weights)
        flat, on_device = m.biases.gather(drawn), jax.device_put(drawn)
        kept = [np.flatnonzero(calls > i) for i in range(max(calls))]
        blocks = [
            start
            if (weights, i) == (0, 0)
            else rows(flat, [*on_device, *inputs_at(m, d, weights, i)], (weights, i), _columns(m, asked))
            for i, asked in enumerate(kept)
        ]
        finite = [i for i, block in enumerate(blocks) if np.isfinite(block).all()]
        for i in finite[:1] if large else finite:
            if len(kept[i]) == len(calls) and (len(known) < _NOISES or not large):
                leaves = [*drawn, *inputs_at(m, d, weights, i)]
                near = 1 if large else _NEIGHBOURS
                known[weights, i] = _round_off(m, rows, (weights, i), leaves, blocks[i], near, floor)
        worst = _worst(known, len(calls))
        noises = np.array([known.get((weights, i), worst) for i in finite]).reshape(-1, len(calls))
        counts = size * np.array([sum(calls[b] > i for i in finite) for b in range(len(calls))])
        sizes = [_whole(m, blocks[i], start, kept[i]) for i in finite]
        found = [blocks[i] / (whole or 1.0) for i, whole in zip(finite, sizes, strict=True)]
        stacked = np.concatenate(found) if found else np.zeros((0, flat.size))
        return Sample(stacked, counts, noises, max(sizes, default=0.0))

    return sample


def _columns(m: Model, asked: np.ndarray) -> tuple[tuple[int, int, bool], ...]:
    """The biases asked for among all, as `sensitivity.jacobian_rows` takes them; empty for all."""
    wanted = set(asked.tolist())
    slices = m.biases.slices
    if len(wanted) == len(slices):
        return ()
    return tuple((place.start, place.stop, b in wanted) for b, place in enumerate(slices))


def _whole(m: Model, block: np.ndarray, first: np.ndarray, asked: np.ndarray) -> float:
    """Size of all rows of a block, of which only some biases' columns are known."""
    entries = np.concatenate([np.arange(m.biases.slices[b].start, m.biases.slices[b].stop) for b in asked])
    if len(entries) == block.shape[1]:
        return rms(block)
    share = rms(first[:, entries]) / (rms(first) or 1.0)
    return rms(block[:, entries]) / share if share > 0 else rms(first)


def _rows_in_first_mode(m: Model, d: Draws, size: int) -> tuple[Callable, np.ndarray, float]:
    """``rows(flat, leaves, call, kept, relative)`` in the first mode that works, its first and resolution."""
    leaves = point(m, d, 0, 0)
    flat = m.biases.gather(leaves)

    def of(mode: str) -> Callable:
        jacobian = sensitivity.jacobian_rows(m.pieces, mode)

        def rows(flat, leaves, call, kept=(), relative=0.0):
            rng = np.random.default_rng([d.seed, 2, *call])
            u, seed = rng.standard_normal((size, m.width)), rng.integers(2**31, dtype=np.int32)
            u *= 1 + relative * np.random.default_rng(0).standard_normal(u.shape)
            return np.asarray(jacobian(flat, [*leaves, seed], u, kept))

        return rows

    for mode in ("reverse", "forward"):
        rows = of(mode)
        try:
            found = rows(flat, leaves, (0, 0))
        except Exception:
            continue
        if np.isfinite(found).all():
            return rows, found, sensitivity.resolution(mode)
    rows = of("difference")
    return rows, rows(flat, leaves, (0, 0)), sensitivity.resolution("difference")


def _round_off(m: Model, rows: Callable, call: tuple[int, int], leaves, found, near: int, floor: float):
    """Noise of each bias in one call, whose rows are ``found``: the most of several neighbours."""
    rng = np.random.default_rng(1)
    # Outputs have size one
    noises = np.full(len(m.biases.slices), floor)
    for _ in range(near):
        nudged = [drawing.nudge(rng, leaf) for leaf in leaves]
        moved = rows(m.biases.gather(nudged), nudged, call, (), drawing.NUDGE) - found
        noises = np.maximum(noises, [rms(moved[:, place]) for place in m.biases.slices])
    return np.where(np.isfinite(noises), noises / (rms(found) or 1.0), np.inf)


def _worst(known: dict[tuple[int, int], np.ndarray], biases: int) -> np.ndarray:
    """Greatest finite noise of each bias, infinite where there is none."""
    noises = np.array([*known.values(), np.full(biases, np.inf)])
    finite = np.isfinite(noises)
    return np.where(finite.any(0), np.max(np.where(finite, noises, 0.0), 0), np.inf)


def _inputs(m: Model, d: Draws, draw: int) -> list:
    leaves = inputs_at(m, d, 0, draw)
    keys = [jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [jax.random.key_data(x) if key else x for x, key in zip(leaves, keys, strict=True)]


def rms(x: np.ndarray) -> float:
    """Root mean square, 0 of nothing."""
    return float(np.sqrt(np.mean(x**2))) if x.size else 0.0


def dead_directions(m: Model, samples: Sequence[Sample]) -> list[np.ndarray]:
    """For each bias an orthonormal basis (size, dead) of the directions in which no draw has a derivative."""
    dead = []
    for b, (i, place) in enumerate(zip(m.biases.indices, m.biases.slices, strict=True)):
        size = place.stop - place.start
        if not m.program.used[i]:
            dead.append(np.eye(size))
            continue
        asked = [s.in_noise(b, place) for s in samples if s.counts[b]]
        share = -(-2 * (size + SPARE) // max(len(asked), 1))
        rows = [nullspaces.levelled(nullspaces.spread(own, share)) for own in asked]
        dead.append(nullspaces.null_basis(np.concatenate(rows)) if rows else np.eye(size))
    return dead
