"""Files that are whole or not there, and what a result was computed with."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import os
import platform
import subprocess
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

import biasjax
from biasjax import check

if TYPE_CHECKING:
    import xarray as xr


def as_path(what: str, value: Any) -> Path:
    """Return the path of a file or folder, or raise.

    Examples
    --------
    >>> as_path("store", 3)
    Traceback (most recent call last):
    TypeError: store: expected a path, got 3. Pass a str or a pathlib.Path.
    """
    if not isinstance(value, str | Path):
        check.fail(what, "a path", repr(value), "Pass a str or a pathlib.Path.", TypeError)
    if not str(value) or "\0" in str(value):
        check.fail(what, "a path", repr(value), "Give the name of a file or folder.")
    return Path(value)


def write(path: str | Path, content: bytes, *, replace: bool = True) -> Path:
    """Write a file beside its place, make sure that it is on disk, and move it there.

    The folder has to exist. Without ``replace``, `FileExistsError` is raised where a file stands already.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(beside, "xb") as file:  # readable by whom the umask says, unlike those of tempfile
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(beside, path)
        else:
            _move_to_free_place(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def remove_stale(folder: Path, *, older: float = 3600.0) -> None:
    """Remove files beside their place whose writers were killed: those untouched for so many seconds."""
    for file in folder.glob(".?*.????????"):
        with contextlib.suppress(OSError):  # another worker was quicker
            if time.time() - file.lstat().st_mtime > older:
                file.unlink()


def _move_to_free_place(beside: Path, path: Path) -> None:
    """Move a file where none stands, or raise `FileExistsError`."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: who makes the claim moves the file
        claim = path.with_name(f".{path.name}.claiming")
        with _claimed(claim):
            if path.exists():
                raise FileExistsError(path) from None
            os.replace(beside, path)


@contextlib.contextmanager
def _claimed(claim: Path, seconds: float = 5.0) -> Generator[None, None, None]:
    """Hold a file that one process can make at a time; one that was left by a dead process is taken over."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                claim.unlink(missing_ok=True)
            time.sleep(0.01)
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)


def netcdf(dataset: xr.Dataset) -> bytes:
    """Encode a dataset as netCDF, in memory."""
    untyped: Any = dataset  # xarray's own types are partly unknown
    return bytes(untyped.to_netcdf(engine="h5netcdf"))


def read_netcdf(source: str | Path | io.BytesIO) -> xr.Dataset:
    """Read a dataset from netCDF, whole."""
    import xarray

    untyped: Any = xarray
    return untyped.load_dataset(source, engine="h5netcdf")


@functools.cache
def provenance() -> dict[str, str]:
    """Say what a result was computed with: versions, device and, inside a checkout, the git commit.

    Examples
    --------
    >>> sorted(provenance())
    ['device', 'git_commit', 'jax_version', 'platform', 'python_version', 'version']
    """
    untyped: Any = jax  # whose own types are partly unknown, too
    devices = untyped.devices()
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
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "git_commit": commit,
    }
