"""Stores whose workers are killed, interrupted, out of disk, or damaged: nothing finished is lost."""

import functools
import random
import signal
import time

import numpy as np
import pytest
import xarray as xr
from processes import finish, kill, start, wait_until

from biasjax import store, sweep
from biasjax._sweep import chunks, grid

SLOW, CHUNKS = ("--slow", "--chunk-size", 1), 2 * 4 * 5 * 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files of the undisturbed run that the others are held against; their names hold checksums."""
    path = tmp_path_factory.mktemp("whole")
    assert finish(start(path, *SLOW)) == "computed"
    assert len(store.finished(path)) == CHUNKS
    return set(_written(path))


def _written(path):
    return {file.name: file.stat().st_mtime_ns for file in store.finished(path).values()}


def _more_than(path, n):
    return len(list(path.glob("chunks/0*"))) > n


def test_twenty_kills_lose_and_repeat_nothing(whole, tmp_path):
    generator, kept = random.Random(0), {}
    for _ in range(20):
        process = start(tmp_path, *SLOW)
        # After a new chunk, so that every run gets somewhere, then at a random moment
        wait_until(functools.partial(_more_than, tmp_path, len(kept)), process)
        time.sleep(generator.uniform(0.0, 0.03))
        assert process.poll() is None
        kill(process)
        now = _written(tmp_path)
        assert kept.items() <= now.items()  # what was finished is still the same file, not written again
        kept = now
        assert not store.damaged(tmp_path)
    assert len(kept) < CHUNKS
    assert finish(start(tmp_path, *SLOW)) == "computed"
    assert kept.items() <= _written(tmp_path).items()
    assert set(_written(tmp_path)) == whole
    assert not store.damaged(tmp_path)


def test_a_killed_worker_costs_its_chunk_alone(whole, tmp_path):
    workers = 3
    processes = [start(tmp_path, *SLOW, "--shard", f"{i}/{workers}") for i in range(workers)]
    mine = range(0, CHUNKS, workers)
    wait_until(lambda: _more_than(tmp_path, 2) and bool(store.finished(tmp_path).keys() & mine), *processes)
    kill(processes[0])
    for process in processes[1:]:
        finish(process)
    done = _written(tmp_path)
    assert set(range(CHUNKS)) - set(mine) <= set(store.finished(tmp_path))
    assert len(done) < CHUNKS
    partial = store.open(tmp_path)
    assert partial.attrs["missing"] == f"{CHUNKS - len(done)} of {CHUNKS} chunks"
    assert int((~partial.computed).sum()) == CHUNKS - len(done)
    assert np.isnan(partial.moment.values[~partial.computed.values]).all()
    assert finish(start(tmp_path, *SLOW, "--shard", f"0/{workers}")) == "computed"
    assert done.items() <= _written(tmp_path).items()
    assert set(_written(tmp_path)) == whole
    assert not store.damaged(tmp_path)


def test_interruption_says_how_to_go_on(tmp_path):
    process = start(tmp_path, *SLOW)
    wait_until(lambda: _more_than(tmp_path, 1), process)
    process.send_signal(signal.SIGINT)
    err = finish(process, code=None)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert f"of {CHUNKS} chunks are safe in {tmp_path}; the same call goes on from there" in err
    assert not store.damaged(tmp_path)


def test_a_disk_that_fills_up_loses_nothing(tmp_path):
    limit = ["bash", "-c", 'ulimit -f 8; exec "$@"', "limit"]  # 8 KiB: the manifest fits, a chunk does not
    err = finish(start(tmp_path, prefix=limit), code=1)
    assert "0 of 40 chunks are safe" in err
    assert not list(tmp_path.glob("chunks/*"))
    assert finish(start(tmp_path)) == "computed"


def _fn(key, *, x):
    return {"y": x}


def _run(path, x=(1.0, 2.0, 3.0, 4.0), fn=_fn, root=0, repair=False, static=None):
    axes = {"seed": [0, 1], "x": x}
    return sweep.run(fn, axes, static=static, root=root, repair=repair, store=path, chunk_size=2)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "foreign"])
def test_damaged_chunks_are_named_and_repaired(tmp_path, harm):
    first = _run(tmp_path / "mine").load()
    file = store.finished(tmp_path / "mine")[1]
    content = bytearray(file.read_bytes())
    if harm == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        _run(tmp_path / "other", x=(5.0, 6.0, 7.0, 8.0))
        foreign = store.finished(tmp_path / "other")[1]
        file.unlink()
        file = file.with_name(foreign.name)
        file.write_bytes(foreign.read_bytes())
    assert list(store.damaged(tmp_path / "mine")) == [1]
    with pytest.raises(store.Damaged, match=f"chunk {file.name}: expected .* repair=True"):
        _run(tmp_path / "mine")
    with pytest.raises(store.Damaged, match=file.name):
        store.open(tmp_path / "mine").load()
    repaired = _run(tmp_path / "mine", repair=True).load()
    xr.testing.assert_identical(repaired.drop_attrs(), first.drop_attrs())


def test_another_sweep_in_the_folder_is_refused(tmp_path):
    _run(tmp_path)
    with pytest.raises(ValueError, match=r"axes x\[2\]: 3.0 there, 3.5 here"):
        _run(tmp_path, x=(1.0, 2.0, 3.5, 4.0))
    with pytest.raises(ValueError, match="root: 0 there, 1 here"):
        _run(tmp_path, root=1)
    with pytest.raises(ValueError, match="fn: "):
        _run(tmp_path, fn=lambda key, *, x: {"y": x})
    with pytest.raises(ValueError, match="static kind: None there, "):
        _run(tmp_path, static={"kind": ["good"]})


def test_no_store_to_open(tmp_path):
    with pytest.raises(ValueError, match="a readable manifest"):
        store.open(tmp_path)
    chunks.begin(tmp_path, {"axes": {"x": [1]}, "static": {}, "dtypes": {}, "fn at": {}}, grid.Layout(0, 1))
    with pytest.raises(ValueError, match="at least one finished chunk"):
        store.open(tmp_path)
