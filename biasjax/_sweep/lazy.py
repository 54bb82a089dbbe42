"""One lazy array over many chunk files, as xarray's backends have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

from biasjax import check
from biasjax._sweep.grid import Region

Read = Callable[[Any], Mapping[str, xr.Variable]]
"""``read(chunk)`` gives all of its outputs."""


def lazy(
    name: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: np.dtype,
    parts: Sequence[tuple[Region, Any]],
    read: Read,
) -> LazilyIndexedArray:
    """One output, in any order of its dimensions, put together from the chunks that are indexed.

    ``parts`` pairs a region with its chunk; what is in no part is NaN.
    """
    return LazilyIndexedArray(_Chunks(name, dims, shape, dtype, parts, read))


def with_nan(dtype: np.dtype) -> np.dtype:
    """Type of values of which some are missing: floating, float64 for integers of 32 bits or more."""
    return np.result_type(dtype, np.float16)


def exactly(name: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast values, or raise where integers beyond 2^53 would be rounded to make room for NaN."""
    long = dtype.kind in "fc" and values.dtype.kind in "iu" and values.dtype.itemsize == 8
    if long and values.size and (values.max() > 2**53 or values.min() < -(2**53)):
        fix = "Finish the sweep, for all static values, so that nothing is missing; or return two int32."
        check.fail(f"output {name!r}", "integers up to 2^53 beside missing ones", values.max(), fix)
    return values.astype(dtype, copy=False)


class _Chunks(BackendArray):
    """What xarray indexes: an array that reads each chunk it needs, one after another."""

    def __init__(self, name, dims, shape, dtype, parts, read):
        self.name, self.dims, self.shape, self.dtype = name, dims, shape, dtype
        self.parts, self.read = parts, read

    def __getitem__(self, key):
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._gather)

    def _gather(self, key: tuple) -> np.ndarray:
        wanted = [np.atleast_1d(np.arange(size)[k]) for size, k in zip(self.shape, key, strict=True)]
        missing = np.nan if np.issubdtype(self.dtype, np.inexact) else 0
        out = np.full([len(w) for w in wanted], missing, self.dtype)
        if out.size:
            order = [np.argsort(w, kind="stable") for w in wanted]
            ranked = [w[o] for w, o in zip(wanted, order, strict=True)]
            for region, chunk in self.parts:
                self._copy(out, wanted, order, ranked, region, chunk)
        dropped = tuple(axis for axis, k in enumerate(key) if isinstance(k, (int, np.integer)))
        return out.squeeze(dropped)

    def _copy(self, out, wanted, order, ranked, region, chunk) -> None:
        """Copy what is wanted of one chunk."""
        here = []  # places in the result of the wanted values that the chunk holds
        for ordered, places, part in zip(ranked, order, region, strict=False):
            first, last = np.searchsorted(ordered, (part.start, part.stop))
            if first == last:
                return
            here.append(places[first:last])
        values = self._values(region, chunk)
        local = [w[h] - r.start for w, h, r in zip(wanted, here, region, strict=False)]
        own = wanted[len(region) :]
        whole = [np.arange(len(w)) for w in own]
        out[np.ix_(*here, *whole)] = values[np.ix_(*local, *own)]

    def _values(self, region: Region, chunk: Any) -> np.ndarray:
        variable = self.read(chunk)[self.name].transpose(*self.dims)
        shape = (*(part.stop - part.start for part in region), *self.shape[len(region) :])
        if variable.shape != shape:
            fix = "Run the sweep anew in another folder."
            check.fail(f"output {self.name!r}", f"shape {shape} in all chunks", variable.shape, fix)
        return exactly(self.name, variable.values, self.dtype)
