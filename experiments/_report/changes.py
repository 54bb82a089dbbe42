"""What two folders of runs say differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments._report.runs import Record
from experiments.claims import Claim

_SAME = 1e-3  # of what was measured, where nothing scatters


class Change(NamedTuple):
    """A claim that another run judged, or measured, differently.

    Attributes
    ----------
    experiment, name
        Of the claim.
    before, after
        Verdict and measured value; None where the claim does not stand.
    why
        "verdict", "measured", "new" or "gone".
    """

    experiment: str
    name: str
    before: Claim | None
    after: Claim | None
    why: str


def changes(records: Sequence[Record], against: Mapping[str, Record]) -> list[Change]:
    """Claims of runs that differ from those of others, by experiment and name.

    A measured value differs where it is further away than both intervals together, or by more than a
    thousandth where nothing scatters. Of an experiment without claims on one side nothing is said here.
    """
    found = []
    for record in records:
        other = against.get(record.name)
        if other is None or not other.claims or not record.claims:
            continue
        before, after = ({claim.name: claim for claim in one.claims} for one in (other, record))
        for name in dict.fromkeys((*after, *before)):
            why = _difference(before.get(name), after.get(name))
            if why:
                found.append(Change(record.name, name, before.get(name), after.get(name), why))
    return found


def _difference(before: Claim | None, after: Claim | None) -> str:
    """Why a claim counts as changed; empty if it does not.

    Examples
    --------
    >>> from experiments.claims import at_most
    >>> _difference(at_most("a", "", 1.0, 0.5), at_most("a", "", 1.0, 0.6, interval=0.2))
    ''
    >>> _difference(at_most("a", "", 1.0, 0.5), at_most("a", "", 1.0, 1.5))
    'verdict'
    """
    if before is None or after is None:
        return "new" if before is None else "gone"
    if before.verdict != after.verdict:
        return "verdict"
    allowed = before.interval + after.interval or _SAME * abs(before.measured)
    both_nan = before.measured != before.measured and after.measured != after.measured
    return "" if both_nan or abs(before.measured - after.measured) <= allowed else "measured"
