"""Results on disk: labelled datasets that say where they come from, never half-written.

`save` and `load` keep one dataset in one netCDF file; `open` reads the folder of a sweep, chunk by chunk.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from biasjax import _files, check
from biasjax._status import STATUS
from biasjax._sweep import chunks, manifest, rungs
from biasjax._sweep.chunks import Damaged, finished

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["STATUS", "Damaged", "check_writable", "damaged", "finished", "load", "open", "save"]


def __dir__() -> list[str]:
    return __all__


def save(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write a dataset as netCDF: beside its place first, then moved into it.

    Parameters
    ----------
    dataset
        What to write; its attributes gain versions, device and git commit.
    path
        File name, usually ending in ".nc"; an older file there is replaced.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    import xarray as xr

    if not isinstance(cast(object, dataset), xr.Dataset):
        fix = "Make one, e.g. by array.to_dataset(name=...)."
        check.fail("dataset", "an xarray.Dataset", type(dataset).__name__, fix, TypeError)
    path = _files.as_path("path", path)
    content = _files.netcdf(dataset.assign_attrs(_files.provenance()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _files.write(path, content)
    except OSError as error:
        expected, fix = "a file that can be written", "Make room or choose another name."
        check.fail(f"file {path}", expected, repr(error), fix, OSError)


def load(path: str | Path) -> xr.Dataset:
    """Read a dataset that `save` wrote, into memory; raise `OSError` if there is none."""
    path = _files.as_path("path", path)
    try:
        return _files.read_netcdf(path)
    except FileNotFoundError as error:
        check.fail(f"file {path}", "a file", repr(error), "Check its name.", FileNotFoundError)
    except (OSError, ValueError) as error:
        fix = "Write it anew with store.save."
        check.fail(f"file {path}", "a dataset that store.save wrote", repr(error), fix, OSError)


def check_writable(folder: str | Path) -> Path:
    """Write a small file as results are written and remove it, so that what is wrong shows before any work.

    Parameters
    ----------
    folder
        Where results will go; made if need be.

    Raises
    ------
    OSError
        If the folder cannot be made or written to: a file stands there, it is read-only, the disk is full.
    ImportError
        If a package that writes results is missing.
    """
    _check_packages()
    import xarray as xr

    folder = _files.as_path("folder", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = _files.netcdf(xr.Dataset({"probe": ("point", np.zeros(1))}))
        _files.write(folder / ".writable.nc", content).unlink(missing_ok=True)
    except OSError as error:
        expected, fix = "a folder that can be written to", "Make room or choose another folder."
        check.fail(f"folder {folder}", expected, repr(error), fix, OSError)
    return folder


def open(path: str | Path) -> xr.Dataset:
    """Open a store as one labelled dataset, finished or not.

    Values are read when they are used, chunk by chunk, so a dataset larger than memory can be opened and
    queried.

    Parameters
    ----------
    path
        Folder of a sweep.

    Returns
    -------
    xr.Dataset
        Dimensions: static names, axes, in the order that the store began with, and each output's own.
        Unfinished parts are NaN, integers and booleans floating beside them; then the variable ``computed``
        says which points are there, and the attribute ``missing`` how many chunks are not. Of
        `sweep.halve` what it returns, after the rungs that are done.

    Raises
    ------
    ValueError
        If there is no store, its manifest is damaged, nothing is finished yet, integers beyond 2^53 are read
        beside missing ones, or a chunk is not what was written in its place (once it is read).
    """
    from biasjax._sweep import reading

    path = _files.as_path("store", path).absolute()
    stored = manifest.read(path)
    if "halving" in stored.spec:
        return rungs.dataset(path, stored)
    return reading.dataset(path, stored, stored.lead)


def damaged(path: str | Path) -> dict[int, str]:
    """Chunks that are truncated, altered, another's, from another sweep or none of the grid: what is wrong.

    Every byte is read; `sweep.run` looks at names and sizes alone unless it repairs. Of `sweep.halve` rungs.
    """
    path = _files.as_path("store", path)
    stored = manifest.read(path)
    if "halving" in stored.spec:
        return rungs.damaged(path, stored.digest)
    return {chunk.number: what for chunk, what in chunks.faults(path, stored, contents=True)}


def _check_packages() -> None:
    for name in ("xarray", "h5netcdf", "h5py"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            check.fail(
                "results on disk", f"the package {name}", repr(error), f"pip install {name}", ImportError
            )
