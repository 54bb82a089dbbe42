import importlib
import re
from pathlib import Path

import pytest
from fake_runs import make

from experiments import report
from experiments._report import page, runs, story
from experiments._report.controls import Control
from experiments.claims import at_least, at_most

main = importlib.import_module("experiments.__main__")
ROOT = Path(page.__file__).parents[2]
HOSTILE = "<script>alert('x')</script> \"&'"


def record(folder, name="one", **options):
    return runs.read(make(folder, name, **options), name)


def test_a_run_is_shown_with_question_answer_figure_claims_and_command(tmp_path):
    text = (
        "Does it?\n\nAnswer: yes, by `far`.\n\nSource: a thread.\n\n    a  table\n    1  2\n\nCost: none.\n"
    )
    made = page.page([record(tmp_path, text=text)])
    for part in (
        "Does it?",
        "Yes, by far.",
        "<strong>Source.</strong> a thread.",
        "<pre>a  table\n1  2</pre>",
    ):
        assert part in made
    assert "All 1 claims hold." in made
    assert "python -m experiments one" in made
    assert "a figure</text>" in made
    assert re.search(r"<td[^>]*>≤ 1</td><td[^>]*>0.5</td><td[^>]*>2</td>", made)


def test_all_text_of_runs_is_escaped(tmp_path):
    claims = (at_most(HOSTILE, HOSTILE, 1.0, 0.5),)
    made = page.page([record(tmp_path, text=f"{HOSTILE}\n\nAnswer: {HOSTILE}\n\n{HOSTILE}", claims=claims)])
    assert "<script>alert" not in made
    assert made.count("&lt;script&gt;alert") > 4


def test_what_is_missing_half_written_small_or_older_is_named(tmp_path):
    whole = record(tmp_path, "whole")
    small = record(tmp_path, "small", smoke=True)
    half = record(tmp_path, "half", seconds=None)
    (make(tmp_path, "older") / "run.json").unlink()
    others = [runs.read(tmp_path / name, name) for name in ("gone", "older")]
    elsewhere = small._replace(name="elsewhere", run={**small.run, "git_commit": "f00", "began": "2000"})
    made = page.page([whole, small, half, *others, elsewhere])
    start = made[made.index("The story in ten lines</h2>") : made.index('<ol class="story">')]
    assert "Not run: gone." in start
    assert "half is half-written. It began" in start
    assert "older is older. It has no run.json" in start
    assert "claims may fail for their size: small, elsewhere." in start
    assert "made at another commit: elsewhere." in start
    for name in ("whole", "small", "half", "gone", "older"):
        assert f'<section id="{name}"' in made
    assert "whole is" not in start


def test_a_figure_that_is_cut_off_is_said(tmp_path):
    folder = make(tmp_path)
    (folder / "one.svg").write_text("<svg")
    assert "The figure cannot be shown" in page.page([runs.read(folder, "one")])


def test_claims_that_fail_are_named_in_the_verdict(tmp_path):
    claims = (
        at_most("low", "t", 1.0, 2.0),
        at_least("high", "t", 1.0, 2.0, null=3.0),
        at_most("ok", "t", 1.0, 0.0),
    )
    made = page.page([record(tmp_path, claims=claims)])
    assert "1 of 3 claims hold; not: low (fails), high (empty)." in made


def test_the_story_tells_measured_numbers_and_where_they_fail(tmp_path):
    name = "SGD + L2, b0 = 10: accuracy lost"
    lines = {
        held: story.told({"norm_order": record(tmp_path / held, "norm_order", claims=(claim,))})
        for held, claim in (
            ("holds", at_least(name, "t", 0.3, 0.8, interval=0.03, null=0.0)),
            ("fails", at_least(name, "t", 0.3, 0.1, null=0.0)),
        )
    }
    for held, told in lines.items():
        (line,) = (one for one in told if "accuracy all the same" in one.text)
        assert line.state == held
    assert "0.8±0.03" in next(one.text for one in lines["holds"] if one.state == "holds")
    assert all(one.state == "not shown" for one in story.told({}))
    assert len(story.LINES) == 10


