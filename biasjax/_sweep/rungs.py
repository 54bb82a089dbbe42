"""A halving on disk: what each rung reported, and the carry of those that went on, bound to each other.

``rung-INDEX-CHECKSUM.nc`` is written last and so decides that a rung is done; it names the halving, its rung
and the checksum of the carry that was written before it.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from biasjax import _files, _status, check
from biasjax._sweep import points
from biasjax._sweep.manifest import Manifest

if TYPE_CHECKING:
    import xarray as xr

_NAME = re.compile(r"rung-(\d{3,})-([0-9a-f]{16})\.nc")


def save(folder: Path, identity: str, rung: int, report: xr.Dataset, carry: Any) -> None:
    """Write a rung: the carry of its survivors (None if none goes on), then its report."""
    if carry is not None:
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / f"carry-{rung}", _leaves(carry), force=True)
            checkpointer.wait_until_finished()
    attrs = {"halving": identity, "rung": rung, "carry": checksum(carry)}
    content = _files.netcdf(report.assign_attrs(attrs))
    name = f"rung-{rung:03d}-{hashlib.sha256(content).hexdigest()[:16]}.nc"
    _files.write(folder / name, content)
    for older in folder.glob("carry-*"):
        if older.name != f"carry-{rung}":
            shutil.rmtree(older, ignore_errors=True)


def reports(folder: Path, identity: str) -> list[xr.Dataset]:
    """Reports of the rungs that are done, in order, up to the first that is damaged or missing."""
    found: list[xr.Dataset] = []
    while (report := _read(folder, identity, len(found))) is not None:
        found.append(report)
    return found


def is_over(found: Sequence[xr.Dataset]) -> bool:
    """Whether these reports are all that there will be: after the last of them nothing goes on."""
    return bool(found) and not found[-1].attrs["carry"]


def restore(folder: Path, found: Sequence[xr.Dataset], template: Any) -> tuple[list[xr.Dataset], Any]:
    """Reports and the carry of the last one's survivors; none of either, with a warning, if it is damaged.

    ``template`` has the carry's structure.
    """
    if not found or is_over(found):
        return [*found], None
    last = len(found) - 1
    carry = _restore(folder / f"carry-{last}", template)
    if carry is None or checksum(carry) != found[-1].attrs["carry"]:
        warnings.warn(f"{folder}: the carry of rung {last} is not usable: starting anew", stacklevel=2)
        return [], None
    return [*found], carry


def finished(folder: Path) -> dict[int, Path]:
    """Files of the rungs that are done, by number, unchecked."""
    matches = [(_NAME.fullmatch(file.name), file) for file in sorted(folder.glob("rung-*-*.nc"))]
    return {int(match[1]): file for match, file in matches if match}


def damaged(folder: Path, identity: str) -> dict[int, str]:
    """Rungs whose file is not what was written as theirs: what is wrong."""
    found = {}
    for rung, file in finished(folder).items():
        if _content(file, identity, rung) is None:
            found[rung] = f"{file} is damaged or another's: call sweep.halve again"
    return found


def checksum(carry: Any) -> str:
    """Checksum of all arrays with their dtypes and shapes, nothing for None."""
    if carry is None:
        return ""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(carry):
        found.update(f"{leaf.dtype}{leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def dataset(folder: Path, stored: Manifest) -> xr.Dataset:
    """What a halving found so far; the attribute ``missing`` says how many of its rungs are not done."""
    found, chosen = reports(folder, stored.digest), stored.spec["halving"]
    if not found:
        check.fail(f"store {folder}", "at least one finished rung", 0, "Run sweep.halve first.")
    whole = assemble(found, chosen["bounds"], stored.table).assign_attrs(stored.provenance)
    total = len(chosen["counts"])
    return whole if is_over(found) else whole.assign_attrs(missing=f"{total - len(found)} of {total} rungs")


def assemble(
    found: Sequence[xr.Dataset], bounds: Sequence[int], table: Mapping[str, np.ndarray]
) -> xr.Dataset:
    """Last report of each point, with the rung that it came from."""
    whole = found[0].copy(deep=True)
    rung = np.zeros(whole.sizes[points.DIM], int)
    for i, report in enumerate(found[1:], 1):
        here = report[points.DIM].values
        rung[here] = i
        for name, value in report.data_vars.items():
            whole[name].loc[{points.DIM: here}] = value.values
    steps, seeds = np.asarray(bounds[1:])[rung], whole.status.size // rung.size
    whole = whole.assign(rung=(points.DIM, rung), steps=(points.DIM, steps))
    whole = whole.assign_coords({name: (points.DIM, values) for name, values in table.items()})
    whole["status"].attrs = _status.ATTRS
    whole.attrs = {
        "model_steps": int(steps.sum()) * seeds,
        "model_steps_of_all": bounds[-1] * rung.size * seeds,
    }
    return whole


def _read(folder: Path, identity: str, rung: int) -> xr.Dataset | None:
    for file in sorted(folder.glob(f"rung-{rung:03d}-*.nc")):
        if (report := _content(file, identity, rung)) is not None:
            return report
        warnings.warn(f"{file} is damaged or another's: its rung counts as not done", stacklevel=3)
    return None


def _content(file: Path, identity: str, rung: int) -> xr.Dataset | None:
    """Report in a file, or None if these are not the bytes that were written, of this halving and rung."""
    match, content = _NAME.fullmatch(file.name), file.read_bytes()
    if match is None or hashlib.sha256(content).hexdigest()[:16] != match[2]:
        return None
    report = _files.read_netcdf(io.BytesIO(content))
    return report if (report.attrs["halving"], report.attrs["rung"]) == (identity, rung) else None


def _leaves(carry: Any) -> dict[str, np.ndarray]:
    return {f"{i:06d}": leaf for i, leaf in enumerate(jax.tree.leaves(carry))}


def _restore(folder: Path, template: Any) -> Any:
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = checkpointer.restore(folder)
        leaves = [np.asarray(found[f"{i:06d}"]) for i in range(len(found))]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)
    except Exception:  # damaged or gone, in whatever way
        return None
