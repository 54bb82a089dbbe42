"""A sweep in a process of its own, for tests that kill, share and distribute it.

`python sweep_worker.py STORE [--shard i/n] [--chunk-size n] [--distributed RANK COUNT PORT] [--slow]`

Beside the store, `computed-PID` lists the chunks that the worker began. `--halt-at n` waits with the n-th for
a file called `go`.
"""

import argparse
import functools
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import stepwise, sweep
from biasjax._sweep import execute, gathering, leases, loop

AXES = {"seed": np.arange(4), "sigma": np.linspace(0.5, 2.0, 5), "shift": np.linspace(-1.0, 1.0, 3)}
STATIC = {"power": [1, 2]}


def point(key, *, sigma, shift, power, slow=False):
    """A few numbers, after work that takes a while if asked to."""
    x = sigma * jax.random.normal(key, (64, 64)) / 8 + shift
    y = jax.lax.fori_loop(0, 1000 if slow else 3, lambda _, y: jnp.tanh(y @ x), x)
    return {"moment": jnp.mean(y**power), "row": y[0, :3], "draw": jax.random.normal(key, (2,))}


def _advance(carry, key, *, scale):
    """A tenth of a long computation."""
    step, x = carry
    noise = jax.random.normal(jax.random.fold_in(key, step), x.shape)
    x = jax.lax.fori_loop(0, 2000, lambda _, x: jnp.tanh(x @ noise), scale * x)
    return step + 1, x


LONG = stepwise.Stepwise(
    start=lambda key, *, scale: (jnp.int32(0), jax.random.normal(key, (64, 64)) / 8),
    advance=_advance,
    finish=lambda carry, key, *, scale: {"steps": carry[0], "x": carry[1][0]},
    steps=12,
)


def watch(folder, halt_at):
    """List the chunks that are computed, and wait with one of them."""
    compute = loop._compute_chunk

    def watched(plan, run, n, *rest):
        with (folder / f"computed-{os.getpid()}").open("a") as file:
            file.write(f"{n}\n")
        while n == halt_at and not (folder / "go").exists():
            time.sleep(0.01)
        compute(plan, run, n, *rest)

    loop._compute_chunk = watched


def trouble(path, rank):
    """What must not make one of two processes wait for the other for ever: unequal memory, a full disk."""
    execute._budget = lambda: 100_000 * (1 + rank)
    print(sweep.run(point, AXES, static=STATIC).moment.size, "points")
    available = gathering._available
    gathering._available = lambda: 1024 * rank + 1
    try:
        sweep.run(point, AXES, static=STATIC)
    except ValueError as error:
        print(error)
    gathering._available = available

    def full(*_):
        raise OSError("no space left")

    sweep.chunks.write = full
    try:
        sweep.run(point, AXES, static=STATIC, store=path)
    except Exception as error:
        print(repr(error))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--shard")
    parser.add_argument("--chunk-size", type=int, default=3)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--distributed", nargs=3, type=int)
    parser.add_argument("--stale", type=float, default=60.0)
    parser.add_argument("--halt-at", type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in a shell's background ignore
    sweep.Leases = functools.partial(leases.Leases, stale=options.stale)
    watch(Path(options.store).parent, options.halt_at)
    if options.distributed:
        rank, count, port = options.distributed
        jax.distributed.initialize(f"localhost:{port}", count, rank)
    if options.long:
        axes = {"seed": np.arange(2), "scale": np.linspace(0.5, 1.0, 3)}
        dataset = sweep.run(LONG, axes, chunk_size=3, store=options.store, checkpoint_every=2)
        print(dataset.attrs.get("missing", "computed"))
        return
    static = STATIC | ({"slow": [True]} if options.slow else {})
    dataset = sweep.run(
        point,
        AXES,
        static=static,
        dims={"row": ("column",)},
        chunk_size=options.chunk_size,
        store=options.store,
        shard=options.shard,
    )
    if options.distributed:
        trouble(f"{options.store}-full", options.distributed[0])
    print(dataset.attrs.get("missing", "computed"))


if __name__ == "__main__":
    main()
