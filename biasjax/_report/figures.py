"""Figures for a page: SVG of matplotlib, inline, in the page's font and colours."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from biasjax import check
from biasjax._report import checks

if TYPE_CHECKING:
    from markupsafe import Markup

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
# Of no use in a page, or no part of a drawing
_LEFT_OUT = {f"{_SVG}{tag}" for tag in ("metadata", "style", "script", "foreignObject")}
_FONT = re.compile(r"font: ((?:(?:italic|oblique|bold|\d+) )*)([\d.]+px) [^;]*")
_DECIMALS, _FEWER = re.compile(r"(-?\d+\.\d\d)\d+"), re.compile(r"(-?\d+\.\d)\d+")
_LINK = re.compile(r"url\(#([^)]*)\)")
_STYLES = {"italic": "font-style: italic; ", "oblique": "font-style: italic; ", "bold": "font-weight: bold; "}
# The blue is too dark on a dark page
_COLORS = {"#000000": "currentColor", "#ffffff": "var(--card)", "#0072b2": "var(--blue)"}
_LONG = 2000  # characters of a path, whose steps are too short for a second decimal to show


def figure(svg: str, name: str, label: str, *, caption: str = "") -> Markup:
    """Put a figure that matplotlib wrote as SVG into a page.

    Black becomes the page's text colour and white that of its figures; text takes the page's
    font. Positions keep one or two decimals, as many as show.

    Parameters
    ----------
    svg
        What `biasjax.plot.save` wrote.
    name
        Unique in the page; the figure's own names are put behind it.
    label
        What the figure shows, for who cannot see it.
    caption
        Below the figure.

    Raises
    ------
    ValueError
        If it is not SVG, for example cut off.

    Examples
    --------
    >>> svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><g style="fill: #000000"/></svg>'
    >>> html = figure(svg, "loss", "Loss over steps", caption="Loss")
    >>> '<g style="fill: currentColor"' in html, "<figcaption>Loss</figcaption>" in html
    (True, True)
    """
    from markupsafe import Markup, escape

    checks.name("figure", name)
    for what, value in {"svg": svg, "label": label, "caption": caption}.items():
        checks.text(what, value)
    root, width = _parsed(svg, name)
    _remove(root, _LEFT_OUT)
    for one in root.iter():
        _adapt(one, name)
    _strip(root)
    root.attrib = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": label, "id": name}
    root.set("style", f"max-width: {4 / 3 * width:.0f}px")  # points
    _share_styles(root, name)
    ElementTree.register_namespace("", _SVG[1:-1])
    drawn = ElementTree.tostring(root, encoding="unicode")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Markup(f"<figure>{drawn}{below}</figure>")


def _parsed(svg: str, name: str) -> tuple[ElementTree.Element, float]:
    """Root of an SVG file, and its width in points."""
    try:
        root = ElementTree.fromstring(svg)
        if root.tag != f"{_SVG}svg":
            raise ValueError(f"<{root.tag}>")
        _, _, width, _ = map(float, root.get("viewBox", "0 0 800 600").split())
    except (ElementTree.ParseError, ValueError) as error:
        check.fail("figure", "an SVG file", f"{name}: {error}", "Draw it again.")
    return root, width


def _remove(root: ElementTree.Element, tags: set[str]) -> None:
    for parent in list(root.iter()):
        for one in list(parent):
            if one.tag in tags:
                parent.remove(one)


def _adapt(one: ElementTree.Element, name: str) -> None:
    """Give an element names of its own, the page's colours and font, and short numbers."""
    for key, value in list(one.attrib.items()):
        if key.startswith("on"):  # acts
            del one.attrib[key]
            continue
        if key == "id":
            value = f"{name}-{value}"
        elif key in (f"{_XLINK}href", "href"):
            del one.attrib[key]
            key, value = "href", f"#{name}-{value[1:]}" if value.startswith("#") else value
        elif key == "style":
            value = _FONT.sub(_font, value)
            for old, new in _COLORS.items():
                value = value.replace(old, new)
        elif key == "d":
            value = _short_path(value)
        if key in ("style", "clip-path", "fill"):
            value = _LINK.sub(rf"url(#{name}-\1)", value)
        if key in ("x", "y", "transform", "width", "height"):
            value = (_FEWER if key in "xy" else _DECIMALS).sub(r"\1", value)
        one.set(key, value)


def _short_path(path: str) -> str:
    r"""Write a path in fewer characters: what follows a move is a line unless it says otherwise.

    Examples
    --------
    >>> _short_path("M 0.1234 2 \nL 1.5 2 \nL 3 4 \nz ")
    'M0.12 2 1.5 2 3 4z'
    """
    path = " ".join((_FEWER if len(path) > _LONG else _DECIMALS).sub(r"\1", path).split())
    if set(re.findall("[A-Za-z]", path)) <= set("MLz"):
        path = path.replace(" L ", " ")
    return re.sub(" ?([A-Za-z]) ?", r"\1", path)


def _strip(root: ElementTree.Element) -> None:
    """Take out the names that nothing links to, and blanks but those of text."""
    text = f"{_SVG}text"
    links = {one.get("href", "")[1:] for one in root.iter()}
    links |= {link for one in root.iter() for value in one.attrib.values() for link in _LINK.findall(value)}
    kept = {part for one in root.iter(text) for part in one.iter() if part is not one}
    for one in root.iter():
        if one.get("id") not in links:
            one.attrib.pop("id", None)
        if one.tag != text and one not in kept:
            one.text = (one.text or "").strip()
        if one not in kept:
            one.tail = None


def _share_styles(root: ElementTree.Element, name: str) -> None:
    """Say a style that several elements have once."""
    elements = list(root.iter())[1:]
    counts = Counter(one.get("style", "") for one in elements)
    classes = {style: f"s{i}" for i, (style, count) in enumerate(counts.items()) if style and count > 1}
    for one in elements:
        if one.get("style") in classes:
            one.set("class", classes[one.attrib.pop("style")])
    sheet = ElementTree.Element(f"{_SVG}style")
    sheet.text = "".join(f"#{name} .{key}{{{style}}}" for style, key in classes.items())
    root.insert(0, sheet)


def _font(match: re.Match[str]) -> str:
    """Keep size and slant of a font, and leave out which."""
    words = match[1].split()
    return "".join(_STYLES.get(word, f"font-weight: {word}; ") for word in words) + f"font-size: {match[2]}"
