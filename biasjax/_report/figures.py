"""Figures for a page: SVG of matplotlib, inline, in the page's font and colours."""

from __future__ import annotations

import re
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
_LONG = re.compile(r"(-?\d+\.\d\d)\d+")
_LINK = re.compile(r"url\(#([^)]*)\)")
_STYLES = {"italic": "font-style: italic; ", "oblique": "font-style: italic; ", "bold": "font-weight: bold; "}


def figure(svg: str, name: str, label: str, *, caption: str = "") -> Markup:
    """Put a figure that matplotlib wrote as SVG into a page.

    Black becomes the page's text colour and the white behind panels the page's own; text takes the page's
    font. Numbers keep two decimals.

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
    >>> svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><g id="a" style="fill: #000000"/></svg>'
    >>> html = figure(svg, "loss", "Loss over steps", caption="Loss")
    >>> '<g id="loss-a" style="fill: currentColor"' in html, "<figcaption>Loss</figcaption>" in html
    (True, True)
    """
    from markupsafe import Markup, escape

    checks.name("figure", name)
    for what, value in {"svg": svg, "label": label, "caption": caption}.items():
        checks.text(what, value)
    root, width = _parsed(svg, name)
    _remove(root, _LEFT_OUT)
    for parent in root.iter():
        is_patch = (parent.get("id") or "").startswith("patch_")
        for one in parent:
            if is_patch and one.get("style"):
                one.set("style", one.get("style", "").replace("fill: #ffffff", "fill: none"))
    for one in root.iter():
        _adapt(one, name)
    root.attrib = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": label}
    root.set("style", f"max-width: {4 / 3 * width:.0f}px")  # points
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
        if key.lower().startswith("on"):
            del one.attrib[key]
            continue
        if key == "id":
            value = f"{name}-{value}"
        elif key in (f"{_XLINK}href", "href"):
            del one.attrib[key]
            key, value = "href", f"#{name}-{value[1:]}" if value.startswith("#") else value
        elif key == "style":
            value = _FONT.sub(_font, value).replace("#000000", "currentColor")
        if key in ("style", "clip-path", "fill"):
            value = _LINK.sub(rf"url(#{name}-\1)", value)
        if key in ("d", "x", "y", "transform", "points", "width", "height"):
            value = _LONG.sub(r"\1", value)
        one.set(key, value)


def _font(match: re.Match[str]) -> str:
    """Keep size and slant of a font, and leave out which."""
    words = match[1].split()
    return "".join(_STYLES.get(word, f"font-weight: {word}; ") for word in words) + f"font-size: {match[2]}"
