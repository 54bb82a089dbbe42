"""Tables of findings for people: rows of one pattern together, worst first, no wider than the terminal."""

from __future__ import annotations

import html
import re
import shutil
import textwrap
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from biasjax import _text, check
from biasjax._audit import words

if TYPE_CHECKING:
    from biasjax._audit.findings import BiasAudit, Finding
    from biasjax._audit.modes import ModesAudit

# What each verdict says, worst first
MEANING = {
    "cancelled": "no shift of it changes an output.",
    "unused": "no output depends on it.",
    "partly cancelled": "some shifts of it change no output.",
    "absorbable": "other biases can do all that it does, as long as these stay.",
    "partly absorbable": "other biases can do some of what it does.",
    "needed": "only it can do what it does.",
    "alive": "it changes an output; whether others could do the same was not asked (joint=False).",
}
_RANK = "rank: directions that change an output."
_UNIQUE = "unique: directions that no other bias can stand in for."
BOUND = "unique is an upper bound: what only shifts that differ with the data could do is not seen."
_STAR = "*: another verdict in training than in evaluation."
TIMES = "xN: N biases whose paths differ in a number (*); their entries are added up."
# Lines that are narrower would not hold the verdicts
_NARROWEST = 60
_INDENT = "    "


class Group(NamedTuple):
    """Biases of one pattern and verdict: their name, and what is found of each in one mode, or in both."""

    name: str
    findings: tuple[Finding, ...]
    evaluation: tuple[Finding, ...] = ()


class _Row(NamedTuple):
    """Cells of a group of biases, and what is said below them."""

    cells: tuple[str, ...]
    details: tuple[str, ...] = ()


def of_audit(audit: BiasAudit, width: int | None, everything: bool) -> str:
    """Table of `BiasAudit.table`."""
    width = _width(width, everything)
    header = ("bias", "size", "rank", "unique", "verdict")
    if everything:
        cells = [(*_cells(f.path, [f]), *_long(f)) for f in audit.findings]
        table = _text.table([(*header, "why", "made", "what to do"), *cells], right=(1, 2, 3))
    else:
        table = _drawn(header, _rows(audit), width, right=(1, 2, 3))
    asked = any(f.unique is not None for f in audit.findings)
    legend = [*_legend(audit.findings, table), _RANK, *([_UNIQUE] if asked else [])]
    legend += [] if audit.exact else [BOUND]
    return "\n".join([table, "", *_filled([audit.summary(), *legend], width)])


def of_modes(modes: ModesAudit, width: int | None, everything: bool) -> str:
    """Table of `ModesAudit.table`."""
    width = _width(width, everything)
    header = ("bias", "size", "training", "rank", "evaluation", "rank", "")
    if everything:
        pairs = zip(modes.train.findings, modes.eval.findings, strict=True)
        cells = [_row_of_modes(Group(one.path, (one,), (other,))).cells for one, other in pairs]
        table = _text.table([header, *cells], right=(1, 3, 5))
    else:
        table = _drawn(header, _rows_of_modes(modes), width, right=(1, 3, 5))
    legend = [*_legend([*modes.train.findings, *modes.eval.findings], table), _RANK]
    legend += [_STAR] if modes.differing else []
    return "\n".join([table, "", *_filled([modes.summary(), *legend], width)])


def html_of_audit(audit: BiasAudit) -> str:
    """Table of `BiasAudit` for notebooks."""
    return _html(("bias", "size", "rank", "unique", "verdict", ""), _rows(audit), audit.summary())


def html_of_modes(modes: ModesAudit) -> str:
    """Table of `ModesAudit` for notebooks."""
    header = ("bias", "size", "training", "rank", "evaluation", "rank", "", "")
    return _html(header, _rows_of_modes(modes), modes.summary())


def _grouped(paths: Sequence[str], kinds: Sequence[Hashable]) -> list[tuple[str, list[int]]]:
    """Name and members of each group of one pattern and kind, in the order of their first members.

    Examples
    --------
    >>> _grouped(["block_0/dense_0/b", "block_1/dense_0/b", "b"], ["needed"] * 3)
    [('block_*/dense_0/b x2', [0, 1]), ('b', [2])]
    """
    groups: dict[Hashable, list[int]] = {}
    for i, (path, kind) in enumerate(zip(paths, kinds, strict=True)):
        # Numbers at the end of a key: those of conv2d are part of its name
        groups.setdefault((re.sub(r"\d+(?=/|$)", "*", path), kind), []).append(i)
    return [
        (_merged([paths[i] for i in some]) + (f" x{len(some)}" if len(some) > 1 else ""), some)
        for some in groups.values()
    ]


def grouped_names(paths: Sequence[str]) -> list[str]:
    """Paths, those of one pattern as one with their number."""
    return [name for name, _ in _grouped(paths, [""] * len(paths))]


def filled(lines: Sequence[str]) -> str:
    """Lines no wider than the terminal."""
    wide = _width(None, False)
    return "\n".join(part for one in lines for part in textwrap.wrap(one, wide, subsequent_indent=_INDENT))


def groups(findings: Sequence[Finding], evaluation: Sequence[Finding] = ()) -> list[Group]:
    """Biases of one pattern and verdict together, the worst first; of both modes if there are two."""
    modes = (findings, evaluation) if evaluation else (findings,)
    kinds = [tuple(f.verdict for f in one) for one in zip(*modes, strict=True)]
    named = _grouped([f.path for f in findings], kinds)
    found = [Group(name, *(tuple(mode[i] for i in some) for mode in modes)) for name, some in named]
    return sorted(found, key=lambda group: [_badness(some[0]) for some in group[1:] if some])


