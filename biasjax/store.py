"""Results on disk: labelled datasets that say where they come from, never half-written.

`save` and `load` keep one dataset in one netCDF file. A sweep keeps a folder: ``manifest.json`` with what is
swept and how the grid is cut, and ``chunks/INDEX-CHECKSUM.nc``, one for each finished region. Every file is
written beside its place and moved into it, so a kill leaves whole files only, and several workers can share
a folder without talking to each other.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import platform
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

import biasjax
from biasjax import check
from biasjax._sweep import grid

if TYPE_CHECKING:
    import xarray as xr

# What a sweep finds at a point, coded as in the CF conventions
STATUS = ("finite", "overflow", "nan", "underflow")
STATUS_ATTRS = {"flag_values": list(range(len(STATUS))), "flag_meanings": " ".join(STATUS)}


class Manifest(NamedTuple):
    """What a store holds: the specification of the sweep and how its grid is cut."""

    spec: dict[str, Any]
    layout: grid.Layout
    provenance: dict[str, str]


class Damaged(ValueError):
    """A chunk's bytes are not those that were written."""


@functools.cache
def provenance() -> dict[str, str]:
    """Say what a result was computed with: versions, device and, inside a checkout, the git commit.

    Examples
    --------
    >>> sorted(provenance())
    ['device', 'git_commit', 'jax_version', 'platform', 'python_version', 'version']
    """
    root = Path(__file__).parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return {
        "version": biasjax.__version__,
        "jax_version": importlib.metadata.version("jax"),
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "git_commit": commit,
    }


