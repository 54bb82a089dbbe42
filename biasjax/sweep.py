"""Sweeps: any pure function over a product grid, as nested vmaps, in chunks, resumable, on all devices.

A grid is nested vmaps, one for each axis, and not one vmap over a list of points: what depends on outer
axes alone (a seed's draws, its batch order) is computed once, and inner axes turn products with it into
larger ones.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from biasjax import check, tree
from biasjax import store as stores
from biasjax._sweep import execute, grid
from biasjax._sweep.progress import Bar
from biasjax.stepwise import Checkpoints, Stepwise

if TYPE_CHECKING:
    import xarray as xr


def run(
    fn: Callable[..., Any] | Stepwise,
    axes: Mapping[str, Any],
    *,
    static: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    chunk_size: int | str = "auto",
    store: str | Path | None = None,
    repair: bool = False,
    checkpoint_every: int = 1,
    mesh: jax.sharding.Mesh | None = None,
    shard: str | None = None,
    root: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Evaluate a function at every point of a product grid.

    Parameters
    ----------
    fn
        ``fn(key, **point) -> dict`` (or any pytree) of arrays, pure and traceable. It is called with one
        traced scalar for each axis and one plain value for each static name. Or a `stepwise.Stepwise`, whose
        chunks resume where they were stopped.
    axes
        Name -> 1-D array of numbers, outermost first. The axis called "seed" is not passed: it becomes the
        key, ``fold_in(root key, seed)``, so inner axes share its draws. Without it all points share one key.
    static
        Name -> values that change the program; each combination is compiled once.
    dims
        Names of the dimensions that an output has of itself, e.g. ``{"loss": ("step",)}``; others are called
        ``loss_dim_0`` and so on. Outputs nested in ``fn``'s result are named by their keys joined by ".".
    chunk_size
        Greatest number of points at once. "auto" takes what fits into a quarter of the device's memory, and
        with a store at most a sixteenth of the grid, so that a stop costs little. A store keeps the
        cut that it began with.
    store
        Folder for finished chunks. If it holds some of this sweep, only the others are computed.
    repair
        Whether to compute damaged chunks anew instead of raising.
    checkpoint_every
        Number of steps of a `Stepwise` between checkpoints, kept in the store while a chunk is unfinished.
    mesh
        Devices to spread the points over; default all of this process, or of all processes under
        `jax.distributed`.
    shard
        "i/n" for the i-th (from 0) of n independent workers that share a store: each computes every n-th
        chunk. "slurm" takes both numbers from the job array.
    root
        Seed of the root key.
    progress
        Whether to show a bar, if the error stream is a terminal.

    Returns
    -------
    xr.Dataset
        Dimensions: static names, then axes, then each output's own. Where a static combination lacks an
        output, it is NaN there. ``status`` says which points are finite, overflow, or are NaN, unless ``fn``
        has an output of that name. With a store, values are read when used.

    Raises
    ------
    ValueError, TypeError
        If an axis is not one-dimensional, a name is used twice, the store holds another sweep or a damaged
        chunk, or ``shard`` comes without a store. What ``fn`` raises is raised once the other static
        combinations are stored; without a store at once.

    Examples
    --------
    >>> def experiment(key, *, sigma, power):
    ...     x = sigma * jax.random.normal(key, (1000,))
    ...     return {"moment": jax.numpy.mean(x**power), "sample": x[:3]}
    >>> axes = {"seed": [0, 1, 2, 3], "sigma": [0.5, 1.0]}
    >>> dataset = run(experiment, axes, static={"power": [2, 4]}, dims={"sample": ("example",)})
    >>> dict(dataset.sizes)
    {'power': 2, 'seed': 4, 'sigma': 2, 'example': 3}
    """
    static, dims = {name: list(values) for name, values in (static or {}).items()}, dict(dims or {})
    axes = {name: grid.axis_values(name, values) for name, values in axes.items()}
    _check_names(axes, static, dims)
    if chunk_size != "auto":
        check.positive_int("chunk_size", chunk_size)
    if shard is not None and store is None:
        check.fail("shard", "a store that the workers share", None, "Pass store=folder.")
    mesh = mesh if mesh is not None else execute.default_mesh()
    every = check.positive_int("checkpoint_every", checkpoint_every)
    store = None if store is None else Path(store).absolute()
    checkpoints = None if store is None else Checkpoints(store / "unfinished", every)
    plan = _Plan(fn, axes, static, dims, jax.random.key(root), mesh, checkpoints, {})
    if store is None:
        layout = _layout(plan, chunk_size, math.prod(plan.sizes))
        places = grid.regions(plan.sizes, layout)
        write, finish = _in_memory(plan, places)
        _execute(plan, layout, places, range(len(plan.combinations) * len(places)), write, progress)
        return finish()
    spec = _spec(plan, root)
    try:
        layout = stores.manifest(store).layout
    except ValueError:
        layout = _layout(plan, chunk_size, math.ceil(math.prod(plan.sizes) / 16))
    layout = stores.begin(store, spec, layout)
    places = grid.regions(plan.sizes, layout)
    todo = _todo(store, len(plan.combinations) * len(places), repair, shard)
    write = functools.partial(_write_chunk, store, plan)
    try:
        _execute(plan, layout, places, todo, write, progress, keep_going=True)
    except BaseException as error:
        done = len(stores.finished(store))
        total = len(plan.combinations) * len(places)
        error.add_note(f"{done} of {total} chunks are safe in {store}; the same call goes on from there.")
        raise
    _wait_for_writer()
    return stores.open(store)


