"""A store as one dataset whose values are read, and checked, when they are used."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from biasjax import _status, check
from biasjax._sweep import chunks, lazy, points
from biasjax._sweep.chunks import Chunk
from biasjax._sweep.manifest import Manifest


class _Output(NamedTuple):
    """One output of a sweep: its own dimensions, and the chunks that have it."""

    own_dims: tuple[str, ...]
    own_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: list[Chunk]


def dataset(path: Path, stored: Manifest, lead: Sequence[str]) -> xr.Dataset:
    """Open a store, finished or not, its static names and axes in the order of ``lead``."""
    files = {chunk.number: chunk for chunk in chunks.listed(path)}
    if not files:
        check.fail(f"store {path}", "at least one finished chunk", 0, "Run the sweep first.")
    where = chunks.places(stored)
    for chunk in files.values():
        chunks.check_name(chunk, len(where))
    order = [stored.lead.index(name) for name in lead]
    regions = [tuple(region[i] for i in order) for region in where]
    shape = tuple(stored.sizes[i] for i in order)
    read = _reader(stored, where)
    found = {}
    for name, output in _outputs(stored, files, read).items():
        dtype = output.dtype if len(output.chunks) == len(where) else lazy.with_nan(output.dtype)
        dims = (*lead, *output.own_dims)
        parts = [(regions[chunk.number], chunk) for chunk in output.chunks]
        array = lazy.lazy(name, dims, (*shape, *output.own_shape), dtype, parts, read)
        found[name] = xr.Variable(dims, array, _status.ATTRS if name == "status" else None)
    coords: dict[str, Any] = {name: stored.coords[name] for name in lead}
    coords |= {name: (points.DIM, column) for name, column in stored.table.items()}
    whole = xr.Dataset(found, coords=coords, attrs=stored.provenance | {"batching": str(stored.batching)})
    if len(files) == len(where):
        return whole
    computed = np.zeros(shape, bool)
    for number in files:
        computed[regions[number]] = True
    missing = f"{len(where) - len(files)} of {len(where)} chunks"
    return whole.assign(computed=(tuple(lead), computed)).assign_attrs(missing=missing)


def _outputs(stored: Manifest, files: Mapping[int, Chunk], read: lazy.Read) -> dict[str, _Output]:
    """Outputs by name; a static combination has the same in all its chunks, so one of each is read."""
    rank, each = len(stored.lead), chunks.count(stored) // stored.combinations
    found: dict[str, _Output] = {}
    for _, numbers in itertools.groupby(files, lambda number: number // each):
        group = [files[number] for number in numbers]
        for name, variable in read(group[0]).items():
            own_dims = tuple(map(str, variable.dims[rank:]))
            new = _Output(own_dims, variable.shape[rank:], variable.dtype, [])
            old = found.get(name, new)
            dtype = np.result_type(old.dtype, new.dtype)
            found[name] = old._replace(dtype=dtype, chunks=old.chunks + group)
    return found


def _reader(stored: Manifest, where: Sequence[tuple[slice, ...]]) -> lazy.Read:
    """``read(chunk) -> outputs``, whole; from memory if the file was read lately and has not changed."""

    @functools.lru_cache(maxsize=4)
    def load(chunk: Chunk, _modified: int) -> dict[str, xr.Variable]:
        decoded = chunks.decode(chunk, stored, where[chunk.number])
        return {name: xr.Variable(dims, values) for name, (dims, values) in decoded.items()}

    return lambda chunk: load(chunk, chunk.file.stat().st_mtime_ns)
