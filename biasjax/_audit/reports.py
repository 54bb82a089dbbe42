"""What is wrong with biases, for machines: annotations of GitHub, SARIF 2.1.0, JUnit XML, and a baseline."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

from biasjax import check
from biasjax._audit import words
from biasjax._audit.findings import BiasAudit, Finding
from biasjax._audit.origins import is_installed
from biasjax._audit.tables import grouped_names

# Identifier of each verdict, and what it says of a bias; that of one that does something is never a problem
RULES = {
    "cancelled": ("BJ001", "No shift of this bias changes an output."),
    "partly cancelled": ("BJ002", "Some shifts of this bias change no output."),
    "unused": ("BJ003", "No output depends on this bias."),
    "absorbable": ("BJ004", "Other biases can do all that this one does."),
    "partly absorbable": ("BJ005", "Other biases can do some of what this one does."),
    "needed": ("BJ006", "Only this bias can do what it does."),
    "alive": ("BJ006", "This bias changes an output."),
}
_FINE = ("needed", "alive")
_LEVELS = {"cancelled": "warning", "partly cancelled": "warning", "unused": "warning"}  # others: note
_WHERE = re.compile(r"(?P<file>.*):(?P<line>\d+)(?: \((?P<function>.*)\))?", re.DOTALL)
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class Place(NamedTuple):
    """A line of a file."""

    file: str
    line: int


class Problem(NamedTuple):
    """A finding to report.

    Attributes
    ----------
    mode
        "train" or "eval"; empty for a function without modes.
    level
        "error" for one that fails, else "warning" or "note".
    finding
        What was found.
    known
        Whether the baseline has it: it does not fail.
    """

    mode: str
    level: str
    finding: Finding
    known: bool

    @property
    def rule(self) -> str:
        """Identifier, e.g. "BJ001"."""
        return RULES[self.finding.verdict][0]

    @property
    def fails(self) -> bool:
        """Whether it was asked for and is new."""
        return self.level == "error" and not self.known

    @property
    def key(self) -> tuple[str, str, str]:
        """What a baseline knows it by, which does not depend on lines."""
        return self.mode, self.finding.path, self.rule

    def message(self) -> str:
        """One sentence each for what it is, why, and what to do."""
        f = self.finding
        mode = {"train": " in training", "eval": " in evaluation"}.get(self.mode, "")
        dead = f" ({f.size - f.rank} of {f.size} directions do nothing)" if 0 < f.rank < f.size else ""
        why, remedy = f.why(), f.remedy()
        parts = [
            f"{f.path} is {f.verdict}{mode}{dead}",
            why[:1].upper() + why[1:],
            remedy and f"To do: {remedy}",
        ]
        return f"{'. '.join(filter(None, parts))}."


def problems(
    audits: Mapping[str, BiasAudit], fail_on: Collection[str], known: Collection[tuple[str, str, str]] = ()
) -> list[Problem]:
    """Findings of all modes that are to be reported, in tree order; those of ``fail_on`` are errors."""
    found: list[Problem] = []
    for mode, audit in audits.items():
        for finding in audit.findings:
            level = "error" if finding.verdict in fail_on else _LEVELS.get(finding.verdict, "note")
            if level == "error" or finding.verdict not in _FINE:
                problem = Problem(mode, level, finding, False)
                found.append(problem._replace(known=problem.key in known))
    return found


def baseline(found: Sequence[Problem]) -> str:
    """Write down problems, so that they pass."""
    names = ("mode", "bias", "rule")
    return _json({"version": 1, "known": [dict(zip(names, p.key, strict=True)) for p in found]})


def read_baseline(path: Path) -> set[tuple[str, str, str]]:
    """Read what `baseline` wrote."""
    try:
        held = json.loads(path.read_text())
        return {(str(one["mode"]), str(one["bias"]), str(one["rule"])) for one in held["known"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        check.fail("--baseline", f"a file of --write-baseline at {path}", got, "Write it once.")


def place(finding: Finding, fallback: Place | None) -> Place | None:
    """Line of the user's that makes a bias, if it is known, or else the factory's."""
    made = _place(finding.made.where) if finding.made else None
    return made if made and not is_installed(made.file) else fallback


def github(found: Sequence[Problem], fallback: Place | None = None) -> str:
    """Workflow commands of GitHub Actions: an annotation for each line and rule with new problems."""
    lines: dict[tuple[str, str, Place | None], list[Problem]] = {}
    for problem in found:
        if not problem.known:
            lines.setdefault((problem.level, problem.rule, place(problem.finding, fallback)), []).append(
                problem
            )
    return "\n".join(_annotation(at, some) for (_, _, at), some in lines.items())


def _annotation(at: Place | None, some: Sequence[Problem]) -> str:
    first = some[0]
    fields = {"file": _relative(at.file), "line": str(at.line)} if at else {}
    fields["title"] = f"{first.rule} {first.finding.verdict} bias"
    shown = ",".join(f"{name}={_percent(value, ':,')}" for name, value in fields.items())
    others = dict.fromkeys(p.finding.path for p in some if p.finding.path != first.finding.path)
    more = f" Likewise {words.listed(grouped_names(list(others)))}." if others else ""
    command = "notice" if first.level == "note" else first.level
    return f"::{command} {shown}::{_percent(first.message() + more)}"


def _percent(text: str, more: str = "") -> str:
    return "".join(f"%{ord(c):02X}" if c in f"%\r\n{more}" else c for c in text)


def sarif(
    found: Sequence[Problem], version: str, fallback: Place | None = None, compared: bool = False
) -> str:
    """Write a log of SARIF 2.1.0; ``compared`` with a baseline its results say whether they are new."""
    rules = list({rule: (name, said) for name, (rule, said) in reversed(RULES.items())}.items())[::-1]
    order = [rule for rule, _ in rules]
    driver = {
        "name": "biasjax",
        "version": version,
        "rules": [
            {
                "id": rule,
                "name": "".join(word.capitalize() for word in f"{name} bias".split()),
                "shortDescription": {"text": said},
                "defaultConfiguration": {"level": "none" if name in _FINE else _LEVELS.get(name, "note")},
            }
            for rule, (name, said) in rules
        ],
    }
    results: list[dict[str, Any]] = []
    for problem in found:
        result = _result(problem, order.index(problem.rule), fallback)
        results.append(
            result | ({"baselineState": "unchanged" if problem.known else "new"} if compared else {})
        )
    run = {
        "tool": {"driver": driver},
        "originalUriBaseIds": {"SRCROOT": {"uri": f"{Path.cwd().as_uri()}/"}},
        "columnKind": "utf16CodeUnits",
        "results": results,
    }
    return _json({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _result(problem: Problem, index: int, fallback: Place | None) -> dict[str, Any]:
    finding, at = problem.finding, place(problem.finding, fallback)
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": finding.path, "kind": "variable"}]
    }
    if at:
        location["physicalLocation"] = _physical(at)
    deaths = [(death, _place(death.where)) for death in finding.deaths]
    related = [
        {
            "id": i,
            "message": {"text": " in ".join(filter(None, (f"Dies at {death.primitive}", death.module)))},
            "physicalLocation": _physical(line),
        }
        for i, (death, line) in enumerate(deaths)
        if line
    ]
    return {
        "ruleId": problem.rule,
        "ruleIndex": index,
        "level": problem.level,
        "message": {"text": problem.message()},
        "locations": [location],
        "relatedLocations": related,
        "partialFingerprints": {"bias/v1": hashlib.sha256("\0".join(problem.key).encode()).hexdigest()},
    }


def _physical(at: Place) -> dict[str, Any]:
    path = Path(at.file)
    inside = path.is_relative_to(Path.cwd())
    file = {"uri": quote(_relative(at.file)), "uriBaseId": "SRCROOT"} if inside else {"uri": path.as_uri()}
    return {"artifactLocation": file, "region": {"startLine": at.line}}


def junit(audits: Mapping[str, BiasAudit], found: Sequence[Problem], fallback: Place | None = None) -> str:
    """Write JUnit XML: a suite for each mode, a case for each bias, a failure for each that fails."""
    failing = {(p.mode, p.finding.path): p for p in found if p.fails}
    top = ElementTree.Element("testsuites", name="biasjax audit")
    for mode, audit in audits.items():
        fails = sum(1 for of, _ in failing if of == mode)
        counts = {"tests": str(len(audit.findings)), "failures": str(fails), "errors": "0", "skipped": "0"}
        suite = ElementTree.SubElement(top, "testsuite", {"name": f"biasjax.{mode or 'audit'}", **counts})
        for finding in audit.findings:
            at = place(finding, fallback)
            where = {"file": _relative(at.file), "line": str(at.line)} if at else {}
            names = {"classname": f"biasjax.{mode or 'audit'}", "name": finding.path, "time": "0"}
            case = ElementTree.SubElement(suite, "testcase", names | where)
            if problem := failing.get((mode, finding.path)):
                kind = {"type": problem.rule, "message": f"{finding.path} is {finding.verdict}"}
                ElementTree.SubElement(case, "failure", kind).text = problem.message()
    ElementTree.indent(top)
    return ElementTree.tostring(top, encoding="unicode", xml_declaration=False)


def _place(where: str) -> Place | None:
    match = _WHERE.fullmatch(where)
    return Place(match["file"], int(match["line"])) if match and Path(match["file"]).is_absolute() else None


def _relative(file: str) -> str:
    path = Path(file)
    return (path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path).as_posix()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)
