"""Who computes a store now, as the leases say."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from biasjax._sweep import leases
from biasjax._text import table


class Worker(NamedTuple):
    """A process that holds leases.

    Attributes
    ----------
    name, chunks
        Machine and process, and what it holds.
    since, seen
        When it took the first of them, and gave its last sign of life; seconds since the epoch.
    finished
        Number of chunks that it had finished when it took these.
    ended
        Whether it is known to run no more.
    """

    name: str
    chunks: list[int]
    since: float
    seen: float
    finished: int
    ended: bool


def working(store: Path) -> list[Worker]:
    """Workers that hold leases of a store, by name."""
    found: dict[str, Worker] = {}
    for path in leases.files(store / "leases"):
        # One that was removed meanwhile, or is none
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            seen, (word, line) = path.stat().st_mtime, path.read_bytes().split(b"\n")
            about, taken = json.loads(word), json.loads(line)
            name, ended = f"{about['host']}:{about['pid']}", seen == 0 or leases.is_dead(word)
            new = Worker(name, [int(path.stem)], float(taken["since"]), seen, int(taken["finished"]), ended)
            old = found.get(about["token"], new)
            found[about["token"]] = Worker(
                name,
                sorted({*old.chunks, *new.chunks}),
                min(old.since, new.since),
                max(old.seen, new.seen),
                max(old.finished, new.finished),
                old.ended or new.ended,
            )
    return sorted(found.values())


def show(workers: Sequence[Worker]) -> str:
    """Table of workers."""
    now, rows = time.time(), [("worker", "chunks", "since", "last sign of life", "finished before")]
    for one in workers:
        first, *others = one.chunks
        held = f"{first} and {len(others)} more" if others else str(first)
        since, seen = (f"{duration(max(0.0, now - then))} ago" for then in (one.since, one.seen))
        rows.append((one.name, held, since, "ended" if one.ended else seen, str(one.finished)))
    return table(rows, right=(4,))


def duration(seconds: float) -> str:
    """Seconds in words.

    Examples
    --------
    >>> duration(3.2), duration(75), duration(7300)
    ('3 s', '1 min 15 s', '2 h 1 min')
    """
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
