"""The finished chunks of a store: files that know what they are, and are checked when they are read.

``chunks/NUMBER-CHECKSUM-BYTES.nc`` is netCDF-4 and holds a region: outputs, coordinates, number, and the
digest of the store. The checksum covers all of it, the number and the digest once more, so a chunk that is
copied over another, or from another store, is known by its name alone. Every file is written beside its place
and moved into it: a kill leaves whole files only, and workers share a folder without talking to each other.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from biasjax import _files, check
from biasjax._sweep import grid
from biasjax._sweep.manifest import Manifest

Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]
"""Name -> (names of all dimensions, values over a chunk's region)."""

_NAME = re.compile(r"(\d{6,})-([0-9a-f]{16})-(\d+)\.nc")

# As netCDF calls a variable that is named like one of the dimensions
_NOT_A_COORDINATE = "_nc4_non_coord_"


class Damaged(ValueError):
    """A chunk's bytes are not those that were written."""


class Chunk(NamedTuple):
    """A file that has the name of a chunk: its number, checksum and size by that name."""

    number: int
    checksum: str
    bytes: int
    file: Path


def listed(path: Path) -> list[Chunk]:
    """Files that have names of chunks, unchecked, in the order of their names."""
    try:
        names = sorted(os.listdir(path / "chunks"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = [match for match in map(_NAME.fullmatch, names) if match]
    return [Chunk(int(m[1]), m[2], int(m[3]), path / "chunks" / m[0]) for m in matches]


def finished(path: str | Path) -> dict[int, Path]:
    """Files of the chunks of a store that are done, by number, unchecked."""
    return {chunk.number: chunk.file for chunk in listed(_files.as_path("store", path))}


def count(stored: Manifest) -> int:
    """Return the number of chunks that a whole store has."""
    return stored.combinations * len(grid.regions(stored.grid_sizes, stored.layout))


def places(stored: Manifest) -> list[grid.Region]:
    """Where each chunk stands: slices along the static names, then along the axes."""
    combinations = itertools.product(*(range(len(labels)) for labels in stored.spec["static"].values()))
    fixed = [tuple(slice(i, i + 1) for i in combination) for combination in combinations]
    regions = grid.regions(stored.grid_sizes, stored.layout)
    return [(*here, *region) for here in fixed for region in regions]


def write(path: Path, stored: Manifest, number: int, where: grid.Region, variables: Variables) -> Path:
    """Write a finished chunk, ``places(stored)[number]``, under a name with the checksum of its bytes."""
    content = _encode(variables, _coords(stored, where), {"chunk": number, "sweep": stored.digest})
    checksum = _checksum(hashlib.sha256(content).digest(), stored, number)
    name = f"{number:06d}-{checksum}-{len(content)}.nc"
    try:
        return _files.write(path / "chunks" / name, content)
    except FileNotFoundError as error:
        fix = "It was removed while the sweep ran: start the sweep again."
        check.fail(f"store {path}", "the folder that it began with", repr(error), fix, FileNotFoundError)


def faults(path: Path, stored: Manifest, *, contents: bool) -> list[tuple[Chunk, str]]:
    """Files that are no chunk of this store, and what is wrong with them.

    Without ``contents``, names and sizes alone are looked at, in no time; with them every byte.
    """
    found, total = [], count(stored)
    for chunk in listed(path):
        try:
            check_name(chunk, total)
            if contents:
                check_content(chunk, chunk.file.read_bytes(), stored)
        except FileNotFoundError:
            continue  # another worker repairs it
        except Damaged as error:
            found.append((chunk, str(error)))
    return found


def check_name(chunk: Chunk, total: int) -> None:
    """Raise `Damaged` if a store of so many chunks has none of that number, or the file has another size."""
    if chunk.file.is_dir():
        fix = "Move it away: a repair removes no folders."
        check.fail(f"chunk {chunk.file.name}", "a file", "a folder", fix, Damaged)
    if chunk.number >= total:
        _fail(chunk, f"a number below {total}, the grid's chunks", chunk.number)
    if (size := chunk.file.stat().st_size) != chunk.bytes:
        _fail(chunk, f"{chunk.bytes} bytes", size)


def check_content(chunk: Chunk, content: bytes, stored: Manifest) -> None:
    """Raise `Damaged` unless these are the bytes that were written as this chunk of this store."""
    inner = hashlib.sha256(content).digest()
    if _checksum(inner, stored, chunk.number) != chunk.checksum:
        fits = (n for n in range(count(stored)) if _checksum(inner, stored, n) == chunk.checksum)
        other = next(fits, None)
        got = "other bytes, or another sweep's" if other is None else f"those of chunk {other}"
        _fail(chunk, "the bytes that were written", got)


def decode(chunk: Chunk, stored: Manifest, where: grid.Region) -> Variables:
    """Outputs of a chunk by name, once checksum, number, digest and coordinates are those of its place."""
    import h5py

    content = chunk.file.read_bytes()
    check_content(chunk, content, stored)
    with h5py.File(io.BytesIO(content), "r") as file:
        if (file.attrs["chunk"], file.attrs["sweep"]) != (chunk.number, stored.digest):
            _fail(chunk, "its number and its store's digest", "others")
        for name, values in _coords(stored, where).items():
            scale: Any = file[name]
            if not np.array_equal(_values(scale), values, equal_nan=values.dtype.kind in "fc"):
                _fail(chunk, f"its values of {name}", "others")
        outputs: dict[str, Any] = {str(name): data for name, data in file.items() if not data.is_scale}
        dims = {name: tuple(dim[0].name[1:] for dim in data.dims) for name, data in outputs.items()}
        rank, shape = len(where), grid.shape(where)
        for name, data in outputs.items():
            if (dims[name][:rank], data.shape[:rank]) != (stored.lead, shape):
                _fail(chunk, f"{name} over {shape}, {stored.lead}", f"{data.shape}, {dims[name]}")
        return {
            name.removeprefix(_NOT_A_COORDINATE): (dims[name], _values(data))
            for name, data in outputs.items()
        }


def _encode(variables: Variables, coords: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> bytes:
    """Write netCDF-4 as HDF5: through h5netcdf and xarray it takes ten times longer."""
    import h5py

    sizes = {name: len(values) for name, values in coords.items()}
    for dims, values in variables.values():
        sizes |= dict(zip(dims, values.shape, strict=True))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:  # netCDF wants the order
        file.attrs.update(attrs)
        for i, (name, size) in enumerate(sizes.items()):
            if name in coords:
                _create(file, name, coords[name]).make_scale(name)
            else:
                scale = file.create_dataset(name, (size,), ">f4")
                scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")
            file[name].attrs["_Netcdf4Dimid"] = np.int32(i)
        for name, (dims, values) in variables.items():
            data = _create(file, _NOT_A_COORDINATE + name if name in sizes else name, values)
            for dim, axis in zip(dims, data.dims, strict=True):
                axis.attach_scale(file[dim])
    return buffer.getvalue()


def _create(file: Any, name: str, values: np.ndarray) -> Any:
    """Write an array; netCDF has no booleans, xarray marks them as here."""
    import h5py

    if values.dtype.kind == "U":
        return file.create_dataset(name, data=values.tolist(), dtype=h5py.string_dtype())
    data = file.create_dataset(name, data=values.astype(np.int8) if values.dtype == bool else values)
    if values.dtype == bool:
        data.attrs["dtype"] = "bool"
    return data


def _values(data: Any) -> np.ndarray:
    values = data.asstr()[...] if data.dtype.kind == "O" else data[...]
    return values.astype(bool) if data.attrs.get("dtype") == "bool" else values


def _coords(stored: Manifest, where: grid.Region) -> dict[str, np.ndarray]:
    """Coordinates of a region."""
    return {name: values[part] for (name, values), part in zip(stored.coords.items(), where, strict=True)}


def _checksum(inner: bytes, stored: Manifest, number: int) -> str:
    """Checksum of a content's own checksum, and of which chunk of which store it is."""
    return hashlib.sha256(b"%b %d %b" % (stored.digest.encode(), number, inner)).hexdigest()[:16]


def _fail(chunk: Chunk, expected: str, got: object) -> NoReturn:
    check.fail(f"chunk {chunk.file.name}", expected, got, "Run the sweep again with repair=True.", Damaged)
