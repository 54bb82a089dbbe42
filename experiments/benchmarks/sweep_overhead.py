"""Overhead of `sweep.run` over a hand-written nested `jax.vmap` of the same training run.

Bars: below 5% at 10,000 points; seconds per point and memory flat as points grow 100 times; a million points
in chunks of 1,000 with a store take at most 1.5 times the peak memory of 10,000. Each round times
both ways one after the other, so that a busy machine slows both; the ratio of medians is what counts.

Printed on 2 cores: .98 of the time of the nested vmaps at 10,000 points; .6 s per 1000 points at 10,000 and
.45 s at 100,000; 571 and 579 MiB. Chunks of one point, on a busy machine: 3,000 at 3.1 ms each and 20,000 at
3.7 ms, of which .4 and .25 ms are not writing the file and 1.7 and 2.2 ms fsync (6.9 ms and more before); a
rerun of 20,000 takes 1.1 s, opening them .4 s.

Peak memory of a process that sweeps over 10,000 and 1,000,000 points and reads all chunks: 321 and 321 MiB
along two axes, 332 and 340 along one (1.02), 380 and 461 for a list of points (1.21).

Command: `python -m experiments.benchmarks.sweep_overhead [--only stores|memory|overhead]`, about three
minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import biasjax as bj
from biasjax._sweep import chunks

AXES = {
    "seed": np.arange(10),
    "learning_rate": np.linspace(0.01, 1.0, 25),
    "bias": np.linspace(-2.0, 2.0, 40),
}


DATA = bj.data.clusters(jax.random.key(0), classes=3, features=4, examples=200)
NETWORK = bj.network.Network(inputs=4, width=4, depth=1, outputs=3, order="dense-bn-relu")


def point(key, *, learning_rate, bias) -> dict:
    """One small training run."""
    numbers = bj.training.Hyperparams(learning_rate)
    train = bj.training.make_train(NETWORK, "sgd", DATA, steps=200, batch_size=16, report_at=(200,))
    history = train(key, bj.network.Scales(bias_mean=bias), numbers)[1]
    return {"loss": history.loss[-1], "accuracy": history.accuracy_running[-1]}


def by_hand(seeds, rates, biases):
    """Evaluate the same grid with nested vmaps."""

    def one(key, rate, bias):
        return point(key, learning_rate=rate, bias=bias)

    over_bias = jax.vmap(one, (None, None, 0))
    over_rate = jax.vmap(over_bias, (None, 0, None))
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(seeds)
    return jax.vmap(over_rate, (0, None, None))(keys, rates, biases)


def timed(call) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextlib.contextmanager
def clocked(module, name: str):
    """Count the seconds spent in a function of a module, in a list of one number."""
    original, spent = getattr(module, name), [0.0]

    def measured(*arguments, **options):
        began = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            spent[0] += time.perf_counter() - began

    setattr(module, name, measured)
    try:
        yield spent
    finally:
        setattr(module, name, original)


def chunks_of_one_point(count: int) -> str:
    """Sweep over so many chunks of one point, go on with it, and open it: a row of the second table."""

    def draw(key, *, x):
        return {"y": x * jax.random.normal(key)}

    axes = {"x": np.arange(float(count))}
    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(bj.sweep.run, draw, axes, store=folder, chunk_size=1, progress=False)
        with clocked(chunks, "write") as writing, clocked(os, "fsync") as syncing:
            first = timed(run)
        again, opened = timed(run), timed(lambda: bj.store.open(folder))
    each = [1000 * seconds / count for seconds in (first, first - writing[0], writing[0], syncing[0])]
    return f"{count:6d}" + "".join(f"{one:9.3f}" for one in each) + f"{again:10.2f}{opened:10.2f}"


def a_million_points(axes) -> str:
    """Sweep over a million points: seconds, files, megabytes, seconds to open, peak memory."""

    def product(key, *, x, y=1.0):
        return {"z": x * y}

    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(bj.sweep.run, product, axes, store=folder, chunk_size=1000, progress=False)
        seconds, opened = timed(run), timed(lambda: bj.store.open(folder))
        sizes = [file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{seconds:.1f} s, {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB, open {opened:.2f} s, {peak:.0f} MiB"
    )


GRIDS = {
    "axes": lambda n: {"axes": {"x": np.arange(n / 1000), "y": np.arange(1e3)}},
    "one axis": lambda n: {"axes": {"x": np.arange(float(n))}},
    "points": lambda n: {"points": bj.sweep.sample({"x": (0.0, 1.0), "y": (0.0, 1.0)}, n)},
}
"""Name -> arguments of a sweep over so many points."""


def peak(grid: str, count: int) -> None:
    """Sweep over so many points in chunks of 1,000 with a store, read each chunk, print the peak memory."""

    def product(key, *, x, y=1.0):
        return {"z": x * y * jax.random.normal(key, (10,))}

    with tempfile.TemporaryDirectory() as folder:
        found = bj.sweep.run(product, **GRIDS[grid](count), store=folder, chunk_size=1000, progress=False)
        step = found.z.shape[0] * 1000 // count
        for first in range(0, found.z.shape[0], step):
            np.asarray(found.z[first : first + step])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def memory() -> None:
    """Print the peak memory of a million points and of 10,000, each in a process of its own."""
    print("grid        10,000 points  1,000,000 points  ratio")
    for grid in GRIDS:
        command = [sys.executable, "-m", __spec__.name, "--peak", grid]
        few, many = (
            int(subprocess.run([*command, str(count)], stdout=subprocess.PIPE, check=True).stdout)
            for count in (10_000, 1_000_000)
        )
        print(f"{grid:10s}  {few:9d} MiB  {many:12d} MiB  {many / few:.2f}")


def stores() -> None:
    """Print what a store of many chunks costs."""
    print("chunks   ms each  not writing  writing  of it fsync   rerun s    open s")
    for count in (3000, 20_000):
        print(chunks_of_one_point(count))
    print(f"10^6 points, 1000 x 1000: {a_million_points({'x': np.arange(1e3), 'y': np.arange(1e3)})}")
    print(f"10^6 points, one axis:    {a_million_points({'x': np.arange(1e6)})}")


def main() -> None:
    """Print the table."""
    arrays = [jnp.asarray(values) for values in AXES.values()]

    def hand():
        fresh = jax.jit(lambda *values: by_hand(*values))  # compiles anew, as each sweep does
        return jax.tree.map(np.asarray, fresh(*arrays))

    def engine():
        return bj.sweep.run(point, AXES, progress=False)

    pairs = [(timed(hand), timed(engine)) for _ in range(5)]
    ours, theirs = statistics.median(e for _, e in pairs), statistics.median(h for h, _ in pairs)
    print(f"10,000 points, compiling included: by hand {theirs:.2f} s, sweep.run {ours:.2f} s")
    print(f"median ratio of the 5 pairs: {statistics.median(e / h for h, e in pairs):.3f}")
    print("points    seconds   s/1000 points   peak memory")
    for seeds in (1, 10, 100):
        with tempfile.TemporaryDirectory() as folder:
            axes = AXES | {"seed": np.arange(seeds)}
            run = functools.partial(bj.sweep.run, point, axes, store=folder, chunk_size=1000, progress=False)
            seconds = timed(run)
            points = seeds * 1000
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{points:7d}  {seconds:8.1f}  {1000 * seconds / points:14.3f}  {peak:8.0f} MiB")
            best = bj.store.open(folder).loss.mean("seed")
            where = {name: float(best[name][i]) for name, i in best.argmin(...).items()}
    print(f"lowest loss of 100,000 runs, mean over seeds: {float(best.min()):.3f} at {where}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("stores", "memory", "overhead"))
    parser.add_argument("--peak", nargs=2)
    options = parser.parse_args()
    if options.peak:
        peak(options.peak[0], int(options.peak[1]))
    else:
        for name, table in {"stores": stores, "memory": memory, "overhead": main}.items():
            if options.only in (None, name):
                table()
