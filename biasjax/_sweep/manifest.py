"""What a store holds: ``manifest.json``, small and checked, and beside it the axes that are long.

The manifest carries a checksum of itself. Every chunk carries the `Manifest.digest`: all that says how its
bytes become rows. So what was edited, damaged or mixed up is refused and never read as something else.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from biasjax import _files, check
from biasjax._sweep import grid
from biasjax._sweep.frames import ALL_AT_ONCE, Batching
from biasjax._sweep.spec import axis_bytes, checksum

FORMAT = 2

# What an honest sweep stays below, so that a manifest is refused before it fills the memory
_MOST_BYTES, _MOST_AXIS_BYTES, _MOST_CHUNKS, _MOST_POINTS, _MOST_DIMENSIONS = 2**23, 2**28, 2**20, 2**32, 48


# What damage and malice make of reading one
_UNREADABLE = (OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


class _OtherFormat(ValueError):
    """A store that another version of this library wrote."""


class Manifest(NamedTuple):
    """What is swept, from `spec.describe`, how its grid is cut, and the values of its axes and points.

    ``table`` has the columns of a list of points, along the axis "point"; ``digest`` is the checksum of
    format, spec, layout and batching, on which the last bits can depend.
    """

    spec: dict[str, Any]
    layout: grid.Layout
    provenance: dict[str, str]
    axes: dict[str, np.ndarray]
    table: dict[str, np.ndarray]
    digest: str
    batching: Batching

    @property
    def lead(self) -> tuple[str, ...]:
        """Static names, then axes."""
        return (*self.spec["static"], *self.axes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the static names, then of the axes."""
        return tuple(len(values) for values in (*self.spec["static"].values(), *self.axes.values()))

    @property
    def coords(self) -> dict[str, np.ndarray]:
        """Labels of the static values, then values of the axes."""
        return {name: np.asarray(labels) for name, labels in self.spec["static"].items()} | self.axes

    @property
    def grid_sizes(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(values) for values in self.axes.values())

    @property
    def combinations(self) -> int:
        """Number of static combinations."""
        return math.prod(len(labels) for labels in self.spec["static"].values())


def begin(
    path: Path,
    spec: dict[str, Any],
    axes: dict[str, np.ndarray],
    layout: grid.Layout,
    table: Mapping[str, np.ndarray],
    batching: Batching = ALL_AT_ONCE,
) -> Manifest:
    """Start a store, cut by a layout, unless another worker is quicker: then its cut counts."""
    layout = grid.Layout(*map(int, layout))
    content = {"format": FORMAT, "spec": spec, "layout": layout._asdict(), "provenance": _files.provenance()}
    if batching != ALL_AT_ONCE:
        content["batching"] = batching._asdict()
    text = json.dumps({"checksum": checksum(_text(content)), **content}, indent=1).encode()
    if len(text) > _MOST_BYTES:
        fix = "Sweep fewer static values, or give them short names."
        check.fail("static", f"a description of at most {_MOST_BYTES} bytes", len(text), fix)
    try:
        _check_size([*spec["static"].values(), *axes.values()], len(spec["static"]), layout)
    except ValueError as error:
        check.fail("store", "a grid that it can hold", error, "Sweep less, or in larger chunks.")
    (path / "chunks").mkdir(parents=True, exist_ok=True)
    for name, entry in (*spec["axes"].items(), *spec.get("points", {}).items()):
        if isinstance(entry, dict):
            _files.write(_axis_file(path, entry), axis_bytes(({**axes, **table})[name]))
    with contextlib.suppress(FileExistsError):
        _files.write(path / "manifest.json", text, replace=False)
    return agreed(path, read(path), spec, axes)


def agreed(path: Path, stored: Manifest, spec: dict[str, Any], axes: dict[str, np.ndarray]) -> Manifest:
    """Return a store's manifest if it is of the sweep that is given, in any order of its names.

    Raises
    ------
    ValueError
        If the folder holds another sweep; the message says what differs.
    """
    # What could not be traced when the store began, or cannot now, is not compared
    known = {at: program for at, program in spec.get("fn at", {}).items() if program is not None}
    traced = {at: known.get(at) and program for at, program in stored.spec.get("fn at", {}).items()}
    there = stored.spec | {"fn at": traced}
    here = spec | {"fn at": {at: known[at] if program else None for at, program in traced.items()}}
    if json.dumps(there, sort_keys=True) != json.dumps(here, sort_keys=True):
        there, here = ({**a, "axes": _lists(b)} for a, b in ((there, stored.axes), (here, axes)))
        fix = "Use another folder, or remove this one."
        got = f"another ({'; '.join(_differences(there, here))})"
        check.fail(f"store {path}", "the sweep that it was started with", got, fix)
    then, now = (provenance.get("jax_version") for provenance in (stored.provenance, _files.provenance()))
    if then != now:
        warnings.warn(f"store {path} began under jax {then}, this is {now}: digits may differ", stacklevel=2)
    return stored