def test_the_story_cites_experiments_and_has_a_place_for_each_number():
    known = main.experiments()
    for line in story.LINES:
        assert line.experiment in known
        assert line.text.count("{}") <= len(line.claims)


def test_changes_are_shown_when_asked_for(tmp_path):
    now, before = record(tmp_path / "a"), record(tmp_path / "b", claims=(at_most("small", "t", 1.0, 2.0),))
    assert "What changed" not in page.page([now])
    made = page.page([now], against={"one": before})
    assert "1 claims differ" in made
    assert re.search(r"verdict</td><td[^>]*>fails</td><td[^>]*>2</td><td[^>]*>holds</td>", made)


def test_same_files_same_bytes(tmp_path):
    records = [record(tmp_path), record(tmp_path, "two")]
    assert page.page(records) == page.page(records)


@pytest.fixture
def small(monkeypatch):
    """Let reports be of two experiments, without controls."""
    monkeypatch.setattr(main, "experiments", lambda: {"one": "", "two": ""})
    monkeypatch.setattr("experiments._report.controls.controls", lambda folder: [])


def test_a_report_runs_what_is_missing_and_nothing_else(tmp_path, small, monkeypatch, capsys):
    make(tmp_path / "runs", "one")
    asked, ran = [], []
    monkeypatch.setattr(main, "parse", lambda name, arguments: asked.append((name, arguments)) or name)
    monkeypatch.setattr(main, "check_output", lambda todo: None)
    monkeypatch.setattr(main, "attempt", lambda run: ran.append(run) or make(tmp_path / "runs", run))
    options = ["--from", str(tmp_path / "runs"), "--output", str(tmp_path / "page.html")]
    assert main.main(["report", *options, "--smoke"]) == 0
    assert asked == [("two", ["--smoke", "--output", str(tmp_path / "runs")])]
    assert "All 1 claims hold." in (tmp_path / "page.html").read_text()
    assert main.main(["report", *options]) == 0
    assert ran == ["two"]
    assert "written to" in capsys.readouterr().out


def test_a_report_that_runs_nothing_names_what_is_missing(tmp_path, small):
    make(tmp_path / "runs", "one")
    options = ["--from", str(tmp_path / "runs"), "--output", str(tmp_path / "page.html"), "--no-run"]
    assert main.main(["report", *options]) == 1
    assert "Not run: two." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--no-run", "--from", "nowhere"], "--from: expected a folder of runs"),
        (["--against", "nowhere"], "--against: expected a folder of runs"),
        (["--output", "README.md/page.html"], "expected a folder that can be written to"),
    ],
)
def test_mistakes_are_refused_before_any_run(options, told, small, monkeypatch, capsys):
    monkeypatch.setattr(main, "attempt", lambda run: pytest.fail("was run"))
    assert main.main(["report", *options]) == 2
    assert told in capsys.readouterr().err


def test_help_of_the_report(capsys):
    with pytest.raises(SystemExit):
        report.parse(["--help"])
    assert "--against" in capsys.readouterr().out


def test_controls_and_the_map_have_their_places(tmp_path):
    control = Control("lag", "How far the mean lags", "<b>moved</b>")
    made = page.page([record(tmp_path, "regime_map")], [control])
    assert '<h3 id="try-lag">How far the mean lags</h3>' in made
    assert made.count("a figure</text>") == 1
    assert 'href="#map"' in made


def test_the_committed_page_has_all_experiments_and_asks_nothing_of_a_network():
    page = (ROOT / "experiments" / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) <= 3_000_000
    start = page[page.index('id="story"') : page.index('class="story"')]
    assert 'class="note"' not in start, "a run is missing, small or of another commit"
    for name in main.experiments():
        assert f'<section id="{name}"' in page
    assert not re.findall(r"""(?:src|href|action)=["'](?!#|data:)[^"']*""", page)
    assert not re.findall(r"url\((?!#)|@import|fetch\(|XMLHttpRequest", page)
