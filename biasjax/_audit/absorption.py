"""What other biases can reproduce of each, over the draws: unique dimensions and who absorbs the rest.

`biasjax._audit.nullspaces` compares biases at one draw of the parameters; here draws are joined, and models
with many biases are taken window by window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from biasjax._audit import budget, nullspaces
from biasjax._audit.model import Model
from biasjax._audit.nullspaces import Reproducible
from biasjax._audit.rows import Draw, Sample


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
        The model, its sampler, the rows it took and the dead directions (`biasjax._audit.cancellation`).
    draws, limit
        ``draws`` and ``joint_limit`` of `biasjax.audit.audit_biases`.
    """
    sizes = model.biases.sizes
    rank = [basis.shape[0] - basis.shape[1] for basis in dead]
    order = [b for b in _use_order(model) if rank[b]]
    at_once = budget.at_once(sizes, limit)
    exact = sum(sizes[b] for b in order) <= at_once
    compared = [s for s in samples[: budget.draws_compared(sizes, draws)] if len(s.rows)]
    found = Joint(list(rank), [()] * len(rank), exact)
    for run in budget.windows([sizes[b] for b in order], at_once) if compared else []:
        members = [order[i] for i in run]
        shown = _at_each(compared, members, model.biases.slices, everyone=exact)
        if exact:
            rows = [budget.rows_compared(sizes, limit)] * len(sizes)
            _until_settled(model, draw, rows, members, shown, len(samples))
        _join(model, members, shown, found)
    return found


class _Compared(NamedTuple):
    """What others reproduce of each bias at one draw, and how many directions are too weak to tell."""

    parts: list[Reproducible]
    weak: int


def _at_each(
    samples: Sequence[Sample], members: Sequence[int], slices: Sequence[slice], everyone: bool = False
) -> list[_Compared]:
    """Compare some biases at every draw; name who absorbs them at the first, or with everyone at all."""
    blocks = [slices[b] for b in members]
    count = budget.rows_to_compare(sum(block.stop - block.start for block in blocks))
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


def _until_settled(
    model: Model, draw: Draw, rows: list[int], members: Sequence[int], shown: list[_Compared], drawn: int
) -> None:
    """Extend ``shown`` by as many draws again while these show something new."""
    while budget.may_draw_more(model.biases.sizes, len(shown)) and not _settled(shown):
        more = [draw(w, rows) for w in range(drawn, drawn + len(shown))]
        drawn += len(more)
        more = [sample for sample in more if len(sample.rows)]
        if not more:
            break
        shown += _at_each(more, members, model.biases.slices)


def _join(model: Model, members: Sequence[int], shown: Sequence[_Compared], found: Joint) -> None:
    """Join what the draws show of some biases, where it says more than ``found`` does."""
    for b, first, *parts in zip(members, shown[0].parts, *_clearest(shown), strict=True):
        # At fixed weights a narrow layer hides directions that others do not reproduce: not absorbed
        if not any(part.absorbed for part in parts):
            continue
        rest = nullspaces.common_rank([part.rest for part in parts])
        named = next((part.by for part in (first, *parts) if part.by), ())
        by = tuple(model.names[members[i]] for i in named)
        if rest < found.unique[b] or (rest == found.unique[b] and 0 < len(by) < len(found.absorbers[b])):
            found.unique[b], found.absorbers[b] = rest, by


def _clearest(shown: Sequence[_Compared]) -> list[list[Reproducible]]:
    """Draws with the fewest weak directions."""
    fewest = min(one.weak for one in shown)
    return [one.parts for one in shown if one.weak == fewest]


def _settled(shown: Sequence[_Compared]) -> bool:
    """Whether the last draw showed nothing new: behind a narrow layer each shows a few directions only."""
    for parts in zip(*_clearest(shown), strict=True):
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
