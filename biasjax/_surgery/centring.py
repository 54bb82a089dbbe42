"""Take the mean over features out of what writes into layer norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from biasjax._surgery import proofs
from biasjax._surgery.whole import Whole, in_double, is_floating, paths, replaced


def centred(given: Whole, values: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """New values of the parameters whose mean over the last axis no output minds.

    Each is shifted by random numbers, the same along the last axis, at the given inputs and at fresh ones.

    Parameters
    ----------
    given
        The model.
    values
        What has been changed of it, by path.
    seed
        Of the shifts.
    """
    run, rng = in_double(given.evaluation, given), np.random.default_rng([seed, 9])
    leaves = {path: np.asarray(x, np.float64) for path, x in paths(given.values).items() if is_floating(x)}
    leaves |= values
    places = proofs.points(given, seed, lambda values, *args: run(values, args)).values()

    def outputs(new: Mapping[str, Any]) -> list[np.ndarray]:
        return [proofs.flat(run(replaced(given.values, {**values, **new}), args)) for args in places]

    before, found = outputs({}), dict[str, np.ndarray]()
    for path, x in leaves.items():
        if path.startswith("state/") or not x.ndim or x.shape[-1] < 2:
            continue
        mean = x.mean(-1, keepdims=True)
        if np.abs(mean).max() <= np.finfo(float).eps * np.abs(x).max():
            continue
        size = 1 + np.abs(x).max()
        shifts = (size * rng.standard_normal(shape) for shape in (mean.shape, x.shape))
        alike, apart = (
            max(proofs.change(a, b) for a, b in zip(before, outputs({path: x + shift}), strict=True))
            for shift in shifts
        )
        # What may be shifted as one likes writes into nothing
        if alike <= proofs.EXACT < apart:
            found[path] = x - mean
    return found
