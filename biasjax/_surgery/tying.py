"""One bias for all positions, or one for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from biasjax import check
from biasjax._surgery.numbered import numbered
from biasjax._surgery.whole import Whole, paths


def tied(given: Whole, path: str, axis: int) -> np.ndarray:
    """Mean of a bias over all axes but that of the channels, which keep length one."""
    leaf = _leaf("tie", given, path)
    if leaf.ndim < 2:
        fix = "A bias of one axis is tied already."
        check.fail("tie", f"one bias per position and channel at {path!r}", f"shape {leaf.shape}", fix)
    others = tuple(a for a in range(leaf.ndim) if a != axis % leaf.ndim)
    return np.asarray(leaf, np.float64).mean(others, keepdims=True)


def positions(given: Whole, path: str) -> tuple[int, ...]:
    """Shape of what a bias is added to, without the batch."""
    leaf = _leaf("untie", given, path)
    model = numbered(given)
    read, names = model.read, enumerate(model.names)
    uses = [step for i, name in names if name.partition("[")[0] == path for step in read.uses[i]]
    shape = read.eqns[uses[0]].outvars[0].aval.shape[1:] if len(uses) == 1 and uses[0] >= 0 else ()
    added = uses and uses[0] >= 0 and read.eqns[uses[0]].primitive.name in ("add", "add_any")
    if len(uses) != 1 or not added or np.prod(shape) % leaf.size:
        fix = "Only a bias that is added to data in one place can be one for each position."
        check.fail(
            "untie", f"a bias that is added to data once at {path!r}", f"one used {len(uses)} times", fix
        )
    return shape


def _leaf(what: str, given: Whole, path: str) -> Any:
    known = {p: leaf for p, leaf in paths(given.values).items() if not p.startswith("state/")}
    if path not in known:
        check.choice(what, path, known)
    return known[path]
