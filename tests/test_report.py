"""Pages, tables and figures: text stays text, names are unique, the same data gives the same bytes."""

import re
from typing import Any

import pytest
from markupsafe import Markup
from matplotlib.figure import Figure
from pages import HOSTILE, outline

from biasjax import plot, report


def drawn(tmp_path, title="loss"):
    figure = Figure()
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1.23456789])
    ax.set_title(title, style="italic")
    plot.save(figure, tmp_path / "figure.svg")
    return (tmp_path / "figure.svg").read_text()


def test_page_is_whole_and_escaped():
    rows = [report.Row((HOSTILE, "1"), name="first"), report.Row((Markup("<b>x</b>"), HOSTILE))]
    table = report.table("all", (HOSTILE, "size"), rows, caption=HOSTILE, choose=1)
    sections = [report.Section("one", HOSTILE, HOSTILE), report.Section("two", "Two", table, 3)]
    page = report.page(HOSTILE, sections, lead=HOSTILE, foot=HOSTILE)
    found = outline(page)
    assert found.tags.count("script") == found.tags.count("style") == 1
    assert {"one", "two", "all", "first"} <= set(found.ids)
    assert sum("<script>alert(1)</script>" in text for text in found.text) >= 8
    assert "<b>x</b>" in page
    assert page == report.page(HOSTILE, sections, lead=HOSTILE, foot=HOSTILE)
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/\S+", "", page)


def section(name, body=""):
    return report.Section(name, "Title", body)


WRONG: Any = report  # called with what a checker would refuse
REFUSED = {
    "two sections": (lambda: report.page("", [section("a"), section("a")]), "two named 'a'"),
    "a section as its table": (lambda: report.page("", [section("a", table("a"))]), "two named 'a'"),
    "a name of the page": (lambda: report.page("", [section("main")]), "two named 'main'"),
    "a title's": (lambda: report.page("", [section("a"), section("a-title")]), "two named 'a-title'"),
    "blanks": (lambda: report.page("", [section("a b")]), "a name of letters"),
    "a level": (lambda: report.page("", [section("a")._replace(level=4)]), "level of a: expected 2 or 3"),
    "one section": (lambda: WRONG.page("", section("a")), "sections: expected a sequence of Section"),
    "style": (lambda: report.page("", [], style="p {}</STYLE>"), "style: expected text without </style>"),
    "script": (lambda: report.page("", [], script="</script>"), "script: expected text without"),
    "lead": (lambda: WRONG.page("", [], lead=None), "lead: expected text, got None"),
    "cells": (lambda: table("a", [report.Row(("1",))]), "row of a: expected 2 cells, got 1"),
    "numbers": (lambda: table("a", [WRONG.Row(("1", 2))]), "row of a: expected a sequence of str"),
    "column": (lambda: table("a", choose=2), "choose: expected the number of one of 2 columns"),
    "right": (lambda: table("a", right="1"), "right: expected numbers of columns"),
    "template": (lambda: report.template("page.htm"), r"a file of .*, one of .*page\.html"),
    "outside": (lambda: report.template("../report.py"), "a file of"),
    "folder": (lambda: report.template("page.html", "nowhere"), "a folder that exists"),
    "cut off": (lambda: report.figure("<svg><g>", "a", ""), "an SVG file, got a: no element found"),
    "no SVG": (lambda: report.figure("<p/>", "a", ""), "an SVG file, got a: <p>"),
}


def table(name, rows=(), **options):
    return report.table(name, ("bias", "size"), rows, caption="", **options)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_templates_of_others_escape(tmp_path):
    (tmp_path / "own.html").write_text("<p>{{ said }}</p>")
    assert report.template("own.html", tmp_path).render(said="<b>") == "<p>&lt;b&gt;</p>"


def test_choices_are_what_a_browser_shows():
    rows = [report.Row((Markup('<i class="x"></i> a  b'), "1")), report.Row(("a\nb", "2"))]
    assert table("a", rows, choose=0).count('<option value="a b">') == 1


def test_figures_adapt_to_the_page(tmp_path):
    svg = drawn(tmp_path)
    html = report.figure(svg, "loss", 'a "label" <b>', caption="<i>")
    found = outline(html)
    assert found.ids
    assert all(name == "loss" or name.startswith("loss-") for name in found.ids)
    assert {f"url(#{name})" for name in re.findall(r"url\(#([^)]*)\)", html)} <= {
        f"url(#{i})" for i in found.ids
    }
    assert "#000000" not in html
    assert "currentColor" in html
    assert "metadata" not in html
    assert "font-style: italic; font-size" in html
    assert not re.search(r' d="[^"]*\d\.\d{3}', html)
    assert "<figcaption>&lt;i&gt;</figcaption>" in html
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in html
    assert html == report.figure(svg, "loss", 'a "label" <b>', caption="<i>")
    both = Markup("").join([html, report.figure(svg, "other", "")])
    outline(report.page("Figures", [section("figures", both)]))
    with pytest.raises(ValueError, match="two named 'loss"):
        report.page("Figures", [section("figures", html + html)])


def test_figures_do_nothing():
    bad = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><g onload="alert(2)"/></svg>'
    assert "alert" not in report.figure(bad, "bad", "")


def test_text_of_figures_is_text(tmp_path):
    html = report.figure(drawn(tmp_path, "<script>alert(1)</script>"), "loss", "")
    assert "script" not in outline(html).tags
    assert "&lt;script&gt;" in html
