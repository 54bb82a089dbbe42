"""Tables of the page on a model: biases by pattern, each bias, sizes that do harm, and what was done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biasjax._audit import tables
from biasjax._audit.findings import Finding
from biasjax._audit.tolerance import ODD, Tolerances, sizes_of
from biasjax._report import depths
from biasjax._report.depths import Biases
from biasjax._report.pages import Row, table, template
from biasjax._surgery.receipts import Receipt, changes_of, where

_LAST = ("made at", "what to do, and where it dies")


def by_pattern(biases: Biases) -> Any:
    """Biases of one pattern and verdict in one row, the worst first."""
    rows = []
    for name, *modes in tables.groups(*(audit.findings for audit in biases.audits)):
        found = [some for some in modes if some]
        rows.append(Row((path(name, ""), *_counts(found), *_places(found[0]))))
    header = ("bias", *_header(biases), *_LAST)
    caption = "Biases whose paths differ in a number are one row, their entries added up; the worst first."
    return table("by-pattern", header, rows, caption=caption, right=_right(biases))


def all_biases(biases: Biases) -> Any:
    """Every bias in a row of its own, in the order of the program."""
    rows = [
        Row(
            (
                path(bias.path, ""),
                *_counts([(f,) for f in bias.findings], biases.compared),
                *_places(bias.findings[:1]),
            ),
            name=bias.id,
        )
        for bias in biases.each
    ]
    header = ("bias", *_header(biases, biases.compared), *_LAST)
    caption = "In the order in which the program uses them."
    return table("each", header, rows, caption=caption, right=_right(biases, biases.compared), choose=2)


def tolerance(tolerances: Tolerances, ids: Mapping[str, str]) -> Any:
    """From which sizes dead biases harm a dtype, and which of the given ones do."""
    rows = []
    for limit in tolerances.limits:
        sizes = [f"{limit.sizes[dtype]:.3g}" for dtype in tolerances.rounding]
        harm = f"harms {', '.join(limit.harmed)}" if limit.harmed else "harms none"
        cells = (_linked(limit.path, ids), str(limit.dead), f"{limit.present:.3g}", *sizes, harm)
        rows.append(Row(cells, kind="harmful" if limit.harmed else ""))
    header = ("bias", "dead directions", "size as given", *tolerances.rounding, "as given it")
    right = range(1, len(header) - 1)
    choose = len(header) - 1
    caption = "Dead biases: from which size each dtype suffers."
    found = table("sizes", header, rows, caption=caption, right=right, choose=choose)
    return found + _notes(sizes_of(tolerances), ODD) if rows else _notes("No bias is dead.")


def surgery(receipts: Sequence[Receipt], ids: Mapping[str, str]) -> Any:
    """What operations changed, and what that did to the outputs."""
    parts = _notes()
    for number, receipt in enumerate(receipts, 1):
        rows = [
            Row((_linked(one.path, ids), one.action, f"{one.size:,}" if one.size else "", where(one)))
            for one in receipt.changes
        ]
        header = ("path", "action", "size", "into, or why not")
        caption = f"Operation {number}: {receipt.saved:,} numbers no longer do anything."
        parts += table(f"receipt-{number}", header, rows, caption=caption, right=(2,), choose=1)
        if receipt.errors:
            head, *cells = changes_of(receipt.errors)
            rows = [Row(one) for one in cells]
            caption = "Largest changes of the outputs, relative to these."
            parts += table(
                f"outputs-{number}",
                head,
                rows,
                caption=caption,
                right=range(1, len(head)),
                searchable=False,
            )
    return parts


def path(text: str, id: str) -> Any:
    """Path of a bias, its direction of writing kept to itself, with a link to its row if it has one."""
    return _module().path(text or "(no name)", id)


def _linked(text: str, ids: Mapping[str, str]) -> Any:
    return path(text, ids.get(text, ""))


def _notes(*lines: str) -> Any:
    return _module().notes(lines)


def _module() -> Any:
    return template("model.html").module


def _header(biases: Biases, unique: bool = False) -> tuple[str, ...]:
    modes = [(mode or "verdict", "rank") for mode in biases.modes]
    return ("size", *(name for names in modes for name in names), *(["unique"] if unique else []))


def _right(biases: Biases, unique: bool = False) -> tuple[int, ...]:
    ranks = [3 + 2 * i for i in range(len(biases.modes))]
    return (1, *ranks, *([ranks[-1] + 1] if unique else []))


def _counts(modes: Sequence[Sequence[Finding]], unique: bool = False) -> tuple[str, ...]:
    """Size, then verdict and rank in each mode, then what is unique, of biases added up."""
    cells = [f"{sum(f.size for f in modes[0]):,}"]
    for found in modes:
        cells += [depths.verdict(found[0]), f"{sum(f.rank for f in found):,}"]
    if unique:
        alone = [f.unique for f in modes[0] if f.unique is not None]
        cells.append(f"{sum(alone):,}" if alone else "")
    return tuple(cells)


def _places(findings: Sequence[Finding]) -> tuple[Any, Any]:
    act = _module().act(tables.what_to_do(findings), tables.dies_at(findings))
    return path(tables.made_at(findings), ""), act
