import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import store, sweep
from biasjax._sweep import execute, grid, loop
from biasjax._sweep.spec import Spec


def test_memory_decides_the_chunks(monkeypatch):
    monkeypatch.setattr(execute, "budget", lambda: 40_000)
    seen, compute = [], loop._compute_chunk

    def counted(plan, run, n, region, *rest):
        seen.append(grid.shape(region))
        compute(plan, run, n, region, *rest)

    monkeypatch.setattr(loop, "_compute_chunk", counted)
    axes = {"x": np.arange(100.0), "y": np.arange(100.0)}
    dataset = sweep.run(lambda key, *, x, y: {"z": jnp.full(10, x * y)}, axes)
    assert 2 < len(seen) < 50
    np.testing.assert_array_equal(dataset.z[..., 0], np.outer(np.arange(100), np.arange(100)))


def _fn(key, *, x, kind="good"):
    if kind == "bad":
        raise RuntimeError("no such kind")
    return {"y": x * jax.random.normal(key, (3,)), "inverse": 1 / x, "root": x**0.5}


def test_one_bad_static_value_loses_nothing(tmp_path):
    axes = {"seed": [0, 1], "x": [1.0, 2.0, 3.0, 4.0]}
    with pytest.raises(RuntimeError, match="no such kind") as caught:
        sweep.run(_fn, axes, static={"kind": ["bad", "good"]}, chunk_size=2, store=tmp_path)
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
    for options in ({}, {"store": tmp_path}):
        dataset = sweep.run(_fn, {"seed": [0, 1], "x": [-1.0, 0.0, 1.0]}, **options)
        assert [store.STATUS[code] for code in dataset.status.isel(seed=0).values] == [
            "nan",
            "overflow",
            "finite",
        ]
        assert dataset.status.dtype == np.int8
        assert dataset.status.attrs["flag_meanings"] == "finite overflow nan underflow"
        assert np.isfinite(dataset.y).all()


def test_many_static_values_are_listed_a_few_times(monkeypatch):
    def run(region, checkpoints=None):
        return {"y": np.zeros(grid.shape(region))}

    lowered = execute.Lowered({"y": jax.ShapeDtypeStruct((1,), np.float32)}, lambda: execute.Program(run, 0))
    monkeypatch.setattr(execute, "lower", lambda *_: lowered)
    listed, combinations = [], vars(Spec)["combinations"].fget
    monkeypatch.setattr(Spec, "combinations", property(lambda s: listed.append(1) or combinations(s)))
    kinds = {"kind": range(2000)}
    dataset = sweep.run(lambda key, *, x, kind: {"y": x}, {"x": [1.0]}, static=kinds, chunk_size=1)
    assert dataset.y.shape == (2000, 1)
    assert len(listed) < 20  # listing them for each of them took seconds


@pytest.fixture
def interruptible():
    """Heed SIGINT, which jobs in the background of a shell ignore."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_programs_compile_waits_for_those_that_run_alone():
    running, begun, ended = threading.Event(), [], threading.Event()

    def slow():
        begun.append(1)
        running.set()
        ended.wait(20)
        raise RuntimeError("nobody asks for this program")

    def interrupt():
        running.wait()
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    lowered = execute.Lowered({"y": jax.ShapeDtypeStruct((1,), np.float32)}, slow)
    spec = Spec(None, {"x": np.arange(1.0)}, {"kind": list(range(100))}, {}, 0)
    plan = loop.Plan(spec, None, lambda i, lengths: lowered)
    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.compute(plan, grid.Layout(0, 1), range(100), lambda *_: None, False)
    assert time.monotonic() - began < 5
    ended.set()
    time.sleep(0.2)
    assert len(begun) <= (os.cpu_count() or 1)  # those in the queue were never started
