import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from biasjax import store, sweep
from biasjax.stepwise import Stepwise

TABLE = {"rate": [0.1, 0.5, 0.2, 1.0, 0.3], "width": [3, 1, 2, 5, 4]}


def _point(key, *, rate, width, power=1):
    return {"draw": jax.random.normal(key), "y": rate**power * width + jax.random.normal(key, (2,))}


def _assert_is_the_loop(dataset, power=1):
    for seed in (4, 7):
        key = jax.random.fold_in(jax.random.key(0), seed)
        for i, (rate, width) in enumerate(zip(*TABLE.values(), strict=True)):
            truth = _point(key, rate=jnp.float32(rate), width=jnp.float32(width), power=power)["y"]
            np.testing.assert_allclose(dataset.y.sel(seed=seed, power=power)[i], truth, rtol=1e-5, atol=1e-6)


def test_points_are_the_loop_over_rows_with_their_coordinates_and_shared_draws(tmp_path):
    run = functools.partial(sweep.run, _point, {"seed": [4, 7]}, points=TABLE, static={"power": [1, 2]})
    with jax.numpy_dtype_promotion("standard"):
        memory, stored = run(), run(store=tmp_path, chunk_size=3)
    for dataset in (memory, stored):
        assert dataset.y.dims[:3] == ("power", "seed", "point")
        assert dataset.rate.dims == dataset.width.dims == ("point",)
        assert dataset.width.dtype == np.int32
        np.testing.assert_array_equal(dataset.rate, np.float32(TABLE["rate"]))
        assert (dataset.draw == dataset.draw.isel(point=0, power=0)).all()
        _assert_is_the_loop(dataset, 2)
    assert store.open(tmp_path).coords.equals(stored.coords)


def _only(key, *, rate):
    return {"y": rate * jax.random.uniform(key)}


@pytest.mark.parametrize("kind", ["dict", "dataset", "pandas"])
def test_all_kinds_of_tables_are_the_same(kind):
    table = xr.Dataset({"rate": ("run", [0.1, 0.2, 0.4])}, coords={"seed": ("run", [1, 1, 2])})
    points = {"dict": {n: v.values for n, v in table.variables.items()}, "dataset": table}
    dataset = sweep.run(_only, points=points.get(kind, table.to_dataframe()))
    assert dataset.y.dims == ("point",)
    # A seed in the table is the same key as on the axis
    grid = sweep.run(_only, {"seed": [1, 2], "rate": [0.1, 0.2, 0.4]}).y.values
    np.testing.assert_array_equal(dataset.y, [grid[0, 0], grid[0, 1], grid[1, 2]])
    assert dataset.seed.values.tolist() == [1, 1, 2]


def test_a_result_is_a_table_again():
    first = sweep.run(_only, points={"rate": [3.0, 1.0, 2.0]})
    best = first.drop_vars(["y", "status"]).isel(point=[1, 2])
    assert sweep.run(_only, points=best).rate.values.tolist() == [1.0, 2.0]


def test_another_table_is_refused_by_the_store(tmp_path):
    sweep.run(_only, points={"rate": [1.0, 2.0]}, store=tmp_path)
    with pytest.raises(ValueError, match=r"points rate\[1\]: 2.0 there, 3.0 here"):
        sweep.run(_only, points={"rate": [1.0, 3.0]}, store=tmp_path)
    with pytest.raises(ValueError, match="another"):
        sweep.run(_only, {"rate": [1.0, 2.0]}, store=tmp_path)


def test_steps_shards_and_chunks_of_points_are_the_whole(tmp_path):
    steps = Stepwise(
        start=lambda key, *, rate: jnp.zeros(()),
        advance=lambda carry, key, *, rate: carry + rate * jax.random.uniform(key),
        finish=lambda carry, key, *, rate: {"y": carry},
        steps=3,
    )
    points = {"rate": np.linspace(0.1, 1.0, 7)}
    run = functools.partial(sweep.run, steps, {"seed": range(2)}, points=points)
    for shard in ("0/2", "1/2"):
        dataset = run(store=tmp_path, chunk_size=3, shard=shard)
    np.testing.assert_array_equal(dataset.y, run().y)
    whole = sweep.run(_only, {"seed": [0, 1]}, points=points)
    np.testing.assert_allclose(dataset.y, 3 * whole.y, rtol=1e-5)


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ({}, {}, "at least one column, all of one length, got {}"),
        ({"rate": [1.0], "x": [1.0, 2.0]}, {}, "all of one length, got {'rate': 1, 'x': 2}"),
        ({"rate": [1.0, np.nan]}, {}, "a number in every place, got NaN in rate"),
        ({"rate": [1.0]}, {"axes": {"rate": [1.0]}}, "names of their own .*, got 'rate', an axis"),
        ({"rate": [1.0]}, {"axes": {"point": [1.0]}}, "got 'point', an axis"),
        ({"rate": [1.0]}, {"static": {"rate": [1.0]}}, "got 'rate', a static name"),
        ({"status": [1.0]}, {}, "a name of the engine itself"),
        ({"y": [1.0]}, {}, "outputs named otherwise"),
        (xr.Dataset({"rate": (("a", "b"), np.ones((2, 2)))}), {}, "variables along one dimension"),
    ],
)
def test_bad_points_are_refused_clearly(points, options, message):
    with pytest.raises(ValueError, match=message):
        sweep.run(lambda key, **_: {"y": 1.0}, points=points, **options)


def test_what_is_no_table_is_refused():
    with pytest.raises(TypeError, match="points: expected a table, got list"):
        sweep.run(_only, points=[1.0, 2.0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="axes, points or both"):
        sweep.run(_only)
