"""The page of experiments in a real browser, offline."""

import fake_controls
import pytest
from fake_runs import make

from experiments._report import controls, page, runs
from experiments.claims import at_most


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """A page of three small runs and one that is missing, with controls on a small grid."""
    folder = fake_controls.results(tmp_path_factory.mktemp("results"))
    made = controls.controls(folder, fake_controls.SMALL)
    many = tuple(at_most(f"claim {i}", "trial", 1.0, 0.1 * i, null=2.0) for i in range(30))
    names = ("regime_map", "norm_order", "deep_linear")
    records = [runs.read(make(folder, name, claims=many), name) for name in names]
    return page.page([*records, runs.read(folder / "missing", "missing")], made)


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(shown, html, width, scheme):
    one = shown(html, width, color_scheme=scheme)
    assert one.evaluate("document.documentElement.scrollWidth") <= width


def test_contents_follow_what_is_read(shown, html):
    one = shown(html)
    for name in ("story", "claims", "deep_linear"):
        one.evaluate("name => document.getElementById(name).scrollIntoView()", name)
        one.wait_for_selector(f".contents a[href='#{name}'][aria-current]")
    assert one.locator(".contents a[aria-current]").count() == 1


def test_claims_are_searched_and_chosen(shown, html):
    one = shown(html)
    one.fill("#all-claims-search", "norm_order")
    assert one.inner_text("#all-claims-shown") == "30 of 90"
    one.select_option("#all-claims-choose", "fails")
    assert one.inner_text("#all-claims-shown") == "19 of 90"


def test_light_and_dark_by_hand(shown, html):
    one = shown(html, color_scheme="light")
    before = one.evaluate("getComputedStyle(document.body).backgroundColor")
    one.click("#theme")
    assert one.evaluate("getComputedStyle(document.body).backgroundColor") != before
    one.click("#theme")
    assert one.evaluate("getComputedStyle(document.body).backgroundColor") == before


def test_all_is_there_without_javascript(shown, html):
    one = shown(html, java_script_enabled=False)
    assert one.locator("figure > svg").count() == 3
    assert one.locator("#all-claims tbody tr").count() == 90
    assert one.locator(".tools:visible, #theme:visible").count() == 0
