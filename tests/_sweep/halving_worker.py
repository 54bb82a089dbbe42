"""A halving in a process of its own, for tests that kill it: `python halving_worker.py STORE [PLACE]`.

Beside the store, `said-PID` lists the rungs that the process began, and that it waits for another. It stops
for ever at a PLACE: "rung 2", before the second, or "report 2", between its carry and its report.
"""

import functools
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import sweep
from biasjax._sweep import progress, rungs
from biasjax.stepwise import Stepwise

# A carry with a key, an integer and a narrow float: all that is hard to write
DESCENT = Stepwise(
    start=lambda key, *, rate: (key, jnp.int32(0), jnp.ones(2), jnp.bfloat16(1.5)),
    advance=lambda carry, key, *, rate: (
        jax.random.split(carry[0])[0],
        carry[1] + 1,
        carry[2] * (1 - rate) * (1 + 0.1 * jax.random.normal(carry[0], (2,))),
        carry[3],
    ),
    finish=lambda carry, key, *, rate: {"loss": jnp.sum(carry[2] ** 2), "done": carry[1], "x": carry[2]},
    steps=12,
)
POINTS = {"rate": np.linspace(0.05, 1.95, 13)}
halve = functools.partial(
    sweep.halve, DESCENT, POINTS, rungs=(3, 8), keep=1 / 3, metric="loss", seeds=[0, 5], dims={"x": ("axis",)}
)


def main():
    store, place = Path(sys.argv[1]), " ".join(sys.argv[2:])

    def say(words):
        with (store.parent / f"said-{os.getpid()}").open("a") as file:
            file.write(f"{words}\n")
        while place and words.startswith(place):
            time.sleep(0.01)

    save = rungs._files.netcdf

    def before_report(report):
        if "rung" in report.attrs:
            say(f"report {report.attrs['rung'] + 1}")
        return save(report)

    progress.Bar.describe = lambda self, text: say(text)
    rungs._files.netcdf = before_report
    halve(store=store)


if __name__ == "__main__":
    main()
