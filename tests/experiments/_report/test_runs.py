import json

import pytest
from fake_runs import Config, make

from experiments._report import changes, page, runs
from experiments.claims import at_least, at_most

CLAIM = at_most("small", "trial", 1.0, 0.5).to_dict()


def test_a_whole_run_comes_back(tmp_path):
    record = runs.read(make(tmp_path), "one")
    assert (record.state, record.why) == ("whole", "")
    assert record.claims == (at_most("small", "trial", 1.0, 0.5, null=2.0),)
    assert record.run["config"] == {"rates": [0.1, 0.2], "seeds": 10, "adam": False}
    assert record.run["seconds"] == 3.0
    assert len(record.run["git_commit"]) >= 7
    assert not list(record.folder.glob(".*"))


def test_the_command_is_what_was_typed(tmp_path):
    config = Config(rates=(0.3,), adam=True)
    said = runs.begin(tmp_path / "one", "one", "", config, Config(), smoke=True)
    assert said["command"] == "python -m experiments one --smoke --rates 0.3 --adam"


def test_a_run_that_was_interrupted_is_known_whatever_an_earlier_one_left(tmp_path):
    make(tmp_path)
    make(tmp_path, seconds=None)
    record = runs.read(tmp_path / "one", "one")
    assert record.state == "half-written"
    assert "did not finish" in record.why


@pytest.mark.parametrize(
    ("file", "content", "state"),
    [
        ("run.json", None, "older"),
        ("run.json", "{", "half-written"),
        ("run.json", "[]", "half-written"),
        ("run.json", '{"experiment": "other"}', "half-written"),
        ("run.json", '{"experiment": "one"}', "half-written"),
        ("claims.json", None, "half-written"),
        ("claims.json", '[{"name": "small"}]', "half-written"),
        ("claims.json", "3", "half-written"),
        ("claims.json", json.dumps([CLAIM | {"measured": "much"}]), "half-written"),
        ("claims.json", json.dumps([CLAIM | {"relation": "~"}]), "half-written"),
        ("claims.json", "\ud83d".encode("utf-16", "surrogatepass"), "half-written"),
        ("one.svg", None, "half-written"),
    ],
)
def test_what_is_broken_is_said_and_not_raised(tmp_path, file, content, state):
    folder = make(tmp_path)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    record = runs.read(folder, "one")
    assert record.state == state
    assert record.why.endswith(".")
    assert str(tmp_path) not in record.why


@pytest.mark.parametrize(
    ("key", "value"), [("config", []), ("seconds", "long"), ("text", 3), ("device", None), ("smoke", "no")]
)
def test_what_a_run_says_has_to_be_of_its_kind(tmp_path, key, value):
    folder = make(tmp_path)
    said = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(said | {key: value}))
    record = runs.read(folder, "one")
    assert record.state == "half-written"
    assert key in record.why
    assert "half-written" in page.page([record])


def test_what_was_never_run_is_missing(tmp_path):
    assert runs.read(tmp_path / "one", "one").state == "missing"
    (tmp_path / "one").mkdir()  # as one that had several to run leaves it
    assert runs.read(tmp_path / "one", "one").state == "missing"


def test_claims_that_are_no_numbers_survive_json(tmp_path):
    claim = at_most("nan", "trial", float("inf"), float("nan"))
    folder = make(tmp_path, claims=(claim,))
    (back,) = runs.read(folder, "one").claims
    assert back.expected == float("inf")
    assert back.measured != back.measured
    assert json.loads((folder / "claims.json").read_text())[0]["verdict"] == "fails"


def test_changes_are_beyond_both_intervals_or_of_verdicts(tmp_path):
    before = (
        at_most("stays", "t", 1.0, 0.5, interval=0.1),
        at_most("moves", "t", 1.0, 0.5, interval=0.1),
        at_most("turns", "t", 1.0, 0.9),
        at_most("goes", "t", 1.0, 0.5),
        at_least("exact", "t", 0.0, 0.5),
    )
    after = (
        at_most("stays", "t", 1.0, 0.65, interval=0.1),
        at_most("moves", "t", 1.0, 0.75, interval=0.1),
        at_most("turns", "t", 1.0, 1.1),
        at_most("comes", "t", 1.0, 0.5),
        at_least("exact", "t", 0.0, 0.5004),
    )
    new, old = (
        runs.read(make(tmp_path / side, claims=claims), "one")
        for side, claims in (("a", after), ("b", before))
    )
    found = {change.name: change.why for change in changes.changes([new], {"one": old})}
    assert found == {"moves": "measured", "turns": "verdict", "comes": "new", "goes": "gone"}
    assert changes.changes([new], {"one": new, "two": old}) == []
