"""A soak of sweeps with stores: faults of 21 kinds, each resumed and held to the undisturbed result.

Bars: no finished and undamaged chunk is computed again or missing ("lost"); no value differs from the
undisturbed run's without an error ("wrong"), be it before the resume, by it, or by a repair. "named": what is
damaged is named by `store.damaged`, an error or a warning, and nothing of it is left after the repair.

Printed on 2 busy cores (seed 0), in 151 s: 100 faults, 4 or 5 of each kind; lost 0, wrong 0, named 100. A
lease that is years ahead of the disk's clock was waited for before; it now counts as stale.

Command: `python -m experiments.benchmarks.soak [--faults 100] [--seed 0]`, two to three minutes on
2 cores; it exits with 1 if anything was lost or wrong, or is not named.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax

from biasjax import store, sweep
from biasjax._sweep import leases
from biasjax._text import table
from experiments.benchmarks._soak import files, kills, running
from experiments.benchmarks._soak.subjects import (
    SUBJECTS,
    Fault,
    Whole,
    attempt,
    differs,
    run,
    undamaged,
)

BOTH = tuple(SUBJECTS)
KINDS: dict[str, tuple[Callable[[Whole, Path, random.Random], Fault], tuple[str, ...]]] = {
    "killed before the first chunk": (kills.first, BOTH),
    "killed while computing": (kills.computing, ("plain",)),
    "killed while writing": (kills.writing, ("plain",)),
    "killed between steps": (kills.inside, ("stepwise",)),
    "one of two killed": (kills.one_of_two, BOTH),
    "flipped bit": (files.flipped, BOTH),
    "truncated chunk": (files.truncated, BOTH),
    "chunk copied over another": (files.copied, BOTH),
    "renamed chunk": (files.renamed, BOTH),
    "another sweep's chunk": (files.from_another, BOTH),
    "foreign file": (files.foreign, BOTH),
    "edited manifest": (files.edited_manifest, BOTH),
    "truncated manifest": (files.truncated_manifest, BOTH),
    "full disk": (running.full_disk, BOTH),
    "read-only store": (running.read_only, BOTH),
    "damaged checkpoint": (running.damaged_checkpoint, ("stepwise",)),
    "copied checkpoint": (running.copied_checkpoint, ("stepwise",)),
    "store deleted meanwhile": (running.deleted, BOTH),
    "clock years behind": (functools.partial(running.clock, years=-running.YEARS), BOTH),
    "clock years ahead": (functools.partial(running.clock, years=running.YEARS), BOTH),
    "axes reordered": (running.reordered, BOTH),
}
"""Name -> fault, subjects that it is thrown at."""

STALE = 0.5  # seconds after which a silent worker counts as lost


class Outcome(NamedTuple):
    """What became of a fault, and all that was said of it."""

    lost: int
    wrong: bool
    named: bool
    said: str


class Case(NamedTuple):
    """A fault to come, and the folder of its store."""

    kind: str
    whole: Whole
    path: Path
    rng: random.Random

    def throw(self) -> Fault:
        """Do it."""
        return KINDS[self.kind][0](self.whole, self.path, self.rng)


def undisturbed(folder: Path, name: str) -> Whole:
    """Run a subject, and another sweep of it."""
    path, other = folder / name, folder / f"{name}-other"
    dataset = run(name, path)
    run(name, other, root=1)
    contents = {file.name: file.read_bytes() for file in path.glob("chunks/*.nc")}
    return Whole(name, path, dataset, contents, other)


def judge(case: Case, fault: Fault) -> Outcome:
    """Read the store, go on with it, repair it if it wants that, and hold all against the undisturbed run."""
    whole, path = case.whole, case.path
    kept = undamaged(whole, path) if fault.kept is None else fault.kept
    said = list(fault.said)
    harmed = attempt(lambda: store.damaged(path), said)
    said += (harmed or {}).values()
    results = [attempt(lambda: store.open(path).load(), said), attempt(lambda: run(whole.name, path), said)]
    hung = any(word.startswith("Hung") for word in said)
    if (harmed or results[-1] is None) and not hung:
        results.append(attempt(lambda: repaired(case, said), said))
    now = undamaged(whole, path)
    lost = fault.lost + sum(now.get(name) != written for name, written in kept.items())
    wrong = fault.wrong or any(differs(one, whole.dataset) for one in results if one is not None)
    text = "\n".join(said)
    left = [*path.glob("unfinished/*"), *path.glob("leases/*")]
    clean = attempt(lambda: store.damaged(path), said) == {} and not left
    return Outcome(
        lost + (results[-1] is None), wrong, clean and all(name in text for name in fault.names), text
    )


def repaired(case: Case, said: list[str]):
    """Do what the errors say: remove a manifest that is not readable, compute damaged chunks anew."""
    if any("manifest.json as it was written" in word or "expected format" in word for word in said):
        (case.path / "manifest.json").unlink()
    return run(case.whole.name, case.path, repair=True)


def cases(wholes: dict[str, Whole], folder: Path, count: int, seed: int) -> list[Case]:
    """Faults of all kinds in turn, at the subjects in turn."""
    found = []
    for i in range(count):
        turn, kind = divmod(i, len(KINDS))
        name = list(KINDS)[kind]
        subjects = KINDS[name][1]
        whole = wholes[subjects[turn % len(subjects)]]
        found.append(Case(name, whole, folder / f"fault-{i}", random.Random(f"{seed}-{i}")))
    return found


def soak(folder: Path, count: int, seed: int) -> list[tuple[Case, Outcome]]:
    """Throw all faults, the kills two at a time and first, and judge each."""
    every = cases({name: undisturbed(folder, name) for name in SUBJECTS}, folder, count, seed)
    kinds = list(KINDS)
    processes = [case for case in every if kinds.index(case.kind) < kinds.index("flipped bit")]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        thrown = list(pool.map(Case.throw, processes))
    outcomes = [(case, judge(case, fault)) for case, fault in zip(processes, thrown, strict=True)]
    return outcomes + [(case, judge(case, case.throw())) for case in every if case not in processes]


def rows(outcomes: list[tuple[Case, Outcome]]) -> list[tuple[str, ...]]:
    """Cells of the table."""
    cells = []
    for kind in (*KINDS, "total"):
        some = [outcome for case, outcome in outcomes if kind in (case.kind, "total")]
        numbers = len(some), *(sum(int(outcome[i]) for outcome in some) for i in range(3))
        cells.append((kind, *map(str, numbers)))
    return [("fault", "number", "lost", "wrong", "named"), *cells]


def main() -> None:
    """Print the table, and what was said of faults that cost something."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options, began = parser.parse_args(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # Workers and this process find what one of them compiled
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": folder + "/programs",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        jax.config.update("jax_compilation_cache_dir", folder + "/programs")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        with mock.patch.object(sweep, "Leases", functools.partial(leases.Leases, stale=STALE)):
            outcomes = soak(Path(folder), options.faults, options.seed)
    print(table(rows(outcomes), right=range(1, 5), footer=True))
    print(f"in {time.perf_counter() - began:.0f} s")
    bad = [(case, one) for case, one in outcomes if one.lost or one.wrong or not one.named]
    for case, outcome in bad:
        print(
            f"\n{case.kind}, {case.whole.name}, {case.path.name}: {outcome._replace(said='')}\n{outcome.said}"
        )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
