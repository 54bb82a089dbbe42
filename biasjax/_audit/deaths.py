"""Where a shift of a bias dies: equations whose inputs differ and whose outputs do not.

Nothing here knows what a norm or a softmax is: a shift that does not reach the output must meet an equation
at which a base copy and a shifted copy of the program become equal again, and that equation has a name stack
and a source line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core as jex

from biasjax._audit.findings import Death
from biasjax._jaxpr.copies import Measured, Met, measure

# Inputs differ above the first, outputs are equal below the second (relative); float64 round-off is 1e-16.
_DIFFER, _EQUAL = 1e-7, 1e-10


def find(
    jaxpr: jex.ClosedJaxpr, leaves: Sequence, shifted: Sequence[np.ndarray], which: Sequence[int]
) -> list[dict[int, tuple[Death, ...]]]:
    r"""Find the equations at which shifts die, in one compiled program.

    Parameters
    ----------
    jaxpr
        Program in float64 without calls, as `biasjax._jaxpr.double.program` gives it.
    leaves
        Base inputs.
    shifted
        For each input in ``which`` its shifted copies, (passes, sizes, \*shape). A shift dies only where all
        its sizes do. In one pass several inputs may be shifted: each dies where what differs leads from it.
    which
        Inputs that are shifted, in their order.

    Returns
    -------
    list of dict
        For each pass, by the number of each input in ``which`` that is shifted in it, where its shift dies:
        in the order of the program, each place once. A death at a comparison or a rounding to integers counts
        only where there is no other.
    """
    moved = [
        [i for i, copies in enumerate(shifted) if (copies[p] != leaves[which[i]]).any()]
        for p in range(len(shifted[0]))
    ]
    found = measure(jaxpr, leaves, shifted, which)
    return [
        {i: _deaths(found, p, i if len(sources) > 1 else None) for i in sources}
        for p, sources in enumerate(moved)
    ]


def _deaths(found: Sequence[Measured], shift: int, source: int | None) -> tuple[Death, ...]:
    """Where one pass dies, or in it what differs because of one input of the program (the last)."""
    hits = []
    for measured in found if source is None else found[-1:]:
        step, size = measured.step[shift], measured.size[shift]
        reached = None if source is None else {source}
        for met in measured.equations:
            if reached is None or not reached.isdisjoint(met.ins):
                if all(map(_died, [met] * len(step), step, size)):
                    hits.append(met)
                elif reached is not None and _differ(met.ins, step, size).any():
                    reached.update(met.outs)
    places = [met for met in hits if met.floating] or hits
    return tuple(dict.fromkeys(Death(met.primitive, met.module, met.where) for met in places))


def _died(met: Met, step: Any, size: Any) -> bool:
    ins, outs = list(met.ins), list(met.outs)
    differ = _differ(ins, step, size)
    # What is left of the difference of x + 3 and 3 has the round-off of 3, not of itself
    scale = np.maximum(size[..., outs], 1e-6 * step[..., ins].max(-1, keepdims=True))
    equal = np.all(step[..., outs] <= _EQUAL * scale, axis=-1)
    # In a loop: whenever it gets there
    return bool(np.any(differ) and np.all(equal | ~differ))


def _differ(values: Sequence[int], step: Any, size: Any) -> Any:
    """Whether some of the values do."""
    some = list(values)
    return (step[..., some] > _DIFFER * size[..., some]).any(-1)
