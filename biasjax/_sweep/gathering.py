"""The result of a sweep without a store: arrays of the whole grid, filled chunk by chunk."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from biasjax import _files, _status, check
from biasjax._sweep import agreement, execute, grid, lazy, points
from biasjax._sweep.loop import Plan, compute
from biasjax._sweep.spec import Spec, check_outputs, own_dims


def in_memory(plan: Plan, layout: grid.Layout, progress: bool) -> xr.Dataset:
    """Compute all chunks; raise before if memory has no room for what they give."""
    spec, places = plan.spec, grid.regions(plan.spec.sizes, layout)
    whole = _allocated(plan, grid.lengths(spec.sizes, layout))
    counts = tuple(len(values) for values in spec.static.values())

    def write(n: int, region: grid.Region, outputs: execute.Outputs) -> None:
        combination = np.unravel_index(n // len(places), counts) if counts else ()
        for name, value in outputs.items():
            whole[name][(*combination, *region)] = lazy.exactly(name, value, whole[name].dtype)

    compute(plan, layout, range(len(spec.combinations) * len(places)), write, progress)
    listed = {name: (points.DIM, column) for name, column in spec.table.items()}
    attrs = _files.provenance() | {"batching": str(plan.batching)}
    dataset = xr.Dataset(coords={**spec.labels, **spec.axes, **listed}, attrs=attrs)
    for name, value in whole.items():
        dims = (*spec.lead, *own_dims(spec, name, value.ndim - len(spec.lead)))
        dataset[name] = xr.Variable(dims, value, _status.ATTRS if name == "status" else None)
    return dataset


def _allocated(plan: Plan, lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays for all outputs, NaN where a static combination lacks one, unless memory lacks the room."""
    spec = plan.spec
    outputs = []
    for i in range(len(spec.combinations)):
        with contextlib.suppress(Exception):  # raised again, with what else fails, before anything runs
            outputs.append(plan.lower(i, lengths).outputs)
    if len(outputs) < len(spec.combinations):
        return {}
    check_outputs(spec, outputs)
    shapes = _shapes(spec, outputs)
    _check_room(sum(math.prod(shape) * dtype.itemsize for shape, dtype, _ in shapes.values()))
    return {
        name: np.full(shape, np.nan, dtype) if lacking else np.empty(shape, dtype)
        for name, (shape, dtype, lacking) in shapes.items()
    }


def _shapes(
    spec: Spec, outputs: list[dict[str, jax.ShapeDtypeStruct]]
) -> dict[str, tuple[tuple[int, ...], np.dtype, bool]]:
    """Shape and dtype of each output over the whole grid, and whether a static combination lacks it."""
    lead = (*(len(values) for values in spec.static.values()), *spec.sizes)
    status = jax.ShapeDtypeStruct(spec.sizes, np.int8)
    found: dict[str, list[jax.ShapeDtypeStruct]] = {}
    for one in outputs:
        for name, value in ({"status": status} | one).items():
            found.setdefault(name, []).append(value)
    shapes = {}
    for name, values in found.items():
        lacking = len(values) < len(outputs)
        dtype = np.result_type(*(execute.stored_dtype(value.dtype) for value in values))
        shape = (*lead, *values[0].shape[len(spec.sizes) :])
        shapes[name] = shape, lazy.with_nan(dtype) if lacking else dtype, lacking
    return shapes


def _check_room(needed: int) -> None:
    # The least of all processes, so that none goes on alone
    free = agreement.least(_available())
    if needed > free:
        fix = "Pass store=folder: chunks are written when they are done and read when they are used."
        check.fail("sweep", f"results of at most {_size(free)}, the free memory", _size(needed), fix)


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"


def _available() -> int:
    """Bytes of memory that the system can give, more than there is if it does not say."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**62
