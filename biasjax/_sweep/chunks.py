"""The inside of a sweep's folder: a manifest, and chunks that are checked when they are read.

``manifest.json`` says what is swept and how the grid is cut; ``chunks/INDEX-CHECKSUM.nc`` hold a finished
region each. Every file is written beside its place and moved into it, so a kill leaves whole files only, and
several workers can share a folder without talking to each other.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from biasjax import _files, check
from biasjax._sweep import grid

if TYPE_CHECKING:
    import xarray as xr


class Damaged(ValueError):
    """A chunk's bytes are not those that were written."""


class Manifest(NamedTuple):
    """What a store holds: what is swept, from `spec.describe`, and how its grid is cut."""

    spec: dict[str, Any]
    layout: grid.Layout
    provenance: dict[str, str]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the static names, then of the axes."""
        return tuple(len(values) for values in (*self.spec["static"].values(), *self.spec["axes"].values()))

    @property
    def digest(self) -> str:
        """Checksum of what is swept, which every chunk carries."""
        return hashlib.sha256(json.dumps(self.spec, sort_keys=True).encode()).hexdigest()


def begin(path: Path, spec: dict[str, Any], layout: grid.Layout) -> Manifest:
    """Start a store, cut by a layout, or go on with the one that is there and keep its cut.

    Raises
    ------
    ValueError
        If the folder holds another sweep; the message says what differs.
    """
    (path / "chunks").mkdir(parents=True, exist_ok=True)
    if not (path / "manifest.json").exists():
        content = {"spec": spec, "layout": layout._asdict(), "provenance": _files.provenance()}
        with contextlib.suppress(FileExistsError):  # another worker was quicker
            _files.write(path / "manifest.json", json.dumps(content, indent=1).encode(), replace=False)
    stored = manifest(path)
    # What could not be traced when the store began, or cannot now, is not compared
    known = {at: program for at, program in spec.get("fn at", {}).items() if program is not None}
    traced = {at: known.get(at) and program for at, program in stored.spec.get("fn at", {}).items()}
    given = spec | {"fn at": {at: known[at] if program else None for at, program in traced.items()}}
    if (stored.spec | {"fn at": traced}) != given:
        difference = "; ".join(_differences(stored.spec | {"fn at": traced}, given))
        fix = "Use another folder, or remove this one."
        check.fail(f"store {path}", "the sweep that it was started with", f"another ({difference})", fix)
    return stored


def manifest(path: Path) -> Manifest:
    """Read what a store holds, or raise `ValueError` if there is no readable manifest."""
    try:
        content = json.loads((path / "manifest.json").read_text())
        return Manifest(content["spec"], grid.Layout(**content["layout"]), content["provenance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        check.fail(f"store {path}", "a readable manifest.json", repr(error), "Pass the folder of a sweep.")


def places(stored: Manifest) -> list[grid.Region]:
    """Where each chunk stands: slices along the static names, then along the axes."""
    rank = len(stored.spec["static"])
    combinations = itertools.product(*map(range, stored.sizes[:rank]))
    fixed = [tuple(slice(i, i + 1) for i in combination) for combination in combinations]
    return [(*here, *region) for here in fixed for region in grid.regions(stored.sizes[rank:], stored.layout)]


def write_chunk(path: Path, index: int, variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]]) -> Path:
    """Write a finished chunk, under a name with the checksum of its bytes.

    ``variables`` are name -> (names of all dimensions, values over the chunk's region).
    """
    import xarray as xr

    attrs = {"chunk": index, "spec": manifest(path).digest}
    content = _files.netcdf(xr.Dataset(variables, attrs=attrs))
    name = f"{index:06d}-{hashlib.sha256(content).hexdigest()[:16]}.nc"
    return _files.write(path / "chunks" / name, content)


def finished(path: str | Path) -> dict[int, Path]:
    """Files of the chunks of a store that are done, by number, unchecked."""
    files = sorted((Path(path) / "chunks").iterdir())
    names = [(re.fullmatch(r"(\d{6,})-[0-9a-f]{16}\.nc", file.name), file) for file in files]
    return {int(match[1]): file for match, file in names if match}


def damaged(path: str | Path) -> dict[int, str]:
    """Chunks whose file is truncated, altered or from another sweep, by number, with what is wrong."""
    found, digest = {}, manifest(Path(path)).digest
    for index, file in finished(path).items():
        try:
            _checked(file, digest)
        except FileNotFoundError:
            continue  # another worker repairs it
        except Damaged as error:
            found[index] = str(error)
    return found


class Output(NamedTuple):
    """One output of a sweep: its own dimensions, and the numbers of the chunks that have it."""

    own_dims: tuple[str, ...]
    own_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: list[int]


def outputs(stored: Manifest, files: Mapping[int, Path]) -> dict[str, Output]:
    """Outputs by name; a static combination has the same in all its chunks, so one of each is read."""
    rank, read = len(stored.sizes), reader(stored)
    per_combination = len(places(stored)) // math.prod(stored.sizes[: len(stored.spec["static"])])
    found: dict[str, Output] = {}
    for _, group in itertools.groupby(files, lambda index: index // per_combination):
        chunks = list(group)
        for name, variable in read(files[chunks[0]]).variables.items():
            new = Output(tuple(map(str, variable.dims[rank:])), variable.shape[rank:], variable.dtype, [])
            old = found.get(str(name), new)
            dtype = np.result_type(old.dtype, new.dtype)
            found[str(name)] = old._replace(dtype=dtype, chunks=old.chunks + chunks)
    return found


def reader(stored: Manifest) -> Callable[[Path], xr.Dataset]:
    """``read(file) -> Dataset``, whole; from memory if the file was read lately and has not changed."""
    digest = stored.digest
    return lambda file: _read(file, digest, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(file: Path, digest: str, _modified: int) -> xr.Dataset:
    return _files.read_netcdf(io.BytesIO(_checked(file, digest)))


def _checked(file: Path, digest: str) -> bytes:
    """Bytes of a chunk, if they are what was written, by this sweep."""
    import h5netcdf

    content, rerun = file.read_bytes(), "Run the sweep again with repair=True."
    if hashlib.sha256(content).hexdigest()[:16] != file.stem.split("-")[1]:
        check.fail(f"chunk {file.name}", "its checksum", "other bytes", rerun, Damaged)
    try:  # the attributes alone: a store may have thousands of chunks
        with h5netcdf.File(io.BytesIO(content), "r") as netcdf:
            written = netcdf.attrs.get("spec")
    except OSError as error:
        check.fail(f"chunk {file.name}", "netCDF", repr(error), rerun, Damaged)
    if written != digest:
        check.fail(f"chunk {file.name}", "one of this sweep", "another's", rerun, Damaged)
    return content


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
