"""Successive halving: the best points of a `Stepwise` go on, the others keep their last report."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from biasjax import _files, _status, check
from biasjax._sweep import execute, frames, grid, loop, manifest, stages
from biasjax._sweep import points as tables
from biasjax._sweep import rungs as disk
from biasjax._sweep.leases import Leases, Lost, hold
from biasjax._sweep.progress import Bar
from biasjax._sweep.spec import Spec, check_outputs, describe, own_dims
from biasjax.stepwise import Stepwise
from biasjax.store import check_writable

if TYPE_CHECKING:
    import xarray as xr

Compiled = Callable[[int], stages.Stages]
"""Stages for so many points at once, compiled once."""

RESERVED = ("metric", "rung", "steps")

# Fewer points at once would leave a device idle
_FEWEST = 64


class Ladder(NamedTuple):
    """What is halved, when and by what.

    Attributes
    ----------
    spec
        Of a sweep over all points, whose function takes and returns keys' data in its carry.
    bounds
        Steps after which each rung begins, 0 first, and after which the last one ends.
    counts
        Greatest number of points on each rung.
    metric, sign
        Output to choose by; -1 if the largest is best.
    """

    spec: Spec
    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    metric: str
    sign: int


def halve(
    stepwise: Stepwise,
    points: tables.Table,
    *,
    rungs: Sequence[int],
    keep: float,
    metric: str,
    largest: bool = False,
    seeds: Sequence[int] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    chunk_size: int | Literal["auto"] = "auto",
    store: str | Path | None = None,
    root: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Successive halving: run all points for a few steps, then only the best of them, and again.

    Parameters
    ----------
    stepwise
        As in `sweep.run`. ``finish`` is called on every rung, so its outputs must tell how far a point is.
    points
        Table of points, as in `sweep.run`.
    rungs
        Increasing numbers of steps after which to choose; the last ones run all ``stepwise.steps``.
    keep
        Share of a rung's points, rounded up, that go on. Points that are not finite, in any seed, never do.
    metric, largest
        Output, one number for each point, whose mean over the seeds decides, and whether the largest is best.
    seeds
        As an axis "seed" of `sweep.run`; a point goes on with all of its seeds.
    dims, root, progress
        As in `sweep.run`.
    chunk_size
        Greatest number of points at once. "auto" takes as many as stand on the last rung, at least 64, so
        that one program is compiled for all rungs, or what fits into a quarter of the device's memory.
    store
        Folder for what each rung reported and the carry of those that go on. The same call resumes from the
        last whole rung, with the same bits; of several at once one runs, and another goes on for it if it is
        killed. `store.open` reads what it found so far.

    Returns
    -------
    xr.Dataset
        Each point's last outputs, ``status`` and ``metric`` (NaN if it diverged), the ``rung`` (from 0) and
        ``steps`` that it reached. The attribute ``model_steps`` counts all steps, ``model_steps_of_all``
        those of the full sweep.

    Examples
    --------
    >>> descent = Stepwise(
    ...     start=lambda key, *, rate: jax.numpy.float32(1.0),
    ...     advance=lambda x, key, *, rate: x - rate * x,
    ...     finish=lambda x, key, *, rate: {"loss": x**2},
    ...     steps=20,
    ... )
    >>> found = halve(descent, {"rate": [0.1, 0.5, 1.1, 3.0]}, rungs=(2, 6), keep=0.5, metric="loss")
    >>> found.steps.values
    array([ 2,  6, 20,  2])
    """
    if jax.process_count() > 1:
        check.fail("halve", "one process", jax.process_count(), "Halve different points in each process.")
    axes = {} if seeds is None else {"seed": seeds}
    grid.check_size(chunk_size)
    check.flags(largest=largest, progress=progress)
    folder = None if store is None else _files.as_path("store", store).absolute()
    spec = tables.specify(stepwise, axes, points, None, dims, root)
    ladder = _plan(spec, rungs, keep, metric, largest)
    _check_outputs(ladder)
    compiled = functools.cache(functools.partial(stages.compile_stages, ladder.spec, frames.default_mesh()))
    width = functools.partial(_width, ladder, compiled, chunk_size)
    with Bar(sum(ladder.counts), enabled=progress) as bar:
        if folder is None:
            reports = _climb(ladder, compiled, width(), bar)
        else:
            reports = _climb_in_store(ladder, compiled, width, folder, bar)
    return disk.assemble(reports, ladder.bounds, spec.table).assign_attrs(_files.provenance())


