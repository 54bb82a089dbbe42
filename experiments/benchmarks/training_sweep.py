"""Sweeps over small training runs, beside what users of Flax and PyTorch would write.

Workloads: networks with batch norm and ReLU, two dense layers of 64 on the flat digits, or three 3x3
convolutions with 16 or 32 channels on 8x8 or 28x28 pixels; batches of 64, SGD with L2. Every contender runs
in a process of its own, in turns. Times are for one update of one network.

Measured on two cores of a shared machine, everything under one plain `jax.vmap`:

    mlp                       ms per update  ratio  spread  setup s  peak MiB
    -------------------------------------------------------------------------
    biasjax, vmap                    0.0862   1.00    1.02     11.0       562
    Flax, vmap                       0.0682   0.79    1.01      9.3       534
    Flax, loop                       0.0620   0.72    1.07      7.7       476
    PyTorch, loop, 1 threads         0.5629   6.53    1.02     14.2       918
    PyTorch, loop, 2 threads         0.6069   7.04    1.15     13.0       922
    torch.func, 1 threads            0.1937   2.25    1.07     13.2       948
    torch.func, 2 threads            0.1544   1.79    1.02     12.7       947

    cnn-8x8-16                ms per update  ratio  spread  setup s  peak MiB
    -------------------------------------------------------------------------
    biasjax, vmap                    2.6711   1.00    1.21     13.5       665
    Flax, vmap                      51.1061  19.13    1.02     28.0       620
    Flax, loop                      24.6513   9.23    1.02     10.3       500
    PyTorch, loop, 1 threads         3.7520   1.40    1.20     12.1       928
    PyTorch, loop, 2 threads         2.9005   1.09    1.09     12.1       929
    torch.func, 1 threads            3.9696   1.49    1.05     13.1      1112
    torch.func, 2 threads            2.5253   0.95    1.12     12.6      1085

    cnn-8x8-32                ms per update  ratio  spread  setup s  peak MiB
    -------------------------------------------------------------------------
    biasjax, vmap                    6.6612   1.00    1.20     11.9       593
    Flax, vmap                     203.8297  30.60    1.04     42.0       612
    Flax, loop                     100.1975  15.04    1.05     11.9       505
    PyTorch, loop, 1 threads         7.1395   1.07    1.04     12.2       931
    PyTorch, loop, 2 threads         4.7907   0.72    1.28     11.9       932
    torch.func, 1 threads            8.8920   1.33    1.14     13.2      1109
    torch.func, 2 threads            5.5826   0.84    1.11     12.7      1096

    cnn-28x28-16              ms per update  ratio  spread  setup s  peak MiB
    -------------------------------------------------------------------------
    biasjax, vmap                   37.7561   1.00    1.02     11.2       777
    Flax, vmap                     960.5981  25.44    1.08     19.3       795
    Flax, loop                     613.5076  16.25    1.11      8.1       553
    PyTorch, loop, 1 threads        27.8415   0.74    1.08     10.2       911
    PyTorch, loop, 2 threads        16.2536   0.43    1.12     10.3       908
    torch.func, 1 threads           44.0678   1.17    1.24     10.7      1314
    torch.func, 2 threads           25.6489   0.68    1.18     10.1      1259

    cnn-28x28-32              ms per update  ratio  spread  setup s  peak MiB
    -------------------------------------------------------------------------
    biasjax, vmap                  119.4699   1.00    1.63     10.3       907
    Flax, vmap                    4573.8147  38.28    1.06     45.9      1028
    Flax, loop                    3288.7535  27.53    1.05     13.0       578
    PyTorch, loop, 1 threads        73.8183   0.62    1.24     10.7       933
    PyTorch, loop, 2 threads        44.9363   0.38    1.32      9.8       924
    torch.func, 1 threads          120.1630   1.01    1.12     10.7      1691
    torch.func, 2 threads           62.9585   0.53    1.61     10.3      1764

So of what a user of JAX would write, a vmap of Flax's convolutions is 19 to 38 times slower: XLA on a CPU
derives gradients of convolutions that run at 2 GFLOP/s. PyTorch is ahead by two fifths at 32 channels, and
more than twice as fast on 28x28 pixels, where passes over features that no cache holds take much of the time.
Of dense networks Flax's vmap is ahead by a fifth; it does not follow the biases as training does here.

Command: `python -m experiments.benchmarks.training_sweep` (all workloads, or those named; PyTorch optional).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from experiments.benchmarks._race import Contender, Timing, race
from experiments.benchmarks._workloads import Workload

WORKLOADS = {
    "mlp": Workload(64, 2, models=32, steps=200),
    "cnn-8x8-16": Workload(16, 3, models=16, steps=20, pixels=8),
    "cnn-8x8-32": Workload(32, 3, models=8, steps=20, pixels=8),
    "cnn-28x28-16": Workload(16, 3, models=4, steps=2, pixels=28),
    "cnn-28x28-32": Workload(32, 3, models=4, steps=2, pixels=28),
}
FLAX, TORCH = "experiments.benchmarks._flax_peers", "experiments.benchmarks._torch_peers"


def vmapped(**options: Any) -> tuple[Callable[[], Any], int]:
    """All runs of biasjax at once."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import biasjax as bj

    work = Workload(**options)
    images, labels = map(jnp.asarray, work.data())
    data = bj.data.Data(images, labels, images[:2], labels[:2])  # the others test nothing
    order = "conv-bn-relu" if work.convolutional else "dense-bn-relu"
    network = bj.network.Network(
        inputs=images.shape[-1], width=work.width, depth=work.depth, outputs=10, order=order
    )
    sizes = {"steps": work.steps, "batch_size": work.batch, "report_at": (work.steps,)}
    train = bj.training.make_train(network, "sgd", data, **sizes)

    def run(key: jax.Array, rate: jax.Array) -> jax.Array:
        return train(key, bj.network.Scales(2**0.5), bj.training.Hyperparams(rate, weight_decay=1e-2))[1].loss

    call = jax.jit(jax.vmap(run))
    keys, rates = jax.vmap(jax.random.key)(jnp.arange(work.models)), jnp.asarray(work.rates())
    return lambda: np.asarray(call(keys, rates)), work.units


