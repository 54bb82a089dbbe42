"""The page on a model in a real browser, offline."""

import pytest
from pages import HOSTILE, finding, modes, receipt, tolerances

from biasjax import report
from biasjax._audit.findings import BiasAudit

FOUND = modes(60)
HTML = report.model(FOUND, tolerances=tolerances(FOUND.train), receipts=[receipt(FOUND.train)])


def rows(page):
    return page.locator("#each tbody tr:visible")


@pytest.mark.parametrize("width", [390, 800, 1440])
def test_search_and_choose(shown, width):
    page = shown(HTML, width)
    assert rows(page).count() == 60
    page.fill("#each-search", "Block_3 value")
    assert rows(page).count() == 1
    assert page.inner_text("#each-shown") == "1 of 60"
    page.fill("#each-search", "")
    page.select_option("#each-choose", "partly cancelled")
    assert rows(page).count() == 10
    assert "partly cancelled" in rows(page).first.inner_text()


def test_sort(shown):
    page = shown(HTML)

    def column(number):
        return page.locator(f"#each tbody tr > :nth-child({number})").all_inner_texts()

    before, ranks = column(1), page.locator("#each thead th:nth-child(4) button")
    ranks.click()
    assert column(4) == sorted(column(4), key=int)
    assert column(4) != [*reversed(column(4))]
    ranks.click()
    assert column(4) == sorted(column(4), key=int, reverse=True)
    ranks.click()
    assert column(1) == before
    page.click("#each thead th:nth-child(1) button")
    blocks = [int(path.split("block_")[1].split("/")[0]) for path in column(1)]
    assert blocks == sorted(blocks)


def test_numbers_that_are_none_come_last(shown):
    cells = ["inf", "2", "10", "-1", "", "nan", "1.5 ± 0.1", "1,000"]
    table = report.table("t", ("a",), [report.Row((cell,)) for cell in cells], caption="")
    page = shown(report.page("Sort", [report.Section("s", "S", table)]))
    page.click("#t thead button")
    found = page.locator("#t tbody th").all_inner_texts()
    assert found == ["-1", "1.5 ± 0.1", "2", "10", "1,000", "inf", "", "nan"]


@pytest.mark.parametrize("width", [390, 800, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(shown, width, scheme):
    for html in (HTML, report.model(FOUND.train)):
        page = shown(html, width, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_map_leads_to_rows(shown):
    page = shown(HTML)
    page.click('.map a[href="#bias-60"]')
    row = page.locator("#bias-60")
    assert row.evaluate("one => one.matches(':target')")
    assert 0 <= row.bounding_box()["y"] < 900


def test_without_javascript(shown):
    page = shown(HTML, java_script_enabled=False)
    assert rows(page).count() == 60
    assert page.locator(".tools:visible, #theme:visible").count() == 0


CONTRAST = r"""() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => {
      const c = v / 255;
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (!/^rgba.* 0\)$/.test(color)) return color;
    }
    return "white";
  };
  const ratio = (one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const texts = [...document.querySelectorAll("body *")].filter((one) => one.matches(".sign") ||
    [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return Math.min(...texts.filter((one) => one.checkVisibility()).map(ratio));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(shown, scheme):
    assert shown(HTML, color_scheme=scheme).evaluate(CONTRAST) >= 4.5


def test_hostile_names_show_as_text(shown):
    names = [HOSTILE, "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "</style>", "&amp;"]
    found = BiasAudit(tuple(finding(i)._replace(path=path) for i, path in enumerate(names)))
    page = shown(report.model(found, title=HOSTILE), 390)
    for number, name in enumerate(names[1:], 2):
        assert page.inner_text(f"#bias-{number} bdi >> nth=0") == name
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
