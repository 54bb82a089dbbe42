"""Workers that are killed; `python -m experiments.benchmarks._soak.kills STORE SUBJECT` is one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from biasjax._sweep import loop
from experiments.benchmarks._soak.subjects import Fault, Whole, any_chunk, before, run, undamaged

# Seconds that a worker rests before each chunk and before each file is on disk, so that kills fall there, too
REST = 0.02


def work(path: Path, name: str) -> None:
    """Compute a store, slowly."""
    rest = lambda: time.sleep(REST)  # noqa: E731
    with before(loop, "_compute_chunk", rest), before(os, "fsync", rest):
        run(name, path)


def _start(whole: Whole, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__, str(path), whole.name]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _wait(condition: Callable[[], bool], *workers: subprocess.Popen[str]) -> None:
    while not condition():
        if any(worker.poll() is not None for worker in workers):
            raise RuntimeError(f"a worker ended too early: {[worker.communicate() for worker in workers]}")
        time.sleep(0.001)


def _kill(worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.communicate()


def _killed(whole: Whole, path: Path, sign: str, seconds: float) -> Fault:
    """Kill a worker so many seconds after a file shows how far it has come."""
    worker = _start(whole, path)
    _wait(lambda: any(path.glob(sign)), worker)
    time.sleep(seconds)
    _kill(worker)
    return Fault()


def first(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Kill a worker before its first chunk."""
    return _killed(whole, path, "*", rng.uniform(0.0, 0.2))


def computing(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Kill a worker after a random chunk."""
    return _killed(whole, path, f"chunks/{any_chunk(whole, rng):06d}*", rng.uniform(0.0, REST))


def writing(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Kill a worker while a chunk lies beside its place."""
    return _killed(whole, path, f"chunks/.{any_chunk(whole, rng):06d}*", rng.uniform(0.0, REST / 2))


def inside(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Kill a worker between the steps of a chunk."""
    return _killed(whole, path, f"unfinished/{any_chunk(whole, rng):06d}/*", rng.uniform(0.0, 0.2))


def one_of_two(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Kill one of two workers; the other does all that is left, and nothing anew."""
    workers = [_start(whole, path) for _ in range(2)]
    _wait(lambda: len(list(path.glob("leases/*"))) > 1, *workers)
    time.sleep(rng.uniform(0.0, 0.2))
    _kill(workers.pop(rng.randrange(2)))
    kept = undamaged(whole, path)
    _, said = workers[0].communicate(timeout=60)
    missing = len(whole.files) - len(undamaged(whole, path))
    return Fault([], [said], kept, missing + (workers[0].returncode != 0))


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