class _Plan(NamedTuple):
    """A sweep before it is cut."""

    fn: Callable[..., Any] | Stepwise
    axes: dict[str, np.ndarray]
    static: dict[str, list[Any]]
    dims: dict[str, Sequence[str]]
    key: jax.Array
    mesh: jax.sharding.Mesh | None
    checkpoints: Checkpoints | None
    lowered: dict[tuple[int, tuple[int, ...]], Callable]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.axes.values())

    @property
    def combinations(self) -> list[dict[str, Any]]:
        values = itertools.product(*self.static.values())
        return [dict(zip(self.static, combination, strict=True)) for combination in values]


def _lengths(plan: _Plan, layout: grid.Layout) -> tuple[int, ...]:
    return tuple(
        1 if axis < layout.axis else min(layout.block, size) if axis == layout.axis else size
        for axis, size in enumerate(plan.sizes)
    )


def _lower(plan: _Plan, i: int, lengths: Sequence[int]) -> Callable:
    """Trace the i-th static combination for regions of some lengths, once."""
    at = (i, tuple(lengths))
    if at not in plan.lowered:
        where = execute.frame(plan.axes, plan.key, lengths, plan.mesh)
        lowered = execute.lower(plan.fn, plan.combinations[i], where)
        plan.lowered[at] = functools.cache(lowered)
    return plan.lowered[at]


def _layout(plan: _Plan, chunk_size: int | str, most: int) -> grid.Layout:
    """Cut the grid by the number of points, or so that a combination fits into the memory budget."""
    if chunk_size != "auto":
        return grid.cut(plan.sizes, check.positive_int("chunk_size", chunk_size))
    layout = grid.cut(plan.sizes, most)
    for i in range(len(plan.combinations)):
        try:
            program: Any = _lower(plan, i, _lengths(plan, layout))()
        except Exception:  # raised again, with what else fails, when all combinations are lowered
            continue
        share = execute.budget() / max(1, program.bytes)
        return layout if share >= 1 else grid.cut(plan.sizes, max(1, int(most * share)))
    return layout


