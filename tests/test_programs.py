"""Compiled programs outlive the process that compiled them."""

import os
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import pytest

from biasjax import _programs

START = """
import collections, jax
from biasjax.__main__ import main
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.split("/")[-1]]))
status = main(["audit", "tests.test_main:plain_function", *{options}])
print(status, counts["cache_hits"], counts["cache_misses"])
"""


def _start(home, *options, **environment):
    """Audit a model in a process of its own; return its status, programs read, and programs compiled."""
    known = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    shown = subprocess.run(
        [sys.executable, "-c", START.format(options=options)],
        env={**known, "XDG_CACHE_HOME": str(home), "HOME": str(home), **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(map(int, shown.stdout.splitlines()[-1].split()))


def test_a_second_start_compiles_nothing(tmp_path):
    status, read, compiled = _start(tmp_path)
    assert (status, read) == (0, 0)
    assert compiled > 0
    assert _start(tmp_path) == (0, compiled, 0)
    assert _start(tmp_path, "--no-cache") == (0, 0, 0)  # JAX counts none where none are kept


def test_a_folder_of_the_user_stays(tmp_path):
    own = tmp_path / "own"
    assert _start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own))[0] == 0
    assert not (tmp_path / "biasjax").exists()


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """No folder is known to JAX; what is set is recorded."""
    told = {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None, raising=False)
    return told


def test_what_was_not_written_for_long_is_removed(fresh, tmp_path):
    folder = tmp_path / "biasjax" / "0.1-0123456789ab"
    old, new, empty, other = (folder / name for name in ("old-cache", "new-cache", "empty-cache", "old"))
    (folder / "folder-cache").mkdir(parents=True)
    for file, days in ((old, 31), (new, 29), (empty, 0), (other, 31)):
        file.write_text("" if file == empty else "program")
        then = time.time() - 86400 * days
        os.utime(file, (then, then))
    _programs.keep()
    assert [file.exists() for file in (old, new, empty, other)] == [False, True, False, True]
    assert Path(fresh["jax_compilation_cache_dir"]).parent == tmp_path / "biasjax"


def test_a_relative_folder_is_ignored(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", ".")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _programs.folder() == tmp_path / ".cache" / "biasjax"


def test_without_a_home_nothing_is_kept(fresh, monkeypatch):
    monkeypatch.setattr(_programs, "folder", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    _programs.keep()
    assert not fresh


def test_machines_do_not_share_programs(monkeypatch):
    here = _programs._machine()
    assert here == _programs._machine()
    another = types.SimpleNamespace(read_text=lambda: "flags : another\n")
    monkeypatch.setattr(_programs, "Path", lambda _: another)
    assert here != _programs._machine()
