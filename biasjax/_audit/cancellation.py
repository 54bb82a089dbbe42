"""Which directions of each bias are dead, and where they die.

Derivatives at as many draws as it takes are held to finite shifts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from biasjax._audit import budget, deaths, nullspaces, shifts
from biasjax._audit.findings import Death, Shifted
from biasjax._audit.model import Model, first_uses
from biasjax._audit.rows import Draw, Sample, sampler
from biasjax._audit.shifts import Shifts

# A draw of the parameters that is never sampled: what is dead there, too, was not fitted to the samples.
FRESH = 2**20


def sample(
    shifter: Shifts, draw: Draw, wanted: Sequence[int], evidence: Sequence[Shifted]
) -> tuple[list[Sample], list[np.ndarray]]:
    """Jacobian rows and dead directions, held to finite shifts.

    Parameters
    ----------
    shifter
        From `biasjax._audit.shifts.prepare`.
    draw, wanted
        Takes rows, and how many at each draw of the parameters.
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
    samples = [draw(w, rows) for w, rows in enumerate(wanted)]
    dead = _held_to_shifts(shifter, draw, samples, evidence)
    frozen = _frozen(shifter, dead, evidence)
    if frozen:
        as_they_are = model._replace(pieces=lambda flat, leaves: model.outputs(flat, leaves[:-1]))
        plainly = sampler(as_they_are, shifter.draws, shifter.weights)
        plain = dead_directions(model, [plainly(w, rows) for w, rows in enumerate(wanted)])
        dead = [plain[b] if b in frozen else basis for b, basis in enumerate(dead)]
    return samples, dead


def dead_directions(model: Model, samples: Sequence[Sample]) -> list[np.ndarray]:
    """For each bias an orthonormal basis (size, dead) of the directions in which no draw has a derivative."""
    dead = []
    for b, (i, place) in enumerate(zip(model.biases.indices, model.biases.slices, strict=True)):
        size = place.stop - place.start
        if not model.program.used[i]:
            dead.append(np.eye(size))
            continue
        asked = [sample.in_noise(b, place) for sample in samples if len(sample.rows)]
        count = budget.rows_of_sample(size, len(asked))
        rows = [nullspaces.levelled(nullspaces.spread(own, count)) for own in asked]
        dead.append(nullspaces.null_basis(np.concatenate(rows)) if rows else np.eye(size))
    return dead


def places(shifter: Shifts, dead: Sequence[np.ndarray]) -> list[tuple[Death, ...]]:
    """For each bias the equations at which a random dead shift, large or small, comes to nothing."""
    model = shifter.model
    used = [model.program.used[i] for i in model.biases.indices]
    asked = [b for b in first_uses(model) if dead[b].shape[1] and used[b]]
    found: list[tuple[Death, ...]] = [()] * len(dead)
    passes = budget.death_passes(model.biases.total, len(asked))
    # Those of one pass lie far apart, so that one is dead where the next one begins
    once = _followed(shifter, dead, [asked[p::passes] for p in range(passes)])
    again = [[b] for b in asked if passes < len(asked) and not once[b]]
    for b, where in (once | _followed(shifter, dead, again)).items():
        found[b] = where
    return found


def _followed(
    shifter: Shifts, dead: Sequence[np.ndarray], passes: Sequence[Sequence[int]]
) -> dict[int, tuple[Death, ...]]:
    """Where dead shifts of some biases die, those of a pass shifted at once."""
    if not passes:
        return {}
    model, at = shifter.model, shifter.pair(0).exact
    flat, leaves = at.flat, at.leaves
    rng = np.random.default_rng([shifter.draws.seed, 4])
    sizes = budget.death_shifts(flat.size)
    shifted = np.tile(flat, (len(passes), len(sizes), 1))
    for row, some in zip(shifted, passes, strict=True):
        for b in some:
            direction = dead[b] @ rng.standard_normal(dead[b].shape[1])
            row[:, model.biases.slices[b]] += np.outer(sizes, direction / np.sqrt(np.mean(direction**2)))
    copies = [
        shifted[..., place].reshape(len(passes), len(sizes), *shape)
        for place, shape in zip(model.biases.slices, model.biases.shapes, strict=True)
    ]
    where = deaths.find(model.program.jaxpr, leaves, copies, model.biases.indices)
    return {b: places for one in where for b, places in one.items()}


def basis_name(vectors: np.ndarray) -> str:
    """Name of a subspace (`Basis.name`) by its projector, which does not depend on the basis.

    Examples
    --------
    >>> basis_name(np.full((4, 1), 0.5)), basis_name(np.eye(4)[:, 1:3])
    ('uniform', 'entries')
    """
    n, k = vectors.shape
    projector = vectors @ vectors.T
    if n % k == 0:
        group = np.arange(n) // (n // k)
        alike = (group[:, None] == group) * (k / n)
        if np.allclose(projector, alike, atol=1e-6):
            return "uniform" if k == 1 else "per group"
    entries = np.diag(projector).round()
    return "entries" if np.allclose(projector, np.diag(entries), atol=1e-6) else "other"


def _held_to_shifts(
    shifter: Shifts, draw: Draw, samples: list[Sample], evidence: Sequence[Shifted]
) -> list[np.ndarray]:
    """Dead directions; extends ``samples`` while finite shifts along these contradict the rows.

    Behind a narrow linear layer a draw shows a few directions of a bias only, others at each draw.
    """
    while True:
        dead = dead_directions(shifter.model, samples)
        found = doubtful(samples, dead, shifter, evidence)
        if not found:
            return dead
        before = [dead[b].shape[1] for b in found]
        samples += [draw(w, 1) for w in range(len(samples), 2 * len(samples))]
        dead = dead_directions(shifter.model, samples)
        if before == [dead[b].shape[1] for b in found]:
            break
    for b in found:
        if dead[b].shape[1]:
            slope = max(sample.slopes[b] for sample in samples)
            dead[b] = shifts.survivors(shifter, b, dead[b], slope)
    return dead


def doubtful(
    samples: Sequence[Sample],
    dead: Sequence[np.ndarray],
    shifter: Shifts,
    evidence: Sequence[Shifted] | None = None,
) -> list[int]:
    """Biases that a finite shift along a dead direction brings to life."""
    slopes = np.max([sample.slopes for sample in samples], 0)[: len(dead)]
    evidence = evidence or [shifts.NONE] * len(dead)
    moved = any(shifts.together(shifter, dead, weights, slopes).alive for weights in (0, FRESH))
    # One by one only where they move something all at once, or a wholly dead one did by itself
    asked = [
        basis if moved or (basis.shape[1] == len(basis) and alone.alive) else basis[:, :0]
        for basis, alone in zip(dead, evidence, strict=True)
    ]
    if not any(basis.shape[1] for basis in asked):
        return []
    shifted = [shifts.each(shifter, asked, weights, slopes) for weights in (0, FRESH)]
    return [b for b, pair in enumerate(zip(*shifted, strict=True)) if any(shift.alive for shift in pair)]


def _frozen(shifter: Shifts, dead: Sequence[np.ndarray], evidence: Sequence[Shifted]) -> list[int]:
    """Biases with a derivative that no shift of the whole moves: on pieces that nothing reaches."""
    asked = [
        np.eye(len(basis)) if basis.shape[1] < len(basis) and not alone.alive else basis[:, :0]
        for basis, alone in zip(dead, evidence, strict=True)
    ]
    if not any(whole.shape[1] for whole in asked):
        return []
    again = shifts.each(shifter, asked, FRESH)
    return [b for b, whole in enumerate(asked) if whole.shape[1] and not again[b].alive]
