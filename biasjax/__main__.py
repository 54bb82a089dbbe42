"""Command line: ``python -m biasjax audit package.module:factory`` audits a model and can fail a build."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from biasjax import check


@dataclass(frozen=True)
class Audit:
    """Tell what every bias of a model does; exit with status 1 if one has a verdict of --fail-on."""

    factory: tyro.conf.Positional[str]
    """package.module:function; called without arguments, it returns (fn, params, *args), or (pure, *args)
    with a `biasjax.adapters.Pure`, which has modes."""
    mode: Literal["train", "eval", "both"] = "both"
    """Of a Pure; a plain fn has none."""
    fail_on: tuple[str, ...] = ()
    """Verdicts that fail: cancelled, "partly cancelled", unused, absorbable, "partly absorbable"."""
    json: str | None = None
    """Also write the findings to this file."""
    seed: int = 0
    """Of all random draws."""
    joint: bool = True
    """Whether to ask what biases can stand in for each other."""


@dataclass(frozen=True)
class Version:
    """Print the version."""


Command = (
    Annotated[Audit, tyro.conf.subcommand("audit")] | Annotated[Version, tyro.conf.subcommand("version")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    command: Any = tyro.cli(Command, args=arguments, prog="biasjax")  # pyright: ignore
    if isinstance(command, Version):
        import biasjax

        print(biasjax.__version__)
        return 0
    try:
        return audit(command)
    except (ValueError, TypeError) as error:
        print(f"biasjax audit: {error}", file=sys.stderr)
        return 2


def audit(command: Audit) -> int:
    """Audit what the factory returns, print a table, and judge it."""
    from biasjax.audit import VERDICTS

    for verdict in command.fail_on:
        check.choice("--fail-on", verdict, VERDICTS)
    audits = _audits(command, *_load(command.factory)())
    for mode, found in audits.items():
        print(f"{mode}\n{found.table()}" if mode else found.table())
    if command.json:
        _write(command.json, {mode or "audit": found.to_dict() for mode, found in audits.items()})
    bad = {f.path for found in audits.values() for f in found.findings if f.verdict in command.fail_on}
    if bad:
        print(
            f"{len(bad)} biases are {' or '.join(command.fail_on)}: {', '.join(sorted(bad))}", file=sys.stderr
        )
    return 1 if bad else 0


def _audits(command: Audit, model: Any, *rest: Any) -> dict:
    from biasjax.adapters import Pure
    from biasjax.audit import audit_biases, audit_modes, in_mode

    options = {"seed": command.seed, "joint": command.joint}
    if not isinstance(model, Pure):
        return {"": audit_biases(model, *rest, **options)}
    if command.mode == "both":
        modes = audit_modes(*model, *rest, **options)
        return {"train": modes.train, "eval": modes.eval}
    fn, keys = in_mode(model.apply, model.state, command.mode == "train")
    return {command.mode: audit_biases(fn, model.params, *rest, keys, **options)}


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not attribute:
        check.fail("factory", "package.module:function", name, "Put a colon before the function's name.")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        check.fail("factory", f"{attribute!r} in module {module!r}", error, "Check the name and the path.")


def _write(path: str, found: dict) -> None:
    # Whole or not at all
    temporary = pathlib.Path(path + ".part")
    temporary.write_text(json.dumps(found, indent=2) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
