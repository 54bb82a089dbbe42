"""Rows of the Jacobian of a model's outputs by its biases, at many draws, with the round-off they carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax._audit import budget, compiling, drawing
from biasjax._audit.model import Model
from biasjax._audit.points import Draws, Weights, inputs_at, rms

# Central differences of step h err by h² (function) and eps/h (round-off): 1e-10 at this step.
_STEP = 1e-5


class Sample(NamedTuple):
    """Jacobian rows at one draw of the parameters.

    Attributes
    ----------
    rows
        (rows, bias entries), over several inputs.
    noises
        (inputs, biases), round-off of an entry in the rows at each input; infinite where the derivative is
        not finite.
    size
        Root mean square of the rows before they were brought to size one.
    """

    rows: np.ndarray
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
        """Columns of bias ``b``, at ``place``, in units of their round-off."""
        each = np.repeat(self.noises[:, b], len(self.rows) // max(len(self.noises), 1))
        return self.rows[:, place] / each[:, None]


# As many rows as wanted at a draw of the parameters
Draw = Callable[[int, int], Sample]
# A draw of the parameters and the number of an input
_Call = tuple[int, int]


class _Mode(NamedTuple):
    """How rows are taken.

    ``run(flat, leaves, call, relative)`` gives random rows; those of the first call are ``start``, and
    derivatives below ``floor`` are not told from zero, of a function of size one.
    """

    run: Callable[..., np.ndarray]
    start: np.ndarray
    floor: float


def sampler(model: Model, draws: Draws, weights: Weights) -> Draw:
    """Return ``sample(draw of the parameters, rows wanted)``, compiled once.

    The Jacobian comes from reverse mode; from forward mode, then from central differences, where a program
    has no such derivative. ``weights`` gives the parameters of a draw.
    """
    size = budget.rows_at_once(model.width)
    mode = _first_mode(model, draws, [*weights(0), *inputs_at(model, draws, 0, 0)], size)
    # Where inputs cannot vary, more rows than outputs say nothing new
    most = model.width if _inputs_are_fixed(model, draws) else None
    known: dict[_Call, np.ndarray] = {}

    def sample(draw: int, wanted: int) -> Sample:
        drawn = weights(draw)
        found = _finite_blocks(model, draws, mode, draw, drawn, -(-min(wanted, most or wanted) // size))
        _measure_round_off(model, draws, mode, drawn, found, known)
        count = len(model.biases.slices)
        worst = _worst(known, count)
        noises = np.array([known.get(call, worst) for call in found]).reshape(-1, count)
        sizes = [rms(block) for block in found.values()]
        rows = [block / (whole or 1.0) for block, whole in zip(found.values(), sizes, strict=True)]
        stacked = np.concatenate(rows) if rows else np.zeros((0, model.biases.total))
        return Sample(stacked, noises, max(sizes, default=0.0))

    return sample


def jacobian_rows(outputs: Callable, mode: str) -> Callable:
    """``rows(flat, leaves, u) -> u @ J``, J the Jacobian of the outputs by the biases.

    Parameters
    ----------
    outputs
        `Model.outputs` or `Model.pieces`.
    mode
        "reverse" costs one backward pass per row of ``u``; "forward" (programs with while loops) and
        "difference" (programs without derivatives) cost one pass per bias entry.

    Returns
    -------
    callable
        Compiled; ``u`` of shape (rows, outputs) gives (rows, bias entries). ``relative`` moves the entries of
        ``u`` by about so much of themselves.
    """

    @compiling.quick_jit
    def rows(flat, leaves, u, relative=0.0):
        u = jnp.asarray(u, flat.dtype)
        u *= 1 + relative * jnp.roll(u, 1)
        if mode == "reverse":
            _, pullback = jax.vjp(lambda b: outputs(b, leaves), flat)
            return jax.vmap(lambda v: pullback(v)[0])(u)
        basis = jnp.eye(flat.size, dtype=flat.dtype)
        column = _slope if mode == "forward" else _difference
        return jax.lax.map(
            lambda e: u @ column(lambda b: outputs(b, leaves), flat, e), basis, batch_size=budget.DIRECTIONS
        ).T

    return rows


def _slope(fn: Callable, flat: jax.Array, direction: jax.Array) -> jax.Array:
    return jax.jvp(fn, (flat,), (direction,))[1]


def _difference(fn: Callable, flat: jax.Array, direction: jax.Array) -> jax.Array:
    step = _STEP * direction
    return (fn(flat + step) - fn(flat - step)) / (2 * _STEP)


def _first_mode(model: Model, draws: Draws, leaves: list, size: int) -> _Mode:
    """The first mode that gives finite rows, here at the first call."""
    flat = model.biases.gather(leaves)
    eps = float(np.finfo(float).eps)
    for mode in ("reverse", "forward"):
        run = _random_rows(model, draws, size, mode)
        try:
            found = run(flat, leaves, (0, 0))
        except Exception:
            continue
        if np.isfinite(found).all():
            return _Mode(run, found, eps)
    run = _random_rows(model, draws, size, "difference")
    return _Mode(run, run(flat, leaves, (0, 0)), eps / _STEP)


def _random_rows(model: Model, draws: Draws, size: int, mode: str) -> Callable[..., np.ndarray]:
    """`_Mode.run`: ``size`` random rows, whose weights ``relative`` moves by a share."""
    jacobian = jacobian_rows(model.pieces, mode)

    def run(flat, leaves, call: _Call, relative=0.0):
        rng = np.random.default_rng([draws.seed, 2, *call])
        # Uniform numbers of variance one: logits of a language model are millions
        u, seed = rng.random((size, model.width), np.float32), rng.integers(2**31, dtype=np.int32)
        u -= np.float32(0.5)
        u *= np.float32(np.sqrt(12))
        return np.asarray(jacobian(flat, [*leaves, seed], u, relative))

    return run


def _finite_blocks(
    model: Model, draws: Draws, mode: _Mode, weights: int, drawn: list, calls: int
) -> dict[_Call, np.ndarray]:
    """Rows at so many inputs, without those that are not finite."""
    flat = model.biases.gather(drawn)
    blocks = [mode.start] if weights == 0 else []
    for i in range(len(blocks), calls):
        leaves = [*drawn, *inputs_at(model, draws, weights, i)]
        blocks.append(mode.run(flat, leaves, (weights, i)))
    return {(weights, i): block for i, block in enumerate(blocks[:calls]) if np.isfinite(block).all()}


def _measure_round_off(
    model: Model,
    draws: Draws,
    mode: _Mode,
    drawn: list,
    blocks: dict[_Call, np.ndarray],
    known: dict[_Call, np.ndarray],
) -> None:
    """Add to ``known`` the noise of the rows of some calls."""
    often = budget.round_off(model.biases.total)
    for call in list(blocks)[: often.inputs]:
        if len(known) < often.calls:
            leaves = [*drawn, *inputs_at(model, draws, *call)]
            known[call] = _round_off(model, mode, call, leaves, blocks[call], often.neighbours)


def _round_off(
    model: Model, mode: _Mode, call: _Call, leaves: list, found: np.ndarray, neighbours: int
) -> np.ndarray:
    """Noise of each bias in one call, whose rows are ``found``: the most of several neighbours."""
    rng = np.random.default_rng(1)
    # Outputs have size one
    noises = np.full(len(model.biases.slices), mode.floor)
    for _ in range(neighbours):
        nudged = jax.device_put(drawing.nudged(rng, leaves))
        moved = mode.run(model.biases.gather(nudged), nudged, call, drawing.NUDGE) - found
        noises = np.maximum(noises, [rms(moved[:, place]) for place in model.biases.slices])
    return np.where(np.isfinite(noises), noises / (rms(found) or 1.0), np.inf)


def _worst(known: dict[_Call, np.ndarray], biases: int) -> np.ndarray:
    """Greatest finite noise of each bias, infinite where there is none."""
    noises = np.array([*known.values(), np.full(biases, np.inf)])
    finite = np.isfinite(noises)
    return np.where(finite.any(0), np.max(np.where(finite, noises, 0.0), 0), np.inf)


def _inputs_are_fixed(model: Model, draws: Draws) -> bool:
    one, *others = (_comparable(inputs_at(model, draws, 0, i + 1)) for i in range(budget.VARIED))
    return all(np.array_equal(a, b) for other in others for a, b in zip(one, other, strict=True))


def _comparable(leaves: Sequence) -> list:
    keys = [jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [jax.random.key_data(x) if key else x for x, key in zip(leaves, keys, strict=True)]
