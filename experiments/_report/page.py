"""The page of all experiments, from the files of their runs alone."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._report import changes, story, words
from experiments._report.macros import macro
from experiments._report.runs import Record
from experiments.claims import Claim

if TYPE_CHECKING:
    from biasjax.report import Row, Section
    from experiments._report.controls import Control

_FOLDER = Path(__file__).parent
_HEADER = ("verdict", "claim", "expected", "measured", "null twin", "source")
_KINDS = {"holds": "good", "fails": "bad", "empty": "warn"}
_FEW = 4
_MAP = "regime_map"
_READING = (
    "A claim holds if what was measured, with all of its 95% interval (±), is on the right side of what "
    "was expected. Its null twin is the same measure with the bias off, or its effect reversed: there the"
    " claim must fail, or else it says nothing of the bias and is called empty."
)

_part = functools.partial(macro, "parts.html")


class Shown(NamedTuple):
    """An experiment as the template shows it."""

    words: words.Words
    verdict: str
    kind: str
    figure: str
    table: str
    run: Mapping[str, Any]
    facts: tuple[tuple[str, str], ...]


def page(
    records: Sequence[Record], controls: Sequence[Control] = (), against: Mapping[str, Record] | None = None
) -> str:
    """Write the page.

    Parameters
    ----------
    records
        Of all experiments that there are, run or not, in the order of the page.
    controls
        What can be tried in a browser.
    against
        Runs to compare with, by experiment.
    """
    from biasjax import report

    known = {record.name: record for record in records}
    sections = [
        report.Section("story", "The story in ten lines", _part("story", story.told(known), _notes(records))),
    ]
    if _MAP in known and known[_MAP].state == "whole":
        sections.append(_regime_map(known[_MAP]))
    if controls:
        sections.append(report.Section("try", "Try it", _part("controls", controls)))
    if against is not None:
        sections.append(report.Section("changes", "What changed", _changes(records, against)))
    sections += [
        report.Section("claims", "All claims", _claims(records)),
        report.Section("runs", "The runs", _runs(records)),
        report.Section("experiments", "The experiments", "One question each, from forums and papers."),
    ]
    sections += [_section(record) for record in records]
    style = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "controls.css"))
    script = (_FOLDER / "controls.js").read_text(encoding="utf-8") if controls else ""
    title = "What every bias of a neural network does"
    return report.page(title, sections, lead=_lead(records), foot=_foot(records), style=style, script=script)


def _lead(records: Sequence[Record]) -> str:
    whole = [record for record in records if record.state == "whole"]
    claims = [claim for record in whole for claim in record.claims]
    held = sum(claim.holds for claim in claims)
    return f"{len(whole)} questions, {len(claims)} claims held to numbers: {held} hold. Made by biasjax."


def _foot(records: Sequence[Record]) -> str:
    seconds = sum(record.run["seconds"] for record in records if record.state == "whole")
    return f"All runs took {seconds / 60:.0f} minutes. To make this page: python -m experiments report"


def _notes(records: Sequence[Record]) -> list[str]:
    """What the reader has to know of the runs before any result."""
    missing = [one.name for one in records if one.state == "missing"]
    notes = [f"Not run: {', '.join(missing)}."] if missing else []
    notes += [
        f"{one.name} is {one.state}. {one.why}" for one in records if one.state in ("half-written", "older")
    ]
    whole = [one for one in records if one.state == "whole"]
    small = [one.name for one in whole if one.run["smoke"]]
    if small:
        notes.append(f"Small runs (--smoke), whose claims may fail for their size: {', '.join(small)}.")
    commits = {
        one.name: str(one.run["git_commit"]) for one in sorted(whole, key=lambda one: one.run["began"])
    }
    newest = list(commits.values())[-1:]
    behind = [name for name, commit in commits.items() if commit not in newest]
    if behind:
        notes.append(f"Older than the newest run, made at another commit: {', '.join(sorted(behind))}.")
    return notes


def _regime_map(record: Record) -> Section:
    from biasjax import report

    said = words.parse(record.run["text"])
    title = "Where a bias before batch norm matters"
    return report.Section("map", title, _figure(record, said, "drawn-map", "More on it: regime_map, below."))


def _figure(record: Record, said: words.Words, name: str, caption: str = "") -> Any:
    from biasjax import report

    label = f"Figure of {record.name}. {said.question} {said.answer}"
    try:
        return report.figure(record.figure.read_text(encoding="utf-8"), name, label, caption=caption)
    except (OSError, ValueError) as error:
        return f"The figure cannot be shown: {error}"


def _section(record: Record) -> Section:
    from biasjax import report

    said = words.parse(str(record.run.get("text") or record.name))
    verdict, kind = _verdict(record)
    drawn = _figure(record, said, f"drawn-{record.name}") if record.state == "whole" else ""
    if record.name == _MAP and drawn:
        drawn = _part("link", "#map", "Its figure stands above.")
    table = _table(record) if record.claims else ""
    shown = Shown(said, verdict, kind, drawn, table, record.run, _facts(record.run))
    return report.Section(
        record.name, said.question, _part("experiment", shown), 3, record.name.replace("_", " ")
    )


def _verdict(record: Record) -> tuple[str, str]:
    """A sentence on how the claims of a run did, and a class of the style."""
    if record.state != "whole":
        return f"{record.state.capitalize()}: {record.why}", "warn"
    count = Counter(claim.verdict for claim in record.claims)
    if count["holds"] == len(record.claims):
        return f"All {len(record.claims)} claims hold.", "good"
    rest = [f"{claim.name} ({claim.verdict})" for claim in record.claims if not claim.holds]
    more = f" and {len(rest) - _FEW} more" if len(rest) > _FEW else ""
    return (
        f"{count['holds']} of {len(record.claims)} claims hold; not: {', '.join(rest[:_FEW])}{more}.",
        "bad",
    )


def _facts(run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    if not run:
        return ()
    took = "not finished" if run["seconds"] is None else f"{run['seconds']:.0f} s"
    versions = f"biasjax {run['version']}, JAX {run['jax_version']}, Python {run['python_version']}"
    said = {
        "took": took,
        "began": run["began"],
        "with": versions,
        "on": run["device"],
        "commit": run["git_commit"],
    }
    return (*said.items(), *((name, str(value)) for name, value in run["config"].items()))


def _row(claim: Claim, *before: Any, name: str = "") -> Row:
    from biasjax import report

    verdict, *rest = claim.cells()
    return report.Row((*before, _part("verdict", verdict, _KINDS[verdict]), *rest, claim.source), name)


def _table(record: Record) -> Any:
    from biasjax import report

    rows = [_row(claim) for claim in record.claims]
    caption = f"Claims of {record.name}"
    return report.table(
        f"claims-{record.name}", _HEADER, rows, caption=caption, right=(2, 3, 4), searchable=False
    )


def _claims(records: Sequence[Record]) -> Any:
    from biasjax import report

    rows = [
        _row(claim, _part("link", f"#{record.name}", record.name))
        for record in records
        for claim in record.claims
    ]
    header = ("experiment", *_HEADER)
    return report.table("all-claims", header, rows, caption=_READING, right=(3, 4, 5), choose=1)


def _runs(records: Sequence[Record]) -> Any:
    from biasjax import report

    rows = []
    for record in records:
        run = record.run
        size = "small" if run.get("smoke") else "default" if run else ""
        seconds = "" if run.get("seconds") is None else f"{run['seconds']:.0f}"
        made = str(run.get("began", ""))[:10], str(run.get("git_commit", ""))[:10], str(run.get("device", ""))
        name = _part("link", f"#{record.name}", record.name)
        rows.append(report.Row((name, record.state, size, seconds, *made)))
    header = ("experiment", "run", "size", "seconds", "day", "commit", "device")
    caption = "Each folder of a run says in run.json how it was made."
    return report.table("all-runs", header, rows, caption=caption, right=(3,), choose=1)


def _changes(records: Sequence[Record], against: Mapping[str, Record]) -> Any:
    from biasjax import report

    rows = []
    for one in changes.changes(records, against):
        both = [
            ("", "") if claim is None else (claim.cells()[0], claim.cells()[3])
            for claim in (one.before, one.after)
        ]
        name = _part("link", f"#{one.experiment}", one.experiment)
        rows.append(report.Row((name, one.name, one.why, *both[0], *both[1])))
    unread = [name for name, record in against.items() if not record.claims]
    caption = f"{len(rows)} claims differ in verdict, or by more than both intervals."
    caption += f" Without claims to compare with: {', '.join(unread)}." if unread else ""
    header = (
        "experiment",
        "claim",
        "differs in",
        "verdict before",
        "measured before",
        "verdict now",
        "measured now",
    )
    return report.table("all-changes", header, rows, caption=caption, choose=2)
