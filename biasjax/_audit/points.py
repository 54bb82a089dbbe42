"""Points at which a model is evaluated: its parameters and arguments at one draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from biasjax._audit import budget, drawing
from biasjax._audit.model import Model, predicate

Varies = bool | Callable[[str, Any], bool]


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
    for i, leaf in enumerate(map(drawing.to_host, leaves)):
        leaves[i] = leaf
        # Biases as given once: large ones leave units on whatever the input, which then look linear
        given = draw == 0 and i in model.biases.indices
        if not given and _varies(draws.randomize, model.paths[i], leaf):
            grown = leaf if i in model.biases.indices else drawing.grown(leaf)
            leaves[i] = drawing.close(rng, leaf) if i in draws.close else drawing.parameter(rng, grown)
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


def within_domain(model: Model, draws: Draws, finite: Callable[[Sequence], bool]) -> Draws:
    """Draw close by what leads out of the function's domain otherwise (a probability, a graph's edges).

    Parameters
    ----------
    model, draws
        Model, and what is drawn.
    finite
        Whether the outputs at some leaves are finite.
    """
    drawn = [point(model, draws, draw, 1) for draw in range(1, budget.TRIALS + 1)]
    if all(map(finite, drawn)):
        return draws

    given = model.leaves

    def alone(i: int) -> list[list]:
        return [[*given[:i], leaves[i], *given[i + 1 :]] for leaves in drawn]

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