def _execute(plan, layout, places, todo, write, progress: bool, *, keep_going: bool = False) -> None:
    """Compute chunks, each static combination's program compiling while others run."""
    chunks = {i: [n for n in todo if n // len(places) == i] for i in range(len(plan.combinations))}
    chunks = {i: numbers for i, numbers in chunks.items() if numbers}
    # XLA compiles one program on one core, so programs compile side by side while others trace and run
    with (
        Bar(sum(_points(places, n) for n in todo), enabled=progress) as bar,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        programs, failures = _compile(plan, list(chunks), _lengths(plan, layout), pool, keep_going)
        for i, future in programs.items():
            bar.describe(_describe_point(plan.combinations[i]))
            began = time.perf_counter()
            relower = functools.partial(_lower, plan, i)
            program = execute.halving(future.result(), relower)
            bar.compiled(time.perf_counter() - began)
            for n in chunks[i]:
                began = time.perf_counter()
                _compute(plan, program, n, places[n % len(places)], write)
                bar.advance(_points(places, n), began)
    if failures:
        raise failures[0]


def _compile(plan, combinations: list[int], lengths, pool, keep_going: bool) -> tuple[dict, list[Exception]]:
    """Start compiling the programs; with ``keep_going`` collect what ``fn`` raises instead of raising it."""
    programs, outputs, failures = {}, {}, []
    for i in combinations:
        try:
            compile_: Any = _lower(plan, i, lengths)
            outputs[i] = compile_.__wrapped__.outputs
            programs[i] = pool.submit(compile_)
        except Exception as error:
            error.add_note(f"fn raised at {_describe_point(plan.combinations[i]) or 'every point'}")
            if not keep_going:
                raise
            failures.append(error)
    _check_outputs(plan, outputs.values())
    return programs, failures


def _compute(plan: _Plan, program: Callable, n: int, region: grid.Region, write: Callable) -> None:
    """Compute one chunk, write it, and drop its checkpoints."""
    checkpoints = plan.checkpoints
    if checkpoints is not None:
        checkpoints = checkpoints._replace(folder=checkpoints.folder / f"{n:06d}")
    outputs = program(region, checkpoints)
    write(n, region, {"status": _status(outputs, len(plan.axes))} | outputs)
    if checkpoints is not None:
        shutil.rmtree(checkpoints.folder, ignore_errors=True)


def _points(places: list[grid.Region], n: int) -> int:
    return math.prod(grid.shape(places[n % len(places)]))


def _status(outputs: dict[str, np.ndarray], rank: int) -> np.ndarray:
    """Status of each point, as coded by `store.STATUS`: the worst over all of its floating outputs."""
    shape = next(iter(outputs.values())).shape[:rank] if outputs else ()
    status = np.zeros(shape, np.int8)
    for value in outputs.values():
        if np.issubdtype(value.dtype, np.inexact):
            own = tuple(range(rank, value.ndim))
            bad = np.where(np.isnan(value).any(own), 2, np.where(np.isinf(value).any(own), 1, 0))
            status = np.maximum(status, bad.astype(np.int8))
    return status


def _check_names(axes, static, dims) -> None:
    """Raise where a name stands for two things."""
    taken = dict.fromkeys(axes, "an axis")
    for name in static:
        if name in taken or name in ("seed", "status", "computed", "key"):
            got = f"{name!r}, {taken.get(name, 'a name of the engine itself')}"
            check.fail("static", "names that are not axes", got, "Keep it in one of the two, or rename it.")
        taken[name] = "static"
    for name in {"key", "status", "computed"} & set(axes):
        check.fail("axes", "names other than key, status and computed", name, "Rename the axis.")
    for output, own in dims.items():
        if isinstance(own, str) or len({*own}) < len(own) or {*own} & set(taken):
            expected = "a tuple of distinct names that are neither axes nor static"
            check.fail(f"dims[{output!r}]", expected, repr(own), "Rename them.")
    for name, labels in _labels(static).items():
        if len({(type(label), label) for label in labels}) < len(labels):
            check.fail(f"static {name!r}", "values with labels of their own", labels, "Name or drop doubles.")


def _check_outputs(plan: _Plan, all_outputs) -> None:
    """Raise if outputs cannot be labelled, before anything runs."""
    shapes: dict[str, tuple[int, ...]] = {}
    for outputs in all_outputs:
        if not outputs:
            check.fail("fn", "at least one output", "none", "Return a dict of arrays.")
        for name, value in outputs.items():
            if name in (*plan.axes, *plan.static, "computed"):
                check.fail("fn", "outputs named otherwise than axes and static", name, "Rename the output.")
            own = value.shape[len(plan.axes) :]
            names = _own_dims(plan, name, len(own))
            if shapes.setdefault(name, own) != own:
                got, fix = f"{shapes[name]} and {own}", "Pad it, or sweep these static values apart."
                check.fail(f"output {name!r}", "one shape for all static values", got, fix)
            for dim, size in zip(names, own, strict=True):
                if shapes.setdefault(f"dimension {dim}", (size,)) != (size,):
                    got, fix = f"{shapes[f'dimension {dim}'][0]} and {size}", "Name them apart in dims."
                    check.fail(f"dimension {dim!r}", "one size for all outputs", got, fix)


def _own_dims(plan: _Plan, name: str, own: int) -> tuple[str, ...]:
    names = tuple(plan.dims.get(name) or (f"{name}_dim_{i}" for i in range(own)))
    if len(names) != own:
        fix = "Name each dimension that the output has of itself."
        check.fail(f"dims[{name!r}]", f"{own} names", names, fix)
    return names


def _in_memory(plan: _Plan, places) -> tuple[Callable, Callable]:
    """Where chunks go without a store: ``write(index, region, outputs)`` and ``finish() -> Dataset``."""
    sizes = [len(values) for values in plan.static.values()]
    rank = len(plan.axes)
    pieces: dict[str, dict[int, np.ndarray]] = {}

    def write(n: int, region: grid.Region, outputs: dict[str, np.ndarray]) -> None:
        for name, value in outputs.items():
            whole = (*plan.sizes, *value.shape[rank:])
            piece = pieces.setdefault(name, {}).setdefault(n // len(places), np.empty(whole, value.dtype))
            piece[region] = value

    def finish() -> xr.Dataset:
        import xarray as xr

        lead = (*plan.static, *plan.axes)
        dataset = xr.Dataset(coords={**_labels(plan.static), **plan.axes}, attrs=stores.provenance())
        for name, found in pieces.items():
            value = _assemble(found, sizes)
            dataset[name] = (*lead, *_own_dims(plan, name, value.ndim - len(lead))), value
        if "status" in dataset:
            dataset["status"].attrs = stores.STATUS_ATTRS
        return dataset

    return write, finish


def _assemble(pieces: dict[int, np.ndarray], sizes: list[int]) -> np.ndarray:
    """Stack the results of the static combinations, NaN where one lacks this output."""
    first = next(iter(pieces.values()))
    if len(pieces) < math.prod(sizes):
        missing = np.full_like(first, np.nan, dtype=np.result_type(first.dtype, np.float16))
        pieces = {i: pieces.get(i, missing) for i in range(math.prod(sizes))}
    return np.stack([pieces[i] for i in range(len(pieces))]).reshape((*sizes, *first.shape))


def _write_chunk(store, plan: _Plan, n: int, region: grid.Region, outputs: dict[str, np.ndarray]) -> None:
    if jax.process_index() == 0:
        lead, rank = (*plan.static, *plan.axes), len(plan.axes)
        variables = {
            name: ((*lead, *_own_dims(plan, name, value.ndim - rank)), value[(None,) * len(plan.static)])
            for name, value in outputs.items()
        }
        stores.write_chunk(store, n, variables)


def _wait_for_writer() -> None:
    """Under `jax.distributed`, wait until the process that writes is done."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("biasjax sweep")


def _todo(store, total: int, repair: bool, shard: str | None) -> list[int]:
    """Numbers of the chunks that this worker has to compute."""
    bad = stores.damaged(store)
    if bad and not repair:
        raise stores.Damaged("\n".join(bad.values()))
    for n, file in stores.finished(store).items():
        if n in bad:
            file.unlink(missing_ok=True)
    worker, workers = _shard(shard)
    done = stores.finished(store)
    return [n for n in range(total) if n not in done and n % workers == worker]


def _shard(shard: str | None) -> tuple[int, int]:
    """Parse "i/n", or take both from a slurm job array."""
    if shard is None:
        return 0, 1
    if shard == "slurm":
        task, first, count = (
            os.environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("ID", "MIN", "COUNT")
        )
        shard = f"{int(task) - int(first)}/{count}" if task and first and count else "no job array"
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not int(match[1]) < int(match[2]):
        check.fail("shard", '"i/n" with 0 <= i < n, or "slurm" in a job array', repr(shard), 'E.g. "0/4".')
    return int(match[1]), int(match[2])


def _spec(plan: _Plan, root: int) -> dict[str, Any]:
    """What makes a sweep this one, as JSON."""
    combinations = [_describe_point(chosen) or "every point" for chosen in plan.combinations]
    spec = {
        "fn": _name(plan.fn),
        "fn at": {at: _digest(plan, i) for i, at in enumerate(combinations)},
        "static": _labels(plan.static),
        "axes": {name: values.tolist() for name, values in plan.axes.items()},
        "dtypes": {name: str(values.dtype) for name, values in plan.axes.items()},
        "dims": {name: list(names) for name, names in plan.dims.items()},
        "root": root,
    }
    return json.loads(json.dumps(spec))


def _digest(plan: _Plan, i: int) -> str | None:
    """Checksum of what ``fn`` computes at a point, constants included, or None if it raises."""

    def whole(key, **numbers):
        if not isinstance(plan.fn, Stepwise):
            return plan.fn(key, **numbers, **plan.combinations[i])
        carry = plan.fn.start(key, **numbers, **plan.combinations[i])
        carry = plan.fn.advance(carry, key, **numbers, **plan.combinations[i])  # one step stands for all
        return plan.fn.finish(carry, key, **numbers, **plan.combinations[i])

    numbers = {name: jax.ShapeDtypeStruct((), v.dtype) for name, v in plan.axes.items() if name != "seed"}
    try:
        closed = jax.make_jaxpr(whole)(plan.key, **numbers)
    except Exception:
        return None
    checksum = hashlib.sha256(_text(closed.jaxpr).encode())
    for constant in tree.constants(closed):
        checksum.update(np.asarray(constant).tobytes())
    return checksum.hexdigest()[:16]


def _name(fn: Any) -> str:
    if isinstance(fn, Stepwise):
        return ", ".join([*map(_name, fn[:3]), f"{fn.steps} steps"])
    fn = fn.func if isinstance(fn, functools.partial) else fn
    return getattr(fn, "__qualname__", type(fn).__qualname__)


def _text(value: Any) -> str:
    """What Python prints, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _describe_point(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_label(value)}" for name, value in chosen.items())


def _labels(static: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [_label(value) for value in values] for name, values in static.items()}


def _label(value: Any) -> Any:
    """Coordinate of a static value: itself if a string, number or bool, else its name."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, (str, int, float, bool)) else getattr(value, "__name__", _text(value))
