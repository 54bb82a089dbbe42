"""How many points run at once, and on how many threads, changes no result."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sweep_worker import AXES, LONG, STATIC, point

from biasjax import stepwise, store, sweep
from biasjax._sweep import frames, grid
from biasjax._sweep.frames import ALL_AT_ONCE, Batching

DIMS = {"row": ("column",)}


@pytest.fixture(scope="module")
def whole(alone):
    return sweep.run(point, AXES, static=STATIC, dims=DIMS, batching="all", mesh=alone)


@pytest.fixture
def three_cores(monkeypatch):
    monkeypatch.setattr(frames, "cores", lambda mesh: 3 if mesh is None or mesh.size == 1 else None)


def _assert_same(dataset, whole):
    np.testing.assert_array_equal(dataset.draw, whole.draw)
    np.testing.assert_allclose(dataset.moment, whole.moment, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dataset["row"], whole["row"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [60, 7, 1])
@pytest.mark.parametrize("batching", [1, 2, 4, 7, 1000])
def test_blocks_on_threads_change_nothing(three_cores, alone, whole, batching, chunk):
    found = sweep.run(point, AXES, static=STATIC, dims=DIMS, chunk_size=chunk, batching=batching, mesh=alone)
    _assert_same(found, whole)
    assert found.attrs["batching"] == f"at most {batching} points at once on each of 3 threads"


@pytest.mark.parametrize("batching", [1, 3, 1000])
def test_blocks_on_devices_change_nothing(whole, batching):
    found = sweep.run(point, AXES, static=STATIC, dims=DIMS, batching=batching, mesh=frames.default_mesh())
    _assert_same(found, whole)
    assert found.attrs["batching"] == f"at most {batching} points at once"


def test_points_of_no_grid_run_in_blocks(three_cores, alone):
    points = {"a": np.arange(11.0), "b": np.arange(11.0) ** 2}
    run = functools.partial(
        sweep.run, lambda key, *, a, b: a * b, {"seed": [3, 4]}, points=points, mesh=alone
    )
    for batching in (1, 4):
        np.testing.assert_array_equal(run(batching=batching).output, run(batching="all").output)


@pytest.mark.parametrize("mesh", ["alone", "both"])
def test_steps_run_in_blocks_and_resume(three_cores, alone, mesh, tmp_path, monkeypatch):
    axes = {"seed": np.arange(2), "scale": np.linspace(0.5, 1.0, 5)}
    mesh = alone if mesh == "alone" else frames.default_mesh()
    whole = sweep.run(LONG, axes, batching="all", mesh=alone)
    run = functools.partial(sweep.run, LONG, axes, batching=2, mesh=mesh, store=tmp_path, chunk_size=10)
    with monkeypatch.context() as patch:
        patch.setattr(sweep.chunks, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(checkpoint_every=5)
    kept = [int(path.name) for path in tmp_path.glob("unfinished/000000/[0-9]*")]
    assert kept == [10]  # of 12 steps
    resumed = run()
    assert (resumed.steps == 12).all()
    np.testing.assert_allclose(resumed.x, whole.x, rtol=1e-5, atol=1e-6)


def test_a_carry_with_keys_runs_in_blocks(three_cores, alone):
    walk = stepwise.Stepwise(
        start=lambda key, *, rate: (key, jnp.float32(0)),
        advance=lambda carry, key, *, rate: (
            jax.random.split(carry[0])[0],
            carry[1] + rate * jax.random.normal(carry[0]),
        ),
        finish=lambda carry, key, *, rate: {"x": carry[1]},
        steps=4,
    )
    run = functools.partial(sweep.run, walk, {"seed": range(3), "rate": [0.1, 0.2, 0.3]}, mesh=alone)
    for batching in (1, 2):
        np.testing.assert_allclose(run(batching=batching).x, run(batching="all").x, rtol=1e-6)


def test_threads_have_the_settings_of_their_caller(three_cores, monkeypatch):
    monkeypatch.setattr(frames, "default_mesh", lambda: None)
    axes = {"seed": range(3), "x": np.linspace(0, 1, 6)}
    with jax.enable_x64(True):
        found = sweep.run(lambda key, *, x: x + 1e-12, axes, batching=1).output
        np.testing.assert_array_equal(found[0], axes["x"] + 1e-12)
    with jax.debug_nans(True), pytest.raises(Exception, match="nan"):
        sweep.run(lambda key, *, x: jnp.log(-1 - x), axes, batching=1)


@pytest.mark.parametrize("batching", [1, 2, 3, 4])
def test_blocks_of_nothing(three_cores, alone, batching):
    axes = {"seed": range(4), "x": [0.5, 1.0, 2.0]}
    found = sweep.run(
        lambda key, *, x: {"y": x, "none": jnp.zeros((0, 2))}, axes, batching=batching, mesh=alone
    )
    assert found.none.shape == (4, 3, 0, 2)
    stages = lambda key, *, x: None, lambda carry, key, *, x: None, lambda carry, key, *, x: {"y": x}
    found = sweep.run(stepwise.Stepwise(*stages, steps=2), axes, batching=batching, mesh=alone)
    np.testing.assert_array_equal(found.y[2], axes["x"])


def test_a_store_begun_on_threads_goes_on_on_devices(three_cores, alone, whole, tmp_path, monkeypatch):
    run = functools.partial(sweep.run, point, AXES, static=STATIC, dims=DIMS, batching=2, chunk_size=15)
    with monkeypatch.context() as patch:
        patch.setattr(sweep.chunks, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(mesh=alone, store=tmp_path)
    _assert_same(run(mesh=frames.default_mesh(), store=tmp_path), whole)


def test_what_a_thread_raises_is_raised(three_cores, alone):
    def fail(x):
        raise ValueError("no such host")

    def call(key, *, x):
        return jax.pure_callback(fail, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")

    with pytest.raises(Exception, match="no such host"):
        sweep.run(call, {"x": np.arange(4.0)}, batching=1, mesh=alone)


def test_a_store_keeps_how_it_began(three_cores, alone, tmp_path, monkeypatch):
    run = functools.partial(sweep.run, point, AXES, static=STATIC, dims=DIMS, mesh=alone, chunk_size=15)
    with monkeypatch.context() as patch:
        patch.setattr(sweep.chunks, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(batching=2, store=tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["batching"] == {"threads": 3, "block": 2}
    run(batching="all", store=tmp_path)
    assert store.open(tmp_path).attrs["batching"] == "at most 2 points at once on each of 3 threads"
    run(batching="all", store=tmp_path / "all")
    assert "batching" not in json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert store.open(tmp_path / "all").attrs["batching"] == "all points at once"


@pytest.mark.parametrize("sizes", [(1,), (7,), (2, 3, 4), (5, 1, 9)])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("block", [None, 1, 4, 100])
def test_parts_and_blocks_are_of_one_shape_and_cover_all(sizes, threads, block):
    axes = {f"x{i}": np.arange(n, dtype=np.float32) for i, n in enumerate(sizes)}
    where = frames.frame(axes, jax.random.key(0), sizes, None, Batching(threads, block))
    assert all(n >= size for n, size in zip(where.lengths, sizes, strict=True))
    if where.blocks is not None:
        assert np.prod(grid.lengths(where.part, where.blocks)) <= (block or np.inf)
        assert where.part[where.blocks.axis] % where.blocks.block == 0
    region, covered = tuple(slice(0, n) for n in sizes), np.zeros(sizes, int)
    for part in frames.parts(where, region):
        covered[part] += 1
        assert [len(values) for values in frames.values(where, part)] == list(where.part)
    assert (covered == 1).all()


def test_cores_are_those_of_a_cpu_that_is_the_only_device(alone):
    assert (frames.cores(alone) or 0) >= 1
    assert frames.cores(frames.default_mesh()) is None  # two devices share the cores


def test_batching_says_what_it_does():
    assert str(ALL_AT_ONCE) == "all points at once"
    assert str(Batching(2)) == "all points at once on each of 2 threads"
