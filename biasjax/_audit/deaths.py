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
) -> list[tuple[Death, ...]]:
    r"""Find the equations at which shifts die, in one compiled program.

    Parameters
    ----------
    jaxpr
        Program in float64 without calls, as `biasjax._jaxpr.double.program` gives it.
    leaves
        Base inputs.
    shifted
        For each input in ``which`` its shifted copies, (shifts, sizes, \*shape). A shift dies only where all
        its sizes do.
    which
        Inputs that are shifted.

    Returns
    -------
    list of tuple of Death
        One tuple per shift, in the order of the program, each place once. A death at a comparison or a
        rounding to integers counts only where there is no other.
    """
    found = measure(jaxpr, leaves, shifted, which)
    return [_deaths(found, shift) for shift in range(len(shifted[0]))]


def _deaths(found: Sequence[Measured], shift: int) -> tuple[Death, ...]:
    hits = [
        met
        for measured in found
        for met in measured.equations
        if all(map(_died, [met] * len(measured.step[shift]), measured.step[shift], measured.size[shift]))
    ]
    places = [met for met in hits if met.floating] or hits
    return tuple(dict.fromkeys(Death(met.primitive, met.module, met.where) for met in places))


def _died(met: Met, step: Any, size: Any) -> bool:
    ins, outs = list(met.ins), list(met.outs)
    differ = (step[..., ins] > _DIFFER * size[..., ins]).any(-1)
    # What is left of the difference of x + 3 and 3 has the round-off of 3, not of itself
    scale = np.maximum(size[..., outs], 1e-6 * step[..., ins].max(-1, keepdims=True))
    equal = np.all(step[..., outs] <= _EQUAL * scale, axis=-1)
    # In a loop: whenever it gets there
    return bool(np.any(differ) and np.all(equal | ~differ))
