"""What biases of a large model do: proven near where they enter, confirmed by the whole model.

A few rows of the Jacobian show which patterns of entries do nothing, of biases and of the values at their
frontier (`biasjax._audit.patterns`); which biases make up for which others follows by linear algebra there
(`biasjax._audit.invariances`). All of it is then held to finite shifts of the whole model at draws that were
not used. What is refuted counts as alive, so that nothing alive is called dead or absorbable; but what only
patterns of another kind, or shifts that depend on data, would cancel is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import sparse

from biasjax._audit import budget, cancellation, frontiers, progress, shifts, standins
from biasjax._audit.evidence import Evidence
from biasjax._audit.findings import Shifted
from biasjax._audit.frontiers import Frontier
from biasjax._audit.points import inputs_at, rms, size_of
from biasjax._audit.rows import Sample, sampler
from biasjax._audit.shifts import Shifts


class Local(NamedTuple):
    """What is known near where biases enter: the frontier, what it and they do not mind, and rows seen."""

    front: Frontier
    minds: dict[Any, np.ndarray | None]
    dead: list[np.ndarray]
    samples: list[Sample]


def prove(shifter: Shifts, draws: int, joint: bool) -> Evidence:
    """Judge all biases of a model.

    Parameters
    ----------
    shifter
        From `biasjax._audit.shifts.prepare`.
    draws, joint
        Options of `biasjax.audit.audit_biases`.
    """
    found = local(shifter, draws)
    progress.at(f"{_biases(shifter)}: which stand in for which")
    others = standins.find(shifter, found.front, found.minds, found.dead) if joint else None
    return Evidence(found.dead, _shifted(shifter, found.samples, found.dead), others)


def local(shifter: Shifts, draws: int) -> Local:
    """Find the frontier of a model's biases and what does nothing there; parameters as in `prove`."""
    model, biases = shifter.model, _biases(shifter)
    progress.at(f"{biases}: where they meet what is not linear")
    another = [*shifter.weights(1), *inputs_at(model, shifter.draws, 1, 1)]
    front = frontiers.frontier(model, shifter.pair(0).exact.leaves, another)
    wide = frontiers.extended(model, front)
    still = jax.device_put([*map(np.zeros, front.inner.values())])
    draw = sampler(wide, shifter.draws, lambda weights: [*shifter.weights(weights), *still])
    samples: list[Sample] = []
    for count in budget.draws_proving(draws):
        progress.at(f"{biases}: rows of the Jacobian at draws {len(samples) + 1} to {count}")
        samples += [draw(w, budget.ROWS_PROVING) for w in range(len(samples), count)]
        dead, minds = frontiers.unminded(wide, front, samples)
        # A unit that few inputs switch on looks dead in few rows
        doubtful = cancellation.doubtful(samples, dead, shifter)
        if not doubtful:
            break
    for b in doubtful:
        dead[b] = dead[b][:, :0]
    return Local(front, minds, dead, samples)


def _biases(shifter: Shifts) -> str:
    return f"audit of {len(shifter.model.names)} biases"


def _shifted(shifter: Shifts, samples: Sequence[Sample], dead: Sequence[np.ndarray]) -> list[Shifted]:
    """What shifting the whole of each bias does: finite shifts of those that are dead, slopes of others."""
    model = shifter.model
    none = [basis.shape[1] == len(basis) for basis in dead]
    whole: Any = [
        sparse.eye_array(len(basis), len(basis) * gone) for basis, gone in zip(dead, none, strict=True)
    ]
    finite = shifts.each(shifter, whole, 0)
    flat = shifter.pair(0).exact.flat
    rng = np.random.default_rng([shifter.draws.seed, 6])
    first, slopes = samples[0], np.max([sample.slopes for sample in samples], 0)
    found = []
    for b, place in enumerate(model.biases.slices):
        step = size_of(flat[place]) * rng.standard_normal(place.stop - place.start)
        change = first.size * rms(first.rows[:, place] @ step) / np.sqrt(model.width)
        noise = slopes[b] * np.linalg.norm(step) / np.sqrt(model.width) + shifts.EPS
        found.append(finite[b] if none[b] else Shifted(float(change), float(noise)))
    return found
