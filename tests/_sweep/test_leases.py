"""No chunk is computed by two workers, and none is left by a lost one."""

import collections
import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import time
import uuid

import jax.numpy as jnp
import numpy as np
import pytest
from processes import finish, start, wait_until

from biasjax import store, sweep
from biasjax._sweep import loop
from biasjax._sweep.leases import Leases, Lost, hold


@pytest.fixture
def shared(tmp_path):
    """Leases of a store whose finished chunks are the files in it."""
    (tmp_path / "chunks").mkdir()
    return Leases(tmp_path, lambda: {int(file.name) for file in (tmp_path / "chunks").iterdir()})


class _Worker:
    """Takes chunks one at a time, and says what it is told."""

    def __init__(self, held, todo):
        self.skipped, self.waited = [], []
        self.turns = held.chunks(todo, self.skipped.append, self._wait)

    def _wait(self, count):
        self.waited.append(count)
        if len(self.waited) > 5:
            raise TimeoutError

    def take(self):
        return next(self.turns, None)


def _write(shared, n):
    (shared.store / "chunks" / str(n)).touch()


def _foreign(shared, n, **about):
    """The lease of another worker, of another machine unless told otherwise."""
    (shared.store / "leases").mkdir(exist_ok=True)
    path = shared.store / "leases" / f"{n:06d}.0"
    path.write_text(
        json.dumps({"machine": "another", "pid": 1, "started": "", "token": uuid.uuid4().hex} | about)
    )
    return path


def test_workers_share_the_chunks(shared):
    computed = []

    def work(_):
        with hold(shared) as held:
            for n in held.chunks(range(60), lambda n: None, lambda count: None):
                computed.append(n)
                time.sleep(0.002)
                _write(shared, n)
            return held.finished

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        finished = list(pool.map(work, range(3)))
    assert sorted(computed) == list(range(60))
    assert min(finished) > 0
    assert not (shared.store / "leases").exists()


def test_a_chunk_that_another_finished_meanwhile_is_not_computed(shared):
    with hold(shared) as held:
        worker = _Worker(held, range(3))
        assert worker.take() == 0
        _write(shared, 0)
        _write(shared, 1)
        assert worker.take() == 2


@pytest.mark.parametrize("silent", [59, 61, -61])  # the last is of the future
def test_a_lease_is_stale_by_the_clock_of_the_disk(shared, silent, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 4e9)  # that of this machine is years ahead
    path = _foreign(shared, 0)
    now = path.stat().st_mtime
    os.utime(path, (now, now - silent))
    with hold(shared) as held:
        worker = _Worker(held, [0, 1])
        if abs(silent) > shared.stale:
            assert worker.take() == 0  # first, as it may have checkpoints
            _write(shared, 0)
        assert worker.take() == 1
        _write(shared, 1)
        if abs(silent) > shared.stale:
            assert worker.take() is None
        else:
            with pytest.raises(TimeoutError):
                worker.take()


def test_a_worker_that_lives_keeps_its_lease(shared):
    shared = shared._replace(stale=0.6)
    with hold(shared) as one, hold(shared) as two:
        first, second = _Worker(one, [0]), _Worker(two, [0])
        first.take()
        time.sleep(1.5)
        with pytest.raises(TimeoutError):
            second.take()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_worker_that_fails_gives_its_chunk_back(shared, error):
    def fail():
        with hold(shared) as held:
            assert _Worker(held, [0]).take() == 0
            raise error

    with pytest.raises(error):
        fail()
    with hold(shared) as held:
        worker = _Worker(held, [0])
        assert worker.take() == 0
        _write(shared, 0)
        assert worker.take() is None
    assert not (shared.store / "leases").exists()


def test_a_process_of_this_machine_that_ended_is_not_waited_for(shared):
    with hold(shared) as held:
        _Worker(held, [1]).take()
        (ours,) = (shared.store / "leases").iterdir()
        about = json.loads(ours.read_text().splitlines()[0])
        if "machine" not in about:
            pytest.skip("only Linux says which processes run")
        ended = subprocess.Popen(["true"])
        ended.wait()
        _foreign(shared, 0, machine=about["machine"], pid=ended.pid, started=about["started"])
        _foreign(shared, 2, machine=about["machine"], pid=about["pid"], started="another time")
        _foreign(shared, 3, machine=about["machine"], pid=about["pid"], started=about["started"])
        with hold(shared) as other:
            worker = _Worker(other, range(4))
            assert worker.take() == 0
            _write(shared, 0)
            assert worker.take() == 2
            _write(shared, 2)
            with pytest.raises(TimeoutError):  # both others live
                worker.take()


