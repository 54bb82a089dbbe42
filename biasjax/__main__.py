"""Command line: ``biasjax audit package.module:factory`` audits a model; ``biasjax sweep show`` a store."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro

from biasjax import check
from biasjax._sweep import commands as sweeps

if TYPE_CHECKING:
    from biasjax.audit import BiasAudit

__all__ = ["main"]


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True)
class Audit:
    """Tell what every bias of a model does; exit with status 1 if one has a verdict of --fail-on."""

    factory: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PACKAGE.MODULE:FUNCTION")]
    """A function that, called without arguments, returns (fn, params, *args), or (pure, *args) with a
    biasjax.adapters.Pure, which has modes; looked for in the working directory, too, unless python -P."""
    mode: Literal["train", "eval", "both"] = "both"
    """Of a Pure; a plain fn has none."""
    fail_on: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VERDICT ...")] = ()
    """Any of cancelled, "partly cancelled", unused, absorbable, "partly absorbable", needed."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the findings to this file."""
    seed: int = 0
    """Of all random draws."""
    joint: bool = True
    """Whether to ask what biases can stand in for each other."""


@dataclass(frozen=True)
class Version:
    """Print the version."""


Command = (
    Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[sweeps.Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Version, tyro.conf.subcommand("version")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status: 1 for a verdict of --fail-on, 2 for a mistake."""
    # Annotated unions are no type to a checker
    plain = (tyro.conf.OmitSubcommandPrefixes,)
    command: Audit | sweeps.Sweep | Version = tyro.cli(Command, args=arguments, prog="biasjax", config=plain)  # pyright: ignore
    if isinstance(command, Version):
        import biasjax

        print(biasjax.__version__)
        return 0
    name = "audit" if isinstance(command, Audit) else "sweep"
    try:
        return _audit(command) if isinstance(command, Audit) else sweeps.run(command.command)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"biasjax {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"biasjax {name}: interrupted", file=sys.stderr)
        return 130


def _audit(command: Audit) -> int:
    """Audit what the factory returns, print a table, and judge it."""
    _check(command)
    audits = _audits(command, *_made(command.factory))
    for mode, found in audits.items():
        print(f"{mode}\n{found.table()}\n" if mode else found.table())
    if command.json:
        from biasjax import _files

        findings = {mode or "audit": found.to_dict() for mode, found in audits.items()}
        _files.write(command.json, (json.dumps(findings, indent=2) + "\n").encode())
    bad = [
        f"{f.path} ({', '.join(filter(None, (f.verdict, mode)))})"
        for mode, found in audits.items()
        for f in found.having(*command.fail_on)
    ]
    if bad:
        print(f"{len(bad)} found that fail: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


def _check(command: Audit) -> None:
    """Refuse before the audit what would fail after it."""
    from biasjax.audit import check_verdicts

    check_verdicts("--fail-on", command.fail_on, command.joint)
    if command.json:
        try:
            tempfile.TemporaryFile(dir=command.json.resolve().parent).close()
        except OSError as error:
            check.fail("--json", "a file in a folder that can be written", error, "Make the folder.")


def _audits(command: Audit, model: Any, *rest: Any) -> dict[str, BiasAudit]:
    from biasjax.adapters import Pure
    from biasjax.audit import audit_biases, audit_modes, in_mode

    options: dict[str, Any] = {"seed": command.seed, "joint": command.joint}
    if not isinstance(model, Pure):
        return {"": audit_biases(model, *rest, **options)}
    if command.mode == "both":
        modes = audit_modes(*model, *rest, **options)
        return {"train": modes.train, "eval": modes.eval}
    fn, keys = in_mode(model.apply, model.state, command.mode == "train")
    return {command.mode: audit_biases(fn, model.params, *rest, keys, **options)}


def _made(name: str) -> tuple[Any, ...]:
    """Call the factory: a tuple of a function or `Pure` and its arguments."""
    from biasjax.adapters import Pure

    factory = _load(name)
    try:
        made = factory()
    except Exception as error:
        traceback.print_exc()
        got = f"{type(error).__name__}: {error}"
        check.fail("factory", f"{name} to run without arguments", got, "Its traceback stands above.")
    if isinstance(made, Pure) or not isinstance(made, tuple) or not made:
        expected = f"{name} to return (fn, params, *args) or (pure, *args)"
        got = "a Pure alone" if isinstance(made, Pure) else type(cast(object, made)).__name__
        check.fail("factory", expected, got, "Return a tuple.")
    return cast(tuple[Any, ...], made)


def _load(name: str) -> Callable[[], Any]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        check.fail("factory", "package.module:function", name, "Put a colon before the function's name.")
    if not sys.flags.safe_path:  # python -P
        sys.path.insert(0, os.getcwd())
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        missing = getattr(error, "name", None)
        unknown = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}.")
        if not unknown:
            traceback.print_exc()
        fix = "Check the name and the path." if unknown else "Its traceback stands above."
        check.fail("factory", f"a module {module!r} to import", f"{type(error).__name__}: {error}", fix)
    known = [key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_")]
    return getattr(loaded, check.choice("factory", attribute, known))


if __name__ == "__main__":
    sys.exit(main())
