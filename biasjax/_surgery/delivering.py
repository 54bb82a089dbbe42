"""Values in a model's own dtypes, proven, as the model and receipt that an operation returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from biasjax import check
from biasjax._audit.pure import Pure
from biasjax._surgery import proofs
from biasjax._surgery.receipts import Change, Receipt
from biasjax._surgery.whole import Whole, like, paths, replaced


def proven(
    what: str, given: Whole, new: dict[str, np.ndarray], changes: Sequence[Change], seed: int, train: bool
) -> tuple[Pure, Receipt]:
    """The model with new values, in its own dtypes, and the receipt; raise if outputs change."""
    if not new:
        return given.pure, Receipt(tuple(changes), ())
    leaves = paths(given.values)
    rounded = {path: like(leaves[path], value) for path, value in new.items()}
    exact, rounded = replaced(given.values, new), replaced(given.values, rounded)
    errors = proofs.errors(given, exact, rounded, seed, train)
    proofs.refuse_if_changed(what, errors)
    return given.model(rounded), Receipt(tuple(changes), errors)


def dropped(given: Whole, new: Pure, gone: Sequence[str]) -> Pure:
    """The model with None for some biases, if it computes the same with them."""
    values = replaced({"params": new.params, "state": given.values["state"]}, dict.fromkeys(gone))
    without = new._replace(params=values["params"])
    if not agree(new, without, given.args[:-1]):
        fix = 'Take how="zero", and leave the biases out of the model (use_bias=False).'
        check.fail("remove_biases", "a model that runs with None for a bias", "one that does not", fix)
    return without


def retied(
    given: Whole, path: str, action: str, same: np.ndarray, shapes: Sequence[np.ndarray], seed: int
) -> tuple[Pure, Receipt]:
    """The model with a bias of the first of other shapes that it runs with, and what outputs change by.

    Parameters
    ----------
    given, path, action
        The model, and what is done with which of its biases.
    same
        Values of the same shape, which are compared.
    shapes
        The same values in the shapes to try.
    seed
        Of the fresh inputs.
    """
    leaf = paths(given.values)[path]
    exact, rounded = (replaced(given.values, {path: x}) for x in (same, like(leaf, same)))
    errors = proofs.errors(given, exact, rounded, seed)
    worst = max(one.change for one in errors if one.precision == "float64")
    new = given.model(rounded)
    others = [given.model(replaced(given.values, {path: like(leaf, x)})) for x in shapes]
    found = next((one for one in others if agree(new, one, given.args[:-1])), None)
    if found is None and action == "untied":
        fix = "Make it broadcast the bias."
        check.fail("untie", "a model that runs with a bias per position", "one that does not", fix)
    size = int(np.size(leaf)) - shapes[0].size if action == "tied" and found else 0
    why = f"outputs change by {worst:.2g}" if worst > proofs.EXACT else ""
    return found or new, Receipt((Change(path, action, (), size, why),), errors)


def agree(one: Pure, other: Pure, args: Any) -> bool:
    """Whether the second model runs, too, and gives the same outputs in both modes, to rounding."""
    try:
        outs = [jax.tree.leaves(_both_modes(pure, args)) for pure in (one, other)]
    except Exception:
        return False
    return len(outs[0]) == len(outs[1]) and all(
        np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)
        for a, b in zip(*outs, strict=True)
    )


def _both_modes(pure: Pure, args: Any) -> list[Any]:
    return [pure.apply(pure.params, pure.state, *args, train=train)[0] for train in (False, True)]