def test_a_worker_that_was_taken_for_lost_leaves_the_chunk_to_its_successor(shared):
    with hold(shared) as one, hold(shared) as two:
        first, second = _Worker(one, [0]), _Worker(two, [0])
        first.take()
        one.keep(0)
        os.utime(shared.store / "leases" / "000000.0", (0, 0))
        assert second.take() == 0
        with pytest.raises(Lost):
            one.keep(0)
        with pytest.raises(TimeoutError):
            first.take()
        two.keep(0)
        _write(shared, 0)
        assert second.take() is None


@pytest.mark.parametrize("name", ["0abc.1", "000001.x", "000000.0.kept", "notes.txt", "1"])
def test_a_file_among_the_leases_that_is_none_is_left_alone(shared, name):
    (shared.store / "leases").mkdir()
    (shared.store / "leases" / name).touch()
    with hold(shared) as held:
        worker = _Worker(held, range(2))
        for n in range(2):
            assert worker.take() == n
            _write(shared, n)
        assert worker.take() is None
    assert [path.name for path in (shared.store / "leases").iterdir()] == [name]


def test_short_chunks_are_taken_for_a_second_at_once(shared):
    listed = []
    shared = shared._replace(done=lambda: listed.append(1) or set())
    with hold(shared) as held:
        assert list(_Worker(held, range(300)).turns) == list(range(300))
    assert len(listed) < 15


def _double(key, *, x):
    return {"y": 2 * x}


def test_a_store_that_is_deleted_during_the_sweep_is_named(tmp_path, monkeypatch):
    compute = loop._compute_chunk

    def deleting(plan, run, n, *rest):
        if n == 2:
            shutil.rmtree(tmp_path / "gone")
        compute(plan, run, n, *rest)

    monkeypatch.setattr(loop, "_compute_chunk", deleting)
    with pytest.raises(FileNotFoundError, match=r"gone: .* removed during .* of this run 2 chunks"):
        sweep.run(_double, {"x": np.arange(4.0)}, chunk_size=1, store=tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_leases_are_gone_when_a_sweep_fails_or_ends(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(sweep.chunks, "write", full)
        with pytest.raises(OSError, match="no space left"):
            sweep.run(_double, {"x": jnp.arange(2.0)}, chunk_size=1, store=tmp_path)
    began = time.monotonic()
    sweep.run(_double, {"x": jnp.arange(2.0)}, chunk_size=1, store=tmp_path)
    assert time.monotonic() - began < 20  # not the minute after which a lease is stale
    assert not (tmp_path / "leases").exists()


@pytest.mark.parametrize(("lost", "options"), [("killed", []), ("stopped", ["--long"])])
def test_what_a_lost_worker_leaves_another_does_once(tmp_path, lost, options):
    path, total = tmp_path / "store", 2 if "--long" in options else 40

    def computed():
        words = " ".join(file.read_text() for file in tmp_path.glob("computed-*"))
        return collections.Counter(map(int, words.split()))

    first = start(path, *options, "--stale", 2, "--halt-at", 0)
    wait_until(lambda: 0 in computed(), first)
    second = start(path, *options, "--stale", 2)
    wait_until(lambda: len(store.finished(path)) == total - 1, first, second)
    assert set(computed().values()) == {1}
    first.send_signal(signal.SIGKILL if lost == "killed" else signal.SIGSTOP)
    assert finish(second) == "computed"
    if lost == "stopped":  # and finds, when it goes on, that there is nothing to do
        (tmp_path / "go").touch()
        first.send_signal(signal.SIGCONT)
    finish(first, code=-signal.SIGKILL if lost == "killed" else 0)
    assert computed() == {n: 1 + (n == 0) for n in range(total)}
    assert not (path / "leases").exists()
    assert not list(path.glob("unfinished/*"))
