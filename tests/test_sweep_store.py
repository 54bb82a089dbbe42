"""Sweeps that are killed, shared, damaged, refused and spread over devices: nothing finished is lost."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from biasjax import stepwise, store, sweep
from biasjax._sweep import grid

WORKER = Path(__file__).with_name("sweep_worker.py")
CHUNKS = 2 * 4 * 5
SLOW, SLOW_CHUNKS = ("--slow", "--chunk-size", 1), 3 * CHUNKS


def _start(path, *arguments, devices=1, prefix=()):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [*prefix, sys.executable, str(WORKER), str(path), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def _finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out.strip()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run that the others are held against."""
    path = tmp_path_factory.mktemp("whole")
    assert _finish(_start(path, *SLOW)) == "computed"
    return store.open(path).load()


def _written(path):
    return {file.name: file.stat().st_mtime_ns for file in store.finished(path).values()}


def test_twenty_kills_lose_and_repeat_nothing(whole, tmp_path):
    generator, kept = random.Random(0), {}
    for _ in range(20):
        process = _start(tmp_path, *SLOW)
        # After a new chunk, so that every run gets somewhere, then at a random moment
        while process.poll() is None and len(list(tmp_path.glob("chunks/0*"))) <= len(kept):
            time.sleep(0.002)
        time.sleep(generator.uniform(0.0, 0.03))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = _written(tmp_path)
        assert kept.items() <= now.items()  # what was finished is still the same file, not written again
        kept = now
        assert not store.damaged(tmp_path)
    assert len(kept) < SLOW_CHUNKS
    assert _finish(_start(tmp_path, *SLOW)) == "computed"
    assert kept.items() <= _written(tmp_path).items()
    xr.testing.assert_identical(store.open(tmp_path).load().drop_attrs(), whole.drop_attrs())


@pytest.mark.parametrize("workers", [2, 3])
def test_a_killed_worker_costs_its_chunk_alone(whole, tmp_path, workers):
    processes = [_start(tmp_path, *SLOW, "--shard", f"{i}/{workers}") for i in range(workers)]
    while len(list(tmp_path.glob("chunks/0*"))) < 3:
        time.sleep(0.01)
    processes[0].send_signal(signal.SIGKILL)
    processes[0].communicate()
    for process in processes[1:]:
        _finish(process)
    done = _written(tmp_path)
    mine = [n for n in range(SLOW_CHUNKS) if n % workers == 0]
    assert {n for n in range(SLOW_CHUNKS) if n not in mine} <= set(store.finished(tmp_path))
    partial = store.open(tmp_path)
    assert partial.attrs["missing"] == f"{SLOW_CHUNKS - len(done)} of {SLOW_CHUNKS} chunks"
    assert int((~partial.computed).sum()) == (SLOW_CHUNKS - len(done))
    assert np.isnan(partial.moment.values[~partial.computed.values]).all()
    assert _finish(_start(tmp_path, *SLOW, "--shard", f"0/{workers}")) == "computed"
    assert done.items() <= _written(tmp_path).items()
    xr.testing.assert_identical(store.open(tmp_path).load().drop_attrs(), whole.drop_attrs())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small")
    assert _finish(_start(path)) == "computed"
    return store.open(path).load()


@pytest.mark.parametrize(("devices", "chunk"), [(1, 1), (1, 7), (1, 1000), (2, 3), (4, 60)])
def test_devices_and_chunks_change_nothing(small, tmp_path, devices, chunk):
    assert _finish(_start(tmp_path, "--chunk-size", chunk, devices=devices)) == "computed"
    dataset = store.open(tmp_path).load()
    np.testing.assert_array_equal(dataset.draw, small.draw)
    np.testing.assert_allclose(dataset.moment, small.moment, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dataset["row"], small["row"], rtol=1e-6, atol=1e-6)


