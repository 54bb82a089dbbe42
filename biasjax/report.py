"""HTML pages of one file to send to each other: a model's biases, and what other reports are made of.

`model` reports an audit. `page`, `table` and `figure` are pure functions from data to HTML: a page is a
`Section` after another, in light and dark, for screens and paper, with contents that follow the scroll. It
loads nothing and reads well without JavaScript, which adds sorting, search and filters. All text is escaped.
"""

from __future__ import annotations

from biasjax._report.figures import figure
from biasjax._report.models import model
from biasjax._report.pages import Row, Section, page, table, template

__all__ = ["Row", "Section", "figure", "model", "page", "table", "template"]


def __dir__() -> list[str]:
    return __all__
