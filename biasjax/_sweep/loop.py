"""Chunk after chunk: the programs of a sweep compile side by side, run, and hand over what they computed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from biasjax import _status
from biasjax._sweep import agreement, execute, grid
from biasjax._sweep.checkpoints import Checkpoints
from biasjax._sweep.frames import ALL_AT_ONCE, Batching
from biasjax._sweep.leases import Held, Leases, Lost, hold
from biasjax._sweep.progress import Bar
from biasjax._sweep.spec import Spec, check_outputs, point_name


class Plan(NamedTuple):
    """A sweep before it is cut: what, where an unfinished chunk is kept, and how it is traced, once each.

    ``lower(i, lengths)`` traces the i-th static combination for regions of some lengths.
    """

    spec: Spec
    checkpoints: Checkpoints | None
    lower: Callable[[int, tuple[int, ...]], execute.Lowered]
    batching: Batching = ALL_AT_ONCE


Write = Callable[[int, grid.Region, execute.Outputs], None]
"""``write(n, region, outputs)`` keeps the n-th chunk."""


def compute(
    plan: Plan,
    layout: grid.Layout,
    todo: Sequence[int],
    write: Write,
    progress: bool,
    *,
    keep_going: bool = False,
    leases: Leases | None = None,
) -> None:
    """Compute chunks, each static combination's program compiling while others run.

    With ``leases`` only those that no other worker computes; the end comes when all are finished.
    """
    places, lengths = grid.regions(plan.spec.sizes, layout), grid.lengths(plan.spec.sizes, layout)
    points = {n: math.prod(grid.shape(places[n % len(places)])) for n in todo}
    with Bar(sum(points.values()), enabled=progress) as bar, _pool() as pool, _held(leases) as held:
        combinations = list(dict.fromkeys(n // len(places) for n in todo))
        programs, failures = _compile(plan, combinations, lengths, pool, keep_going)
        names = [point_name(chosen) for chosen in plan.spec.combinations]
        ready = functools.cache(lambda i: _ready(plan, i, programs[i], bar))
        wanted = [n for n in todo if n // len(places) in programs]
        mine = held.chunks(wanted, lambda n: bar.skip(points[n]), bar.wait) if held else wanted
        for n in agreement.agreed(mine):
            i, place = divmod(n, len(places))
            bar.describe(names[i])
            run, began = ready(i), time.perf_counter()
            with contextlib.suppress(Lost):
                _compute_chunk(plan, run, n, places[place], write, held)
                bar.advance(points[n], began)
    if failures:
        raise failures[0]


@contextlib.contextmanager
def _pool() -> Iterator[concurrent.futures.Executor]:
    """Threads that compile side by side, as XLA compiles one program on one core; the end waits for none."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _held(leases: Leases | None) -> contextlib.AbstractContextManager[Held | None]:
    return hold(leases) if leases and agreement.is_writer() else contextlib.nullcontext()


def _ready(plan: Plan, i: int, future: concurrent.futures.Future[execute.Program], bar: Bar) -> execute.Run:
    """Wait for a program."""
    began = time.perf_counter()
    run = execute.halving(future.result().run, functools.partial(plan.lower, i))
    bar.compiled(time.perf_counter() - began)
    return run


def _compile(
    plan: Plan,
    combinations: Sequence[int],
    lengths: tuple[int, ...],
    pool: concurrent.futures.Executor,
    keep_going: bool,
) -> tuple[dict[int, concurrent.futures.Future[execute.Program]], list[Exception]]:
    """Start compiling the programs; with ``keep_going`` collect what ``fn`` raises instead of raising it."""
    lowered: dict[int, execute.Lowered] = {}
    programs: dict[int, concurrent.futures.Future[execute.Program]] = {}
    failures: list[Exception] = []
    for i in combinations:
        try:
            lowered[i] = plan.lower(i, lengths)
            programs[i] = pool.submit(lowered[i].compile)
        except Exception as error:
            error.add_note(f"fn raised at {point_name(plan.spec.combinations[i]) or 'every point'}")
            if not keep_going:
                raise
            failures.append(error)
    check_outputs(plan.spec, [one.outputs for one in lowered.values()])
    return programs, failures


def _compute_chunk(
    plan: Plan, run: execute.Run, n: int, region: grid.Region, write: Write, held: Held | None
) -> None:
    """Compute one chunk, write it, and drop its checkpoints."""
    keep = functools.partial(held.keep, n) if held and jax.process_count() == 1 else lambda: None
    checkpoints = plan.checkpoints and plan.checkpoints.below(f"{n:06d}")._replace(keep=keep)
    outputs = run(region, checkpoints)
    named = {"status": status_of(outputs, len(plan.spec.axes))} | outputs
    agreement.together(lambda: write(n, region, named))
    if checkpoints is not None and checkpoints.folder.exists():
        keep()
        shutil.rmtree(checkpoints.folder, ignore_errors=True)


def status_of(outputs: execute.Outputs, rank: int) -> np.ndarray:
    """Status of each point: the worst over all of its floating outputs."""
    shape = next(iter(outputs.values())).shape[:rank] if outputs else ()
    status = np.full(shape, _status.FINITE, np.int8)
    for value in outputs.values():
        if np.issubdtype(value.dtype, np.inexact):
            own = tuple(range(rank, value.ndim))
            over = np.where(np.isinf(value).any(own), _status.OVERFLOW, _status.FINITE)
            status = np.maximum(status, np.where(np.isnan(value).any(own), _status.NAN, over))
    return status.astype(np.int8)
