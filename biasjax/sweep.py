"""Sweeps: any pure function over a grid or list of points, in chunks, resumable, on all devices.

A grid is nested vmaps, one for each axis, and not one vmap over a list of points: what depends on outer
axes alone (a seed's draws, its batch order) is computed once, and inner axes turn products with it into
larger ones.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
import numpy.typing as npt

from biasjax import _files, _status, check
from biasjax import store as stores
from biasjax._sweep import chunks, execute, grid
from biasjax._sweep import points as tables
from biasjax._sweep.checkpoints import Checkpoints
from biasjax._sweep.halving import halve
from biasjax._sweep.loop import Plan, compute
from biasjax._sweep.sampling import Scale, integer, log, sample
from biasjax._sweep.spec import Spec, describe, own_dims
from biasjax.stepwise import Stepwise

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Scale", "halve", "integer", "log", "run", "sample"]


def __dir__() -> list[str]:
    return __all__


def run(
    fn: Callable[..., Any] | Stepwise,
    axes: Mapping[str, npt.ArrayLike] | None = None,
    *,
    points: tables.Table | None = None,
    static: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    chunk_size: int | Literal["auto"] = "auto",
    store: str | Path | None = None,
    repair: bool = False,
    checkpoint_every: int = 1,
    mesh: jax.sharding.Mesh | None = None,
    shard: str | None = None,
    root: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Evaluate a function at every point of a product grid, or of a list.

    Parameters
    ----------
    fn
        ``fn(key, **point) -> dict`` (or any pytree) of arrays, pure and traceable. It is called with one
        traced scalar for each axis and one plain value for each static name. Or a `stepwise.Stepwise`, whose
        chunks resume where they were stopped.
    axes
        Name -> 1-D array of numbers, outermost first. The axis called "seed" is not passed: it becomes the
        key, ``fold_in(root key, seed)``, so inner axes share its draws. Without it all points share one key.
    points
        Table of points that form no grid, e.g. from `sample`: equal-length arrays by name, a pandas table
        or an `xarray.Dataset`. They make one innermost dimension "point", along which their values are
        coordinates; axes stay outside of it, so that all points share the draws of the axis "seed".
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
        Folder for finished chunks. If it holds some of this sweep, only the others are computed. It is
        written to before anything is traced, so that a full or read-only disk shows at once.
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
    Exception
        What ``fn`` raises is raised once the other static combinations are stored; without a store at once.

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
    spec = tables.specify(fn, axes, points, static, dims, root)
    if chunk_size != "auto":
        check.positive_int("chunk_size", chunk_size)
    every = check.positive_int("checkpoint_every", checkpoint_every)
    worker = _worker(shard)
    mesh = mesh if mesh is not None else execute.default_mesh()
    lower = functools.cache(functools.partial(_lower, spec, mesh))
    if store is None:
        if shard is not None:
            check.fail("shard", "a store that the workers share", None, "Pass store=folder.")
        return _run_in_memory(Plan(spec, None, lower), chunk_size, progress)
    folder = Path(store).absolute()
    plan = Plan(spec, Checkpoints(folder / "unfinished", every), lower)
    return _run_in_store(plan, folder, chunk_size, worker, repair, progress)


def _run_in_memory(plan: Plan, chunk_size: int | Literal["auto"], progress: bool) -> xr.Dataset:
    import xarray as xr

    spec = plan.spec
    layout = _layout(plan, chunk_size, math.prod(spec.sizes))
    places, rank = grid.regions(spec.sizes, layout), len(spec.axes)
    pieces: dict[str, dict[int, np.ndarray]] = {}

    def write(n: int, region: grid.Region, outputs: execute.Outputs) -> None:
        for name, value in outputs.items():
            whole = np.empty((*spec.sizes, *value.shape[rank:]), value.dtype)
            pieces.setdefault(name, {}).setdefault(n // len(places), whole)[region] = value

    compute(plan, layout, range(len(spec.combinations) * len(places)), write, progress)
    listed = {name: (tables.DIM, values) for name, values in spec.table.items()}
    dataset = xr.Dataset(coords={**spec.labels, **spec.axes, **listed}, attrs=_files.provenance())
    for name, found in pieces.items():
        value = _assemble(found, [len(values) for values in spec.static.values()])
        dataset[name] = (*spec.lead, *own_dims(spec, name, value.ndim - len(spec.lead))), value
    if "status" in dataset:
        dataset["status"].attrs = _status.ATTRS
    return dataset


def _assemble(pieces: dict[int, np.ndarray], sizes: list[int]) -> np.ndarray:
    """Stack the results of the static combinations, NaN where one lacks this output."""
    first = next(iter(pieces.values()))
    if len(pieces) < math.prod(sizes):
        missing = np.full_like(first, np.nan, dtype=np.result_type(first.dtype, np.float16))
        pieces = {i: pieces.get(i, missing) for i in range(math.prod(sizes))}
    return np.stack([pieces[i] for i in range(len(pieces))]).reshape((*sizes, *first.shape))


def _run_in_store(
    plan: Plan,
    folder: Path,
    chunk_size: int | Literal["auto"],
    worker: tuple[int, int],
    repair: bool,
    progress: bool,
) -> xr.Dataset:
    spec = plan.spec
    if repair or not _complete(spec, folder):
        stores.check_writable(folder)
    described = describe(spec)
    try:
        layout = chunks.manifest(folder).layout
    except ValueError:
        layout = _layout(plan, chunk_size, math.ceil(math.prod(spec.sizes) / 16))
    layout = chunks.begin(folder, described, layout).layout
    total = len(spec.combinations) * len(grid.regions(spec.sizes, layout))
    todo = _todo(folder, total, repair, worker)
    try:
        write = functools.partial(_write_chunk, folder, spec)
        compute(plan, layout, todo, write, progress, keep_going=True)
    except BaseException as error:
        done = len(chunks.finished(folder))
        error.add_note(f"{done} of {total} chunks are safe in {folder}; the same call goes on from there.")
        raise
    execute.wait_for_writer()
    return stores.open(folder)


def _complete(spec: Spec, folder: Path) -> bool:
    """Whether a store has all chunks of a grid, so that nothing is left to write."""
    try:
        regions = grid.regions(spec.sizes, chunks.manifest(folder).layout)
        return len(chunks.finished(folder)) == len(spec.combinations) * len(regions)
    except (OSError, ValueError):  # no store yet, or one of another grid
        return False


def _write_chunk(folder: Path, spec: Spec, n: int, region: grid.Region, outputs: execute.Outputs) -> None:
    if execute.is_writer():
        variables = {
            name: (
                (*spec.lead, *own_dims(spec, name, value.ndim - len(spec.axes))),
                value[(None,) * len(spec.static)],
            )
            for name, value in outputs.items()
        }
        chunks.write_chunk(folder, n, variables)


def _todo(folder: Path, total: int, repair: bool, worker: tuple[int, int]) -> list[int]:
    """Numbers of the chunks that this worker has to compute."""
    bad, (i, workers) = chunks.damaged(folder), worker
    if bad and not repair:
        raise chunks.Damaged("\n".join(bad.values()))
    for n, file in chunks.finished(folder).items():
        if n in bad:
            file.unlink(missing_ok=True)
    done = chunks.finished(folder)
    return [n for n in range(total) if n not in done and n % workers == i]


def _worker(shard: str | None) -> tuple[int, int]:
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


def _lower(spec: Spec, mesh: jax.sharding.Mesh | None, i: int, lengths: tuple[int, ...]) -> execute.Lowered:
    where = execute.frame(spec.axes, jax.random.key(spec.root), lengths, mesh)
    return execute.lower(spec.fn, spec.combinations[i], where)


def _layout(plan: Plan, chunk_size: int | Literal["auto"], most: int) -> grid.Layout:
    """Cut the grid by the number of points, or so that a combination fits into the memory budget."""
    sizes = plan.spec.sizes
    if chunk_size != "auto":
        return grid.cut(sizes, chunk_size)
    layout = grid.cut(sizes, most)
    for i in range(len(plan.spec.combinations)):
        try:
            program = plan.lower(i, grid.lengths(sizes, layout)).compile()
        except Exception:  # raised again, with what else fails, when all combinations are lowered
            continue
        share = execute.budget() / max(1, program.bytes)
        return layout if share >= 1 else grid.cut(sizes, max(1, int(most * share)))
    return layout
