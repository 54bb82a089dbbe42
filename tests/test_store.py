import errno
import resource
import sys

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


@pytest.fixture
def full_disk():
    """Files end after 1 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_folder_that_can_be_written_to_is_left_empty(tmp_path):
    assert store.check_writable(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    store.check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("below", ["file", "file/folder"])
def test_a_file_in_place_of_a_folder_is_found(tmp_path, below):
    (tmp_path / "file").write_text("")
    message = f"folder .*{below}: expected a folder that can be written to, got .* choose another folder"
    with pytest.raises(OSError, match=message):
        store.check_writable(tmp_path / below)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_found(tmp_path):
    with pytest.raises(OSError, match=f"got OSError\\({errno.EFBIG}, .* Make room"):
        store.check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["xarray", "h5netcdf", "h5py"])
def test_a_missing_package_is_found(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"expected the package {package}, .* pip install {package}"):
        store.check_writable(tmp_path / "new")
    assert not list(tmp_path.iterdir())