def _plan(spec: Spec, rungs: Sequence[int], keep: float, metric: str, largest: bool) -> Ladder:
    """Check the rungs and say how many points stand on each."""
    fn = spec.fn
    if not isinstance(fn, Stepwise):
        fix = "Only what runs in steps can be stopped between them; see training.make_steps."
        check.fail("halve", "a Stepwise", type(fn).__name__, fix, TypeError)
    bounds = (0, *check.sizes("rungs", rungs), fn.steps)
    if len(bounds) < 3 or any(a >= b for a, b in itertools.pairwise(bounds)):
        expected = f"increasing numbers of steps below all {fn.steps}"
        check.fail("rungs", expected, tuple(rungs), "Give e.g. (steps // 9, steps // 3).")
    if not 0 < check.number("keep", keep, 0, 1) < 1:
        check.fail("keep", "a share between 0 and 1", keep, "Give e.g. 1 / 3.")
    counts = [spec.sizes[-1]]
    for _ in rungs:
        counts.append(max(1, math.ceil(counts[-1] * keep)))
    return Ladder(
        spec._replace(fn=stages.without_keys(spec)), bounds, tuple(counts), metric, -1 if largest else 1
    )


def _climb_in_store(
    ladder: Ladder, compiled: Compiled, width: Callable[[], int], folder: Path, bar: Bar
) -> Sequence[xr.Dataset]:
    """Run the rungs that a folder lacks, unless another process does: then wait for it."""
    begun = _begin(ladder, folder, width)
    # Read anew when a file is written
    known = functools.lru_cache(maxsize=1)(lambda _: disk.reports(folder, begun.digest))
    reports = lambda: known(tuple((f, f.stat().st_mtime_ns) for f in disk.finished(folder).values()))  # noqa: E731
    leases = Leases(folder, lambda: {0} if disk.is_over(reports()) else set())
    with hold(leases) as held:

        def save(rung: int, report: xr.Dataset, carry: Any) -> None:
            held.keep(0)
            disk.save(folder, begun.digest, rung, report, carry)

        def wait(_: int) -> None:
            bar.describe("waiting for the process that halves in this store")

        for _ in held.chunks([0], lambda _: None, wait):
            with contextlib.suppress(Lost):
                found, carry = disk.restore(folder, reports(), stages.abstract_carry(ladder.spec))
                bar.skip(sum(ladder.counts[: len(found)]))
                _climb(ladder, compiled, begun.layout.block, bar, found, carry, save)
    return reports()


def _climb(
    ladder: Ladder,
    compiled: Compiled,
    width: int,
    bar: Bar,
    found: Sequence[xr.Dataset] = (),
    carry: Any = None,
    save: Callable[[int, xr.Dataset, Any], None] = lambda *_: None,
) -> list[xr.Dataset]:
    """Run the rungs after those that are found, with the carry of the last one's survivors."""
    reports = [*found]
    last = len(reports) - 1
    alive = _survivors(ladder, last, reports[last]) if reports else np.arange(ladder.counts[0])
    while len(reports) < len(ladder.counts) and alive.size:
        rung = len(reports)
        bar.describe(f"rung {rung + 1} of {len(ladder.counts)}")
        run = compiled(min(width, ladder.counts[rung]))
        report, carry = _run_rung(ladder, run, rung, alive, carry, bar)
        alive = _survivors(ladder, rung, report)
        places = np.searchsorted(report[tables.DIM].values, alive)
        carry = stages.take(carry, places, len(ladder.spec.axes) - 1) if alive.size else None
        save(rung, report, carry)
        reports.append(report)
    return reports


