"""What races gave, kept for each kind of machine in ``results/KIND.json`` beside this file."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biasjax import _files, _text, check
from biasjax._sweep import frames
from experiments.benchmarks._race import Race, Timing

FOLDER = Path(__file__).parent / "results"
VERSIONS = ("jax", "jaxlib", "flax", "numpy", "torch")
HEADINGS = ("ratio", "spread", "setup s", "peak MiB")


def machine() -> dict[str, Any]:
    """Say what this machine is; a process of its own asks JAX, which would keep a GPU's memory."""
    code = "import jax; d = jax.devices(); print(len(d), d[0].platform, d[0].device_kind)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    count, kind, name = shown.strip().split(maxsplit=2)
    versions = {name: _version(name) for name in VERSIONS}
    device = _processor() if kind == "cpu" else f"{count} x {name}"
    return {"platform": kind, "device": device, "cores": frames.core_count(), "versions": versions}


def file(machine: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Where results of a kind of machine are kept, e.g. ``cpu-2-cores.json``."""
    kind = f"cpu-{machine['cores']}-cores" if machine["platform"] == "cpu" else machine["device"]
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', kind.lower())}.json"


def kept(path: Path) -> dict[str, Any]:
    """Races of a file, none if it is not there; raises `ValueError` if it is damaged."""
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        return check.fail(f"results {path}", "JSON", error, "Restore it, or remove it.")


def add(
    path: Path, machine: Mapping[str, Any], name: str, race: Race, timings: Sequence[Timing]
) -> dict[str, Any]:
    """Keep one race in place of an earlier one of its name; return all that are kept."""
    found = kept(path)
    rows = {one.name: {"missing": one.missing} if one.missing else _rounded(one) for one in timings}
    found[name] = {"unit": race.unit, "machine": machine, "contenders": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    _files.write(path, (json.dumps(found, indent=1) + "\n").encode())
    return found


def _rounded(one: Timing) -> dict[str, Any]:
    numbers = {"seconds": one.seconds, "spread": one.spread, "setup": one.setup}
    return {name: float(f"{value:.3g}") for name, value in numbers.items()} | {"peak": one.peak}


def table(name: str, kept: Mapping[str, Any]) -> str:
    """One line for each contender, times also as multiples of the first's."""
    rows: list[tuple[str, ...]] = [(name, f"ms per {kept['unit']}", *HEADINGS)]
    contenders = kept["contenders"]
    first = next(iter(contenders.values())).get("seconds")
    for contender, one in contenders.items():
        if "missing" in one:
            rows.append((contender, f"no {one['missing']}", *[""] * 4))
            continue
        numbers = f"{1000 * one['seconds']:.4g}", f"{one['seconds'] / first:.2f}", f"{one['spread']:.2f}"
        rows.append((contender, *numbers, f"{one['setup']:.1f}", str(one["peak"])))
    return _text.table(rows, right=range(1, 6))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
