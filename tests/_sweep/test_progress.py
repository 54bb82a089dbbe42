import io
import sys
import time

import pytest

from biasjax._sweep.progress import Bar


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _use(bar):
    with bar:
        bar.describe("kind=a")
        bar.compiled(1.5)
        bar.compiled(2.0)
        bar.advance(3, time.perf_counter() - 1.0)


def test_points_and_compiling_are_shown_apart(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys, "stderr", _Terminal())
    bar = Bar(12)
    _use(bar)
    (task,) = bar._bar.tasks
    assert (task.completed, task.total, task.description) == (3, 12, "kind=a")
    assert task.fields == {"rate": "3 points/s", "compiled": 3.5}


def test_what_other_workers_do_is_shown(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys, "stderr", _Terminal())
    bar = Bar(12)
    bar.skip(5)
    for chunks, text in [(2, "2 chunks"), (1, "1 chunk")]:
        bar.wait(chunks)
        assert bar._bar.tasks[0].description == f"waiting for {text} of other workers"
    assert bar._bar.tasks[0].completed == 5


@pytest.mark.parametrize("case", ["no terminal", "not wanted", "no rich"])
def test_nothing_is_shown_where_none_can_see_it(monkeypatch, case):
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO() if case == "no terminal" else _Terminal())
    if case == "no rich":
        monkeypatch.setitem(sys.modules, "rich.console", None)
    _use(Bar(12, enabled=case != "not wanted"))
    assert not shown.getvalue()