def _begin(ladder: Ladder, folder: Path, width: Callable[[], int]) -> manifest.Manifest:
    """Start a folder, or go on with its width, on which the last bits can depend."""
    described, there = _describe(ladder), (folder / "manifest.json").exists()
    if there:
        stored = manifest.agreed(folder, manifest.read(folder), described, ladder.spec.axes)
        if disk.is_over(disk.reports(folder, stored.digest)):
            return stored  # it may be read-only
    check_writable(folder)
    _files.remove_stale(folder)
    if there:
        return stored
    layout = grid.Layout(len(ladder.spec.axes) - 1, width())
    return manifest.begin(folder, described, ladder.spec.axes, layout, ladder.spec.table)


def _run_rung(
    ladder: Ladder, run: stages.Stages, rung: int, alive: np.ndarray, carry: Any, bar: Bar
) -> tuple[xr.Dataset, Any]:
    """Take points, and their carry, through one rung in programs of one shape; return report and carry."""
    steps = ladder.bounds[rung + 1] - ladder.bounds[rung]
    width, axis = run.where.lengths[-1], len(ladder.spec.axes) - 1
    found: list[Any] = []
    for first in range(0, len(alive), width):
        part = np.arange(first, min(first + width, len(alive)))
        began = time.perf_counter()
        found.append(
            stages.advance(run, steps, alive[part], None if carry is None else stages.take(carry, part, axis))
        )
        bar.advance(len(part), began)
    outputs, carry = jax.tree.map(lambda *parts: np.concatenate(parts, axis), *found)
    return _report(ladder, alive, outputs), carry


def _report(ladder: Ladder, alive: np.ndarray, outputs: execute.Outputs) -> xr.Dataset:
    """Label the outputs of a rung, with each point's status and its metric, NaN where it diverged."""
    import xarray as xr

    spec, rank = ladder.spec, len(ladder.spec.axes)
    status = loop.status_of(outputs, rank)
    metric = np.where(status == _status.FINITE, outputs[ladder.metric], np.nan)
    variables = {
        name: ((*spec.axes, *own_dims(spec, name, value.ndim - rank)), value)
        for name, value in ({"status": status} | outputs).items()
    }
    variables["metric"] = (tables.DIM,), metric.mean(tuple(range(rank - 1)))
    return xr.Dataset(variables, coords={**spec.axes, tables.DIM: alive})


def _survivors(ladder: Ladder, rung: int, report: xr.Dataset) -> np.ndarray:
    """Numbers of the points that go on from a rung, in order; of equal ones the first."""
    if rung + 1 == len(ladder.counts):
        return np.arange(0)
    metric = ladder.sign * report.metric.values
    best = np.argsort(metric, kind="stable")[: min(ladder.counts[rung + 1], np.isfinite(metric).sum())]
    return np.sort(report[tables.DIM].values[best])


def _check_outputs(ladder: Ladder) -> None:
    spec = ladder.spec
    shapes = jax.eval_shape(
        spec.fn.finish, stages.abstract_carry(spec), jax.random.key(spec.root), **stages.abstract_point(spec)
    )
    outputs = execute.named(shapes)
    for name in (*RESERVED, "status"):
        if name in outputs:
            check.fail("halve", f"outputs other than {', '.join(RESERVED)} and status", name, "Rename it.")
    shape = outputs[check.choice("metric", ladder.metric, outputs)].shape
    if shape:
        check.fail("metric", "one number for each point", f"shape {shape}", "Choose or add another output.")
    whole = {name: jax.ShapeDtypeStruct((*spec.sizes, *x.shape), x.dtype) for name, x in outputs.items()}
    check_outputs(spec, [whole])


def _describe(ladder: Ladder) -> dict[str, Any]:
    chosen = {"bounds": [*ladder.bounds], "counts": [*ladder.counts]}
    return describe(ladder.spec) | {"halving": chosen | {"metric": ladder.metric, "sign": ladder.sign}}


def _width(ladder: Ladder, compiled: Compiled, chunk_size: int | Literal["auto"]) -> int:
    """Greatest number of points at once: as given, or so that one program serves all rungs."""
    most = ladder.counts[0]
    if chunk_size != "auto":
        return min(chunk_size, most)
    width = max(ladder.counts[-1], min(_FEWEST, most))
    share = execute.budget() / max(1, compiled(width).bytes)
    return width if share >= 1 else max(1, int(width * share))
