"""Fold all norms of a model, each held to the whole model before the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from biasjax._audit.stretches import Read, Stretch
from biasjax._surgery import proofs
from biasjax._surgery.folding import Fold, Refused
from biasjax._surgery.numbered import Numbered, numbered
from biasjax._surgery.receipts import Change
from biasjax._surgery.whole import Whole, in_double, replaced

# fold(program, stretch, values, number of parameters)
Folding = Callable[[Read, Stretch, Sequence[np.ndarray], int], Fold]


def folded(
    given: Whole, chosen: Callable[[Numbered, Stretch], str | None], ways: Sequence[Folding]
) -> tuple[dict[str, np.ndarray], list[Change]]:
    """Fold what can be folded; give new values by path, and what was done.

    Parameters
    ----------
    given
        The model.
    chosen
        Why a stretch cannot be folded, "" if nothing speaks against it, None if it is no norm.
    ways
        Folds to try, in order.
    """
    model = numbered(given)
    run = in_double(given.evaluation, given)

    def outputs(values: Sequence) -> np.ndarray:
        return proofs.flat(run(replaced(given.values, model.together(given, values)), given.args))

    before, values = outputs(model.values), list[Any](model.values)
    changes: list[Change] = []
    for stretch in model.read.stretches:
        why = chosen(model, stretch)
        if why is None:
            continue
        with jax.enable_x64(True):
            fold = why or _tried(model, stretch, values, ways)
        if isinstance(fold, str):
            changes.append(Change(model.layer(stretch), "kept", why=fold))
            continue
        new: list[Any] = [fold.values.get(i, x) for i, x in enumerate(values)]
        off = proofs.change(before, outputs(new))
        if off > proofs.EXACT:
            changes.append(Change(model.layer(stretch), "kept", why=f"outputs would change by {off:.2g}"))
            continue
        values = new
        size = sum(int(np.size(values[i])) for i in fold.idle)
        changes.append(Change(model.layer(stretch), "folded", tuple(model.names[i] for i in fold.into), size))
    return model.together(given, values), changes


def _tried(model: Numbered, stretch: Stretch, values: Sequence, ways: Sequence[Folding]) -> Fold | str:
    if stretch.trouble:
        return stretch.trouble
    reasons: list[str] = []
    for way in ways:
        try:
            return way(model.read, stretch, values, model.params)
        except Refused as why:
            reasons.append(str(why))
    return ", and ".join(dict.fromkeys(reasons))


def batch_norms(model: Numbered, stretch: Stretch) -> str | None:
    """`folded` of batch norms: state scales and is added."""
    does = {model.read.scales(stretch, leaf) for leaf in model.state(stretch)}
    if not does:
        return None
    return "" if len(does) > 1 else "data takes part in its scale or bias (a conditional norm)"


def layer_norms(model: Numbered, stretch: Stretch) -> str | None:
    """`folded` of layer and RMS norms: parameters scale and are added to what data has divided."""
    if model.state(stretch):
        return None
    made = model.read.made.get(stretch.source, -1)
    name = model.read.eqns[made].primitive.name if made >= 0 else ""
    return "" if stretch.beside or name in ("mul", "div") else None
