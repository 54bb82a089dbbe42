import numpy as np
import pytest
import xarray as xr

from biasjax import _files, store


def _dataset():
    values = xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("use_bias", "order"))
    return xr.Dataset({"loss": values}, coords={"use_bias": [True, False], "order": ["a", "bb", "c"]})


def test_a_dataset_returns_as_it_was_and_says_where_it_is_from(tmp_path):
    path = store.save(_dataset(), tmp_path / "new" / "dataset.nc")
    loaded = store.load(path)
    xr.testing.assert_equal(loaded, _dataset())
    assert loaded.use_bias.dtype == bool
    assert set(_files.provenance()) <= set(loaded.attrs)
    assert loaded.attrs["jax_version"].count(".") >= 2


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = store.save(_dataset(), tmp_path / "dataset.nc")
    with pytest.raises(TypeError):
        store.save(_dataset().assign_attrs(bad=object()), path)
    xr.testing.assert_equal(store.load(path), _dataset())
    assert [file.name for file in tmp_path.iterdir()] == ["dataset.nc"]