def read(path: Path) -> Manifest:
    """Read what a store holds, or raise `ValueError` if there is no readable manifest."""
    try:
        content = _parsed(path / "manifest.json")
        found = content.get("format", 1)
        if found != FORMAT:
            fix = (
                "Read it with the version of biasjax that wrote it, or run the sweep anew in another folder."
            )
            check.fail(f"store {path}", f"format {FORMAT}", str(found)[:20], fix, _OtherFormat)
        return _valid(path, content)
    except _OtherFormat:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        check.fail(f"store {path}", "a readable manifest.json", repr(error), "Pass the folder of a sweep.")
    except _UNREADABLE as error:
        fix = "Restore it, or remove it and run the same sweep, cut alike: its chunks know it and are kept."
        check.fail(f"store {path}", "a readable manifest.json as it was written", repr(error)[:300], fix)


def _parsed(file: Path) -> dict[str, Any]:
    if (size := file.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"{size} bytes, more than {_MOST_BYTES}")
    return json.loads(file.read_bytes())


def _valid(path: Path, content: dict[str, Any]) -> Manifest:
    """Check a manifest's checksum, types and sizes, and read its axes."""
    claimed = content.pop("checksum")
    _require(claimed == checksum(_text(content)), "its checksum is not that of its content: it was edited")
    spec, layout = content["spec"], grid.Layout(**content["layout"])
    for name, labels in spec["static"].items():
        plain = isinstance(labels, list) and all(isinstance(label, (str, int, float)) for label in labels)
        _require(plain, f"static {name!r} is no list of labels")
    _require(all(isinstance(v, str) for v in content["provenance"].values()), "provenance is no text")
    entries = spec["axes"].items()
    lengths = [entry["size"] if isinstance(entry, dict) else range(len(entry)) for _, entry in entries]
    lengths = [range(size) if isinstance(size, int) else size for size in lengths]
    _check_size([*spec["static"].values(), *lengths], len(spec["static"]), layout)
    axes, table = (
        {name: _axis(path, entry, _dtype(spec["dtypes"][name])) for name, entry in some}
        for some in (entries, spec.get("points", {}).items())
    )
    _require(
        all(len(column) == len(axes["point"]) for column in table.values()), "a column of another length"
    )
    batching = Batching(**content.get("batching", {}))
    counts = (batching.threads, 1 if batching.block is None else batching.block)
    _require(all(type(n) is int and n >= 1 for n in counts), f"no points can be run {batching}")
    known = [content[name] for name in ("layout", "batching") if name in content]
    digest = checksum(_text([FORMAT, spec, *known]))
    return Manifest(spec, layout, content["provenance"], axes, table, digest, batching)


def _check_size(values: list[Any], static: int, layout: grid.Layout) -> None:
    """Raise if a grid cannot be cut so, or into more pieces than files and memory bear."""
    sizes = [len(each) for each in values]
    most = (sizes[static:] or [1])[layout.axis] if type(layout.axis) is int and layout.axis >= 0 else 0
    _require(type(layout.block) is int and 1 <= layout.block <= most, f"the grid cannot be cut by {layout}")
    _require(len(sizes) <= _MOST_DIMENSIONS, f"more than {_MOST_DIMENSIONS} axes and static names")
    _require(0 < math.prod(sizes) <= _MOST_POINTS, f"no points, or more than {_MOST_POINTS}")
    chunks = math.prod(sizes[: static + layout.axis]) * math.ceil(most / layout.block)
    _require(chunks <= _MOST_CHUNKS, f"{chunks} chunks, more than {_MOST_CHUNKS}")


def _axis(path: Path, entry: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Values of an axis, from the manifest itself or from its file."""
    if isinstance(entry, list):
        _require(all(isinstance(value, (int, float)) for value in entry), "an axis is no list of numbers")
        return np.asarray(entry, dtype)
    file, size = _axis_file(path, entry), entry["size"] * dtype.itemsize
    _require(size <= _MOST_AXIS_BYTES, f"an axis of {size} bytes, more than {_MOST_AXIS_BYTES}")
    _require(file.stat().st_size == size, f"{file.name} has not its {size} bytes")
    content = file.read_bytes()
    _require(checksum(content) == entry["sha256"], f"{file.name} has not its checksum")
    return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype)


def _dtype(name: str) -> np.dtype[Any]:
    _require(re.fullmatch(r"bool|(u?int|float|complex)\d+", name) is not None, f"an axis of {name}")
    return np.dtype(name)


def _axis_file(path: Path, entry: dict[str, Any]) -> Path:
    _require(set(entry["sha256"]) <= set("0123456789abcdef"), "an axis's checksum is none")
    return path / f"axis-{entry['sha256'][:16]}.bin"


def _text(content: Any) -> bytes:
    return json.dumps(content).encode()


def _require(met: bool, otherwise: str) -> None:
    if not met:
        raise ValueError(otherwise)


def _lists(axes: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    return {name: values.tolist() for name, values in axes.items()}


def _differences(stored: Any, given: Any, name: str = "") -> list[str]:
    """Say in which entries two specifications differ, and how, whatever the order of their names."""
    if isinstance(stored, dict) and isinstance(given, dict):
        keys = [*stored, *(key for key in given if key not in stored)]
        pairs = [(f"{name} {key}".strip(), stored.get(key), given.get(key)) for key in keys]
    elif isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given) and name:
        pairs = [(f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(stored, given, strict=True))]
    else:
        return [] if repr(stored) == repr(given) else [f"{name}: {stored!r} there, {given!r} here"[:500]]
    return [line for key, a, b in pairs if repr(a) != repr(b) for line in _differences(a, b, key)][:5]
