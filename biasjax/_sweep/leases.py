"""Leases: which worker computes which chunk of a store that several share, and who goes on for a lost one.

``leases/NUMBER.TURN`` is created exclusively by the worker that computes a chunk, and touched while it
lives; it says whose it is, and in a second line since when and how many chunks that worker had finished. Once
a turn is stale, the next may be taken. Turns are removed when their chunk is finished and not before, and
whoever takes one then asks whether it is, so that none computes what another does or has done.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import platform
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from biasjax import check

_NAME = re.compile(r"[0-9]{6,}\.[0-9]+")


class Leases(NamedTuple):
    """Leases on the chunks of a store.

    ``done()`` lists the finished chunks. A lease is stale ``stale`` seconds after its worker's last sign of
    life, by the clock of the disk, and at once if that worker is known to have ended: it gave the chunk back,
    or was a process of this machine.
    """

    store: Path
    done: Callable[[], Container[int]]
    stale: float = 60.0


def files(folder: Path) -> list[Path]:
    """Files that have names of leases."""
    return [path for path in folder.glob("*.*") if _NAME.fullmatch(path.name)]


class Lost(Exception):
    """Another worker goes on with a chunk, since this one gave no sign of life for too long."""


@contextlib.contextmanager
def hold(leases: Leases) -> Iterator[Held]:
    """Give back at the end, however it comes, what this worker still holds."""
    held = Held(leases)
    try:
        yield held
    except Exception as error:
        if (leases.store / "chunks").is_dir():
            raise
        got = f"none ({error!r}): it was removed during the sweep"
        fix = f"All in it is lost, of this run {held.finished} chunks; the same call computes them again."
        check.fail(f"store {leases.store}", "the folder that the sweep began in", got, fix, FileNotFoundError)
    finally:
        held.close()


class Held:
    """The leases of this worker, kept from going stale by a thread."""

    def __init__(self, leases: Leases):
        self.finished = 0
        self._leases, self._folder = leases, leases.store / "leases"
        self._word = json.dumps(_worker() | {"token": uuid.uuid4().hex}).encode()
        self._turns: dict[int, int] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def chunks(
        self, todo: Sequence[int], skip: Callable[[int], None], wait: Callable[[int], None]
    ) -> Iterator[int]:
        """Yield the chunks that this worker has to compute, until all are finished, by whomever.

        ``skip(n)`` is told of a chunk that another worker has finished, and ``wait(count)`` that others
        compute all that are left. Short chunks are taken for a second at once, as listing what is done takes
        longer the more there is.
        """
        # Those of lost workers come first where they are, as they may have checkpoints
        left, seen = collections.deque(todo), {int(path.stem) for path in self._all()}
        done, most, pause = self._leases.done(), 1, 0.02
        while left:
            began, mine = time.monotonic(), self._take_some(left, seen, done, most, skip)
            done = self._leases.done()
            for n in mine:
                if n not in done:
                    yield n
                if not self._finish(n):
                    left.append(n)
            if mine:
                most = max(1, min(2 * most, int(most / (time.monotonic() - began + 1e-9))))
                pause = 0.02
            elif left:
                wait(len(left))
                time.sleep(pause)
                pause = min(1.5 * pause, 1.0, self._leases.stale / 6)
        self._tidy()

    def keep(self, n: int) -> None:
        """Raise `Lost` if a chunk is no longer this worker's."""
        if not self._holds(n, self._turns[n]):
            raise Lost

    def close(self) -> None:
        """Give back what is unfinished; others take it at once."""
        self._ended.set()
        if self._heart.is_alive():
            self._heart.join()
        for n, turn in self._turns.items():
            with contextlib.suppress(OSError):
                if self._holds(n, turn):
                    os.utime(self._path(n, turn), (0, 0))
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _all(self) -> list[Path]:
        return files(self._folder)

    def _path(self, n: int, turn: int) -> Path:
        return self._folder / f"{n:06d}.{turn}"

    def _take_some(
        self,
        left: collections.deque[int],
        seen: set[int],
        done: Container[int],
        most: int,
        skip: Callable[[int], None],
    ) -> list[int]:
        """Take chunks from those that are left, looking at each once; what others hold goes to the end."""
        mine: list[int] = []
        for _ in range(len(left)):
            n = left.popleft()
            if n in done:
                skip(n)
            elif self._take(n, n in seen):
                mine.append(n)
            else:  # at the second look, after all others, its lease may be stale
                left.append(n)
                seen.add(n)
            if len(mine) == most:
                break
        return mine

    def _take(self, n: int, over: bool) -> bool:
        """Take a chunk that nobody has, or ``over`` one whose lease is stale."""
        turn = 0
        if over:
            while self._path(n, turn).exists():
                turn += 1
            if turn and not self._is_stale(self._path(n, turn - 1)):
                return False
        with self._lock:  # noted first, so that an interrupt between the two loses nothing
            self._turns[n] = turn
        if not self._create(self._path(n, turn)):
            with self._lock:
                del self._turns[n]
            return False
        if self._heart.ident is None:
            self._heart.start()
        return True

    def _create(self, path: Path) -> bool:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        except FileNotFoundError:  # the last worker to leave removes the folder
            self._folder.mkdir(exist_ok=True)
            return self._create(path)
        try:
            with os.fdopen(handle, "wb") as file:
                # The time of the disk, as what is written later has it
                taken = {"since": os.fstat(handle).st_mtime, "finished": self.finished}
                file.write(self._word + b"\n" + json.dumps(taken).encode())
        except BaseException:  # a full disk
            path.unlink(missing_ok=True)
            raise
        return True

    def _is_stale(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:  # opening asks the server of a network disk for the time anew
                word, touched = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:  # finished
            return False
        # A new file has the time of the disk, which may be another than this machine's
        with tempfile.TemporaryFile(dir=self._folder) as probe:
            now = os.fstat(probe.fileno()).st_mtime
        # Of the future is what was written before the clock was set back, or the store copied
        return abs(now - touched) > self._leases.stale or is_dead(word.split(b"\n")[0])

    def _holds(self, n: int, turn: int) -> bool:
        try:
            mine = self._path(n, turn).read_bytes().startswith(self._word)
            return mine and not self._path(n, turn + 1).exists()
        except FileNotFoundError:
            return False

    def _finish(self, n: int) -> bool:
        """Remove a finished chunk's leases, unless it has become another's."""
        with self._lock:
            turn = self._turns.pop(n)
        if not self._holds(n, turn):
            return False
        for earlier in range(turn + 1):
            self._path(n, earlier).unlink(missing_ok=True)
        self.finished += 1
        return True

    def _beat(self) -> None:
        while not self._ended.wait(self._leases.stale / 6):
            with self._lock:
                for n, turn in self._turns.items():
                    with contextlib.suppress(OSError):
                        os.utime(self._path(n, turn))

    def _tidy(self) -> None:
        """Remove leases of workers that were killed after their chunk was finished."""
        done = self._leases.done()
        for path in self._all():
            if int(path.stem) in done:
                with contextlib.suppress(OSError):
                    path.unlink()


def _worker() -> dict[str, str | int]:
    """Say who this process is, so that others of its machine can tell whether it lives."""
    pid = os.getpid()
    about: dict[str, str | int] = {"host": platform.node(), "pid": pid}
    with contextlib.suppress(OSError):  # Linux alone tells
        about |= {"machine": _machine(), "started": _started(pid)}
    return about


def _machine() -> str:
    """What numbers processes: a kernel since its start, and a container's namespace."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")


def _started(pid: int) -> str:
    """When a process began, as its kernel counts, or nothing if it has ended and waits for its parent."""
    state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def is_dead(word: bytes) -> bool:
    """Whether the worker that wrote a lease was a process of this machine and runs no more."""
    try:
        about = json.loads(word)
        if about["machine"] != _machine():
            return False
        os.kill(about["pid"], 0)
        return _started(about["pid"]) != about["started"]  # another may have its number now
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
