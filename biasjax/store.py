"""Results on disk: labelled datasets that say where they come from, never half-written."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import jax

import biasjax

if TYPE_CHECKING:
    import xarray as xr


def provenance() -> dict[str, str]:
    """Say what a result was computed with: versions, device and, inside a checkout, the git commit.

    Examples
    --------
    >>> sorted(provenance())
    ['device', 'git_commit', 'jax_version', 'platform', 'python_version', 'version']
    """
    root = Path(__file__).parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return {
        "version": biasjax.__version__,
        "jax_version": importlib.metadata.version("jax"),
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "git_commit": commit,
    }


def save(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write a dataset as netCDF: beside its place first, then moved into it.

    Parameters
    ----------
    dataset
        What to write; its attributes gain `provenance`.
    path
        File name, usually ending in ".nc"; an older file there is replaced.

    Returns
    -------
    Path
        The file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        dataset.assign_attrs(provenance()).to_netcdf(beside, engine="h5netcdf")
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)
    return path


def load(path: str | Path) -> xr.Dataset:
    """Read a dataset that `save` wrote, into memory."""
    import xarray as xr

    return xr.load_dataset(path, engine="h5netcdf")
