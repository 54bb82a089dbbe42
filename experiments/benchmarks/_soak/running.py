"""Faults while a sweep runs, in this process."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import time
from pathlib import Path
from unittest import mock

from biasjax import _files
from biasjax._sweep import checkpoints, loop
from experiments.benchmarks._soak.subjects import (
    AXES,
    LONG,
    Fault,
    Whole,
    after,
    any_chunk,
    attempt,
    before,
    begun,
    differs,
    failing,
    flip,
    run,
    stop,
    undamaged,
)

# Seconds by which a clock is off
YEARS = 1e8


def full_disk(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Fill the disk: no file can be written to its end, or none longer than a kilobyte."""
    said, soft, hard = [], *resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = after(any_chunk(whole, rng), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard)))
    fail = after(any_chunk(whole, rng), failing(errno.ENOSPC))
    limited = rng.random() < 0.5
    try:
        with before(loop, "_compute_chunk", limit) if limited else before(os, "fsync", fail):
            attempt(lambda: run(whole.name, path), said)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return Fault([str(path)], said)


def read_only(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Let nothing be written; a finished store is read all the same."""
    names, said, lost = [f"folder {path}: expected a folder that can be written to"], [], 0
    with contextlib.ExitStack() as patches:
        if rng.random() < 0.5:
            shutil.copytree(whole.path, path)
            for name in ("mkdir", "link", "replace", "unlink", "rmdir"):
                patches.enter_context(mock.patch.object(os, name, failing(errno.EROFS)))
            names, lost = [], int(attempt(lambda: run(whole.name, path), said) is None)
        else:
            rng.choice(begun(whole, path, rng)).unlink()
            patches.enter_context(mock.patch.object(_files, "write", failing(errno.EROFS)))
            attempt(lambda: run(whole.name, path), said)
    return Fault(names, said, lost=lost)


def _stopped_inside(whole: Whole, path: Path, rng: random.Random) -> Path:
    """Stop a sweep after a random checkpoint; return its folder."""
    act = after(rng.choice([1, 2, 4, 5, 7, 8]), stop)  # not before the first of a chunk's three
    with before(checkpoints, "_save", act):
        attempt(lambda: run(whole.name, path), [])
    return next(path.glob("unfinished/*/[0-9]*"))


def damaged_checkpoint(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Flip a bit of a checkpoint's file, cut it, or remove it."""
    file = rng.choice([file for file in _stopped_inside(whole, path, rng).rglob("*") if file.is_file()])
    way = rng.randrange(3)
    if way == 0 and file.stat().st_size:
        flip(file, rng)
    elif way == 1:
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    return Fault()


def copied_checkpoint(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Copy a checkpoint to another chunk, or call it that of a later step."""
    step = _stopped_inside(whole, path, rng)
    if rng.random() < 0.5:
        step.rename(step.with_name(str(rng.randrange(int(step.name), LONG.steps) + 1)))
    else:
        shutil.copytree(step.parent, step.parent.with_name(f"{len(whole.files) - 1:06d}"))
    return Fault(["not usable"])


def deleted(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Remove the store while a chunk is computed."""
    said: list[str] = []
    act = after(any_chunk(whole, rng), lambda: shutil.rmtree(path))
    with before(loop, "_compute_chunk", act):
        attempt(lambda: run(whole.name, path), said)
    return Fault([f"store {path}", "removed"], said, kept={})


def _off(path: Path, seconds: float) -> None:
    """Set the times of all leases years off."""
    then = time.time() + seconds
    for lease in path.glob("leases/*"):
        os.utime(lease, (then, then))


def clock(whole: Whole, path: Path, rng: random.Random, years: float) -> Fault:
    """Let a lost worker's leases, or those of this one while it works, have times that are years off."""
    begun(whole, path, rng)[0].unlink()
    kept, said = undamaged(whole, path), []
    if rng.random() < 0.5:
        with before(loop, "_compute_chunk", lambda: _off(path, years)):
            attempt(lambda: run(whole.name, path), said)
        return Fault([], said, kept)
    (path / "leases").mkdir()
    word = json.dumps({"host": "lost", "machine": "another", "pid": 1, "started": "1", "token": "0"})
    for n in range(len(whole.files)):
        if not any(name.startswith(f"{n:06d}") for name in kept):
            (path / "leases" / f"{n:06d}.0").write_text(word)
    _off(path, years)
    return Fault([], said, kept)


def reordered(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Stop a sweep, and go on with its axes in another order."""
    with before(loop, "_compute_chunk", after(any_chunk(whole, rng), stop)):
        attempt(lambda: run(whole.name, path), [])
    kept, said, names = undamaged(whole, path), [], list(AXES)
    rng.shuffle(names)
    found = attempt(lambda: run(whole.name, path, axes={name: AXES[name] for name in names}), said)
    return Fault([], said, kept, found is None, found is not None and differs(found, whole.dataset))
