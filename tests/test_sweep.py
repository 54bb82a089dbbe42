import errno
import os
import resource
import sys
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from biasjax import _files, stepwise, store, sweep
from biasjax._sweep import gathering


def _point(key, *, sigma, shift, power=1):
    x = sigma * jax.random.normal(key, (50,)) + shift
    return {"moment": jnp.mean(x**power), "nested": {"sample": x[:3]}}


AXES = {"seed": [3, 5], "sigma": [0.5, 1.0, 1.5, 2.0], "shift": [0.0, 1.0, 2.0]}


def test_equals_the_loop_over_points():
    dataset = sweep.run(_point, AXES, static={"power": [2, 1]}, dims={"nested.sample": ("example",)})
    assert dataset["moment"].dims == ("power", "seed", "sigma", "shift")
    assert dataset["nested.sample"].dims == ("power", "seed", "sigma", "shift", "example")
    assert dataset.power.values.tolist() == [2, 1]
    for seed in AXES["seed"]:
        key = jax.random.fold_in(jax.random.key(0), seed)
        for sigma in AXES["sigma"]:
            for shift in AXES["shift"]:
                truth = _point(key, sigma=jnp.float32(sigma), shift=jnp.float32(shift), power=2)
                here = dataset.sel(power=2, seed=seed, sigma=sigma, shift=shift)
                np.testing.assert_allclose(here["moment"], truth["moment"], rtol=1e-5)
                np.testing.assert_allclose(here["nested.sample"], truth["nested"]["sample"], rtol=1e-5)


def test_inner_axes_share_the_draws_of_a_seed():
    def draws(key, *, sigma):
        return {"draw": jax.random.normal(key) + 0 * sigma}

    draw = sweep.run(draws, {"seed": [0, 1], "sigma": [1.0, 2.0, 3.0]}).draw
    assert (draw == draw.isel(sigma=0)).all()
    assert draw[0, 0] != draw[1, 0]
    alone = sweep.run(draws, {"seed": [1], "sigma": [2.0]}).draw
    np.testing.assert_array_equal(alone[0, 0], draw[1, 1])  # a point's draws are its coordinates' alone
    assert (sweep.run(draws, {"sigma": [1.0]}, root=1).draw != sweep.run(draws, {"sigma": [1.0]}).draw).all()


def test_one_trace_for_each_static_combination():
    counted = chex.assert_max_traces(lambda key, sigma, power: {"y": sigma**power}, n=2)
    dataset = sweep.run(
        lambda key, *, sigma, power: counted(key, sigma, power),  # pyright: ignore[reportCallIssue]
        {"sigma": [1.0, 2.0]},
        static={"power": [2, 3]},
    )
    np.testing.assert_array_equal(dataset.y, [[1, 4], [1, 8]])


def test_equal_static_values_and_changed_globals_are_not_confused():
    def typed(key, *, x, mode):
        return {"y": x + (100.0 if mode is True else 0.0)}

    np.testing.assert_array_equal(
        sweep.run(typed, {"x": [0.0, 1.0]}, static={"mode": [1, True]}).y[:, 0], [0, 100]
    )
    factor = 1.0

    def scaled(key, *, x):
        return {"y": factor * x}

    assert sweep.run(scaled, {"x": [1.0]}).y.item() == 1.0
    factor = 5.0
    assert sweep.run(scaled, {"x": [1.0]}).y.item() == 5.0


def test_narrow_and_complex_outputs(tmp_path):
    def fn(key, *, x):
        return {
            "narrow": jnp.log(x).astype(jnp.bfloat16),
            "complex": jax.lax.complex(x, 1.0),
            "deep": {"er": [x]},
        }

    for options in ({}, {"store": tmp_path}):
        dataset = sweep.run(fn, {"x": [-1.0, 0.0, 1.0]}, **options)
        assert dataset.status.values.tolist() == [2, 1, 0]
        assert dataset.narrow.dtype == np.float32
        assert dataset["deep.er.0"].values.tolist() == [-1.0, 0.0, 1.0]
    partly = sweep.run(fn, {"x": [1.0, 2.0]}, store=tmp_path / "part", chunk_size=1, shard="0/2")
    assert np.isnan(partly.complex.values[1])


def test_missing_outputs_are_nan_and_labels_are_kept():
    def point(key, *, x, kind):
        return {"always": x, "count": jnp.array(1)} | ({"sometimes": 2 * x} if kind is np.sin else {})

    dataset = sweep.run(point, {"x": [1.0, 2.0]}, static={"kind": [np.cos, np.sin]})
    np.testing.assert_array_equal(dataset.sometimes, [[np.nan, np.nan], [2, 4]])
    assert dataset["count"].dtype == np.int32
    assert dataset.kind.values.tolist() == ["cos", "sin"]


def test_steps_are_the_whole_computation():
    def whole(key, *, x, kind):
        return {"y": x + sum(jax.random.normal(jax.random.fold_in(key, i)) for i in range(3)) * kind}

    steps = stepwise.Stepwise(
        start=lambda key, *, x, kind: (jnp.int32(0), x),
        advance=lambda carry, key, *, x, kind: (
            carry[0] + 1,
            carry[1] + kind * jax.random.normal(jax.random.fold_in(key, carry[0])),
        ),
        finish=lambda carry, key, *, x, kind: {"y": carry[1]},
        steps=3,
    )
    axes, static = {"seed": [0, 1, 2], "x": [1.0, 2.0]}, {"kind": [1.0, 2.0]}
    ours, truth = (sweep.run(fn, axes, static=static, chunk_size=4).y for fn in (steps, whole))
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5)


