"""Which directions of each bias are dead: Jacobian rows at as many draws as it takes, and finite shifts.

`biasjax._audit.rows` takes rows at one draw of the parameters, `biasjax._audit.shifts` shifts biases; here they check
each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from biasjax._audit import rows, shifts
from biasjax._audit.absorption import draws_compared, rows_compared
from biasjax._audit.model import Model
from biasjax._audit.rows import Draw, Sample
from biasjax._audit.shifts import Shifted, Shifts

# A wide layer before few outputs shows them a few directions at each draw of the parameters only.
_MANY_DRAWS = 16
# Inputs at each draw of the parameters of a small model: few may reach a branch, or a unit's other piece.
_INPUTS = 16
# A draw of the parameters that is never sampled: what is dead there, too, was not fitted to the samples.
_FRESH = 2**20


def sample(
    shifter: Shifts, draw: Draw, wanted: Sequence[np.ndarray], evidence: Sequence[Shifted]
) -> tuple[list[Sample], list[np.ndarray]]:
    """Jacobian rows and dead directions, held to finite shifts.

    Parameters
    ----------
    shifter
        From `biasjax._audit.shifts.prepare`.
    draw
        From `biasjax._audit.rows.sampler`.
    wanted
        From `rows_wanted`.
    evidence
        What shifting the whole of each bias does.

    Returns
    -------
    list of Sample
        One per draw of the parameters.
    list of array
        For each bias an orthonormal basis (size, dead).
    """
    model = shifter.model
    samples = [draw(w, rows.tolist()) for w, rows in enumerate(wanted)]
    dead = _held_to_shifts(shifter, draw, samples, evidence)
    frozen = _frozen(shifter, dead, evidence)
    if frozen:
        as_they_are = model._replace(pieces=lambda flat, leaves: model.outputs(flat, leaves[:-1]))
        plainly = rows.sampler(as_they_are, shifter.draws)
        plain = rows.dead_directions(model, [plainly(w, rows.tolist()) for w, rows in enumerate(wanted)])
        dead = [plain[b] if b in frozen else basis for b, basis in enumerate(dead)]
    return samples, dead


def _held_to_shifts(shifter: Shifts, draw: Draw, samples: list, evidence) -> list[np.ndarray]:
    """Dead directions; extends ``samples`` while finite shifts along these contradict the rows.

    Behind a narrow linear layer a draw shows a few directions of a bias only, others at each draw.
    """
    while True:
        dead = rows.dead_directions(shifter.model, samples)
        doubtful = _doubtful(samples, dead, shifter, evidence)
        if not doubtful:
            return dead
        before = [dead[b].shape[1] for b in doubtful]
        samples += [draw(w, [1] * len(dead)) for w in range(len(samples), 2 * len(samples))]
        dead = rows.dead_directions(shifter.model, samples)
        if before == [dead[b].shape[1] for b in doubtful]:
            break
    for b in doubtful:
        if dead[b].shape[1]:
            slope = max(sample.slopes[b] for sample in samples)
            dead[b] = shifts.survivors(shifter, b, dead[b], slope)
    return dead


def _frozen(shifter: Shifts, dead: Sequence[np.ndarray], evidence: Sequence[Shifted]) -> list[int]:
    """Biases with a derivative that no shift of the whole moves: on pieces that nothing reaches."""
    asked = [
        np.eye(len(basis)) if basis.shape[1] < len(basis) and not alone.alive else basis[:, :0]
        for basis, alone in zip(dead, evidence, strict=True)
    ]
    if not any(whole.shape[1] for whole in asked):
        return []
    again = shifts.each(shifter, asked, _FRESH)
    return [b for b, whole in enumerate(asked) if whole.shape[1] and not again[b].alive]


def rows_wanted(model: Model, draws: int, joint_limit: int) -> list[np.ndarray]:
    """Rows wanted for each bias at each draw of the parameters.

    Parameters
    ----------
    model
        From `biasjax._audit.model.model`.
    draws, joint_limit
        Those of `biasjax.audit.audit_biases`; a limit of 0 for no joint analysis.

    Returns
    -------
    list of array
    """
    sizes = np.array([place.stop - place.start for place in model.biases.slices])
    unknowns = sizes.copy()
    if sum(sizes) > rows.LARGE:
        # Small biases need few rows, and often lie in early layers, the dearest to go back to
        for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 1.0)):
            some = (sizes > low * max(sizes)) & (sizes <= high * max(sizes))
            unknowns[some] = max(sizes[some], default=0)
    else:
        unknowns[:] = max(sizes)
    counts = unknowns + rows.SPARE
    calls = -(-counts // model.width)
    least = draws if sum(sizes) <= rows.LARGE else max(draws // 2, 1)
    most = np.maximum(least, -(-calls // -(-calls // _MANY_DRAWS)))
    plan = [np.where(w < most, -(-counts // most), 0) for w in range(max(most))]
    if sum(sizes) <= rows.LARGE:
        plan = [np.maximum(wanted, _INPUTS * rows.ROWS) for wanted in plan]
    if joint_limit:
        together = rows_compared(sizes.tolist(), joint_limit)
        first = draws_compared(sizes.tolist(), draws)
        plan[:first] = [np.maximum(wanted, together) for wanted in plan[:first]]
    return plan


def _doubtful(samples, dead, shifter, evidence) -> list[int]:
    """Biases that a finite shift along a dead direction brings to life."""
    slopes = np.max([sample.slopes for sample in samples], 0)
    moved = any(shifts.together(shifter, dead, weights, slopes).alive for weights in (0, _FRESH))
    # One by one only where they move something all at once, or a wholly dead one did by itself
    asked = [
        basis if moved or (basis.shape[1] == len(basis) and alone.alive) else basis[:, :0]
        for basis, alone in zip(dead, evidence, strict=True)
    ]
    if not any(basis.shape[1] for basis in asked):
        return []
    shifted = [shifts.each(shifter, asked, weights, slopes) for weights in (0, _FRESH)]
    return [b for b, pair in enumerate(zip(*shifted, strict=True)) if any(shift.alive for shift in pair)]


def basis_name(vectors: np.ndarray) -> str:
    """Name of a subspace by its projector, which does not depend on the basis."""
    n, k = vectors.shape
    projector = vectors @ vectors.T
    if n % k == 0:
        group = np.arange(n) // (n // k)
        alike = (group[:, None] == group) * (k / n)
        if np.allclose(projector, alike, atol=1e-6):
            return "uniform" if k == 1 else "per group"
    entries = np.diag(projector).round()
    return "entries" if np.allclose(projector, np.diag(entries), atol=1e-6) else "other"
