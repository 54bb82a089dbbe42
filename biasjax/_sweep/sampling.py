"""Points drawn from a box: at random, as a Latin hypercube or as a Sobol sequence, on scales of each axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from biasjax import check

METHODS = ("latin", "random", "sobol")

# The distance between two bounds must have a float, too
_LARGEST = float(np.finfo(np.float64).max) / 2


class Scale(NamedTuple):
    """How numbers are spread between two bounds: "linear", "log" or "integer" (both bounds included)."""

    low: float
    high: float
    kind: str = "linear"


def log(low: float, high: float) -> Scale:
    """Spread numbers evenly in their logarithm, for `sample`."""
    return Scale(low, high, "log")


def integer(low: int, high: int) -> Scale:
    """Spread integers evenly from ``low`` to ``high``, both included, for `sample`."""
    return Scale(low, high, "integer")


def sample(
    space: Mapping[str, Scale | tuple[float, float]], n: int, *, method: str = "sobol", seed: int = 0
) -> dict[str, np.ndarray]:
    """Draw points from a box, fit for ``sweep.run(fn, points=...)``.

    Parameters
    ----------
    space
        Name -> ``(low, high)``, ``log(low, high)`` or ``integer(low, high)``.
    n
        Number of points.
    method
        "sobol" (scrambled; evenest where ``n`` is a power of two), "latin" (a Latin hypercube: each n-th of
        every axis has one point) or "random".
    seed
        Of the draw. With "sobol" and "random" more points of a seed begin with the fewer ones.

    Returns
    -------
    dict of arrays
        ``(n,)`` for each name: float64, for integers int64.

    Examples
    --------
    >>> points = sample({"learning_rate": log(1e-4, 1.0), "width": integer(1, 8)}, 4)
    >>> points["width"]
    array([8, 1, 5, 4])
    """
    check.positive_int("n", n)
    check.choice("method", method, METHODS)
    if not isinstance(space, Mapping):
        fix = "Give e.g. {'rate': (0.0, 1.0)}."
        check.fail("space", "a dict of name -> bounds", type(space).__name__, fix, TypeError)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        check.fail("seed", "an integer of at least 0", repr(seed), "It numbers the draw.")
    if not space:
        check.fail("space", "at least one name", space, "Give e.g. {'rate': (0.0, 1.0)}.")
    scales = {name: _scale(name, given) for name, given in space.items()}
    unit = _unit(method, n, len(scales), np.random.default_rng(seed))
    return {name: _spread(scale, unit[:, i]) for i, (name, scale) in enumerate(scales.items())}


def _scale(name: str, given: Scale | tuple[float, float]) -> Scale:
    what, fix = f"space {name!r}", "Give e.g. (0.0, 1.0), log(1e-4, 1.0) or integer(1, 8)."
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        check.fail(what, "(low, high), log(low, high) or integer(low, high)", repr(given), fix, TypeError)
    scale = given if isinstance(given, Scale) else Scale(*given)
    check.choice(what, scale.kind, ("linear", "log", "integer"))
    if not all(isinstance(bound, int | float | np.integer | np.floating) for bound in scale[:2]):
        check.fail(what, "finite bounds", scale[:2], fix)
    if not all(abs(bound) <= _LARGEST for bound in scale[:2]):  # NaN is not, either
        check.fail(what, f"finite bounds of at most {_LARGEST:g}", scale[:2], fix)
    if not scale.low < scale.high:
        check.fail(what, "low < high", scale[:2], "Swap them, or leave the name out and fix its value.")
    if scale.kind == "log" and scale.low <= 0:
        check.fail(what, "positive bounds on a log scale", scale[:2], "Use (low, high) if it may be 0.")
    if scale.kind == "integer" and any(bound != int(bound) or abs(bound) > 2**53 for bound in scale[:2]):
        check.fail(what, "whole bounds up to 2^53", scale[:2], "Round them, or draw their logarithm.")
    return scale


def _unit(method: str, n: int, dims: int, rng: np.random.Generator) -> np.ndarray:
    """Points of the unit cube, ``(n, dims)``."""
    from scipy.stats import qmc

    if method == "random":
        return rng.random((n, dims))
    options: dict[str, Any] = {"seed": rng}  # which scipy renamed, in its types alone, after 1.14
    if method == "latin":
        return qmc.LatinHypercube(dims, **options).random(n)
    # The whole power of two, of which the first n are the sequence's, keeps scipy from warning
    return qmc.Sobol(dims, **options).random_base2((n - 1).bit_length())[:n]


def _spread(scale: Scale, unit: np.ndarray) -> np.ndarray:
    low, high, kind = scale
    if kind == "integer":
        return int(low) + np.minimum(unit * (high - low + 1), high - low).astype(np.int64)
    if kind == "log":
        return np.clip(np.exp(np.log(low) + unit * (np.log(high) - np.log(low))), low, high)
    return np.clip(low + unit * (high - low), low, high)
