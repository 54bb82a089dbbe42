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


@pytest.mark.parametrize("use", [store.load, store.open, store.damaged, store.finished, store.check_writable])
def test_what_is_no_path_is_refused(use):
    for given, error in ((3, TypeError), (b"bytes", TypeError), ("", ValueError), ("a\0b", ValueError)):
        with pytest.raises(error, match="expected a path, got"):
            use(given)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(FileNotFoundError, match=r"file .*none.nc: expected a file, got .* Check its name"):
        store.load(tmp_path / "none.nc")
    with pytest.raises(OSError, match=r"file .*file: expected a dataset that store.save wrote, got"):
        store.load(tmp_path / "file")
    with pytest.raises(OSError, match=r"below.nc: expected a file that can be written, got"):
        store.save(_dataset(), tmp_path / "file" / "below.nc")
    with pytest.raises(TypeError, match=r"dataset: expected an xarray.Dataset, got DataArray. Make one"):
        store.save(_dataset().loss, tmp_path / "one.nc")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"store .*file: expected a readable manifest.json, got"):
        store.open(tmp_path / "file")


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
