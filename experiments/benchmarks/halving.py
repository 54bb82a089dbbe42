"""`sweep.halve` against the full sweep: 1,024 points of learning rate x sigma_w x bias, on the 8x8 digits.

Bars: at least 3 times fewer model-steps, and the best point of the full sweep, or one that 10 new seeds do
not tell from it.

Printed: 3,456 model-steps (of 20 updates) in 6 s in place of 15,360 in 14 s, 4.4 times fewer; 768, 192 and
64 points ended on the rungs. Both found the same point: learning rate .483, sigma_w 2.33, bias .264, loss
.0288 (10 new seeds .067 +- .006).

Command: `python -m experiments.benchmarks.halving`.
"""

from __future__ import annotations

import time

import jax
import numpy as np

import biasjax as bj

POINTS, UPDATES, EVERY = 1024, 300, 20
SPACE = {"learning_rate": bj.sweep.log(1e-3, 3.0), "sigma_w": (0.5, 3.0), "bias": (-2.0, 2.0)}


def training() -> bj.stepwise.Stepwise:
    """Training runs that report the mean loss of their last updates."""
    data = bj.data.flatten(bj.data.digits())
    network = bj.network.Network(inputs=64, width=32, depth=3, outputs=10, order="dense-tanh")
    reports = range(EVERY, UPDATES + 1, EVERY)
    run = bj.training.make_steps(network, "sgd", data, steps=UPDATES, batch_size=32, report_at=reports)

    def numbers(learning_rate, sigma_w, bias):
        return bj.network.Scales(sigma_w, bias_mean=bias), bj.training.Hyperparams(learning_rate)

    def finish(carry, key, **point):
        last = jax.lax.dynamic_slice(carry.loss, (EVERY * (carry.reported - 1),), (EVERY,))
        return {"loss": last.mean()}

    return bj.stepwise.Stepwise(
        start=lambda key, **point: run.start(key, *numbers(**point)),
        advance=lambda carry, key, **point: run.advance(carry, key, *numbers(**point)),
        finish=finish,
        steps=run.steps,
    )


def main() -> None:
    """Print both, and what new seeds say of their best points."""
    steps, points = training(), bj.sweep.sample(SPACE, POINTS, seed=0)
    began = time.perf_counter()
    halved = bj.sweep.halve(steps, points, rungs=(2, 5), keep=1 / 4, metric="loss", seeds=[0])
    half_time, began = time.perf_counter() - began, time.perf_counter()
    full = bj.sweep.run(steps, {"seed": [0]}, points=points, progress=False)
    full_time = time.perf_counter() - began
    done, of = halved.attrs["model_steps"], halved.attrs["model_steps_of_all"]
    print(f"full sweep: {of:,} model-steps of {EVERY} updates in {full_time:.0f} s")
    print(f"halve:      {done:,} ({of / done:.1f} times fewer) in {half_time:.0f} s")
    ended, lost = np.bincount(halved.rung).tolist(), int(halved.metric.isnull().sum())
    print(f"points that ended on each rung: {ended}; diverged: {lost}")
    losses = full.loss[0].where(full.status[0] == 0).values
    best = {"full": int(np.nanargmin(losses)), "halve": int(np.nanargmin(halved.metric))}
    chosen = {name: values[[*best.values()]] for name, values in points.items()}
    again = bj.sweep.run(steps, {"seed": range(1, 11)}, points=chosen, progress=False).loss.values
    for i, (name, point) in enumerate(best.items()):
        rank = int((losses < losses[point]).sum()) + 1
        where = ", ".join(f"{key} {values[i]:.3g}" for key, values in chosen.items())
        new = f"{again[:, i].mean():.4f} +- {again[:, i].std(ddof=1) / 10**0.5:.4f}"
        print(
            f"best of {name}: point {point} ({where}), loss {losses[point]:.4f}, rank {rank}; new seeds {new}"
        )


if __name__ == "__main__":
    main()
