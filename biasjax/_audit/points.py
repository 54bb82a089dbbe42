"""Points at which a model is evaluated: its parameters and arguments at one draw."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from biasjax._audit import budget, drawing
from biasjax._audit.model import Model, predicate

Varies = bool | Callable[[str, Any], bool]
# Parameters of a draw, on the device
Weights = Callable[[int], list]


class Draws(NamedTuple):
    """What is drawn: parameters that ``randomize`` chooses, arguments that ``vary_inputs`` does.

    Leaves in ``close`` are drawn close to the given ones.
    """

    seed: int
    randomize: Varies
    vary_inputs: Varies
    close: frozenset[int] = frozenset()


def weights_at(model: Model, draws: Draws, draw: int) -> list:
    """Parameters of one draw.

    Draw 0 has the given parameters unless they are randomised. From draw 1 on biases are also moved by up to
    several times their size, so that no unit is dead at all draws.
    """
    rng = np.random.default_rng([draws.seed, 0, draw])
    leaves = list(model.given[: model.parameters])
    for i, leaf in enumerate(leaves):
        # Biases as given once: large ones leave units on whatever the input, which then look linear
        given = draw == 0 and i in model.biases.indices
        if given or not _varies(draws.randomize, model.paths[i], leaf):
            leaves[i] = drawing.to_host(leaf)
        elif i in draws.close:
            leaves[i] = drawing.close(rng, drawing.to_host(leaf))
        else:
            leaves[i] = drawing.parameter(rng, leaf if i in model.biases.indices else drawing.grown(leaf))
    move = (0.0, 0.3, 1.0, 3.0)[draw % 4]
    for i in model.biases.indices:
        leaves[i] = leaves[i] + move * size_of(leaves[i]) * rng.standard_normal(leaves[i].shape)
    return leaves


def inputs_at(model: Model, draws: Draws, draw: int, index: int) -> list:
    """Arguments of one draw; the very first are those given."""
    rng = np.random.default_rng([draws.seed, 1, draw, index])
    given = [drawing.to_host(leaf) for leaf in model.given[model.parameters :]]
    leaves = list(given)
    # Ones beside an input are a mask, ones alone a stand-in for one
    masks = any(not drawing.is_constant(leaf) for leaf in given)
    for i, leaf in enumerate(leaves):
        path = model.paths[model.parameters + i].removeprefix("args/")
        drawn = draw or index
        if drawn and _varies(draws.vary_inputs, path, leaf) and not (masks and drawing.is_ones(leaf)):
            close = model.parameters + i in draws.close
            leaves[i] = drawing.close(rng, leaf) if close else drawing.argument(rng, leaf)
    return leaves


def point(model: Model, draws: Draws, draw: int, index: int) -> list:
    """Leaves at one draw of parameters and one of inputs."""
    return [*weights_at(model, draws, draw), *inputs_at(model, draws, draw, index)]


def on_device(model: Model, draws: Draws) -> Weights:
    """`weights_at` on the device: of millions of parameters the last two draws are kept."""
    return functools.lru_cache(2)(lambda draw: jax.device_put(weights_at(model, draws, draw)))


def within_domain(model: Model, draws: Draws, weights: Weights, finite: Callable[[Sequence], bool]) -> Draws:
    """Draw close by what leads out of the function's domain otherwise (a probability, a graph's edges).

    Parameters
    ----------
    model, draws, weights
        Model, what is drawn, and its `on_device`.
    finite
        Whether the outputs at some leaves are finite.
    """

    def drawn(draw: int) -> list:
        return [*weights(draw), *inputs_at(model, draws, draw, 1)]

    # The last of them is needed next
    trials = range(budget.TRIALS, 0, -1)
    if all(finite(drawn(draw)) for draw in trials):
        return draws

    given, every = model.leaves, [drawn(draw) for draw in trials]

    def alone(i: int) -> list[list]:
        return [[*given[:i], leaves[i], *given[i + 1 :]] for leaves in every]

    close = frozenset(i for i in range(len(given)) if not all(map(finite, alone(i))))
    return draws._replace(close=close)


def size_of(bias: np.ndarray) -> float:
    """Root mean square of the finite entries of a bias, at least 1/2: the unit of its shifts."""
    return max(rms(bias[np.isfinite(bias)]), 0.5)


def rms(x: np.ndarray) -> float:
    """Root mean square, 0 of nothing."""
    return float(np.sqrt(np.mean(x**2))) if x.size else 0.0


def _varies(what: Varies, path: str, leaf: Any) -> bool:
    return predicate("what is drawn", what, path, leaf) if callable(what) else bool(what)
