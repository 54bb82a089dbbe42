import numpy as np
import pytest
import xarray as xr

from biasjax import store, sweep
from biasjax._sweep import lazy


@pytest.fixture
def parts():
    """An array of shape (4, 3, 2), its values from chunks that say when they are read, one missing."""
    whole = np.arange(24.0).reshape(4, 3, 2)
    regions = [(slice(0, 2), slice(0, 3)), (slice(2, 4), slice(0, 2)), (slice(2, 4), slice(2, 3))]
    seen = []

    def read(index):
        seen.append(index)
        return {"y": xr.Variable(("a", "b", "c"), whole[regions[index]])}

    there = [(region, index) for index, region in enumerate(regions[:2])]
    array = lazy.lazy("y", ("a", "b", "c"), whole.shape, whole.dtype, there, read)  # type: ignore[arg-type]
    whole = whole.copy()
    known = np.where(np.arange(3)[:, None] < 2, whole, np.nan)
    known[:2] = whole[:2]
    return xr.Variable(("a", "b", "c"), array), known, seen


@pytest.mark.parametrize(
    "key",
    [
        (),
        1,
        (slice(1, 3),),
        ([3, 0], 1),
        (slice(None, None, -1), [2, 0], 1),
        (..., 0),
        (slice(0, 0),),
        (3, 2),
    ],
)
def test_any_index_gives_what_numpy_gives(parts, key):
    lazily, whole, _ = parts
    np.testing.assert_array_equal(lazily[key].values, xr.Variable(lazily.dims, whole)[key].values)


def test_only_what_is_used_is_read(parts):
    lazily, _, seen = parts
    assert not seen
    assert lazily[3, 1, 0].values == 20.0
    assert seen == [1]


def test_values_are_read_when_used(tmp_path):
    axes = {"seed": [0, 1], "x": [1.0, 2.0, 3.0, 4.0]}
    dataset = sweep.run(lambda key, *, x: {"y": x}, axes, store=tmp_path, chunk_size=2)
    for file in list(store.finished(tmp_path).values())[2:]:
        file.write_bytes(b"damaged")
    assert np.isfinite(dataset.y.sel(seed=0).isel(x=[3, 0]).values).all()  # needs the first two chunks alone
    with pytest.raises(store.Damaged):
        dataset.y.load()


def test_integers_beside_missing_ones_are_not_rounded(tmp_path, x64):
    def count(key, *, x):
        return {"y": x + 0, "few": x - 2**53}

    axes = {"x": [2**53 + 1, 2**53 + 3]}
    partial = sweep.run(count, axes, store=tmp_path, chunk_size=1, shard="0/2")
    assert partial.few.dtype == np.float64
    assert partial.few[0] == 1
    with pytest.raises(ValueError, match=r"output 'y': expected integers up to 2\^53 beside missing ones"):
        partial.y.load()
    assert sweep.run(count, axes, store=tmp_path, chunk_size=1).y.values.tolist() == axes["x"]
