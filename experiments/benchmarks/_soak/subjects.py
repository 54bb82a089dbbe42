"""Small sweeps, and what is needed to disturb them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import xarray as xr

from biasjax import stepwise, sweep

# Seconds that a call may take
MOST = 6.0


def point(key, *, sigma, shift, power) -> dict:
    """A few numbers of several types."""
    x = sigma * jax.random.normal(key, (8,)) + shift
    return {"moment": jnp.mean(x**power), "row": x[:3], "count": (x > 0).sum(), "up": x[0] > 0}


LONG = stepwise.Stepwise(
    start=lambda key, *, sigma, shift: (jnp.int32(0), jnp.full(4, shift)),
    advance=lambda carry, key, *, sigma, shift: (
        carry[0] + 1,
        jnp.tanh(carry[1] + sigma * jax.random.normal(jax.random.fold_in(key, carry[0]), (4,))),
    ),
    finish=lambda carry, key, *, sigma, shift: {"steps": carry[0], "x": carry[1]},
    steps=4,
)
AXES = {"seed": [0, 1], "sigma": [0.5, 1.0, 2.0], "shift": [-1.0, 0.0]}
SUBJECTS = {"plain": (point, {"power": [1, 2]}, 1), "stepwise": (LONG, {}, 2)}
"""Name -> function, static values, points of a chunk."""


class Whole(NamedTuple):
    """An undisturbed run: its store, result and files, and a store of another sweep of the same shape."""

    name: str
    path: Path
    dataset: xr.Dataset
    files: dict[str, bytes]
    other: Path


class Fault(NamedTuple):
    """What was said of a fault, and has to be; files that have to stay; what it has cost already."""

    names: Sequence[str] = ()
    said: Sequence[str] = ()
    kept: dict[str, int] | None = None
    lost: int = 0
    wrong: bool = False


class Stop(BaseException):
    """Ends a sweep in this process, as an interrupt would."""


class Hung(Exception):
    """A call did not end."""


def run(name: str, path: Path, *, axes: dict[str, Any] = AXES, **options) -> xr.Dataset:
    """Sweep a subject into a store, and read the result whole."""
    fn, static, size = SUBJECTS[name]
    some = {"static": static, "chunk_size": size, "progress": False, **options}
    return sweep.run(fn, axes, store=path, **some).load()


def attempt(call: Callable[[], Any], said: list[str]) -> Any:
    """Return what a call returns, or None; what it raises or warns of is added to what is said."""

    def hung(*_):
        raise Hung(f"no end after {MOST} s")

    signal.signal(signal.SIGALRM, hung)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        signal.setitimer(signal.ITIMER_REAL, MOST)
        try:
            return call()
        except (Exception, Stop) as error:
            said += [repr(error), *getattr(error, "__notes__", ())]
            return None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            said += [str(warning.message) for warning in caught]


def undamaged(whole: Whole, path: Path) -> dict[str, int]:
    """Files of a store that are as they were written, or nobody's, with the times of their writing."""
    files = (file for file in path.glob("chunks/[!.]*") if file.suffix != ".nc" or _is_whole(whole, file))
    return {file.name: file.stat().st_mtime_ns for file in files}


def differs(found: xr.Dataset, whole: xr.Dataset) -> bool:
    """Whether any value that was computed is another."""
    done = found.get("computed", True)
    try:
        found, whole = xr.align(found.transpose(*whole.dims), whole, join="exact")
        return not all(bool(((found[name] == whole[name]) | (done == 0)).all()) for name in whole.data_vars)
    except (KeyError, ValueError):
        return True


def _is_whole(whole: Whole, file: Path) -> bool:
    return whole.files.get(file.name) == file.read_bytes()


def begun(whole: Whole, path: Path, rng: random.Random) -> list[Path]:
    """Make a store that lacks some chunks; return the files of those that it has."""
    shutil.copytree(whole.path, path)
    files = sorted(path.glob("chunks/*.nc"))
    for file in rng.sample(files, rng.randrange(len(files) - 2)):
        file.unlink()
    return sorted(path.glob("chunks/*.nc"))


def any_chunk(whole: Whole, rng: random.Random) -> int:
    """Number of a chunk, the last ones excepted."""
    return rng.randrange(len(whole.files) - 2)


def after(count: int, act: Callable[[], None]) -> Callable[[], None]:
    """Make a function that acts when it is called for the n-th time, from 0."""
    left = iter(range(count, -1, -1))
    return lambda: act() if next(left, -1) == 0 else None


@contextlib.contextmanager
def before(module: Any, name: str, act: Callable[[], None]) -> Iterator[None]:
    """Act before each call of a module's function."""
    original = getattr(module, name)

    def acting(*arguments, **options):
        act()
        return original(*arguments, **options)

    with mock.patch.object(module, name, acting):
        yield


def stop() -> None:
    """End the sweep."""
    raise Stop


def failing(number: int) -> Callable[..., None]:
    """Make a function that the system refuses."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def flip(file: Path, rng: random.Random) -> None:
    """Flip a bit of a file."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
