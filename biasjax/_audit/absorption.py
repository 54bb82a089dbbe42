"""What other biases can reproduce of each, over the draws: unique dimensions and who absorbs the rest.

`biasjax._audit.nullspaces` compares biases at one draw of the parameters; here draws are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from biasjax._audit import budget, nullspaces
from biasjax._audit.evidence import USABLE, Joint
from biasjax._audit.model import Model, first_uses
from biasjax._audit.nullspaces import Reproducible
from biasjax._audit.rows import Draw, Sample


def compare(
    model: Model, draw: Draw, samples: Sequence[Sample], dead: Sequence[np.ndarray], draws: int
) -> Joint:
    """Find what no other bias can reproduce, and who reproduces the rest.

    Parameters
    ----------
    model, draw, samples, dead
        The model, its sampler, the rows it took and the dead directions (`biasjax._audit.cancellation`).
    draws
        Option of `biasjax.audit.audit_biases`.
    """
    sizes = model.biases.sizes
    rank = [basis.shape[0] - basis.shape[1] for basis in dead]
    members = [b for b in first_uses(model) if rank[b]]
    compared = [s for s in samples[: budget.draws_compared(sizes, draws)] if len(s.rows)]
    found = Joint(list(rank), [()] * len(rank), [None] * len(rank), exact=True)
    if members and compared:
        shown = _at_each(compared, members, model.biases.slices)
        _until_settled(model, draw, budget.rows_to_compare(sum(sizes)), members, shown, len(samples))
        _join(model, members, shown, found)
    return found


class _Compared(NamedTuple):
    """What others reproduce of each bias at one draw, and how many directions are too weak to tell."""

    parts: list[Reproducible]
    weak: int


def _at_each(samples: Sequence[Sample], members: Sequence[int], slices: Sequence[slice]) -> list[_Compared]:
    """Compare some biases at every draw."""
    blocks = [slices[b] for b in members]
    count = budget.rows_to_compare(sum(block.stop - block.start for block in blocks))
    return [
        _Compared(
            *nullspaces.reproducible(
                nullspaces.spread(sample.rows, count),
                blocks,
                sample.noise[members].tolist(),
            )
        )
        for sample in samples
    ]


def _until_settled(
    model: Model, draw: Draw, rows: int, members: Sequence[int], shown: list[_Compared], drawn: int
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
    """Join what the draws show of some biases."""
    for b, first, *parts in zip(members, shown[0].parts, *_clearest(shown), strict=True):
        # At fixed weights a narrow layer hides directions that others do not reproduce: not absorbed
        if not any(part.absorbed for part in parts) or first.compensation > USABLE:
            continue
        rest = nullspaces.common_rank([part.rest for part in parts])
        if rest < found.unique[b]:
            named = next((part.by for part in (first, *parts) if part.by), ())
            found.unique[b], found.compensation[b] = rest, first.compensation
            found.absorbers[b] = tuple(model.names[members[i]] for i in named)


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
