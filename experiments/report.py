"""One page of all experiments: `python -m experiments report [--from DIR] [--output FILE] [--against DIR]`.

What is missing under --from is run first, one experiment after the other; what has finished stays, so that
the same command goes on where it was stopped. Everything on the page is read from files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from experiments._report import runs


@dataclasses.dataclass(frozen=True)
class Options:
    """Of the report."""

    source: Annotated[Path, tyro.conf.arg(name="from")] = Path("results")
    """Folder of the runs; what is missing in it is run."""
    output: Path = Path("report.html")
    """The page."""
    against: Path | None = None
    """Folder of other runs; the page says which claims changed."""
    run: bool = True
    """Whether to run what is missing; otherwise the page names it."""
    smoke: bool = False
    """Run small versions of what is missing."""


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line."""
    return tyro.cli(Options, args=arguments, prog="python -m experiments report", description=__doc__)


def check(options: Options) -> None:
    """Refuse before any run what would fail after it."""
    from biasjax import check, store

    store.check_writable(options.output.absolute().parent)
    for flag, folder in (("--from", options.source), ("--against", options.against)):
        if folder and not folder.is_dir() and not (options.run and flag == "--from"):
            check.fail(
                flag, "a folder of runs", f"{folder}, which is none", "Make it: python -m experiments all"
            )


def missing(options: Options, names: Sequence[str]) -> list[str]:
    """Experiments to run before the page is written."""
    return [name for name in names if options.run and runs.read(options.source / name, name).state != "whole"]


def write(options: Options, names: Sequence[str]) -> bool:
    """Write the page of the runs there are; whether all are whole and all of their claims hold."""
    from biasjax import _files
    from experiments._report import controls, page

    records = [runs.read(options.source / name, name) for name in names]
    other = options.against
    against = {name: runs.read(other / name, name) for name in names} if other else None
    print("report: the theory of its controls, which takes a minute or two the first time", flush=True)
    made = page.page(records, controls.controls(options.source), against)
    _files.write(options.output, made.encode())
    print(f"report: {len(made) / 1e6:.1f} MB of {len(records)} experiments; written to {options.output}")
    return all(one.state == "whole" and all(claim.holds for claim in one.claims) for one in records)
