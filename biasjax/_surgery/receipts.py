"""What was done to a model, where it went, and what that changed of its outputs."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from biasjax import _text
from biasjax._surgery.proofs import Error

# Paths that a line of a table names
_FEW = 2
_PRECISIONS = {"float64": "float64", "own": "its own precision"}


class Change(NamedTuple):
    """What was done to one leaf, or one layer.

    Attributes
    ----------
    path
        Of the bias, or of the norm.
    action
        "zeroed", "dropped", "folded", "centred", "tied", "untied"; or "kept".
    into
        Paths of what took over, those of state behind "state/".
    size
        Numbers that no longer do anything.
    why
        Of what was kept: the reason.
    """

    path: str
    action: str
    into: tuple[str, ...] = ()
    size: int = 0
    why: str = ""


class Receipt(NamedTuple):
    """All changes of one operation.

    Attributes
    ----------
    changes
        One for each leaf or layer that was looked at.
    errors
        Largest changes of the outputs, by mode, precision and inputs.
    """

    changes: tuple[Change, ...]
    errors: tuple[Error, ...]

    @property
    def done(self) -> tuple[Change, ...]:
        """What was changed."""
        return tuple(one for one in self.changes if one.action != "kept")

    @property
    def kept(self) -> tuple[Change, ...]:
        """What was refused, with the reasons."""
        return tuple(one for one in self.changes if one.action == "kept")

    @property
    def saved(self) -> int:
        """Numbers that no longer do anything."""
        return sum(one.size for one in self.done)

    def __repr__(self) -> str:
        worst = max((one.change for one in self.errors), default=0.0)
        kept = f", {len(self.kept)} kept" if self.kept else ""
        return (
            f"Receipt({len(self.done)} changed{kept}; {self.saved:,} numbers saved; outputs by {worst:.1g})"
        )

    def table(self) -> str:
        """One line per change, then what the outputs changed by."""
        if not self.changes:
            return "Nothing to change."
        cells = [("path", "action", "size", "into, or why not")]
        cells += [(c.path, c.action, f"{c.size:,}" if c.size else "", where(c)) for c in self.changes]
        tables = [_text.table(cells, right=(2,))]
        tables += [_text.table(changes_of(self.errors), right=(1, 2))] if self.errors else []
        return "\n\n".join([*tables, f"{self.saved:,} numbers no longer do anything."])

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, fit for JSON."""
        changes = [one._asdict() | {"into": list(one.into)} for one in self.changes]
        return {"changes": changes, "errors": [one._asdict() for one in self.errors], "saved": self.saved}

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(c.path)}</td><td>{c.action}</td><td>{c.size or ''}</td>"
            f"<td>{html.escape(where(c))}</td></tr>"
            for c in self.changes
        )
        head = "<tr><th>path</th><th>action</th><th>size</th><th>into, or why not</th></tr>"
        return f"<table>{head}{rows}</table><p>{html.escape(repr(self))}</p>"


def where(change: Change) -> str:
    """What took over, or why nothing was done."""
    first, more = change.into[:_FEW], len(change.into) - _FEW
    return change.why or ", ".join([*first, *([f"{more} more"] if more > 0 else [])])


def changes_of(errors: Sequence[Error]) -> list[tuple[str, ...]]:
    """Cells of the largest change of the outputs in each mode, by precision."""
    modes = dict.fromkeys(e.mode for e in errors)
    precisions = dict.fromkeys(e.precision for e in errors)
    rows: list[tuple[str, ...]] = [
        ("largest change of outputs in", *(_PRECISIONS[precision] for precision in precisions))
    ]
    for mode in modes:
        found = [[e.change for e in errors if (e.mode, e.precision) == (mode, p)] for p in precisions]
        rows.append((mode, *(f"{max(some):.1e}" if some else "" for some in found)))
    return rows
