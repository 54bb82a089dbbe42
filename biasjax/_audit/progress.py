"""What an audit that takes long is at, on a terminal."""

from __future__ import annotations

import sys


def at(what: str = "") -> None:
    """Show what is done now in place of what was done before, or nothing; not where output goes to a file."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)