def contenders(work: Workload) -> list[Contender]:
    """Who takes part; loops get a quarter of the networks, which cost them as much each."""
    whole, few = work._asdict(), work._replace(models=max(1, work.models // 4))._asdict()
    cores = sorted({1, os.cpu_count() or 1})
    return [
        Contender("biasjax, vmap", f"{__spec__.name}:vmapped", whole),
        Contender("Flax, vmap", f"{FLAX}:vmapped", whole),
        Contender("Flax, loop", f"{FLAX}:looped", few),
        *(Contender(f"PyTorch, loop, {n} threads", f"{TORCH}:looped", {"threads": n} | few) for n in cores),
        *(Contender(f"torch.func, {n} threads", f"{TORCH}:stacked", {"threads": n} | whole) for n in cores),
    ]


def table(name: str, timings: Sequence[Timing]) -> str:
    """One line for each contender, times also as multiples of the first's."""
    from biasjax import _text

    rows = [(name, "ms per update", "ratio", "spread", "setup s", "peak MiB")]
    for one in timings:
        if one.missing:
            rows.append((one.name, f"no {one.missing}", "", "", "", ""))
            continue
        ratio = one.seconds / timings[0].seconds
        numbers = f"{1000 * one.seconds:.4f}", f"{ratio:.2f}", f"{one.spread:.2f}"
        rows.append((one.name, *numbers, f"{one.setup:.1f}", str(one.peak)))
    return _text.table(rows, right=range(1, 6))


def main(names: Sequence[str]) -> None:
    """Print the tables."""
    unknown = sorted(set(names) - set(WORKLOADS))
    if unknown:
        sys.exit(f"expected workloads among {', '.join(WORKLOADS)}, got {', '.join(unknown)}")
    for name in names or WORKLOADS:
        print(table(name, race(contenders(WORKLOADS[name]))), flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
