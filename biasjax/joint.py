"""What other biases can reproduce of each, over the draws: unique dimensions and who absorbs the rest.

The joint analysis of `biasjax.audit`. `biasjax.ranks` compares biases at one draw of the parameters; here
draws are joined, and models with many biases are taken window by window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from biasjax import ranks
from biasjax.probe import Model, Sample

# Rows beyond the number of entries compared, so that round-off cannot hide a rank.
_SPARE = 64


class Joint(NamedTuple):
    """Joint analysis of all biases.

    Attributes
    ----------
    unique
        For each bias the number of directions that no others reproduce.
    absorbers
        For each bias the paths of others that suffice for the rest.
    exact
        Whether all were compared at once.
    """

    unique: list[int]
    absorbers: list[tuple[str, ...]]
    exact: bool


def draws_compared(sizes: Sequence[int], draws: int) -> int:
    """Draws at which biases are compared: it costs the cube of their size."""
    return draws if sum(sizes) <= 512 else max(draws // 8, 1)


def rows_compared(sizes: Sequence[int], limit: int) -> int:
    """Jacobian rows that a comparison of biases takes at each of these draws."""
    return min(sum(sizes), max(_at_once(sizes, limit), max(sizes))) + _SPARE


def _at_once(sizes: Sequence[int], limit: int) -> int:
    """Entries compared at once: a factorisation costs the cube, so windows are smaller than one for all."""
    return limit if sum(sizes) <= limit else limit // 2


def compare(
    model: Model, samples: Sequence[Sample], dead: Sequence[np.ndarray], draws: int, limit: int
) -> Joint:
    """Find what no other bias can reproduce, and who reproduces the rest.

    Parameters
    ----------
    model, samples, dead
        The model, its Jacobian rows and its dead directions (`biasjax.probe`).
    draws, limit
        ``draws`` and ``joint_limit`` of `biasjax.audit.audit_biases`.

    Returns
    -------
    Joint
    """
    slices = model.biases.slices
    sizes = [place.stop - place.start for place in slices]
    rank = [basis.shape[0] - basis.shape[1] for basis in dead]
    order = [b for b in _use_order(model) if rank[b]]
    unique, absorbers = list(rank), [()] * len(rank)
    exact = sum(sizes[b] for b in order) <= _at_once(sizes, limit)
    runs = ranks.windows([sizes[b] for b in order], _at_once(sizes, limit)) if order else []
    samples = [sample for sample in samples[: draws_compared(sizes, draws)] if len(sample.rows)]
    runs = runs if samples else []
    for run in runs:
        members = [order[i] for i in run]
        blocks, total = [slices[b] for b in members], sum(sizes[b] for b in members)
        per_draw = [
            ranks.reproducible(
                ranks.spread(s.rows, total + _SPARE),
                blocks,
                s.noise[members].tolist(),
                who=exact or s is samples[0],
            )
            for s in samples
        ]
        fewest = min(weak for _, weak in per_draw)
        clearest = [parts for parts, weak in per_draw if weak == fewest]
        for b, first, *parts in zip(members, per_draw[0][0], *clearest, strict=True):
            # At fixed weights a narrow layer hides directions that others do not reproduce: not absorbed
            rest = ranks.common_rank([part.rest for part in parts])
            if not any(part.absorbed for part in parts):
                continue
            named = next((part.by for part in (first, *parts) if part.by), ())
            by = tuple(model.names[members[i]] for i in named)
            if rest < unique[b] or (rest == unique[b] and 0 < len(by) < len(absorbers[b])):
                unique[b], absorbers[b] = rest, by
    return Joint(unique, absorbers, exact)


def _use_order(model: Model) -> list[int]:
    """Biases in the order in which the program first uses them."""
    jaxpr = model.program.jaxpr.jaxpr
    first: dict = {}
    for i, eqn in enumerate(jaxpr.eqns):
        for atom in eqn.invars:
            if not hasattr(atom, "val"):
                first.setdefault(atom, i)
    at = [first.get(jaxpr.invars[i], len(jaxpr.eqns)) for i in model.biases.indices]
    return sorted(range(len(at)), key=at.__getitem__)
