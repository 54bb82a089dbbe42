"""Sweeps: any pure function over a product grid, as nested vmaps, in chunks, resumable, on all devices.

A grid is nested vmaps, one for each axis, and not one vmap over a list of points: what depends on outer
axes alone (a seed's draws, its batch order) is computed once, and inner axes turn products with it into
larger ones.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import inspect
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

from biasjax import check, execute, grid
from biasjax import store as stores
from biasjax.progress import Bar
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
        ``loss_dim_0`` and so on.
    chunk_size
        Greatest number of points at once. "auto" takes what fits into a quarter of the device's memory, and
        with a store at most a sixteenth of the grid, so that a stop costs little.
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
    for name in static:
        if name in axes:
            check.fail("static", "names that are not axes", name, "Keep it in one of the two.")
    if shard is not None and store is None:
        check.fail("shard", "a store that the workers share", None, "Pass store=folder.")
    mesh = mesh if mesh is not None else execute.default_mesh()
    every = check.positive_int("checkpoint_every", checkpoint_every)
    checkpoints = None if store is None else Checkpoints(Path(store) / "unfinished", every)
    plan = _Plan(fn, axes, static, jax.random.key(root), mesh, checkpoints)
    if store is None:
        layout = _layout(plan, chunk_size, math.prod(plan.sizes))
        places = grid.regions(plan.sizes, layout)
        write, finish = _in_memory(plan, dims, places)
        _execute(plan, layout, places, range(len(plan.combinations) * len(places)), write, progress)
        return finish()
    spec = _spec(plan, dims, root)
    try:
        layout = stores.manifest(store).layout
    except ValueError:
        layout = _layout(plan, chunk_size, math.ceil(math.prod(plan.sizes) / 16))
    layout = stores.begin(store, spec, layout)
    places = grid.regions(plan.sizes, layout)
    todo = _todo(store, len(plan.combinations) * len(places), repair, shard)
    write = functools.partial(_write_chunk, store, plan, dims)
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
    key: jax.Array
    mesh: jax.sharding.Mesh | None
    checkpoints: Checkpoints | None

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


def _lower(plan: _Plan, chosen: dict[str, Any], lengths: Sequence[int]) -> Callable:
    where = execute.frame(plan.axes, plan.key, lengths, plan.mesh)
    return execute.lower(plan.fn, chosen, where)


def _layout(plan: _Plan, chunk_size: int | str, most: int) -> grid.Layout:
    """Cut the grid by the number of points, or so that a combination fits into the memory budget."""
    if chunk_size != "auto":
        return grid.cut(plan.sizes, check.positive_int("chunk_size", chunk_size))
    layout = grid.cut(plan.sizes, most)
    if math.prod(_lengths(plan, layout)) <= _SMALL:
        return layout  # not worth compiling twice
    for chosen in plan.combinations:
        try:
            program = _lower(plan, chosen, _lengths(plan, layout))()
        except Exception:  # raised again, with what else fails, when all combinations are lowered
            continue
        share = execute.budget() / max(1, program.bytes)
        return layout if share >= 1 else grid.cut(plan.sizes, max(1, int(most * share)))
    return layout


# Points that are taken to fit into memory whatever they compute
_SMALL = 4096


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
            relower = functools.partial(_lower, plan, plan.combinations[i])
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
    programs, failures = {}, []
    for i in combinations:
        chosen = plan.combinations[i]
        try:
            programs[i] = pool.submit(_lower(plan, chosen, lengths))
        except Exception as error:
            error.add_note(f"fn raised at {_describe_point(chosen) or 'every point'}")
            if not keep_going:
                raise
            failures.append(error)
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


def _own_dims(name: str, own: int, dims: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    names = tuple(dims.get(name) or (f"{name}_dim_{i}" for i in range(own)))
    if len(names) != own:
        check.fail(
            f"dims[{name!r}]", f"{own} names", names, "Name each dimension that the output has of itself."
        )
    return names


def _in_memory(plan: _Plan, dims, places) -> tuple[Callable, Callable]:
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
            value = _assemble(name, found, sizes)
            dataset[name] = (*lead, *_own_dims(name, value.ndim - len(lead), dims)), value
        if "status" in dataset:
            dataset["status"].attrs = stores.STATUS_ATTRS
        return dataset

    return write, finish


def _assemble(name: str, pieces: dict[int, np.ndarray], sizes: list[int]) -> np.ndarray:
    """Stack the results of the static combinations, NaN where one lacks this output."""
    shapes = {piece.shape for piece in pieces.values()}
    if len(shapes) > 1:
        fix = "Pad it, or sweep these static values apart."
        check.fail(f"output {name!r}", "one shape for all static values", sorted(shapes), fix)
    first = next(iter(pieces.values()))
    if len(pieces) < math.prod(sizes):
        missing = np.full_like(first, np.nan, dtype=np.result_type(first.dtype, np.float16))
        pieces = {i: pieces.get(i, missing) for i in range(math.prod(sizes))}
    return np.stack([pieces[i] for i in range(len(pieces))]).reshape((*sizes, *first.shape))


def _write_chunk(
    store, plan: _Plan, dims, n: int, region: grid.Region, outputs: dict[str, np.ndarray]
) -> None:
    if jax.process_index() == 0:
        lead = (*plan.static, *plan.axes)
        ones = (1,) * len(plan.static)
        variables = {
            name: (
                (*lead, *_own_dims(name, value.ndim - len(plan.axes), dims)),
                value.reshape(*ones, *value.shape),
            )
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
        fix = "Run again with repair=True to compute them anew."
        check.fail(f"store {store}", "whole chunks", "; ".join(bad.values()), fix)
    for n in bad:
        stores.finished(store)[n].unlink(missing_ok=True)
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


def _spec(plan: _Plan, dims, root: int) -> dict[str, Any]:
    """What makes a sweep this one, as JSON."""
    spec = {
        "fn": _describe(plan.fn),
        "static": _labels(plan.static),
        "axes": {name: values.tolist() for name, values in plan.axes.items()},
        "dtypes": {name: str(values.dtype) for name, values in plan.axes.items()},
        "dims": {name: list(names) for name, names in dims.items()},
        "root": root,
    }
    return json.loads(json.dumps(spec))


def _describe(fn: Callable | Stepwise) -> str:
    """Name of a function with a checksum of its source, and what it is partially applied to."""
    if isinstance(fn, Stepwise):
        return f"{', '.join(_describe(stage) for stage in fn[:3])}, {fn.steps} steps"
    if isinstance(fn, functools.partial):
        given = ", ".join([*map(_text, fn.args), *(f"{k}={_text(v)}" for k, v in fn.keywords.items())])
        return f"{_describe(fn.func)}({given})"
    try:
        source = inspect.getsource(fn)
    except (OSError, TypeError):
        source = ""
    checksum = hashlib.sha256(source.encode()).hexdigest()[:12]
    return f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', repr(fn))} {checksum}"


def _text(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _describe_point(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_label(value)}" for name, value in chosen.items())


def _labels(static: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [_label(value) for value in values] for name, values in static.items()}


def _label(value: Any) -> Any:
    """Coordinate of a static value: itself if a string, number or bool, else its name."""
    return value if isinstance(value, (str, int, float, bool)) else getattr(value, "__name__", _text(value))
