"""Results of races are kept for each kind of machine, and the pages take their numbers from there."""

import json
import re
from pathlib import Path

import pytest

from experiments.benchmarks import __main__ as command
from experiments.benchmarks import _results
from experiments.benchmarks._race import Contender, Race, Timing

MACHINE = {"platform": "cpu", "device": "Some CPU", "cores": 4, "versions": {"jax": "0.10.2"}}
RACE = Race("update", [Contender("ours", "a:b"), Contender("theirs", "c:d")])
TIMINGS = [Timing("ours", 0.0012345, 1.05, 3.0, 500), Timing("theirs", missing="torch")]
ROOT = Path(__file__).parents[2]


def test_a_race_replaces_the_one_before_it_and_no_other(tmp_path):
    path = _results.file(MACHINE, tmp_path)
    assert path.name == "cpu-4-cores.json"
    for name in ("one", "two", "one"):
        _results.add(path, MACHINE, name, RACE, TIMINGS)
    kept = json.loads(path.read_text())
    assert list(kept) == ["one", "two"]
    assert kept["one"]["machine"] == MACHINE
    assert kept["one"]["contenders"]["ours"]["seconds"] == pytest.approx(0.00123)


def test_a_gpu_gives_its_name():
    machine = {"platform": "gpu", "device": "1 x NVIDIA H100 80GB", "cores": 8}
    assert _results.file(machine).name == "1-x-nvidia-h100-80gb.json"


def test_a_table_compares_with_the_first(tmp_path):
    path = tmp_path / "results.json"
    _results.add(path, MACHINE, "mlp", RACE, [TIMINGS[0], Timing("twice", 0.0025, 1.0, 1.0, 10), TIMINGS[1]])
    first, _, ours, twice, missing = _results.table("mlp", json.loads(path.read_text())["mlp"]).splitlines()
    assert first.split()[:4] == ["mlp", "ms", "per", "update"]
    assert ours.split() == ["ours", "1.23", "1.00", "1.05", "3.0", "500"]
    assert twice.split()[1:3] == ["2.5", "2.03"]
    assert missing.split() == ["theirs", "no", "torch"]


def test_the_command_runs_shows_and_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "race", lambda contenders, rounds: TIMINGS)
    monkeypatch.setattr(_results, "machine", lambda: MACHINE)
    assert command.main(["mlp", "--output", str(tmp_path)]) == 0
    assert "ours" in capsys.readouterr().out
    monkeypatch.setattr(command, "race", lambda *_: pytest.fail("ran"))
    assert command.main(["--show", "--output", str(tmp_path)]) == 0
    assert "ours" in capsys.readouterr().out
    assert command.main(["mpl", "--output", str(tmp_path)]) == 2
    assert "race: expected one of audit-resnet18" in capsys.readouterr().err
    assert command.main(["mlp", "--rounds", "0"]) == 2
    assert "rounds: expected an integer of at least 1" in capsys.readouterr().err
    assert command.main(["mlp", "--show", "--output", str(tmp_path / "nowhere")]) == 0
    assert "nothing kept" in capsys.readouterr().out
    _results.file(MACHINE, tmp_path).write_text("{")
    assert command.main(["mlp", "--output", str(tmp_path)]) == 2
    assert "expected JSON" in capsys.readouterr().err


def test_every_race_has_names_of_its_own_and_a_first_contender_of_biasjax():
    for name, race in command.races(networks=1024).items():
        names = [one.name for one in race.contenders]
        assert len({*names}) == len(names)
        assert "biasjax" in names[0] or name.startswith("start")
        for one in race.contenders:
            module, function = one.start.split(":")
            assert f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert command.races(1024)["mlp"].contenders[0].options["models"] == 1024


def _times_faster(kept, name, peer):
    """How many times longer the fastest of some contenders takes than the first."""
    first, *others = kept[name]["contenders"].items()
    return min(one["seconds"] for label, one in others if peer in label) / first[1]["seconds"]


def test_the_readme_says_what_was_measured():
    kept = json.loads((_results.FOLDER / "cpu-2-cores.json").read_text())
    said = re.search(
        r"dense networks train ([\d.]+)\s+times faster than a\s+PyTorch loop, "
        r"8×8 convolutions ([\d.]+)\s+times, transformers ([\d.]+)\s+times",
        (ROOT / "README.md").read_text(),
    )
    assert said is not None
    for name, number in zip(("mlp", "cnn-8x8-16", "transformer"), said.groups(), strict=True):
        assert f"{_times_faster(kept, name, 'PyTorch'):.2g}" == number