def test_two_processes_work_as_one(small, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [_start(tmp_path, "--distributed", rank, 2, port, "--chunk-size", 30) for rank in range(2)]
    assert [_finish(process).splitlines()[-1] for process in processes] == ["computed"] * 2
    dataset = store.open(tmp_path).load()
    np.testing.assert_array_equal(dataset.draw, small.draw)
    np.testing.assert_allclose(dataset.moment, small.moment, rtol=1e-6, atol=1e-6)


def test_a_long_chunk_resumes_inside_itself(tmp_path):
    assert _finish(_start(tmp_path / "whole", "--long")) == "computed"
    whole, path, steps = store.open(tmp_path / "whole").load(), tmp_path / "killed", []
    for _ in range(3):
        process = _start(path, "--long")
        seen = max(steps, default=0)
        while process.poll() is None and max(steps, default=0) <= seen:
            steps = [
                int(folder.name) for folder in path.glob("unfinished/000000/[0-9]*") if folder.name.isdigit()
            ]
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not store.finished(path)
    assert max(steps) >= 4  # each run went on from the last one's checkpoint
    assert _finish(_start(path, "--long")) == "computed"
    xr.testing.assert_identical(store.open(path).load().drop_attrs(), whole.drop_attrs())
    assert (store.open(path).steps == 12).all()
    assert not list(path.glob("unfinished/*"))


def _fn(key, *, x, kind="good"):
    if kind == "bad":
        raise RuntimeError("no such kind")
    return {"y": x * jax.random.normal(key, (3,)), "inverse": 1 / x, "root": x**0.5}


def _run(path, x=(1.0, 2.0, 3.0, 4.0), fn=_fn, **options):
    return sweep.run(fn, {"seed": [0, 1], "x": x}, store=path, **{"chunk_size": 2} | options)


def test_resume_does_only_what_is_missing(tmp_path):
    first = _run(tmp_path).load()
    files = store.finished(tmp_path)
    assert len(files) == 4
    files[2].unlink()
    kept = _written(tmp_path)
    xr.testing.assert_identical(_run(tmp_path).load().drop_attrs(), first.drop_attrs())
    assert kept.items() <= _written(tmp_path).items()
    # A store keeps its cut; without one the result is the same
    xr.testing.assert_identical(_run(tmp_path, chunk_size="auto").load().drop_attrs(), first.drop_attrs())
    memory = sweep.run(_fn, {"seed": [0, 1], "x": [1.0, 2.0, 3.0, 4.0]})
    xr.testing.assert_allclose(memory.drop_attrs(), first.drop_attrs())


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
    with pytest.raises(ValueError, match=f"chunk {file.name}: expected .* repair=True"):
        _run(tmp_path / "mine")
    with pytest.raises(ValueError, match=file.name):
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


def test_what_fn_closes_over_is_part_of_the_sweep(tmp_path):
    def make(factor):
        return lambda key, *, x: {"y": jnp.asarray(factor) * x}

    for i, (first, other) in enumerate([(2.0, 3.0), (np.zeros(3000), np.eye(1, 3000, 1500)[0])]):
        _run(tmp_path / str(i), fn=make(first))
        _run(tmp_path / str(i), fn=make(first))  # another function that computes the same
        with pytest.raises(ValueError, match="fn at every point"):
            _run(tmp_path / str(i), fn=make(other))


def test_dtypes_of_static_values_are_promoted(tmp_path):
    def fn(key, *, x, kind):
        return {"y": jnp.int32(x) if kind == 0 else x + 0.5}

    for options in ({}, {"store": tmp_path}):
        y = sweep.run(fn, {"x": [0.0, 1.0]}, static={"kind": [0, 1]}, **options).y
        np.testing.assert_array_equal(y, [[0, 1], [0.5, 1.5]])


def test_a_relative_store_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = _run("here")
    monkeypatch.chdir("/")
    assert np.isfinite(dataset.y).all()


def test_a_damaged_checkpoint_costs_time_alone(tmp_path):
    double = stepwise.Stepwise(
        start=lambda key, *, x: x,
        advance=lambda carry, key, *, x: 2 * carry,
        finish=lambda carry, key, *, x: {"y": carry},
        steps=4,
    )
    broken = tmp_path / "unfinished" / "000000" / "3"
    broken.mkdir(parents=True)
    (broken / "_METADATA").write_text("{")
    with pytest.warns(UserWarning, match="is not usable"):
        dataset = sweep.run(double, {"x": [1.0, 3.0]}, store=tmp_path, chunk_size=2)
    assert dataset.y.values.tolist() == [16.0, 48.0]


def test_one_bad_static_value_loses_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="no such kind") as caught:
        _run(tmp_path, static={"kind": ["bad", "good"]})
    notes = "\n".join(caught.value.__notes__)
    assert "fn raised at kind=bad" in notes
    assert f"4 of 8 chunks are safe in {tmp_path}" in notes
    partial = store.open(tmp_path)
    assert partial.computed.sel(kind="good").all()
    assert not partial.computed.sel(kind="bad").any()
    assert np.isfinite(partial.y.sel(kind="good")).all()
    with pytest.raises(RuntimeError, match="no such kind"):  # without a store before anything runs
        sweep.run(_fn, {"x": [1.0]}, static={"kind": ["good", "bad"]})