def _rows(audit: BiasAudit) -> list[_Row]:
    return [_Row(_cells(one.name, one.findings), _details(one.findings)) for one in groups(audit.findings)]


def _rows_of_modes(modes: ModesAudit) -> list[_Row]:
    return [_row_of_modes(one) for one in groups(modes.train.findings, modes.eval.findings)]


def _row_of_modes(group: Group) -> _Row:
    (name, size, rank, _, train), (_, _, rank_eval, _, evaluation) = (
        _cells(group.name, found) for found in (group.findings, group.evaluation)
    )
    star = "" if train == evaluation else "*"
    # What is needed in training stays, whatever could stand in for it in evaluation
    details = _details(group.findings)
    if star and details:
        details = (f"in training: {details[0]}", *details[1:])
    return _Row((name, size, train, rank, evaluation, rank_eval, star), details)


def _cells(name: str, findings: Sequence[Finding]) -> tuple[str, ...]:
    size, rank = sum(f.size for f in findings), sum(f.rank for f in findings)
    unique = [f.unique for f in findings if f.unique is not None]
    return (name, str(size), str(rank), str(sum(unique)) if unique else "-", findings[0].verdict)


def _long(finding: Finding) -> tuple[str, str, str]:
    made = words.short(finding.made.where) if finding.made else ""
    return finding.why(), made, finding.remedy()


def _details(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Where a group's biases are made, why they do nothing, and what to do; nothing for those that do."""
    if not findings[0].remedy():
        return ()
    made, why = made_at(findings), _merged([words.death(f) for f in findings])
    return (
        *([f"made at {made}"] if made else []),
        *([why] if why else []),
        f"-> {what_to_do(findings)}",
    )


def made_at(findings: Sequence[Finding]) -> str:
    """Lines at which a group's biases are made."""
    return words.listed(list(dict.fromkeys(words.short(f.made.where) for f in findings if f.made)))


def dies_at(findings: Sequence[Finding]) -> str:
    """Where shifts of a group's biases die first."""
    return _merged([place for f in findings if (place := words.place_of_death(f))])


def what_to_do(findings: Sequence[Finding]) -> str:
    """What to change for a group; empty if all do something."""
    return _merged([f.remedy() for f in findings])


def _merged(lines: Sequence[str]) -> str:
    """Lines as one, with a star for numbers that differ; where more does, the first, and how many others.

    Examples
    --------
    >>> _merged(["in block_0/norm_1", "in block_1/norm_1"]), _merged(["a", "b", "b"])
    ('in block_*/norm_1', 'a (and 1 more)')
    """
    apart = [re.split(r"(\d+)", line) for line in dict.fromkeys(lines)]
    if len({tuple(parts[::2]) for parts in apart}) > 1:
        return f"{lines[0]} (and {len(apart) - 1} more)"
    return "".join(parts[0] if len(set(parts)) == 1 else "*" for parts in zip(*apart, strict=True))


def _legend(findings: Sequence[Finding], table: str) -> list[str]:
    verdicts = {f.verdict for f in findings}
    times = [TIMES] if re.search(r" x\d+( |$)", table, re.MULTILINE) else []
    return [*(f"{verdict}: {said}" for verdict, said in MEANING.items() if verdict in verdicts), *times]


def _badness(finding: Finding) -> int:
    return list(MEANING).index(finding.verdict)


def _drawn(header: Sequence[str], rows: Sequence[_Row], width: int, right: Sequence[int]) -> str:
    """Draw rows with their details below; a name that is too long has a line of its own."""
    columns = list(zip(header, *(row.cells for row in rows), strict=True))
    widths = [max(map(len, column)) for column in columns]
    widths[0] = max(min(widths[0], width - sum(widths[1:]) - 2 * (len(widths) - 1)), 4)

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(n) if i in right else cell.ljust(n)
            for i, (cell, n) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    lines: list[str] = []
    for row in rows:
        name, *cells = row.cells
        if len(name) > widths[0]:
            lines += [_elided(name, width), line(("", *cells))]
        else:
            lines.append(line(row.cells))
        for detail in row.details:
            lines += textwrap.wrap(detail, width, initial_indent=_INDENT, subsequent_indent=_INDENT + "  ")
    rule = "-" * max(map(len, [line(header), *lines]))
    return "\n".join([line(header), rule, *lines])


def _elided(name: str, width: int) -> str:
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _filled(lines: Sequence[str], width: int) -> list[str]:
    return [part for one in lines for part in textwrap.wrap(one, width)]


def _width(width: int | None, everything: bool) -> int:
    if width is not None:
        return check.positive_int("width", width, _NARROWEST)
    return 10**6 if everything else max(shutil.get_terminal_size().columns, _NARROWEST)


def _html(header: Sequence[str], rows: Sequence[_Row], summary: str) -> str:
    def cells(values: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{value}</{tag}>" for value in values) + "</tr>"

    body = [
        cells([*map(html.escape, row.cells), "<br>".join(map(html.escape, row.details))], "td")
        for row in rows
    ]
    head = cells([html.escape(name) for name in header], "th")
    caption = f"<caption>{html.escape(summary)}</caption>"
    return "\n".join([f"<table>{caption}<thead>{head}</thead><tbody>", *body, "</tbody></table>"])
