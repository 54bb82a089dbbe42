"""Contenders run in turns in processes of their own; what is not installed is said, what fails ends it."""

import math

import pytest

from experiments.benchmarks import _race

MODULE = """
import time

def sleep(seconds, units):
    return (lambda: time.sleep(seconds)), units

def absent():
    import nothing_of_this_name

def broken():
    raise RuntimeError("broken")
"""


@pytest.fixture(autouse=True)
def _contenders(tmp_path, monkeypatch):
    (tmp_path / "racing.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")


def test_times_are_for_a_unit_of_work():
    slow = _race.Contender("slow", "racing:sleep", {"seconds": 0.2, "units": 4})
    absent = _race.Contender("absent", "racing:absent")
    found, missing = _race.race([slow, absent], rounds=2)
    assert 0.05 <= found.seconds < found.setup
    assert found.spread >= 1
    assert found.peak > 0
    assert missing.missing == "nothing_of_this_name"
    assert math.isnan(missing.seconds)


def test_a_contender_that_fails_ends_the_race(capfd):
    with pytest.raises(SystemExit, match="broken one ended"):
        _race.race([_race.Contender("broken one", "racing:broken")])
    assert "RuntimeError" in capfd.readouterr().err
