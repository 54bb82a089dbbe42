"""A progress bar over the points of a sweep, on a terminal and nowhere else."""

from __future__ import annotations

import sys
import time
from typing import Any


class Bar:
    """Points done, points per second, time left, and the time spent compiling, shown apart.

    A host-side loop drives it; without a terminal, or without rich, it does nothing.
    """

    def __init__(self, total: int, *, enabled: bool = True):
        self._bar: Any = None
        self._running, self._points = 0.0, 0
        if enabled and sys.stderr.isatty():
            self._bar = _rich_bar()
        if self._bar is not None:
            self._task = self._bar.add_task("compiling", total=total, rate="", compiled=0.0)

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def describe(self, text: str) -> None:
        """Say what runs now."""
        if self._bar is not None:
            self._bar.update(self._task, description=text or "points")

    def wait(self, chunks: int) -> None:
        """Say that other workers compute all that is left."""
        self.describe(f"waiting for {chunks} {'chunk' if chunks == 1 else 'chunks'} of other workers")

    def skip(self, points: int) -> None:
        """Count points that another worker ran."""
        if self._bar is not None:
            self._bar.update(self._task, advance=points)

    def compiled(self, seconds: float) -> None:
        """Add time spent waiting for the compiler."""
        if self._bar is not None:
            total = self._bar.tasks[self._task].fields["compiled"] + seconds
            self._bar.update(self._task, compiled=total)

    def advance(self, points: int, began: float) -> None:
        """Count points that ran since ``began`` (from `time.perf_counter`)."""
        self._points += points
        self._running += time.perf_counter() - began
        if self._bar is not None:
            rate = f"{self._points / max(self._running, 1e-9):,.0f} points/s"
            self._bar.update(self._task, advance=points, rate=rate)


def _rich_bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("compiled {task.fields[compiled]:.0f} s"),
        console=Console(stderr=True),
        transient=True,
    )
