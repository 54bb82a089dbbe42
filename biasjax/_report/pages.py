"""Pages of one file: sections, tables and figures as HTML, by jinja2, which escapes all that is no Markup."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import biasjax
from biasjax import check
from biasjax._report import checks

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

_FOLDER = Path(__file__).parent
_ID = re.compile(r"""<[^<>]*\sid="([^"]*)\"""")
# Of the page itself
_OWN = ("main", "theme")
_LEVELS = (2, 3)
# No HTML may hold them, and no file of UTF-8 half a pair
_UNFIT = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Section(NamedTuple):
    """A part of a page, with a line in its contents.

    Attributes
    ----------
    name
        What links name it by, unique in the page.
    title
        Its heading.
    body
        HTML as `markupsafe.Markup`; other text is escaped.
    level
        Of the heading: 2, or 3 for what stands below the one before.
    short
        What the contents say, if not the title.
    """

    name: str
    title: str
    body: str
    level: int = 2
    short: str = ""


class Row(NamedTuple):
    """A line of a table: its cells, the first of which heads it; a name to link to; a class of the style."""

    cells: Sequence[str]
    name: str = ""
    kind: str = ""


def page(
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    foot: str = "",
    style: str = "",
    script: str = "",
) -> str:
    """Write a page of one file, which asks nothing of a network and reads well without JavaScript.

    Parameters
    ----------
    title
        Of the page.
    sections
        In order; their names are unique.
    lead, foot
        What stands below the title and at the end, HTML as Markup.
    style, script
        CSS and JavaScript to add to the page's own, trusted as they are.

    Raises
    ------
    ValueError
        If two places have one name.

    Examples
    --------
    >>> html = page("Biases & norms", [Section("all", "All", "1 < 2")])
    >>> html.startswith("<!DOCTYPE html>"), "Biases &amp; norms" in html, "1 &lt; 2" in html
    (True, True, True)
    """
    for what, value in {"title": title, "lead": lead, "foot": foot}.items():
        checks.text(what, value)
    for what, value, end in (("style", style, "</style"), ("script", script, "</script")):
        if end in checks.text(what, value).lower():
            check.fail(what, f"text without {end}>", checks.shown(value), "It ends by itself.")
    _check_sections(checks.several("sections", sections, Section))
    text = template("page.html").render(
        title=title,
        sections=sections,
        lead=lead,
        foot=foot,
        version=biasjax.__version__,
        style=_trusted(_read("page.css") + style),
        script=_trusted(_read("page.js") + script),
    )
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", text)


def _check_sections(sections: Sequence[Section]) -> None:
    names = list(_OWN)
    for section in sections:
        checks.name("section", section.name)
        checks.text(f"title of {section.name}", section.title)
        checks.text(f"short title of {section.name}", section.short)
        if section.level not in _LEVELS:
            got = checks.shown(section.level)
            check.fail(f"level of {section.name}", "2 or 3", got, "The page's title is level 1.")
        body = checks.text(f"body of {section.name}", section.body)
        inside = _ID.findall(body) if hasattr(body, "__html__") else []
        names += [section.name, f"{section.name}-title", *inside]
    if len(set(names)) < len(names):
        two = next(name for name in names if names.count(name) > 1)
        check.fail("page", "places with names of their own", f"two named {two!r}", "Rename one.")


def table(
    name: str,
    header: Sequence[str],
    rows: Sequence[Row],
    *,
    caption: str,
    right: Collection[int] = (),
    choose: int | None = None,
    searchable: bool = True,
) -> Markup:
    """Draw a table that a browser with JavaScript sorts by any column, searches and filters.

    Parameters
    ----------
    name
        Unique in the page.
    header
        A title for each column.
    rows
        As many cells each; text is escaped.
    caption
        What the table shows.
    right
        Numbers of the columns aligned to the right.
    choose
        Number of the column whose values are to choose from, if any.
    searchable
        Whether it has these tools.

    Examples
    --------
    >>> html = table("found", ("bias", "size"), [Row(("<b>", "8"), name="first")], caption="Biases")
    >>> "&lt;b&gt;" in html, '<tr id="first">' in html
    (True, True)
    """
    _check_table(name, header, rows, choose)
    checks.text("caption", caption)
    check.flags(searchable=searchable)
    if isinstance(right, (str, bytes)) or not isinstance(right, (Sequence, Set)):
        check.fail("right", "numbers of columns", checks.shown(right), "E.g. (1, 2).", TypeError)
    for column in right:
        check.positive_int("right", column, 0)
    choices = [] if choose is None else list(dict.fromkeys(_plain(row.cells[choose]) for row in rows))
    return _trusted(
        template("table.html").render(
            name=name,
            header=header,
            rows=rows,
            caption=caption,
            right=right,
            choose=choose,
            choices=choices,
            searchable=searchable,
        )
    )


def _check_table(name: str, header: Sequence[str], rows: Sequence[Row], choose: int | None) -> None:
    checks.name("table", name)
    width = len(checks.several("header", header, str))
    for row in checks.several("rows", rows, Row):
        if len(checks.several(f"row of {name}", row.cells, str)) != width:
            got = f"{len(row.cells)} in {checks.shown(row)}"
            check.fail(f"row of {name}", f"{width} cells", got, "Give one for each title.")
        if row.name:
            checks.name(f"row of {name}", row.name)
        checks.text(f"kind of a row of {name}", row.kind)
    if choose is not None and check.positive_int("choose", choose, 0) >= width:
        check.fail("choose", f"the number of one of {width} columns", choose, "The first is 0.")


def _plain(cell: Any) -> str:
    """Text of a cell as a browser shows it."""
    return " ".join((cell.striptags() if hasattr(cell, "striptags") else cell).split())


def template(name: str, folder: str | Path = _FOLDER) -> jinja2.Template:
    """Template of a folder, in which all that is no `markupsafe.Markup` is escaped.

    Parameters
    ----------
    name
        Of the file.
    folder
        By default that of the library's own.

    Raises
    ------
    ImportError
        Without jinja2.

    Examples
    --------
    >>> template("table.html").name
    'table.html'
    """
    checks.text("template", name)
    if not isinstance(folder, (str, Path)):
        check.fail("folder", "a path", checks.shown(folder), "Give a str or Path.", TypeError)
    if not os.path.isdir(folder):
        check.fail("folder", "a folder that exists", checks.shown(folder), "Check the path.")
    if ".." in name.split("/") or not os.path.isfile(os.path.join(folder, name)):
        known = ", ".join(sorted(os.listdir(folder)))
        check.fail("template", f"a file of {folder}, one of {known}", checks.shown(name), "Check the name.")
    return _environment(Path(folder)).get_template(name)


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    try:
        import jinja2
    except ImportError:
        check.fail("report", "jinja2, which writes pages", "none", "pip install jinja2", ImportError)
    loader = jinja2.FileSystemLoader(folder)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=False
    )


@functools.cache
def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)
