"""Race biasjax against what a user would write: `python -m experiments.benchmarks [NAME ...]`.

Every contender runs in a process of its own, in turns, so that what slows the machine slows all. What came
out is printed, and kept in ``results/`` for this kind of machine: medians of several rounds, the greatest
over the least of them, seconds of setup (imports, data, compiling, the first run) and peak memory.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import tyro

from biasjax import check
from experiments.benchmarks import _results
from experiments.benchmarks._race import Race, race

MODULES = ("propagation", "training_sweep", "audits", "starts")


@dataclasses.dataclass(frozen=True)
class Options:
    """Race biasjax against what a user would write."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Races to run; default all."""
    rounds: int = 5
    """Times that each contender runs."""
    networks: int | None = None
    """Networks of a sweep over training runs, e.g. 1024 on a GPU; default few, as a CPU needs."""
    show: bool = False
    """Only print what was kept for this kind of machine."""
    output: Path = _results.FOLDER
    """Folder for the results."""


def races(networks: int | None = None) -> dict[str, Race]:
    """All races by name."""
    found: dict[str, Race] = {}
    for name in MODULES:
        found |= importlib.import_module(f"experiments.benchmarks.{name}").races(networks)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the races, print and keep their tables; return the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.benchmarks")
    machine = _results.machine()
    path = _results.file(machine, options.output)
    try:
        check.positive_int("rounds", options.rounds)
        check.positive_int("networks", 1 if options.networks is None else options.networks)
        known = races(options.networks)
        for name in options.names:
            check.choice("race", name, known)
        kept = _results.kept(path)  # before any work
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for name in options.names or known:
        if not options.show:
            kept = _results.add(
                path, machine, name, known[name], race(known[name].contenders, options.rounds)
            )
        if name in kept:
            print(f"{_results.table(name, kept[name])}\n", flush=True)
        else:
            print(f"{name}: nothing kept in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