def test_points_that_diverge_are_marked(tmp_path):
    for dataset in (
        _run(tmp_path, x=(-1.0, 0.0, 1.0)),
        sweep.run(_fn, {"seed": [0, 1], "x": [-1.0, 0.0, 1.0]}),
    ):
        assert dataset.status.isel(seed=0).values.tolist() == [2, 1, 0]
        assert dataset.status.attrs["flag_meanings"] == "finite overflow nan underflow"
        assert np.isfinite(dataset.y).all()


def test_a_read_only_folder_is_refused(tmp_path):
    if os.geteuid() == 0:
        blocked = tmp_path / "file" / "store"  # root writes anywhere but below a file
        blocked.parent.write_text("")
    else:
        blocked = tmp_path / "store"
        tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"file|store"):
        _run(blocked)


def test_a_full_disk_loses_nothing(tmp_path):
    limit = ["bash", "-c", 'ulimit -f 4; exec "$@"', "limit"]  # 4 KiB: the manifest fits, a chunk does not
    process = _start(tmp_path, prefix=limit)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert f"of {CHUNKS} chunks are safe" in err
    assert not list(tmp_path.glob("chunks/*"))
    assert _finish(_start(tmp_path)) == "computed"


def test_interruption_says_how_to_go_on(tmp_path):
    process = _start(tmp_path, *SLOW)
    while len(list(tmp_path.glob("chunks/0*"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert "KeyboardInterrupt" in err
    assert f"of {SLOW_CHUNKS} chunks are safe in {tmp_path}; the same call goes on from there" in err
    assert _finish(_start(tmp_path, *SLOW)) == "computed"


def test_values_are_read_when_used(tmp_path):
    dataset = _run(tmp_path)
    for file in list(store.finished(tmp_path).values())[2:]:
        file.write_bytes(b"damaged")
    assert np.isfinite(dataset.y.sel(seed=0).isel(x=[3, 0]).values).all()  # needs the first two chunks alone
    with pytest.raises(store.Damaged):
        dataset.y.load()


def test_memory_is_halved_until_it_suffices():
    seen = []

    def program(region, checkpoints=None):
        seen.append(grid.shape(region))
        if np.prod(grid.shape(region)) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return {"y": np.arange(5)[region[0], None] * np.arange(3)[None, region[1]]}

    from biasjax._sweep import execute

    halved = execute.halving(program, lambda lengths: lambda: program)
    whole = (slice(0, 5), slice(0, 3))
    np.testing.assert_array_equal(halved(whole)["y"], np.outer(np.arange(5), np.arange(3)))
    tried = len(seen)
    halved(whole)
    assert max(np.prod(shape) for shape in seen[tried:]) <= 2  # what did not fit is not tried again
    with pytest.raises(ValueError, match="room for a single point"):
        grid.halves((slice(0, 1),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "0/2"}, "a store that the workers share"),
        ({"shard": "2/2", "store": "s"}, "0 <= i < n"),
        ({"shard": "slurm", "store": "s"}, "in a job array, got 'no job array'"),
        ({"chunk_size": 0}, "chunk_size: expected an integer of at least 1"),
        ({"dims": {"y": ("a", "b")}}, "1 names, got"),
    ],
)
def test_bad_options_are_refused_clearly(options, message, tmp_path):
    if "store" in options:
        options = options | {"store": tmp_path}
    with pytest.raises(ValueError, match=message):
        sweep.run(_fn, {"x": [1.0, 2.0]}, **options)


def test_slurm_numbers_become_a_shard(monkeypatch):
    for name, value in (("ID", "5"), ("MIN", "3"), ("COUNT", "4")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert sweep._shard("slurm") == (2, 4)


def test_no_store_to_open(tmp_path):
    with pytest.raises(ValueError, match="a readable manifest"):
        store.open(tmp_path)
    store.begin(tmp_path, {"axes": {"x": [1]}, "static": {}, "dtypes": {}, "fn at": {}}, grid.Layout(0, 1))
    with pytest.raises(ValueError, match="at least one finished chunk"):
        store.open(tmp_path)
