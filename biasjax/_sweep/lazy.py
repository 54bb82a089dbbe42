"""One lazy array over many chunk files, as xarray's backends have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core.indexing import IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

from biasjax._sweep.grid import Region


def lazy(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    parts: list[tuple[Region, Path]],
    read: Callable[[Path], Any],
) -> LazilyIndexedArray:
    """Make an array whose values are read when they are used; what no file holds is NaN.

    ``name`` is the variable to read from each file, ``shape`` and ``dtype`` are those of the whole, ``parts``
    say where each file's values stand along the leading dimensions, and ``read(file)`` returns its dataset.
    """
    return LazilyIndexedArray(_Chunked(name, shape, dtype, parts, read))


class _Chunked(BackendArray):
    """Array over many chunk files, read where it is indexed."""

    def __init__(self, name, shape, dtype, parts, read):
        self.name, self.shape, self.dtype, self.parts, self.read = name, shape, dtype, parts, read

    def __getitem__(self, key):
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._gather)

    def _gather(self, key: tuple) -> np.ndarray:
        wanted = [np.atleast_1d(np.arange(size)[k]) for size, k in zip(self.shape, key, strict=True)]
        missing = np.nan if np.issubdtype(self.dtype, np.inexact) else 0
        out = np.full([len(w) for w in wanted], missing, self.dtype)
        for region, file in self.parts:
            # Places in the result, and in the chunk, of the wanted values that the chunk holds
            here = [
                np.flatnonzero((w >= r.start) & (w < r.stop)) for w, r in zip(wanted, region, strict=False)
            ]
            if all(places.size for places in here):
                values = self.read(file)[self.name].values
                local = [w[h] - r.start for w, h, r in zip(wanted, here, region, strict=False)]
                own = wanted[len(region) :]
                whole = [np.arange(len(w)) for w in own]
                out[np.ix_(*here, *whole)] = values[np.ix_(*local, *own)]
        dropped = tuple(axis for axis, k in enumerate(key) if isinstance(k, (int, np.integer)))
        return out.squeeze(dropped)
