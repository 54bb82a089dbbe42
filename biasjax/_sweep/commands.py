"""``biasjax sweep show`` and ``biasjax sweep export``."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Show:
    """Say what a store holds, how far it is and what diverged."""

    store: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STORE")]
    """Folder of a sweep."""
    watch: bool = False
    """Whether to look again until it is finished."""
    every: float = 2.0
    """Seconds between looks."""


@dataclass(frozen=True)
class Export:
    """Write the points that are done as one table."""

    store: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STORE")]
    """Folder of a sweep."""
    to: Literal["csv", "parquet", "zarr"] = "csv"
    """parquet needs pyarrow, zarr keeps the grid."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Default: the store's name with the format's ending, here."""
    outputs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Outputs to write, default all."""


@dataclass(frozen=True)
class Sweep:
    """Look at the store of a sweep, or export it."""

    command: Annotated[Show, tyro.conf.subcommand("show")] | Annotated[Export, tyro.conf.subcommand("export")]


def run(command: Show | Export) -> int:
    """Run a command; return the exit status."""
    from biasjax import check

    if isinstance(command, Export):
        from biasjax._sweep.export import export

        output = command.output or Path(f"{command.store.absolute().name}.{command.to}")
        print(export(command.store, command.to, output, command.outputs))
        return 0
    check.in_range("--every", command.every, 0.1)
    _show(command)
    return 0


def _show(command: Show) -> None:
    from biasjax._sweep import summary

    found = summary.summarize(command.store)
    print(summary.show(found), flush=True)
    while command.watch and found.done < found.total:
        time.sleep(command.every)
        found = summary.summarize(command.store)
        # On a terminal the table stands still
        lines = summary.show(found)
        up = f"\x1b[{lines.count(chr(10)) + 1}F\x1b[J" if sys.stdout.isatty() else "\n"
        print(f"{up}{lines}", flush=True)
