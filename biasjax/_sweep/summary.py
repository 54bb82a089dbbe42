"""What a store holds and how far it is, from names, sizes and statuses, without loading results."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from biasjax import _status
from biasjax._sweep import chunks, grid, manifest, points, rungs, workers
from biasjax._text import table

# The time left is judged by so many chunks
_RECENT = 32

Variables = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Dtypes and shapes."""


class Summary(NamedTuple):
    """State of a store.

    Attributes
    ----------
    folder, manifest
        Where it is and what is swept.
    done, total
        Numbers of chunks.
    points
        Numbers of points that are done and of all.
    statuses
        Status -> number of points, None where ``fn`` has an output of that name.
    outputs
        Name -> dtype and own shape, from one chunk.
    bytes
        Size on disk of everything below the folder.
    begun
        Unfinished chunks that have checkpoints.
    left, idle
        Seconds to the end, judged by the last chunks (None before two are done), and since the last chunk.
    workers
        Those that hold chunks.
    """

    folder: Path
    manifest: manifest.Manifest
    done: int
    total: int
    points: tuple[int, int]
    statuses: dict[str, int] | None
    outputs: dict[str, str]
    bytes: int
    begun: int
    left: float | None
    idle: float | None
    workers: list[workers.Worker]


def summarize(folder: Path) -> Summary:
    """Look at a store, finished or not."""
    stored = manifest.read(folder)
    halving = "halving" in stored.spec
    files, sizes = _rungs(folder, stored) if halving else _chunks(folder, stored)
    when = sorted(filter(None, map(_modified, files.values())))[-_RECENT:]
    each = (when[-1] - when[0]) / (len(when) - 1) if len(when) > 1 and not halving else None
    missing = len(sizes) - len(files)
    return Summary(
        folder,
        stored,
        len(files),
        len(sizes),
        (sum(sizes[n] for n in files), sum(sizes)),
        _last_statuses(files) if halving else _count(files, len(stored.sizes)),
        _outputs(next(iter(files.values())), len(stored.sizes), stored.lead) if files else {},
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        len([*(folder / "unfinished").glob("*")]),
        0.0 if not missing else None if each is None else each * missing,
        max(0.0, time.time() - when[-1]) if when else None,
        workers.working(folder),
    )


def _chunks(folder: Path, stored: manifest.Manifest) -> tuple[dict[int, Path], list[int]]:
    """Files of the chunks that are done, and the number of points of every chunk."""
    return chunks.finished(folder), [math.prod(grid.shape(region)) for region in chunks.places(stored)]


def _rungs(folder: Path, stored: manifest.Manifest) -> tuple[dict[int, Path], list[int]]:
    """Likewise of a halving's rungs, where a point counts on each that it stands on."""
    seeds = math.prod(stored.sizes[:-1])
    return rungs.finished(folder), [count * seeds for count in stored.spec["halving"]["counts"]]


def show(summary: Summary) -> str:
    """Table of a summary, and one of the workers if there are any."""
    spec, done = summary.manifest.spec, summary.points[0] / max(1, summary.points[1])
    sizes = [*spec["static"], *spec["axes"]]
    made = summary.manifest.provenance
    lines = {
        "function": spec["fn"],
        "grid": " x ".join(f"{n} {size}" for n, size in zip(sizes, summary.manifest.sizes, strict=True)),
        "points' columns": ", ".join(spec.get("points", ())),
        "outputs": ", ".join(f"{name} {kind}" for name, kind in summary.outputs.items()),
        "rungs" if "halving" in spec else "chunks": f"{summary.done:,} of {summary.total:,}",
        "points": f"{summary.points[0]:,} of {summary.points[1]:,} ({done:.0%})",
        "in steps": f"{summary.begun} chunks with checkpoints" if summary.begun else "",
        "left": _left(summary),
        "status": ", ".join(f"{name} {count:,}" for name, count in (summary.statuses or {}).items()),
        "size": f"{summary.bytes / 1e6:,.1f} MB",
        "made by": f"biasjax {made['version']}, jax {made['jax_version']}, {made['device']}",
    }
    about = table([("store", str(summary.folder)), *((name, line) for name, line in lines.items() if line)])
    return f"{about}\n\n{workers.show(summary.workers)}" if summary.workers else about


def _left(summary: Summary) -> str:
    if summary.done == summary.total:
        return "finished"
    idle = "" if summary.idle is None else f", last chunk {workers.duration(summary.idle)} ago"
    return ("unknown" if summary.left is None else f"about {workers.duration(summary.left)}") + idle


def _modified(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # another worker repairs it
        return None


def _count(files: dict[int, Path], rank: int) -> dict[str, int] | None:
    total = np.zeros(len(_status.STATUS), int)
    for file in files.values():
        counts = _statuses(file, rank)
        if counts is None:
            return None
        total += counts
    return dict(zip(_status.STATUS, map(int, total), strict=True))


def _last_statuses(files: dict[int, Path]) -> dict[str, int]:
    """Numbers of points of each status in a halving, of which each has that of its last rung."""
    import h5py

    whole = np.zeros((0, 0), int)
    for rung, file in files.items():
        with h5py.File(file, "r") as opened:
            status: Any = opened["status"]
            point: Any = opened[points.DIM]
            if rung == 0:
                whole = status[()]
            elif whole.size:
                whole[..., point[()]] = status[()]
    counts = np.bincount(np.ravel(whole), minlength=len(_status.STATUS))
    return dict(zip(_status.STATUS, map(int, counts), strict=True))


@functools.lru_cache(maxsize=100_000)  # a chunk's name has its checksum: what was read stays true
def _statuses(file: Path, rank: int) -> tuple[int, ...] | None:
    """Numbers of points of each status in a chunk, of which nothing else is read."""
    if not _has_statuses(_variables(file), rank):
        return None
    import h5py

    with h5py.File(file, "r") as opened:
        values: Any = opened["status"]
        return tuple(np.bincount(np.ravel(values[()]), minlength=len(_status.STATUS)).tolist())


def _has_statuses(variables: Variables, rank: int) -> bool:
    """Whether "status" is the engine's, and no output of that name."""
    dtype, shape = variables.get("status", (None, ()))
    return dtype == np.int8 and len(shape) == rank


def _outputs(file: Path, rank: int, lead: Collection[str]) -> dict[str, str]:
    # The others are the coordinates of a chunk
    found = {name: kind for name, kind in _variables(file).items() if name not in lead}
    return {
        name: f"{dtype}{list(shape[rank:]) or ''}".replace(" ", "")
        for name, (dtype, shape) in found.items()
        if name != "status" or not _has_statuses(found, rank)
    }


def _variables(file: Path) -> Variables:
    """Dtype and shape of each variable of a file."""
    import h5netcdf

    with h5netcdf.File(file, "r") as opened:
        return {name: (value.dtype, value.shape) for name, value in opened.variables.items()}
