"""Stores whose workers are killed, interrupted, out of disk, or damaged: nothing finished is lost."""

import functools
import random
import signal
import time

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from processes import finish, kill, start, wait_until

from biasjax import store, sweep
from biasjax._sweep import grid, manifest

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


def _run(path, x=(1.0, 2.0, 3.0, 4.0), fn=_fn, chunk_size=2, **options):
    return sweep.run(fn, {"seed": [0, 1], "x": x}, store=path, chunk_size=chunk_size, **options)


def _harm(mine, other, harm):
    """Damage chunk 1 of a store; return the file that is not what its name says."""
    file = store.finished(mine)[1]
    content = bytearray(file.read_bytes())
    if harm == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif harm == "another number":
        file.unlink()
        first = store.finished(mine)[0]
        file = file.with_name(first.name.replace("000000", "000001"))
        file.write_bytes(first.read_bytes())
    else:
        file.unlink()
        foreign = store.finished(other)[1]
        file = file.with_name(foreign.name)
        file.write_bytes(foreign.read_bytes())
    return file


@pytest.mark.parametrize("harm", ["truncated", "flipped", "another number", "another sweep", "another cut"])
def test_a_chunk_that_is_not_what_was_written_in_its_place_is_named_and_repaired(tmp_path, harm):
    mine, other = tmp_path / "mine", tmp_path / "other"
    first = _run(mine).load()
    if harm.startswith("another"):
        x, size = ((5.0, 6.0, 7.0, 8.0), 2) if harm == "another sweep" else ((1.0, 2.0, 3.0, 4.0), 1)
        _run(other, x=x, chunk_size=size)
    file = _harm(mine, other, harm)
    assert list(store.damaged(mine)) == [1]
    message = f"chunk {file.name}: expected .* repair=True"
    with pytest.raises(store.Damaged, match=message):
        store.open(mine).load()
    with pytest.raises(store.Damaged, match=message):
        _run(mine).load()
    repaired = _run(mine, repair=True).load()
    xr.testing.assert_identical(repaired.drop_attrs(), first.drop_attrs())
    assert not store.damaged(mine)


def test_a_chunk_says_whose_bytes_it_has(tmp_path):
    _run(tmp_path)
    _harm(tmp_path, None, "another number")
    assert "got those of chunk 0" in store.damaged(tmp_path)[1]


def test_a_chunk_that_no_grid_has_is_named(tmp_path):
    first = _run(tmp_path).load()
    file = store.finished(tmp_path)[0]
    extra = file.with_name(file.name.replace("000000", "000099"))
    extra.write_bytes(file.read_bytes())
    for use in (store.open, _run):
        with pytest.raises(store.Damaged, match=f"chunk {extra.name}: expected a number below 4"):
            use(tmp_path)
    assert list(store.damaged(tmp_path)) == [99]
    xr.testing.assert_identical(_run(tmp_path, repair=True).load(), first)
    assert not extra.exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_called_like_a_chunk_is_named_and_kept(tmp_path, there):
    _run(tmp_path)
    file = store.finished(tmp_path)[0]
    folder = file.with_name(f"000001-{'0' * 16}-{tmp_path.stat().st_size}.nc")
    if there:
        folder = file
        file.unlink()
    folder.mkdir()
    (folder / "mine").touch()
    for use in (_run, functools.partial(_run, repair=True), *[store.open] * there):
        with pytest.raises(store.Damaged, match=f"chunk {folder.name}: expected a file, got a folder. Move"):
            use(tmp_path)
    assert "expected a file" in "".join(store.damaged(tmp_path).values())
    assert (folder / "mine").exists()


def test_a_chunk_is_netcdf_that_says_which_points_it_holds(tmp_path):
    _run(
        tmp_path,
        static={"kind": ["good"]},
        fn=lambda key, *, x, kind: {"y": x, "up": x > 1, "own": x + jnp.ones(3)},
    )
    with xr.open_dataset(store.finished(tmp_path)[3], engine="h5netcdf") as chunk:
        assert chunk.y.dims == ("kind", "seed", "x")
        assert (chunk.kind, chunk.seed, chunk.x.values.tolist()) == ("good", 1, [3.0, 4.0])
        assert chunk.up.dtype == bool
        assert chunk.own.dims[-1] not in chunk.coords
        assert chunk.attrs["chunk"] == 3


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
    spec = {"axes": {"x": [1]}, "static": {}, "dtypes": {"x": "int32"}, "fn at": {}}
    manifest.begin(tmp_path, spec, {"x": np.array([1], np.int32)}, grid.Layout(0, 1), {})
    with pytest.raises(ValueError, match="at least one finished chunk"):
        store.open(tmp_path)
