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
from typing import TYPE_CHECKING, Any, Literal, cast

import jax
import numpy.typing as npt

from biasjax import _files, check
from biasjax import store as stores
from biasjax._sweep import agreement, chunks, execute, frames, grid, manifest, trials
from biasjax._sweep import points as tables
from biasjax._sweep.checkpoints import Checkpoints
from biasjax._sweep.frames import Batching
from biasjax._sweep.halving import halve
from biasjax._sweep.leases import Leases
from biasjax._sweep.loop import Plan, compute
from biasjax._sweep.sampling import Scale, integer, log, sample
from biasjax._sweep.spec import Spec, describe, own_dims
from biasjax.stepwise import Stepwise

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Scale", "halve", "integer", "log", "run", "sample"]

# Outputs of a chunk: as a file, and as what a device holds beside the whole result
_FILE_BYTES, _MEMORY_BYTES = 2**26, 2**28


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
    batching: int | Literal["auto", "all"] = "auto",
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
        Name -> 1-D array of numbers, outermost first. They are traced: one program serves all values, of a
        learning rate or a depth, too. The axis called "seed" is not passed: it becomes the key,
        ``fold_in(root key, seed)``, so inner axes share its draws. Without it all points share one key.
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
        Greatest number of points at once. "auto" takes what fits into a quarter of the device's memory and
        has at most 256 MiB of outputs; with a store at most 64 MiB and a sixteenth of the grid, so that a
        stop costs little. A store keeps the cut that it began with.
    batching
        How a chunk runs: "all" points as one vmapped program, or so many points, block after block, on each
        device, or on a thread for each core of a CPU. "auto" is "all", unless a few hundred billion
        operations are to be done on a CPU: then it tries these with a few points of the first static
        combination, and takes the fastest, as the attribute ``batching`` of the result says. Last bits depend
        on it; all draws of "rbg" keys would, so these stay at "all". For sweeps of small networks give 8, of
        convolutional ones 1. A store keeps how it began.
    store
        Folder for finished chunks. If it holds some of this sweep, in any order of axes and static names,
        only the others are computed. It is written to before anything is traced, so that a full or read-only
        disk shows at once; a finished one is only read. Names and sizes of its files are checked, their
        bytes when they are read. Another ``fn`` (by the program it traces to), other values, PRNG, x64 or
        matmul precision are refused. What no program shows cannot be: a host callback, data read while it
        runs, another device. Workers that share it leave each other's chunks alone, and go on with those of
        one that is silent for a minute.
    repair
        Whether to check every byte, and compute damaged chunks anew instead of raising.
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
        output, it is NaN there, integers being floating. ``status`` says which points are finite, overflow,
        or are NaN, unless ``fn`` has an output of that name. With a store, values are read when used.

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

    One seed after the other, e.g. into a logger:

    >>> for seed, one in dataset.moment.groupby("seed"):
    ...     assert one.squeeze("seed").dims == ("power", "sigma")
    """
    spec = tables.specify(fn, axes, points, static, dims, root)
    grid.check_size(chunk_size)
    trials.check_batching(batching)
    check.flags(repair=repair, progress=progress)
    every = check.positive_int("checkpoint_every", checkpoint_every)
    worker = _worker(shard)
    mesh = mesh if mesh is not None else frames.default_mesh()
    if not isinstance(cast(object, mesh), jax.sharding.Mesh | None):
        check.fail("mesh", "a jax.sharding.Mesh", repr(mesh), "Make it with jax.make_mesh.", TypeError)
    if store is None:
        if shard is not None:
            check.fail("shard", "a store that the workers share", None, "Pass store=folder.")
        from biasjax._sweep import gathering

        planned = functools.partial(_plan, mesh=mesh)
        plan = planned(spec, trials.choose(batching, spec, mesh, planned, progress))
        layout = _layout(plan, chunk_size, math.prod(spec.sizes), _MEMORY_BYTES)
        return gathering.in_memory(plan, layout, progress)
    folder = _files.as_path("store", store).absolute()
    checkpoints = Checkpoints(folder / "unfinished", every)
    planned = functools.partial(_plan, mesh=mesh, checkpoints=checkpoints)
    choose = functools.partial(trials.choose, batching, spec, mesh, planned, progress)
    return _run_in_store(spec, planned, choose, folder, chunk_size, worker, repair, progress)


def _run_in_store(
    spec: Spec,
    planned: Callable[[Spec, Batching], Plan],
    choose: Callable[[], Batching],
    folder: Path,
    chunk_size: int | Literal["auto"],
    worker: tuple[int, int],
    repair: bool,
    progress: bool,
) -> xr.Dataset:
    from biasjax._sweep import reading

    there = (folder / "manifest.json").exists()
    stored = manifest.read(folder) if there else None
    todo = _prepare(folder, stored, repair)
    described = describe(spec)
    if stored is None:
        plan = planned(spec, choose())
        layout = _layout(plan, chunk_size, math.ceil(math.prod(spec.sizes) / 16), _FILE_BYTES)
        stored = manifest.begin(folder, described, spec.axes, layout, spec.table, plan.batching)
        todo = _todo(folder, stored)
    manifest.agreed(folder, stored, described, spec.axes)
    # The order of names that the store began with, so that its rows stay where they are
    plan = planned(spec.ordered(stored.spec["static"], stored.axes), stored.batching)
    kept = plan.checkpoints and plan.checkpoints._replace(identity=stored.digest)
    plan, leases = plan._replace(checkpoints=kept), Leases(folder, functools.partial(chunks.finished, folder))
    mine = [n for n in todo if n % worker[1] == worker[0]]
    try:
        write = functools.partial(_write_chunk, folder, stored, chunks.places(stored), plan.spec)
        compute(plan, stored.layout, mine, write, progress, keep_going=True, leases=leases)
    except BaseException as error:
        if (folder / "chunks").is_dir():
            done, total = len(chunks.finished(folder)), chunks.count(stored)
            where = f"{done} of {total} chunks are safe in {folder}"
            error.add_note(f"{where}; the same call goes on from there.")
        raise
    agreement.wait_for_writer()
    return reading.dataset(folder, stored, spec.lead)


def _prepare(folder: Path, stored: manifest.Manifest | None, repair: bool) -> list[int]:
    """Numbers of the chunks to compute, damaged files out of the way; a whole store is not written to."""
    faults = chunks.faults(folder, stored, contents=repair) if stored else []
    if faults and (not repair or any(chunk.file.is_dir() for chunk, _ in faults)):
        raise chunks.Damaged("\n".join(what for _, what in faults))
    todo = _todo(folder, stored) if stored else []
    if faults or todo or stored is None:
        stores.check_writable(folder)
        for inside in (folder, folder / "chunks"):
            _files.remove_stale(inside)
    for chunk, _ in faults:
        chunk.file.unlink(missing_ok=True)
    return _todo(folder, stored) if stored and faults else todo


def _todo(folder: Path, stored: manifest.Manifest) -> list[int]:
    done = chunks.finished(folder)
    return [n for n in range(chunks.count(stored)) if n not in done]


def _write_chunk(
    folder: Path,
    stored: manifest.Manifest,
    places: Sequence[grid.Region],
    spec: Spec,
    n: int,
    region: grid.Region,
    outputs: execute.Outputs,
) -> None:
    if agreement.is_writer():
        variables = {
            name: (
                (*spec.lead, *own_dims(spec, name, value.ndim - len(spec.axes))),
                value[(None,) * len(spec.static)],
            )
            for name, value in outputs.items()
        }
        chunks.write(folder, stored, n, places[n], variables)


def _worker(shard: str | None) -> tuple[int, int]:
    """Parse "i/n", or take both from a slurm job array."""
    if shard is None:
        return 0, 1
    if shard == "slurm":
        task, first, count = (
            os.environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("ID", "MIN", "COUNT")
        )
        shard = f"{int(task) - int(first)}/{count}" if task and first and count else "no job array"
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard) if isinstance(cast(object, shard), str) else None
    if match is None or not int(match[1]) < int(match[2]):
        check.fail("shard", '"i/n" with 0 <= i < n, or "slurm" in a job array', repr(shard), 'E.g. "0/4".')
    return int(match[1]), int(match[2])


def _plan(
    spec: Spec,
    batching: Batching,
    mesh: jax.sharding.Mesh | None = None,
    checkpoints: Checkpoints | None = None,
) -> Plan:
    combinations = spec.combinations

    @functools.cache
    def lower(i: int, lengths: tuple[int, ...]) -> execute.Lowered:
        where = frames.frame(spec.axes, jax.random.key(spec.root), lengths, mesh, batching)
        return execute.lower(spec.fn, combinations[i], where)

    return Plan(spec, checkpoints, lower, batching)


def _layout(plan: Plan, chunk_size: int | Literal["auto"], most: int, most_bytes: int) -> grid.Layout:
    """Cut the grid by points, or so that a combination's outputs and program are not too large."""
    sizes = plan.spec.sizes
    if chunk_size != "auto":
        return grid.cut(sizes, chunk_size)
    for i in range(len(plan.spec.combinations)):
        try:
            traced = plan.lower(i, grid.lengths(sizes, grid.cut(sizes, most)))
            own = [(value.shape[len(sizes) :], value.dtype) for value in traced.outputs.values()]
            each = sum(math.prod(shape) * dtype.itemsize for shape, dtype in own)
            fewer = min(most, max(1, most_bytes // max(1, each)))
            layout = grid.cut(sizes, fewer)
            program = plan.lower(i, grid.lengths(sizes, layout)).compile()
        except Exception:  # raised again, with what else fails, when all combinations are lowered
            continue
        share = execute.budget() / max(1, program.bytes)
        return layout if share >= 1 else grid.cut(sizes, max(1, int(fewer * share)))
    return grid.cut(sizes, most)
