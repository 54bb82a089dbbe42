"""What is said of one finding: why, and what to do about it in the words of its framework."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from biasjax._audit.findings import Basis, Finding, Made

# More are counted, not named
_NAMED = 3
# Layers that compute query, key and value at once, in this order
_FUSED = re.compile(r"(.*_)?(w?qkv|c_attn|in_proj|query_key_value)(_.*)?", re.IGNORECASE)
# Takes the names of those that shall have a bias
_TAKES_NAMES = "biasjax.attention.attention_init"


def why(finding: Finding) -> str:
    """Reasons in a few words: which directions die where, and who absorbs the others."""
    absorbed = f"absorbed by {', '.join(finding.absorbed_by)}" if finding.absorbed_by else ""
    return "; ".join(filter(None, [death(finding), absorbed]))


def death(finding: Finding) -> str:
    """Which directions die, and the first place where they do."""
    parts = [f"{finding.basis.name} ({finding.size - finding.rank})"] if finding.basis else []
    return "; ".join([*parts, *([f"dies at {place_of_death(finding)}"] if finding.deaths else [])])


def place_of_death(finding: Finding) -> str:
    """First equation at which a shift dies; empty if none is known."""
    for first in finding.deaths[:1]:
        module = f" in {first.module}" if first.module else ""
        return f"{first.primitive}{module}, {short(first.where)}"
    return ""


def remedy(finding: Finding) -> str:
    """What to change in the model, in the words of its framework; empty for a bias that does something."""
    if finding.verdict == "unused":
        return "drop it: nothing uses it" if finding.made is None else leave_out(finding.made)
    if finding.verdict == "cancelled":
        return leave_out(finding.made)
    if finding.verdict == "absorbable":
        stay = "stays" if len(finding.absorbed_by) == 1 else "stay"
        return f"{leave_out(finding.made)}, while {listed(finding.absorbed_by)} {stay}"
    if finding.basis:
        return f"keep it: {_dead_part(finding.path, finding.size, finding.basis)}"
    return ""


def leave_out(made: Made | None) -> str:
    """How to leave a bias out of the layer that makes it.

    Examples
    --------
    >>> from biasjax.audit import Made
    >>> leave_out(Made("net.py:3 (f)", "haiku.BatchNorm", "create_offset=False", ""))
    'create_offset=False of haiku.BatchNorm'
    """
    if made is None or not made.layer:
        return "drop it where it is added"
    if not made.flag:
        return f"hold it at zero, for {made.layer} has no flag for it alone"
    if made.part and made.layer == _TAKES_NAMES:
        return f"leave {made.part!r} out of use_bias of {made.layer}"
    if made.part:
        return f"hold the {made.part} bias at zero ({made.flag} of {made.layer} is for all its parts)"
    return f"{made.flag} of {made.layer}"


def short(where: str) -> str:
    r"""Last folder and name of a file, with what follows it.

    Examples
    --------
    >>> short("/models/mine/net.py:3 (f)"), short(r"C:\models\mine\net.py:3 (f)")
    ('mine/net.py:3 (f)', 'mine/net.py:3 (f)')
    """
    return "/".join(re.split(r"[\\/]", where)[-2:])


def listed(names: Sequence[str]) -> str:
    """Join names, and count those beyond a few.

    Examples
    --------
    >>> listed(["a"]), listed(["a", "b", "c", "d"])
    ('a', 'a, b, c and 1 more')
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _dead_part(path: str, size: int, basis: Basis) -> str:
    """Which shifts of a bias do nothing."""
    dead = basis.vectors.shape[1]
    if basis.name == "uniform":
        return "only a shift of all entries alike does nothing"
    if basis.name == "per group":
        return f"only shifts alike within each of its {dead} groups do nothing"
    if basis.name != "entries":
        return f"only {dead} combinations of its {size} entries do nothing"
    runs = _runs(basis.vectors)
    found = f"only its entries {listed([f'{start}:{stop}' for start, stop in runs])}"
    if len(runs) == 1 and (part := _fraction(path, size, *runs[0])):
        found += f", {part},"
    return f"{found} do nothing and can be held at zero"


def _runs(vectors: np.ndarray) -> list[tuple[int, int]]:
    """Runs of entries that span a subspace, from the first entry to one past the last."""
    inside = np.pad((vectors**2).sum(1) > 0.5, 1).astype(int)
    starts, stops = (np.flatnonzero(np.diff(inside) == sign) for sign in (1, -1))
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _fraction(path: str, size: int, start: int, stop: int) -> str:
    """Name a run that is one of a few equal parts, or "" if it is none.

    Examples
    --------
    >>> _fraction("h0/c_attn/bias", 24, 8, 16), _fraction("cell/bias", 24, 6, 12)
    ('the key third of c_attn', 'part 2 of 4 of cell')
    """
    length = stop - start
    if size % length or start % length:
        return ""
    number, parts = start // length, size // length
    owner = path.split("/")[-2] if "/" in path else path
    fused = any(map(_FUSED.fullmatch, path.split("/")))
    if parts == 3 and fused:
        return f"the {('query', 'key', 'value')[number]} third of {owner}"
    return f"part {number + 1} of {parts} of {owner}"
