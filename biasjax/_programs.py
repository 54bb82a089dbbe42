"""Compiled programs, kept on disk for the next start of the command lines."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import time
from pathlib import Path
from typing import Any

import jax

# Programs that no start has written for so long are compiled anew
_DAYS = 30


def keep() -> None:
    """Keep what is compiled from here on, and use what is kept, in a folder of the user's own.

    A folder that JAX was told of (``JAX_COMPILATION_CACHE_DIR``) stays; without a home nothing is kept.
    """
    config: Any = jax.config  # whose own types are partly unknown
    if config.jax_compilation_cache_dir:
        return
    with contextlib.suppress(OSError, RuntimeError):  # read-only, or no home
        here = folder() / _machine()
        here.mkdir(parents=True, exist_ok=True)
        _tidy(here.parent)
        config.update("jax_compilation_cache_dir", str(here))
        # Small programs, too: a start has many, and reading one takes a tenth of the time
        config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def folder() -> Path:
    """Where programs are kept, ``$XDG_CACHE_HOME/biasjax`` or ``~/.cache/biasjax``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one is to be ignored, says its specification: it may be anybody's folder
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "biasjax"


def _tidy(root: Path) -> None:
    """Remove JAX's files, and no others, that are old, or empty as a full disk leaves them."""
    for file in root.glob("*-????????????/*-cache"):
        with contextlib.suppress(OSError):  # another start was quicker
            stat = file.stat()
            if not stat.st_size or time.time() - stat.st_mtime > 86400 * _DAYS:
                file.unlink()


def _machine() -> str:
    """Name version and processor: machines that share a home may not run each other's programs."""
    kind = platform.processor() + platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        kind += found[0] if found else ""
    return f"{importlib.metadata.version('jaxlib')}-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