def test_any_pytree_is_an_output():
    dataset = sweep.run(lambda key, *, x: x**2, {"x": [1.0, 3.0]})
    assert dataset.output.values.tolist() == [1.0, 9.0]
    dataset = sweep.run(lambda key, *, x: [x, (2 * x, {"y": 3 * x})], {"x": [1.0]})
    assert {"0", "1.0", "1.1.y"} <= set(dataset)
    assert sweep.run(lambda key: {"y": 2.0}, {}).y.item() == 2.0


def test_float64_under_x64_alone(x64):
    dataset = sweep.run(lambda key, *, x: {"y": x / 3}, {"x": [1.0]})
    assert dataset.y.dtype == dataset.x.dtype == np.float64


def test_seeds_are_integers():
    with pytest.raises(TypeError, match="axis 'seed': expected integers"):
        sweep.run(lambda key: {"y": 1.0}, {"seed": [0.1, 0.2]})


@pytest.mark.parametrize(
    ("fn", "dims", "message"),
    [
        (lambda key, *, x: {"x": x}, None, "outputs named otherwise"),
        (lambda key, *, x: {}, None, "at least one output"),
        (lambda key, *, x: {"y": jnp.ones(2)}, {"y": ("a", "b")}, "1 names, got"),
        (lambda key, *, x: {"y": jnp.ones(2)}, {"y": ("x",)}, "neither axes nor static"),
        (lambda key, *, x: {"y": jnp.ones(2), "z": jnp.ones(3)}, {"y": ("a",), "z": ("a",)}, "one size"),
    ],
)
def test_outputs_that_cannot_be_labelled_are_refused(fn, dims, message):
    with pytest.raises(ValueError, match=message):
        sweep.run(fn, {"x": [1.0]}, dims=dims)


def test_outputs_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape for all static values"):
        sweep.run(lambda key, *, x, n: {"y": jnp.full(n, x)}, {"x": [1.0]}, static={"n": [1, 2]})


def test_slurm_numbers_become_a_shard(monkeypatch):
    for name, value in (("ID", "5"), ("MIN", "3"), ("COUNT", "4")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert sweep._worker("slurm") == (2, 4)


def _written(path):
    return {file.name: file.stat().st_mtime_ns for file in store.finished(path).values()}


def _draw(key, *, x):
    return {"y": x * jax.random.normal(key, (3,))}


def _run(path, fn=_draw, chunk_size: int | Literal["auto"] = 2, repair=False):
    axes = {"seed": [0, 1], "x": [1.0, 2.0, 3.0, 4.0]}
    return sweep.run(fn, axes, store=path, chunk_size=chunk_size, repair=repair)


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
    xr.testing.assert_allclose(_run(None).drop_attrs(), first.drop_attrs())


def test_a_store_that_cannot_be_written_is_found_before_anything_is_traced(tmp_path, monkeypatch):
    def never(key, *, x):
        pytest.fail("fn was called")

    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/store: expected a folder that can be written to"):
        _run(tmp_path / "file" / "store", never)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))  # as a full disk
    try:
        with pytest.raises(OSError, match=r"store: expected a folder .*, got .* Make room"):
            _run(tmp_path / "store", never)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        _run(tmp_path / "store", never)


def test_a_finished_store_may_be_read_only(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    whole = _run(tmp_path).load()
    with monkeypatch.context() as patched:
        for name in ("mkdir", "link", "replace", "unlink", "rmdir"):
            patched.setattr(os, name, read_only)
        patched.setattr(_files, "write", read_only)
        xr.testing.assert_identical(_run(tmp_path).load(), whole)
        xr.testing.assert_identical(_run(tmp_path, repair=True).load(), whole)
    store.finished(tmp_path)[0].unlink()
    monkeypatch.setattr(_files, "write", read_only)
    with pytest.raises(OSError, match="Make room or choose another folder"):
        _run(tmp_path)


def test_a_killed_writers_file_is_swept_up(tmp_path):
    _run(tmp_path)
    store.finished(tmp_path)[0].unlink()
    left = tmp_path / "chunks" / ".000000-0-0.nc.abcdefgh"
    left.touch()
    os.utime(left, (0, 0))
    _run(tmp_path)
    assert not left.exists()


def test_results_that_memory_does_not_hold_are_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(gathering, "_available", lambda: 10)
    with pytest.raises(
        ValueError, match=r"results of at most .* GiB, the free memory, got .*Pass store=folder"
    ):
        _run(None)


def test_chunks_are_cut_by_bytes(tmp_path):
    big = lambda key, *, x: {"y": jnp.full(2**18, x)}  # noqa: E731
    dataset = sweep.run(big, {"x": np.arange(1280.0)}, store=tmp_path, chunk_size="auto", shard="0/1000")
    assert dataset.attrs["missing"] == "19 of 20 chunks"


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
