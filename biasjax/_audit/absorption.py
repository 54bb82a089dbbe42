"""What other biases can reproduce of each, over the draws: unique dimensions and who absorbs the rest.

The joint analysis of `biasjax.audit`. `biasjax._audit.nullspaces` compares biases at one draw of the parameters; here
draws are joined, and models with many biases are taken window by window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from biasjax._audit import nullspaces
from biasjax._audit.model import Model
from biasjax._audit.rows import Draw, Sample

# Rows beyond the number of entries compared, so that round-off cannot hide a rank.
_SPARE = 64
# Draws at most of more than a few hundred entries: each takes seconds.
_MOST_DRAWS = 16


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
    """Draws at which biases are compared at first: it costs the cube of their size."""
    return draws if _few(sizes) else max(draws // 4, 1)


def rows_compared(sizes: Sequence[int], limit: int) -> int:
    """Jacobian rows that a comparison of biases takes at each of these draws."""
    return min(sum(sizes), max(_at_once(sizes, limit), max(sizes))) + _SPARE


def _few(sizes: Sequence[int]) -> bool:
    return sum(sizes) <= 512


def _at_once(sizes: Sequence[int], limit: int) -> int:
    """Entries compared at once: a factorisation costs the cube, so windows are smaller than one for all."""
    return limit if sum(sizes) <= limit else limit // 2


def compare(
    model: Model,
    draw: Draw,
    samples: Sequence[Sample],
    dead: Sequence[np.ndarray],
    draws: int,
    limit: int,
) -> Joint:
    """Find what no other bias can reproduce, and who reproduces the rest.

    Parameters
    ----------
    model, draw, samples, dead
        The model, its sampler, the rows it took and the dead directions (`biasjax._audit.rows`).
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
    runs = nullspaces.windows([sizes[b] for b in order], _at_once(sizes, limit)) if order else []
    compared = [sample for sample in samples[: draws_compared(sizes, draws)] if len(sample.rows)]
    drawn = len(samples)
    for run in runs if compared else []:
        members = [order[i] for i in run]
        found = _at_each(compared, members, slices, everyone=exact)
        while exact and (_few(sizes) or len(found) < _MOST_DRAWS) and not _settled(found):
            rows = [rows_compared(sizes, limit)] * len(sizes)
            more = [draw(w, rows) for w in range(drawn, drawn + len(found))]
            drawn += len(more)
            more = [sample for sample in more if len(sample.rows)]
            if not more:
                break
            found += _at_each(more, members, slices)
        for b, first, *parts in zip(members, found[0].parts, *_clearest(found), strict=True):
            # At fixed weights a narrow layer hides directions that others do not reproduce: not absorbed
            if not any(part.absorbed for part in parts):
                continue
            rest = nullspaces.common_rank([part.rest for part in parts])
            named = next((part.by for part in (first, *parts) if part.by), ())
            by = tuple(model.names[members[i]] for i in named)
            if rest < unique[b] or (rest == unique[b] and 0 < len(by) < len(absorbers[b])):
                unique[b], absorbers[b] = rest, by
    return Joint(unique, absorbers, exact)


class _Compared(NamedTuple):
    """What others reproduce of each bias at one draw, and how many directions are too weak to tell."""

    parts: list[nullspaces.Reproducible]
    weak: int


def _at_each(
    samples: Sequence[Sample], members: Sequence[int], slices: Sequence[slice], everyone: bool = False
) -> list[_Compared]:
    """Compare some biases at every draw; name who absorbs them at the first, or with everyone at all."""
    blocks = [slices[b] for b in members]
    count = sum(block.stop - block.start for block in blocks) + _SPARE
    return [
        _Compared(
            *nullspaces.reproducible(
                nullspaces.spread(sample.rows, count),
                blocks,
                sample.noise[members].tolist(),
                everyone or not i,
            )
        )
        for i, sample in enumerate(samples)
    ]


def _clearest(found: Sequence[_Compared]) -> list[list[nullspaces.Reproducible]]:
    """Draws with the fewest weak directions."""
    fewest = min(one.weak for one in found)
    return [one.parts for one in found if one.weak == fewest]


def _settled(found: Sequence[_Compared]) -> bool:
    """Whether the last draw showed nothing new: behind a narrow layer each shows a few directions only."""
    for parts in zip(*_clearest(found), strict=True):
        before, now = (
            nullspaces.common_rank([p.rest for p in some]) for some in (parts[:-1] or parts, parts)
        )
        if any(part.absorbed for part in parts) and before < now:
            return False
    return True


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
