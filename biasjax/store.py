"""Results on disk: labelled datasets that say where they come from, never half-written.

`save` and `load` keep one dataset in one netCDF file; `open` reads the folder of a sweep, chunk by chunk.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biasjax import _files, _status, check
from biasjax._status import STATUS
from biasjax._sweep import chunks, grid
from biasjax._sweep.chunks import Damaged, damaged, finished

if TYPE_CHECKING:
    import xarray as xr
    from xarray.core.indexing import LazilyIndexedArray

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
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _files.write(path, _files.netcdf(dataset.assign_attrs(_files.provenance())))


def load(path: str | Path) -> xr.Dataset:
    """Read a dataset that `save` wrote, into memory."""
    return _files.read_netcdf(path)


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

    folder = Path(folder)
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
        Dimensions: static names, axes, and each output's own. Unfinished parts are NaN; then the variable
        ``computed`` says which points are there, and the attribute ``missing`` how many chunks are not.

    Raises
    ------
    ValueError
        If there is no store, nothing is finished yet, or a chunk is damaged (once it is read).
    """
    import xarray as xr

    path = Path(path).absolute()
    stored, files = chunks.manifest(path), finished(path)
    if not files:
        check.fail(f"store {path}", "at least one finished chunk", 0, "Run the sweep first.")
    spec, where = stored.spec, chunks.places(stored)
    lead = {**spec["static"], **spec["axes"]}
    coords: dict[str, Any] = {
        name: np.asarray(values, spec["dtypes"].get(name)) for name, values in lead.items()
    }
    for name, values in spec.get("points", {}).items():
        coords[name] = "point", np.asarray(values, spec["dtypes"][name])
    dataset = xr.Dataset(_variables(stored, files, where), coords=coords, attrs=stored.provenance)
    if len(files) < len(where):
        computed = np.zeros(stored.sizes, bool)
        for index in files:
            computed[where[index]] = True
        dataset["computed"] = tuple(lead), computed
        dataset.attrs["missing"] = f"{len(where) - len(files)} of {len(where)} chunks"
    if "status" in dataset:
        dataset["status"].attrs = _status.ATTRS
    return dataset


def _variables(
    stored: chunks.Manifest, files: Mapping[int, Path], where: Sequence[grid.Region]
) -> dict[str, tuple[tuple[str, ...], LazilyIndexedArray]]:
    """Outputs as arrays that are read where they are indexed."""
    from biasjax._sweep import lazy

    lead, read = (*stored.spec["static"], *stored.spec["axes"]), chunks.reader(stored)
    found: dict[str, tuple[tuple[str, ...], LazilyIndexedArray]] = {}
    for name, output in chunks.outputs(stored, files).items():
        parts = [(where[index], files[index]) for index in output.chunks]
        dtype = output.dtype
        if len(parts) < len(where):  # the rest is NaN
            dtype = np.result_type(dtype, np.float16)
        shape = (*stored.sizes, *output.own_shape)
        found[name] = (*lead, *output.own_dims), lazy.lazy(name, shape, dtype, parts, read)
    return found


def _check_packages() -> None:
    for name in ("xarray", "h5netcdf", "h5py"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            check.fail(
                "results on disk", f"the package {name}", repr(error), f"pip install {name}", ImportError
            )
