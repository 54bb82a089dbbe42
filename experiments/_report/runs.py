"""What a run leaves beside dataset and figure: `run.json` says how it was made, `claims.json` what it found.

`run.json` stands there from the start, without seconds until the run has finished, so that one that was
interrupted is known by it, whatever an earlier run has left.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

from experiments.claims import SIGNS, Claim

RUN, CLAIMS = "run.json", "claims.json"
_SAID = {"config": dict, "smoke": bool, "seconds": (int, float, NoneType)} | dict.fromkeys(
    ("text", "command", "began", "version", "jax_version", "python_version", "device", "git_commit"), str
)


class Record(NamedTuple):
    """What is known of one experiment's run, from its files alone.

    Attributes
    ----------
    name
        Of the experiment.
    folder
        Where its files are.
    state
        "whole"; or "missing", "half-written" (interrupted, or with files that cannot be read), "older" (made
        before runs said how).
    why
        In a sentence, unless it is whole.
    run
        What `begin` and `finish` wrote; empty if nothing is known.
    claims
        As they are in `claims.json`.
    """

    name: str
    folder: Path
    state: str
    why: str = ""
    run: Mapping[str, Any] = MappingProxyType({})
    claims: tuple[Claim, ...] = ()

    @property
    def figure(self) -> Path:
        """The drawn figure."""
        return self.folder / f"{self.name}.svg"


def begin(folder: Path, name: str, text: str, config: Any, default: Any, *, smoke: bool) -> dict[str, Any]:
    """Say how a run is made, before anything is computed; returns what it says.

    Parameters
    ----------
    folder
        Of the run; made.
    name, text
        Of the experiment: its name and docstring.
    config, default
        Of this run, and what it would be without options.
    smoke
        Whether that is the small one.
    """
    from biasjax import _files

    folder.mkdir(parents=True, exist_ok=True)
    said = {
        "experiment": name,
        "text": text,
        "config": dataclasses.asdict(config),
        "smoke": smoke,
        "command": " ".join(
            ["python -m experiments", name, *smoke * ["--smoke"], *_options(config, default)]
        ),
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": None,
        **_files.provenance(),
    }
    _write(said, folder / RUN)
    return said


def _options(config: Any, default: Any) -> list[str]:
    """What was typed to have these values."""
    words = []
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), field.name.replace("_", "-")
        if value == getattr(default, field.name):
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def finish(folder: Path, said: dict[str, Any], seconds: float) -> None:
    """Add that a run has finished, and how long it took."""
    _write(said | {"seconds": round(seconds, 1)}, folder / RUN)


def write_claims(claims: Sequence[Claim], folder: Path) -> None:
    """Write claims as JSON, all of the file or nothing."""
    _write([claim.to_dict() for claim in claims], folder / CLAIMS)


def read(folder: Path, name: str) -> Record:
    """Read what a run left; whatever is missing or broken is said, never raised."""
    record = Record(name, folder, "whole")
    if not folder.is_dir() or not any(folder.iterdir()):
        return record._replace(state="missing", why="It was not run.")
    try:
        if not (folder / RUN).exists():
            why = f"It has no {RUN}: it was stopped at once, or made by a version that did not write one."
            return record._replace(state="older", why=why, claims=_claims_if_any(folder))
        record = record._replace(run=_read_run(folder, name))
        if record.run["seconds"] is None:
            why = f"It began {record.run['began']} and did not finish."
            return record._replace(state="half-written", why=why)
        record = record._replace(claims=read_claims(folder))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        return record._replace(state="half-written", why=f"A file of it cannot be read: {why}.")
    if not record.figure.exists():
        return record._replace(state="half-written", why=f"{record.figure.name} is missing.")
    return record


def _claims_if_any(folder: Path) -> tuple[Claim, ...]:
    return read_claims(folder) if (folder / CLAIMS).exists() else ()


def read_claims(folder: Path) -> tuple[Claim, ...]:
    """Claims of a folder; raises where they are not."""
    held = json.loads((folder / CLAIMS).read_text(encoding="utf-8"))
    found = tuple(Claim(**{name: one[name] for name in Claim._fields}) for one in held)
    for claim in found:
        numbers = [x for x in claim[3:] if x is not None]
        if claim.relation not in SIGNS or not all(isinstance(x, (int, float)) for x in numbers):
            raise ValueError(f"{CLAIMS} has {claim.name!r} without numbers")
    return found


def _read_run(folder: Path, name: str) -> dict[str, Any]:
    said = json.loads((folder / RUN).read_text(encoding="utf-8"))
    if not isinstance(said, dict) or said.get("experiment") != name:
        raise ValueError(f"{RUN} is not of {name}")
    wrong = [key for key, kind in _SAID.items() if key not in said or not isinstance(said[key], kind)]
    if wrong:
        raise ValueError(f"{RUN} does not say {', '.join(wrong)}")
    return said


def _write(content: Any, path: Path) -> None:
    from biasjax import _files

    _files.write(path, f"{json.dumps(content, indent=2)}\n".encode())
