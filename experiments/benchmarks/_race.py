"""Contenders side by side: each in a process of its own, in turns, so that a busy machine slows all alike.

A contender is a function ``start(**options) -> (once, units)``: it sets up, and returns what is timed and how
much work one call does (networks times steps, points). Thread pools of two libraries in one process fight,
and compiled programs of one fill the memory of the other: hence the processes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Once = Callable[[], Any]


class Contender(NamedTuple):
    """Who runs: a name for the table, ``module:function``, and the options of that function."""

    name: str
    start: str
    options: Mapping[str, Any] = {}


class Race(NamedTuple):
    """Who is timed against whom, for what unit of work; the first is what the others are compared with."""

    unit: str
    contenders: Sequence[Contender]


class Timing(NamedTuple):
    """What came out of one contender.

    Attributes
    ----------
    name
        Of the contender.
    seconds
        Median for one unit of work.
    spread
        Greatest over least of the rounds.
    setup
        Seconds to set up and for the first call, which compiles.
    peak
        Largest resident memory of the process in MiB.
    missing
        What is not installed, if that is why there are no numbers.
    """

    name: str
    seconds: float = float("nan")
    spread: float = float("nan")
    setup: float = float("nan")
    peak: int = 0
    missing: str = ""


def race(contenders: Sequence[Contender], rounds: int = 5) -> list[Timing]:
    """Run all of them in turns, so many times each."""
    with contextlib.ExitStack() as stack:
        running: list[tuple[Contender, subprocess.Popen[str], dict[str, Any]]] = []
        for one in contenders:  # one after the other, for side by side they would slow each other's setup
            process = stack.enter_context(_start(one))
            running.append((one, process, _ask(one, process)))
        taken: list[list[float]] = [[] for _ in running]
        for _ in range(rounds):
            for (one, process, first), times in zip(running, taken, strict=True):
                if "missing" not in first:
                    times.append(_ask(one, process, "run")["seconds"])
        return [_timing(*parts, times) for parts, times in zip(running, taken, strict=True)]


def _start(contender: Contender) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__, contender.start, json.dumps(dict(contender.options))]
    # All of them live at once, so none may take most of a GPU's memory
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def _ask(contender: Contender, process: subprocess.Popen[str], what: str = "") -> dict[str, Any]:
    """Read what a contender says next, or what it answers."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("expected a process with pipes")
    if what:
        process.stdin.write(what + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        sys.exit(f"{contender.name} ended: its error is above")
    return json.loads(line)


def _timing(
    contender: Contender, process: subprocess.Popen[str], first: Mapping[str, Any], taken: Sequence[float]
) -> Timing:
    if "missing" in first:
        return Timing(contender.name, missing=first["missing"])
    peak = _ask(contender, process, "peak")["peak"]
    seconds, spread = statistics.median(taken) / first["units"], max(taken) / min(taken)
    return Timing(contender.name, seconds, spread, first["setup"], peak)


def serve(start: str, options: str) -> None:
    """Set up a contender and run it whenever a line says so."""
    module, name = start.split(":")
    began = time.perf_counter()
    try:
        once, units = getattr(importlib.import_module(module), name)(**json.loads(options))
    except ImportError as error:
        _say(missing=str(error.name))
        return
    once()
    _say(setup=time.perf_counter() - began, units=units)
    for line in sys.stdin:
        if line.strip() == "peak":
            kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
            _say(peak=max(resource.getrusage(kind).ru_maxrss for kind in kinds) // 1024)
            continue
        began = time.perf_counter()
        once()
        _say(seconds=time.perf_counter() - began)


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
