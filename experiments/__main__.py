"""List and run the experiments: `python -m experiments [NAME | all | report] [--smoke] [--output DIR] [...]`.

An experiment is a module beside this one with `Config` (a frozen dataclass), `SMOKE` (a config that takes
seconds), `run(config) -> xr.Dataset`, `claims(dataset) -> list[Claim]` and `figure(dataset) -> Figure`. A
module with `table(dataset) -> str` has that printed, too.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import tyro

from experiments._report import runs
from experiments.claims import Claim

XLA_FLAGS = {
    # Compiling takes most of a run. LLVM's level 1 halves that, and programs run as fast as at its default
    "--xla_backend_optimization_level": "1",
    # XLA keeps float32 between fused steps of bfloat16, so that what is rounded depends on what it fuses
    "--xla_allow_excess_precision": "false",
}
"""What is set unless the environment says otherwise, before jax is imported."""
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join(
    [given, *(f"{name}={value}" for name, value in XLA_FLAGS.items() if name not in given)]
)
# XLA runs batched LAPACK calls on all cores at once; OpenBLAS's own threads on top of these slow orthogonal
# draws tenfold and, on two cores, were seen to wait for each other for ever
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

EXTRA = ("rich", "matplotlib", "sklearn", "mlxtend")
"""What the extra "experiments" installs."""
HEADINGS = ("", "claim", "expected", "measured", "null")
MARKS = {
    "±": "what is allowed, of the expected; half of a 95% interval, of the measured",
    "null": "the same measure where the claim must fail: bias off, or effect reversed",
    "empty": "the claim holds for its null, too, so it says nothing of the bias",
    "*": "the value that deep layers tend to, as in c* of a correlation",
}
"""Words and signs in the table of claims that need an explanation."""
HELP = ("-h", "--help")
EXPECTED = (ValueError, OSError, ImportError)
"""Errors whose message says what to do."""


@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every experiment."""

    smoke: bool = False
    """Run a small version that takes seconds; the other options start from its values."""
    output: Path = Path("results")
    """Folder for the dataset, the claims and the figures."""
    no_cache: bool = False
    """Compile all programs, and keep none for the next start in ~/.cache/biasjax."""


class Run(NamedTuple):
    """One experiment as the command line asks for it."""

    name: str
    module: ModuleType
    config: Any
    common: Common

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self.common.output / self.name


def experiments() -> dict[str, str]:
    """Names of the experiments and the first lines of their docstrings, without importing them."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = ast.parse(path.read_text())
        defined = {node.name for node in module.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        if {"Config", "run", "claims", "figure"} <= defined:
            found[path.stem] = (ast.get_docstring(module) or "").split("\n")[0]
    return found


def list_experiments() -> None:
    """Print the experiments and how to run them."""
    known = experiments()
    width = max(map(len, known))
    for name, line in known.items():
        print(f"{name:{width}}  {line}")
    print("\npython -m experiments NAME [--smoke] [--output DIR] [--help]; NAME may be all.")
    print("python -m experiments report [--from DIR] [--output FILE]: one page of all of them.")


def choose(name: str, known: Collection[str]) -> str:
    """Return the name of an experiment, or raise."""
    if name not in known:
        from biasjax import check

        check.choice("experiment", name, [*known, "all", "report"])
    return name


def parse(name: str, arguments: Sequence[str]) -> Run:
    """Read the command line of one experiment."""
    module = importlib.import_module(f"experiments.{name}")
    config = usual(module, "--smoke" in arguments)
    # The names of the fields head the two lists of options in the help
    options = dataclasses.make_dataclass("Options", [("experiment", module.Config), ("common", Common)])
    both: Any = tyro.cli(
        options,
        args=arguments,
        default=options(config, Common()),
        prog=f"python -m experiments {name}",
        description=module.__doc__,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return Run(name, module, both.experiment, both.common)


def usual(module: ModuleType, smoke: bool) -> Any:
    """Config of an experiment without options."""
    return module.SMOKE if smoke else module.Config()


def check_extra() -> None:
    """Raise unless all that the experiments import is installed."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        from biasjax import check

        fix = "In the repository's root: pip install -e '.[experiments]'"
        check.fail("experiments", f"{', '.join(EXTRA)}", f"no {', '.join(missing)}", fix, ImportError)


def check_output(runs: Sequence[Run]) -> None:
    """Raise before any work unless figures can be made and the folders of all runs be written to."""
    from biasjax import plot, store

    plot.panels([""])
    for run in runs:
        store.check_writable(run.folder)


