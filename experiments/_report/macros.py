"""Markup by the macros of this room's templates, which escape text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "templates"


def macro(template: str, name: str, *values: Any) -> Any:
    """Markup that a macro of a template makes of values.

    Examples
    --------
    >>> macro("parts.html", "link", "#here", "<here>")
    Markup('<a href="#here">&lt;here&gt;</a>')
    """
    from biasjax import report

    return getattr(report.template(template, _FOLDER).module, name)(*values)
