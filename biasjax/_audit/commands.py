"""``biasjax audit``."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro

if TYPE_CHECKING:
    from biasjax._audit.reports import Place, Problem
    from biasjax.audit import BiasAudit, ModesAudit

_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


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
    format: Literal["text", "json", "html", "sarif", "github", "junit"] = "text"
    """html: a page for people; github: annotations of a workflow; sarif: of code scanning; junit: a test for
    each bias."""
    output: _File = None
    """Write to this file, not to the terminal."""
    json: _File = None
    """Also write the findings to this file."""
    baseline: _File = None
    """Let problems pass that this file knows."""
    write_baseline: _File = None
    """Write the problems of today to this file, and exit with status 0."""
    all: bool = False
    """A row for each bias, as wide as it gets."""
    is_bias: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None
    """Which parameters are biases, by their paths; default: those named bias, b, beta, offset or the like."""
    draws: int = 8
    """Number of draws of the parameters."""
    seed: int = 0
    """Of all random draws."""
    joint: bool = True
    """Whether to ask what biases can stand in for each other. For sarif, github and junit that is
    asked only if a verdict of --fail-on needs it."""
    cache: bool = True
    """Whether to keep compiled programs for the next start, in ~/.cache/biasjax."""


def run(command: Audit) -> int:
    """Audit what the factory returns, report, and judge; return the exit status."""
    from biasjax import _files, _programs
    from biasjax._audit import reports

    _check(command)
    if command.cache:
        _programs.keep()
    known = reports.read_baseline(command.baseline) if command.baseline else set[tuple[str, str, str]]()
    factory = _load(command.factory)
    found, whole = _audits(command, *_made(command.factory, factory))
    problems = reports.problems(found, command.fail_on, known)
    text = _report(command, found, whole, problems, _line(factory))
    if command.output:
        _files.write(command.output, f"{text}\n".encode())
    elif text:
        print(text)
    if command.json:
        _files.write(command.json, f"{_json(found)}\n".encode())
    if command.write_baseline:
        _files.write(command.write_baseline, f"{reports.baseline(problems)}\n".encode())
        return 0
    stale = known - {problem.key for problem in problems}
    if stale:
        paths = ", ".join(sorted({path for _, path, _ in stale}))
        print(f"{len(stale)} of the baseline not found any more: {paths}", file=sys.stderr)
    bad = [p for p in problems if p.fails]
    if bad:
        names = (f"{p.finding.path} ({', '.join(filter(None, (p.finding.verdict, p.mode)))})" for p in bad)
        print(f"{len(bad)} found that fail: {', '.join(names)}", file=sys.stderr)
    return 1 if bad else 0


def _check(command: Audit) -> None:
    """Refuse before the audit what would fail after it."""
    from biasjax import check
    from biasjax.audit import check_verdicts

    check_verdicts("--fail-on", command.fail_on, command.joint)
    if command.is_bias is not None:
        try:
            re.compile(command.is_bias)
        except re.error as error:
            check.fail("--is-bias", "a regular expression", error, "It is looked for in paths.")
    for name in ("json", "output", "write_baseline"):
        file: Path | None = getattr(command, name)
        if file:
            try:
                tempfile.TemporaryFile(dir=file.resolve().parent).close()
            except OSError as error:
                option = f"--{name.replace('_', '-')}"
                check.fail(option, "a file in a folder that can be written", error, "Make the folder.")


def _audits(command: Audit, model: Any, *rest: Any) -> tuple[dict[str, BiasAudit], BiasAudit | ModesAudit]:
    """Audits by their mode, and what shows them all."""
    from biasjax.adapters import Pure
    from biasjax.audit import audit_biases, audit_modes

    options: dict[str, Any] = {"seed": command.seed, "draws": command.draws, "joint": _is_joint(command)}
    if command.is_bias is not None:
        pattern = re.compile(command.is_bias)
        options["is_bias"] = lambda path, leaf: pattern.search(path) is not None
    if not isinstance(model, Pure):
        audit = audit_biases(model, *rest, **options)
        return {"": audit}, audit
    if command.mode == "both":
        modes = audit_modes(model, *rest, **options)
        return {"train": modes.train, "eval": modes.eval}, modes
    audit = audit_biases(model, *rest, train=command.mode == "train", **options)
    return {command.mode: audit}, audit


def _is_joint(command: Audit) -> bool:
    from biasjax._audit.findings import COMPARED

    shown = command.format in ("text", "json", "html") or command.json is not None
    return command.joint and (shown or not set(COMPARED).isdisjoint(command.fail_on))


def _report(
    command: Audit,
    found: dict[str, BiasAudit],
    whole: BiasAudit | ModesAudit,
    problems: list[Problem],
    line: Place | None,
) -> str:
    import biasjax
    from biasjax._audit import reports

    if command.format == "text":
        plan = whole.plan()
        table = whole.table(all=command.all)
        return f"{table}\n\n{plan.text}" if plan.remove else table
    if command.format == "json":
        return _json(found)
    if command.format == "html":
        from biasjax import report

        modes = {"train": " in training", "eval": " in evaluation"}
        mode = modes.get(next(iter(found)), "") if len(found) == 1 else ""
        return report.model(whole, title=f"Biases of {command.factory}{mode}")
    if command.format == "sarif":
        return reports.sarif(problems, biasjax.__version__, line, compared=command.baseline is not None)
    if command.format == "github":
        return reports.github(problems, line)
    return reports.junit(found, problems, line)


def _json(found: dict[str, BiasAudit]) -> str:
    return json.dumps({mode or "audit": audit.to_dict() for mode, audit in found.items()}, indent=2)


def _line(factory: Callable[[], Any]) -> Place | None:
    """Where a factory is defined: for biases whose own line is not known."""
    from biasjax._audit.reports import Place

    code = getattr(inspect.unwrap(factory), "__code__", None)
    return Place(os.path.abspath(code.co_filename), code.co_firstlineno) if code else None


def _made(name: str, factory: Callable[[], Any]) -> tuple[Any, ...]:
    """Call the factory: a tuple of a function or `Pure` and its arguments."""
    from biasjax import check
    from biasjax.adapters import Pure

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
    from biasjax import check

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
