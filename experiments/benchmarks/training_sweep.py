"""Sweeps over small training runs, beside what users of Flax and PyTorch would write.

Races: networks with batch norm and ReLU, two dense layers of 64 on the flat digits, or three 3x3 convolutions
with 16 or 32 channels on 8x8 or 28x28 pixels; transformers of two blocks, width 32, over the rows of a digit.
Batches of 64, SGD with L2. Times are for one update of one network.

What bounds them on two cores, whose products of such sizes reach 131 GFLOP/s each:

- An update of the dense network is 4.2 MFLOP. In blocks of eight it runs at about 200 GFLOP/s; drawing the
  order of batches (XLA's sort) and weights takes a fifth of the 200 updates. Eight times torch.func's vmap
  would be 310 GFLOP/s, more than both cores have: not met, it is about five times; of a loop, twenty.
- All networks in one vmap pass features through memory that a core's cache does not hold, and Eigen's threads
  wait for each other at every product: two threads, each with blocks of its own, take half of the time.
- Convolutions: what a user of JAX would write, a vmap of Flax's, is 50 to 100 times slower, for XLA on a CPU
  derives gradients that run at 2 GFLOP/s, and its own convolution at 50 (16 channels) to 115. On 28x28 pixels
  passes over features of 3 MB, which no cache of one core holds, take half of the time; PyTorch's loop, whose
  batch norm makes fewer of them, stays ahead by a sixth: the bar of parity is not met there.

Tried and left: one device per core under shard_map (a tenth gained); windows of images as matrices in place
of XLA's convolution (slower from 16 channels on, and nine times the memory); XLA's flags for oneDNN (slower).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from biasjax._sweep import frames
from experiments.benchmarks._race import Contender, Race
from experiments.benchmarks._workloads import Workload

WORKLOADS = {
    "mlp": Workload(64, 2, models=64, steps=200),
    "cnn-8x8-16": Workload(16, 3, models=16, steps=20, pixels=8),
    "cnn-8x8-32": Workload(32, 3, models=8, steps=20, pixels=8),
    "cnn-28x28-16": Workload(16, 3, models=4, steps=2, pixels=28),
    "cnn-28x28-32": Workload(32, 3, models=4, steps=2, pixels=28),
    "transformer": Workload(32, 2, models=16, steps=20, heads=4),
}
# Networks at once on each core, as a trial before a long sweep would choose
BLOCKS = {"mlp": 8, "transformer": 1}
FLAX, TORCH = "experiments.benchmarks._flax_peers", "experiments.benchmarks._torch_peers"


def races(networks: int | None = None) -> dict[str, Race]:
    """Races by name, of so many networks if given; loops get fewer, which cost them as much each."""
    found = {}
    for name, work in WORKLOADS.items():
        if networks is not None:
            work = work._replace(models=networks)
        found[name] = Race("update", contenders(work, BLOCKS.get(name, 1)))
    return found


def contenders(work: Workload, block: int) -> list[Contender]:
    """Who takes part."""
    whole, few = work._asdict(), work._replace(models=max(1, min(work.models // 4, 16)))._asdict()
    cores = sorted({1, frames.core_count()})
    ours = f"{__name__}:swept"
    return [
        Contender(f"biasjax, blocks of {block}", ours, {"block": block} | whole),
        Contender("biasjax, all at once", ours, {"block": None} | whole),
        Contender("Flax, vmap", f"{FLAX}:vmapped", whole),
        Contender("Flax, loop", f"{FLAX}:looped", few),
        *(Contender(f"PyTorch, loop, {n} threads", f"{TORCH}:looped", {"threads": n} | few) for n in cores),
        *(Contender(f"torch.func, {n} threads", f"{TORCH}:stacked", {"threads": n} | whole) for n in cores),
    ]


def swept(block: int | None, **options: Any) -> tuple[Callable[[], Any], int]:
    """All runs of biasjax as `sweep.run` runs them, compiled before."""
    import biasjax as bj
    from biasjax._sweep import points

    work = Workload(**options)
    run = _transformer_run(work) if work.heads else _run(work)
    table = {"index": range(work.models), "rate": work.rates()}
    spec = points.specify(run, None, table, None, None, 0)
    way = frames.ALL_AT_ONCE if block is None else frames.Batching(frames.cores(None) or 1, block)
    program = bj.sweep._plan(spec, way).lower(0, spec.sizes).compile()
    return lambda: program.run((slice(0, work.models),)), work.units


def _run(work: Workload) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    import biasjax as bj

    images, labels = map(jnp.asarray, work.data())
    data = bj.data.Data(images, labels, images[:2], labels[:2])  # the others test nothing
    order = "conv-bn-relu" if work.convolutional else "dense-bn-relu"
    network = bj.network.Network(
        inputs=images.shape[-1], width=work.width, depth=work.depth, outputs=10, order=order
    )
    sizes = {"steps": work.steps, "batch_size": work.batch, "report_at": (work.steps,)}
    train = bj.training.make_train(network, "sgd", data, **sizes)

    def run(key, *, index, rate):
        hyperparams = bj.training.Hyperparams(rate, weight_decay=1e-2)
        return train(jax.random.fold_in(key, index), bj.network.Scales(2**0.5), hyperparams)[1].loss

    return run


def _transformer_run(work: Workload) -> Callable[..., Any]:
    import jax

    from experiments.benchmarks import _transformer

    train = _transformer.make_run(work)
    return lambda key, *, index, rate: train(jax.random.fold_in(key, index), rate)
