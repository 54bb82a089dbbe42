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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from biasjax import _files

if TYPE_CHECKING:
    import xarray as xr


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


def load(folder: Path, identity: str, template: Any) -> tuple[list[xr.Dataset], Any]:
    """Reports of the rungs that are done, and the carry of the last one's survivors.

    ``template`` has the carry's structure. What is damaged or missing is computed anew, with a warning.
    """
    reports: list[xr.Dataset] = []
    while (report := _read(folder, identity, len(reports))) is not None:
        reports.append(report)
    if not reports or not reports[-1].attrs["carry"]:
        return reports, None
    carry = _restore(folder / f"carry-{len(reports) - 1}", template)
    if carry is None or checksum(carry) != reports[-1].attrs["carry"]:
        warnings.warn(
            f"{folder}: the carry of rung {len(reports) - 1} is not usable: starting anew", stacklevel=2
        )
        return [], None
    return reports, carry


def finished(folder: Path) -> dict[int, Path]:
    """Files of the rungs that are done, by number, unchecked."""
    return {int(file.name.split("-")[1]): file for file in sorted(folder.glob("rung-*-*.nc"))}


def checksum(carry: Any) -> str:
    """Checksum of all arrays with their dtypes and shapes, nothing for None."""
    if carry is None:
        return ""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(carry):
        found.update(f"{leaf.dtype}{leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def _read(folder: Path, identity: str, rung: int) -> xr.Dataset | None:
    for file in sorted(folder.glob(f"rung-{rung:03d}-*.nc")):
        content = file.read_bytes()
        match = re.fullmatch(r"rung-\d+-([0-9a-f]{16})", file.stem)
        if match and hashlib.sha256(content).hexdigest()[:16] == match[1]:
            report = _files.read_netcdf(io.BytesIO(content))
            if (report.attrs["halving"], report.attrs["rung"]) == (identity, rung):
                return report
        warnings.warn(f"{file} is damaged or another's: its rung is computed anew", stacklevel=2)
    return None


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