def execute(run: Run) -> bool:
    """Run one experiment, write its dataset, claims and figures, and return whether its claims hold."""
    import jax

    from biasjax import plot, store

    if not run.common.no_cache:
        keep_programs()
    # Compiling dominates a smoke run; this switches off LLVM's optimisations, not XLA's
    jax.config.update("jax_disable_most_optimizations", run.common.smoke)

    name, module, folder = run.name, run.module, run.folder
    began = time.perf_counter()
    print(f"{name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
    text, smoke = module.__doc__ or "", run.common.smoke
    said = runs.begin(folder, name, text, run.config, usual(module, smoke), smoke=smoke)
    dataset = module.run(run.config)
    dataset = dataset.assign_attrs(experiment=name, config=json.dumps(dataclasses.asdict(run.config)))
    store.save(dataset, folder / "dataset.nc")
    with kept(folder / "dataset.nc"):
        claims = module.claims(dataset)
        runs.write_claims(claims, folder)
        plot.save(module.figure(dataset), folder / name)
        if hasattr(module, "table"):
            print(f"\n{module.table(dataset)}\n")
        holds = bool(claims) and show_claims(claims)
    seconds = time.perf_counter() - began
    runs.finish(folder, said, seconds)
    verdict = "all claims hold" if holds else "some claims do not hold"
    print(f"{name}: {verdict} ({seconds:.0f} s); written to {folder}", flush=True)
    return holds


def keep_programs() -> None:
    """Keep what is compiled for the next start."""
    from biasjax import _programs

    _programs.keep()


@contextlib.contextmanager
def kept(dataset: Path) -> Iterator[None]:
    """Add to an exception where the dataset is that was computed before."""
    try:
        yield
    except Exception as error:
        error.add_note(f"The computed dataset is kept: biasjax.store.load({str(dataset)!r}).")
        raise


def show_claims(claims: Sequence[Claim]) -> bool:
    """Print a table of claims, a line each; return whether all hold."""
    from rich.console import Console
    from rich.table import Table

    rows, console = [claim.cells() for claim in claims], Console(highlight=False, markup=False)
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    # Where the terminal is narrow a claim is cut, which claims.json has in full
    widths[1] = max(10, min(widths[1], console.width - sum(widths[2:], widths[0]) - 2 * len(widths)))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, width in zip(HEADINGS, widths, strict=True):
        table.add_column(heading, no_wrap=True, width=width)
    for row, claim in zip(rows, claims, strict=True):
        table.add_row(*row, style=None if claim.holds else "bold red")
    console.print(table)
    shown = "".join("".join(row) for row in (HEADINGS, *rows))
    for sign, meaning in MARKS.items():
        if sign in shown:
            print(f"{sign}  {meaning}")
    return all(claim.holds for claim in claims)


def main(arguments: Sequence[str]) -> int:
    """Dispatch the command line; return 1 if a claim does not hold, 2 if a run was not possible."""
    known = experiments()
    name, *rest = arguments or ["list"]
    if name == "report":
        return make_report(rest, list(known))
    if name in (*HELP, "list") or (name == "all" and set(HELP) & set(rest)):
        list_experiments()
        return 0
    try:
        runs = [parse(one, rest) for one in (known if name == "all" else [choose(name, known)])]
        check_extra()
        check_output(runs)
    except EXPECTED as error:
        return complain(error)
    return max(attempt(run) for run in runs)


def make_report(arguments: Sequence[str], names: Sequence[str]) -> int:
    """Run what a report misses, and write it; return the exit status."""
    from experiments import report

    options = report.parse(arguments)
    small = ["--smoke"] if options.smoke else []
    try:
        report.check(options)
        todo = [
            parse(name, [*small, "--output", str(options.source)]) for name in report.missing(options, names)
        ]
        check_extra()
        check_output(todo)
        for run in todo:
            attempt(run)
        keep_programs()
        return 0 if report.write(options, names) else 1
    except EXPECTED as error:
        return complain(error)


def attempt(run: Run) -> int:
    """Execute a run; return the exit status. What stops one of several must not stop the others."""
    try:
        return 0 if execute(run) else 1
    except EXPECTED as error:
        return complain(error)
    except Exception:
        traceback.print_exc()
        return 2


def complain(error: Exception) -> int:
    """Print what stopped a run, and return the exit status."""
    lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
    print("\n".join(lines), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
