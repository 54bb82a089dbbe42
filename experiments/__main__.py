"""List and run the experiments: `python -m experiments [NAME | all] [--smoke] [--output DIR] [--OPTION ...]`.

An experiment is a module beside this one with `Config` (a frozen dataclass), `SMOKE` (a config that takes
seconds), `run(config) -> xr.Dataset`, `claims(dataset) -> list[Claim]` and `figure(dataset) -> Figure`. A
module with `table(dataset) -> str` has that printed, too.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

# Compiling takes most of a run. LLVM's level 1 halves that, and the programs ran as fast as at its default.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
# XLA runs batched LAPACK calls on all cores at once; OpenBLAS's own threads on top of these slow orthogonal
# draws tenfold and, on two cores, were seen to wait for each other for ever
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

console = Console()


@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every experiment."""

    smoke: bool = False
    """Run a small version that takes seconds; the other options start from its values."""
    output: Path = Path("results")
    """Folder for the dataset, the claims and the figures."""


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
    table = Table("experiment", "what it holds to numbers", box=None, pad_edge=False)
    for name, line in experiments().items():
        table.add_row(name, line)
    console.print(table)
    console.print("\npython -m experiments NAME [--smoke] [--output DIR] [--help]; NAME may be all.")


def report(claims: list[Any]) -> bool:
    """Print a table of claims; return whether all hold."""
    table = Table("", "claim", "expected", "measured", "source")
    for claim in claims:
        expected = f"{claim.relation} {claim.expected:.4g}"
        expected += f" ± {claim.tolerance:.2g}" if claim.relation == "=" else ""
        mark = "[green]holds[/]" if claim.holds else "[bold red]fails[/]"
        table.add_row(mark, claim.name, expected, f"{claim.measured:.4g}", claim.source)
    console.print(table)
    return all(claim.holds for claim in claims)


def execute(name: str, module: ModuleType, config: Any, common: Common) -> bool:
    """Run one experiment, write its dataset, claims and figures, and return whether its claims hold."""
    import jax

    from biasjax import plot, store

    # Compiling dominates a smoke run; this switches off LLVM's optimisations, not XLA's
    jax.config.update("jax_disable_most_optimizations", common.smoke)

    began = time.perf_counter()
    folder = common.output / name
    folder.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    console.print(f"[bold]{name}[/]: {(module.__doc__ or '').splitlines()[0]}")
    dataset = module.run(config)
    dataset = dataset.assign_attrs(experiment=name, config=json.dumps(dataclasses.asdict(config)))
    store.save(dataset, folder / "dataset.nc")
    plot.save(module.figure(dataset), folder / name)
    claims = module.claims(dataset)
    (folder / "claims.json").write_text(json.dumps([claim.to_dict() for claim in claims], indent=2) + "\n")
    if hasattr(module, "table"):
        print(f"\n{module.table(dataset)}\n")
    holds = bool(claims) and report(claims)
    verdict = "all claims hold" if holds else "some claims do not hold"
    console.print(f"{name}: {verdict} ({time.perf_counter() - began:.0f} s); written to {folder}")
    return holds


def parse(name: str, arguments: list[str]) -> tuple[ModuleType, Any, Common]:
    """Read the command line of one experiment."""
    module = importlib.import_module(f"experiments.{name}")
    default = module.SMOKE if "--smoke" in arguments else module.Config()
    config, common = tyro.cli(
        tuple[module.Config, Common],
        args=arguments,
        default=(default, Common()),
        prog=f"python -m experiments {name}",
        description=module.__doc__,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return module, config, common


def main(arguments: list[str]) -> int:
    """Dispatch the command line; return 1 if a claim does not hold, 2 if a run was not possible."""
    known = experiments()
    if not arguments or arguments[0] in ("-h", "--help", "list"):
        list_experiments()
        return 0
    name, *rest = arguments
    if name not in known and name != "all":
        console.print(f"experiment: expected one of {', '.join(known)} or all, got {name!r}.", style="red")
        list_experiments()
        return 2
    if name == "all" and {"-h", "--help"} & set(rest):
        list_experiments()
        return 0
    chosen = list(known) if name == "all" else [name]
    try:
        results = [execute(one, *parse(one, rest)) for one in chosen]
    except (ValueError, OSError) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 2
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