def save(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write a dataset as netCDF: beside its place first, then moved into it.

    Parameters
    ----------
    dataset
        What to write; its attributes gain `provenance`.
    path
        File name, usually ending in ".nc"; an older file there is replaced.

    Returns
    -------
    Path
        The file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write(path, _netcdf(dataset.assign_attrs(provenance())))


def load(path: str | Path) -> xr.Dataset:
    """Read a dataset that `save` wrote, into memory."""
    import xarray as xr

    return xr.load_dataset(path, engine="h5netcdf")


def begin(path: str | Path, spec: dict[str, Any], layout: grid.Layout) -> grid.Layout:
    """Start a store, or go on with one of the same specification.

    Parameters
    ----------
    path
        Folder; made if need be.
    spec
        JSON-able description of the sweep, with "axes" and "static" as name -> list. It has to be that of the
        store, to the last digit.
    layout
        How to cut the grid if the store is new.

    Returns
    -------
    Layout
        That of the store.

    Raises
    ------
    ValueError
        If the folder holds another sweep; the message says what differs.
    OSError
        If the folder cannot be written.
    """
    path = Path(path)
    (path / "chunks").mkdir(parents=True, exist_ok=True)
    content = {"spec": spec, "layout": layout._asdict(), "provenance": provenance()}
    with contextlib.suppress(FileExistsError):
        _write(path / "manifest.json", json.dumps(content, indent=1).encode(), replace=False)
    stored = manifest(path)
    # What could not be traced when the store began, or cannot now, is not compared
    known = {at: program for at, program in spec.get("fn at", {}).items() if program is not None}
    traced = {at: known.get(at) and program for at, program in stored.spec.get("fn at", {}).items()}
    given = spec | {"fn at": {at: known[at] if program else None for at, program in traced.items()}}
    if (stored.spec | {"fn at": traced}) != given:
        difference = "; ".join(_differences(stored.spec | {"fn at": traced}, given))
        fix = "Use another folder, or remove this one."
        check.fail(f"store {path}", "the sweep that it was started with", f"another ({difference})", fix)
    return stored.layout


def manifest(path: str | Path) -> Manifest:
    """Read what a store holds, or raise `ValueError` if there is no readable manifest."""
    try:
        content = json.loads((Path(path) / "manifest.json").read_text())
        return Manifest(content["spec"], grid.Layout(**content["layout"]), content["provenance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        check.fail(f"store {path}", "a readable manifest.json", repr(error), "Pass the folder of a sweep.")


def write_chunk(
    path: str | Path, index: int, variables: dict[str, tuple[tuple[str, ...], np.ndarray]]
) -> Path:
    """Write a finished chunk.

    Parameters
    ----------
    path
        Store.
    index
        Number of the chunk.
    variables
        Name -> (names of all dimensions, values over the chunk's region).

    Returns
    -------
    Path
        The file, whose name holds the checksum of its bytes.
    """
    import xarray as xr

    attrs = {"chunk": index, "spec": _digest(manifest(path).spec)}
    content = _netcdf(xr.Dataset(variables, attrs=attrs))
    name = f"{index:06d}-{hashlib.sha256(content).hexdigest()[:16]}.nc"
    return _write(Path(path) / "chunks" / name, content)


def finished(path: str | Path) -> dict[int, Path]:
    """Files of the chunks that are done, by number, unchecked."""
    files = sorted((Path(path) / "chunks").iterdir())
    names = [(re.fullmatch(r"(\d{6,})-[0-9a-f]{16}\.nc", file.name), file) for file in files]
    return {int(match[1]): file for match, file in names if match}


def damaged(path: str | Path) -> dict[int, str]:
    """Chunks whose file is truncated, altered or from another sweep, by number, with what is wrong."""
    found, digest = {}, _digest(manifest(path).spec)
    for index, file in finished(path).items():
        try:
            _read_checked.__wrapped__(file, digest)
        except FileNotFoundError:
            continue  # another worker repairs it
        except Damaged as error:
            found[index] = str(error)
    return found


def places(stored: Manifest) -> list[grid.Region]:
    """Where each chunk stands: slices along the static names, then along the axes."""
    sizes = [len(values) for values in stored.spec["axes"].values()]
    combinations = itertools.product(*(range(len(values)) for values in stored.spec["static"].values()))
    fixed = [tuple(slice(i, i + 1) for i in combination) for combination in combinations]
    return [(*here, *region) for here in fixed for region in grid.regions(sizes, stored.layout)]


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

    from biasjax._sweep import lazy

    path = Path(path).absolute()
    stored, files = manifest(path), finished(path)
    if not files:
        check.fail(f"store {path}", "at least one finished chunk", 0, "Run the sweep first.")
    spec, where = stored.spec, places(stored)
    lead = {**spec["static"], **spec["axes"]}
    sizes = tuple(len(values) for values in lead.values())
    coords = {name: np.asarray(values, spec["dtypes"].get(name)) for name, values in lead.items()}
    dataset = xr.Dataset(coords=coords, attrs=stored.provenance)
    for name, output in _outputs(stored, files).items():
        parts = [(where[index], files[index]) for index in output.chunks]
        dtype = output.dtype
        if len(parts) < len(where):  # the rest is NaN
            dtype = np.result_type(dtype, np.float16)
        read = functools.partial(_read, digest=_digest(spec))
        shape = (*sizes, *output.own_shape)
        dataset[name] = (*lead, *output.own_dims), lazy.lazy(name, shape, dtype, parts, read)
    if len(files) < len(where):
        computed = np.zeros(sizes, bool)
        for index in files:
            computed[where[index]] = True
        dataset["computed"] = tuple(lead), computed
        dataset.attrs["missing"] = f"{len(where) - len(files)} of {len(where)} chunks"
    if "status" in dataset:
        dataset["status"].attrs = STATUS_ATTRS
    return dataset


class _Output(NamedTuple):
    """One output of a sweep: its own dimensions, and the chunks that have it."""

    own_dims: tuple[str, ...]
    own_shape: tuple[int, ...]
    dtype: np.dtype
    chunks: list[int]


def _outputs(stored: Manifest, files: dict[int, Path]) -> dict[str, _Output]:
    """Outputs by name; a static combination has the same in all its chunks, so one of each is read."""
    rank = len(stored.spec["static"]) + len(stored.spec["axes"])
    per_combination = len(places(stored)) // math.prod(len(v) for v in stored.spec["static"].values())
    found: dict[str, _Output] = {}
    for _, group in itertools.groupby(files, lambda index: index // per_combination):
        chunks = list(group)
        for name, variable in _read(files[chunks[0]], _digest(stored.spec)).variables.items():
            new = _Output(tuple(map(str, variable.dims[rank:])), variable.shape[rank:], variable.dtype, [])
            old = found.get(str(name), new)
            dtype = np.result_type(old.dtype, new.dtype)
            found[str(name)] = old._replace(dtype=dtype, chunks=old.chunks + chunks)
    return found


def _read(file: Path, digest: str) -> xr.Dataset:
    """Read a chunk whole, or take it from memory if the file was read lately and has not changed."""
    return _read_checked(file, digest, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read_checked(file: Path, digest: str, _modified: int = 0) -> xr.Dataset:
    """Read a chunk and check that it is what was written, by this sweep."""
    import xarray as xr

    content, rerun = file.read_bytes(), "Run the sweep again with repair=True."
    try:
        if hashlib.sha256(content).hexdigest()[:16] != file.stem.split("-")[1]:
            check.fail(f"chunk {file.name}", "its checksum", "other bytes", rerun, Damaged)
        dataset = xr.load_dataset(io.BytesIO(content), engine="h5netcdf")
    except OSError as error:
        check.fail(f"chunk {file.name}", "netCDF", repr(error), rerun, Damaged)
    if dataset.attrs.get("spec") != digest:
        check.fail(f"chunk {file.name}", "one of this sweep", "another's", rerun, Damaged)
    return dataset


def _netcdf(dataset: xr.Dataset) -> bytes:
    return bytes(dataset.to_netcdf(engine="h5netcdf"))  # pyright: ignore[reportArgumentType]


def _write(path: Path, content: bytes, *, replace: bool = True) -> Path:
    """Write a file beside its place, make sure that it is on disk, and move it there."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(beside, path)
        else:
            os.link(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)
    return path


def _digest(spec: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def _differences(stored: Any, given: Any, name: str = "") -> list[str]:
    """Say in which entries two specifications differ, and how."""
    if isinstance(stored, dict) and isinstance(given, dict):
        keys = [*stored, *(key for key in given if key not in stored)]
        pairs = [(f"{name} {key}".strip(), stored.get(key), given.get(key)) for key in keys]
        pairs += [(f"order of {name}", list(stored), list(given))] * (set(stored) == set(given))
    elif isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given) and name:
        pairs = [(f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(stored, given, strict=True))]
    else:
        return [] if stored == given else [f"{name}: {stored!r} there, {given!r} here"]
    return [line for key, a, b in pairs if a != b for line in _differences(a, b, key)][:5]
