"""Reports for machines, read back: annotations, SARIF, JUnit XML and baselines of findings made by hand."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from biasjax._audit import reports
from biasjax._audit.findings import VERDICTS, BiasAudit, Death, Finding, Made, Shifted, verdict_of
from biasjax._audit.reports import Place

HERE = str(Path.cwd() / "models" / "my net.py")
LIBRARY = "/venv/lib/python3.11/site-packages/flax/linen/normalization.py"
FACTORY = Place(str(Path.cwd() / "lint_me.py"), 5)


def finding(path, rank, unique, line=7, **more):
    verdict = verdict_of(True, 8, rank, unique)
    made = Made(f"{HERE}:{line} (Net.__call__)", "flax.linen.Conv", "use_bias=False", "")
    found = Finding(path, 8, rank, unique, verdict, True, Shifted(0.0, 1e-16), None, (), (), made)
    return found._replace(**more)


DEATH = Death("sub", "Net/BatchNorm_0", f"{LIBRARY}:142 (_compute_stats)")
TRAIN = BiasAudit(
    (
        finding("layers_0/conv/bias", 0, 0, deaths=(DEATH,)),
        finding("layers_1/conv/bias", 0, 0, deaths=(DEATH,)),
        finding("value/bias", 8, 0, 12, absorbed_by=("out/bias",)),
        finding("out/bias", 8, 8, 13),
        finding(
            "keras/bias", 0, 0, made=Made(f"{LIBRARY}:3 (f)", "keras.layers.Dense", "use_bias=False", "")
        ),
        finding("spare/bias", 0, 0, verdict="unused", made=None),
    )
)
EVAL = BiasAudit((finding("layers_0/conv/bias", 8, 8),))
AUDITS = {"train": TRAIN, "eval": EVAL}
FOUND = reports.problems(AUDITS, ("cancelled",))


def test_problems():
    assert [(p.mode, p.rule, p.level) for p in FOUND] == [
        ("train", "BJ001", "error"),
        ("train", "BJ001", "error"),
        ("train", "BJ004", "note"),
        ("train", "BJ001", "error"),
        ("train", "BJ003", "warning"),
    ]
    assert set(reports.RULES) == set(VERDICTS)
    assert {p.level for p in reports.problems(AUDITS, ())} == {"warning", "note"}


def test_what_does_something_is_no_problem_but_where_asked_for():
    fine = {"": BiasAudit((finding("a", 8, 8), finding("b", 8, None)))}
    assert reports.problems(fine, ("cancelled",)) == []
    assert [p.finding.path for p in reports.problems(fine, ("needed",))] == ["a"]


def test_baseline(tmp_path):
    path = tmp_path / "known.json"
    path.write_text(reports.baseline(FOUND[:1]))
    again = reports.problems(AUDITS, ("cancelled",), reports.read_baseline(path))
    assert [p.known for p in again] == [True, False, False, False, False]
    assert [p.finding.path for p in again if p.fails] == ["layers_1/conv/bias", "keras/bias"]
    # The same bias in another mode, or with another verdict, is news
    other = {"eval": BiasAudit(TRAIN.findings[:1])}
    assert [p.known for p in reports.problems(other, (), reports.read_baseline(path))] == [False]


@pytest.mark.parametrize("text", ["", "[]", '{"known": [{"mode": "train"}]}', '{"known": [3]}'])
def test_a_baseline_that_is_none(text, tmp_path):
    (tmp_path / "known.json").write_text(text)
    with pytest.raises(ValueError, match="--baseline: expected a file of --write-baseline at"):
        reports.read_baseline(tmp_path / "known.json")


def test_annotations_of_github():
    lines = reports.github(FOUND, FACTORY).splitlines()
    pattern = re.compile(r"::(error|warning|notice) file=(.*?),line=(\d+),title=([^:]*)::(.*)")
    parsed = [match.groups() for match in map(pattern.fullmatch, lines) if match]
    assert [one[:4] for one in parsed] == [
        ("error", "models/my net.py", "7", "BJ001 cancelled bias"),
        ("notice", "models/my net.py", "12", "BJ004 absorbable bias"),
        ("error", "lint_me.py", "5", "BJ001 cancelled bias"),
        ("warning", "lint_me.py", "5", "BJ003 unused bias"),
    ]
    assert parsed[0][4] == (
        "layers_0/conv/bias is cancelled in training. Dies at sub in Net/BatchNorm_0, "
        "linen/normalization.py:142 (_compute_stats). To do: use_bias=False of flax.linen.Conv. "
        "Likewise layers_1/conv/bias."
    )
    assert reports.github(FOUND[:1]).startswith("::error file=models/my net.py")
    assert reports.github([FOUND[3]]).startswith("::error title=BJ001")
    assert reports.github([FOUND[0]._replace(known=True)]) == ""


def test_annotations_are_escaped():
    odd = FOUND[0]._replace(finding=finding("a%b\nc", 0, 0, made=Made(f"{HERE[:-3]},x.py:3 (f)", "", "", "")))
    assert reports.github([odd]) == (
        "::error file=models/my net%2Cx.py,line=3,title=BJ001 cancelled bias::"
        "a%25b%0Ac is cancelled in training. To do: drop it where it is added."
    )


def test_sarif():
    log = json.loads(reports.sarif(FOUND, "1.2.3", FACTORY))
    assert (log["version"], set(log)) == ("2.1.0", {"$schema", "version", "runs"})
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [f"BJ00{i}" for i in range(1, 7)]
    assert {rule["defaultConfiguration"]["level"] for rule in rules} <= {"none", "note", "warning", "error"}
    assert (rules[0]["name"], rules[5]["name"]) == ("CancelledBias", "NeededBias")
    assert run["tool"]["driver"]["version"] == "1.2.3"
    assert run["originalUriBaseIds"]["SRCROOT"]["uri"] == f"{Path.cwd().as_uri()}/"
    assert len(run["results"]) == len(FOUND)
    for result, problem in zip(run["results"], FOUND, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == problem.rule
        assert result["level"] == problem.level
        assert result["message"]["text"] == problem.message()
        assert "baselineState" not in result
    first, *_, keras, spare = run["results"]
    (location,) = first["locations"]
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "layers_0/conv/bias"
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "models/my%20net.py", "uriBaseId": "SRCROOT"},
        "region": {"startLine": 7},
    }
    (related,) = first["relatedLocations"]
    assert related["physicalLocation"]["artifactLocation"] == {"uri": Path(LIBRARY).as_uri()}
    assert related["physicalLocation"]["region"] == {"startLine": 142}
    assert related["message"]["text"] == "Dies at sub in Net/BatchNorm_0"
    for result in (keras, spare):
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "lint_me.py"
    prints = [result["partialFingerprints"]["bias/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)


def test_sarif_compared_with_a_baseline():
    some = [FOUND[0]._replace(known=True), FOUND[1]]
    log = json.loads(reports.sarif(some, "1.2.3", compared=True))
    assert [result["baselineState"] for result in log["runs"][0]["results"]] == ["unchanged", "new"]
    bare = json.loads(reports.sarif([FOUND[4]], "1.2.3"))["runs"][0]["results"][0]
    assert "physicalLocation" not in bare["locations"][0]


def test_junit():
    found = [FOUND[0]._replace(known=True), *FOUND[1:]]
    top = ElementTree.fromstring(reports.junit(AUDITS, found, FACTORY))
    train, evaluation = top
    assert train.attrib == {
        "name": "biasjax.train",
        "tests": "6",
        "failures": "2",
        "errors": "0",
        "skipped": "0",
    }
    assert (evaluation.attrib["name"], evaluation.attrib["failures"]) == ("biasjax.eval", "0")
    cases = {case.attrib["name"]: case for case in train}
    assert list(cases) == [f.path for f in TRAIN.findings]
    failing = {name: case.find("failure") for name, case in cases.items()}
    assert [name for name, failure in failing.items() if failure is not None] == [
        "layers_1/conv/bias",
        "keras/bias",
    ]
    failure = failing["layers_1/conv/bias"]
    assert failure is not None
    assert (failure.attrib["type"], failure.text) == ("BJ001", FOUND[1].message())
    assert (cases["out/bias"].attrib["file"], cases["out/bias"].attrib["line"]) == ("models/my net.py", "13")
    assert cases["keras/bias"].attrib["file"] == "lint_me.py"
