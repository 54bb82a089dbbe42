"""Which biases of a model can go together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from biasjax._audit import tables, words

if TYPE_CHECKING:
    from biasjax._audit.findings import Finding

_DEAD = ("cancelled", "unused")


class Plan(NamedTuple):
    """Biases that can be left out together, so that outputs stay what they are, or can be made so.

    Attributes
    ----------
    remove
        Their paths, in tree order.
    parameters
        Number of their entries.
    keep
        Paths of the biases that have to stay, for they make up for some of these.
    text
        What to change where, for people.
    """

    remove: tuple[str, ...]
    parameters: int
    keep: tuple[str, ...]
    text: str

    def __repr__(self) -> str:
        going = f"{len(self.remove)} biases can go, {self.parameters:,} parameters"
        return f"Plan({going}; {len(self.keep)} stay for them)"


class Act(NamedTuple):
    """What to change at a line, for some of the biases that go."""

    what: str
    where: str
    paths: tuple[str, ...]


def plan(findings: Sequence[Finding]) -> Plan:
    """Choose as many biases as can go: all that do nothing, and of those that absorb each other the most.

    An absorbable one goes if all that absorb it stay. That is a largest independent set, found greedily: next
    goes the one that the fewest others are at odds with, of these the largest.
    """
    gone = {f.path for f in findings if f.verdict in _DEAD}
    free = {f.path: f for f in findings if f.verdict == "absorbable" and not gone & set(f.absorbed_by)}
    at_odds: dict[str, set[str]] = {path: set() for path in free}
    for path, finding in free.items():
        for other in at_odds.keys() & set(finding.absorbed_by):
            at_odds[path].add(other)
            at_odds[other].add(path)
    while free:
        path = min(free, key=lambda one: (len(at_odds[one] & free.keys()), -free[one].size))
        gone.add(path)
        for other in {path} | at_odds[path]:
            free.pop(other, None)
    going = [f for f in findings if f.path in gone]
    staying = {path for f in going if f.verdict == "absorbable" for path in f.absorbed_by}
    keep = tuple(f.path for f in findings if f.path in staying)
    size = sum(f.size for f in going)
    return Plan(tuple(f.path for f in going), size, keep, _text(findings, going, keep))


def of_modes(train: Sequence[Finding], evaluation: Sequence[Finding]) -> Plan:
    """Plan of what can go in training, where evaluation loses nothing that others could not do there, too."""
    return plan(merged(train, evaluation))


def merged(train: Sequence[Finding], evaluation: Sequence[Finding]) -> list[Finding]:
    """Findings of training; absorbable is what is so in evaluation, too, by the absorbers of both."""
    findings: list[Finding] = []
    for one, other in zip(train, evaluation, strict=True):
        if one.verdict == "absorbable" and other.verdict not in ("absorbable", *_DEAD):
            one = one._replace(verdict=other.verdict)
        absorbers = dict.fromkeys((*one.absorbed_by, *other.absorbed_by))
        findings.append(one._replace(absorbed_by=tuple(absorbers)))
    return findings


def acts(findings: Sequence[Finding], remove: Collection[str]) -> list[Act]:
    """What to change for those that go, those of one change and line together.

    Examples
    --------
    >>> from biasjax.audit import Finding, Shifted
    >>> still = Finding("conv/bias", 8, 0, 0, "cancelled", True, Shifted(0, 1e-16), None, (), ())
    >>> acts([still], ["conv/bias"])
    [Act(what='drop it where it is added', where='', paths=('conv/bias',))]
    """
    going = [f for f in findings if f.path in remove]
    found: dict[tuple[str, str], list[str]] = {}
    for finding in going:
        found.setdefault(_act(finding, findings, going), []).append(finding.path)
    return [Act(*change, tuple(paths)) for change, paths in found.items()]


def _text(findings: Sequence[Finding], going: Sequence[Finding], keep: Sequence[str]) -> str:
    size, total = sum(f.size for f in going), sum(f.size for f in findings)
    biases = "1 bias" if len(findings) == 1 else f"{len(findings)} biases"
    lines = [f"{len(going)} of {biases} can go together, {size:,} of {total:,} parameters."]
    for what, where, paths in acts(findings, [f.path for f in going]):
        act = f"{what}, {where}" if where else what
        lines += [f"{name}: {act}" for name in tables.grouped_names(paths)]
    if keep:
        lines.append(f"These stay and make up for some of them: {', '.join(tables.grouped_names(keep))}.")
    return tables.filled(lines)


def _act(finding: Finding, findings: Sequence[Finding], going: Sequence[Finding]) -> tuple[str, str]:
    """What to do about one of those that go, and where; one flag may leave out several that all go."""
    made = finding.made
    if made is None:
        return (finding.remedy() if finding.verdict == "unused" else words.leave_out(None)), ""
    together = [f for f in findings if f.made and f.made[:3] == made[:3] and _owner(f) == _owner(finding)]
    if made.part and all(f in going for f in together):
        made = made._replace(part="")
    return words.leave_out(made), words.short(made.where)


def _owner(finding: Finding) -> str:
    """Path of the layer whose flag a bias is left out by."""
    part = finding.made.part if finding.made else ""
    return finding.path.rpartition("/")[0].removesuffix(part)
