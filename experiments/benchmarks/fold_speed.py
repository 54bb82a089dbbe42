"""Time of inference as it is, with batch norms folded, and with the folded norms left out of the program.

The claim: folding batch norms (`surgery.fold_batch_norm`) makes inference on a CPU hardly faster, not even
when the folded norms are left out. 32x32 images, batches of 32, float32; the model as it is, the same program
with folded parameters (each norm is the identity), and a program without norms that gets the folded kernels
and biases. All three run one after the other in each round, so that a busy machine slows all.

Printed on two cores of a busy machine, where medians of the ratios differ by some hundredths between runs:

    milliseconds per batch of 32, medians of 15, and ratios to the model as it is
    case              as is    folded  left out    folded  left out   outputs      norms   s to fold
    resnet18          800.1     801.1     804.2      1.06      1.02     5e-07   20 of 20       27
    mobilenet_v2     1259.4    1207.4    1241.3      0.98      0.94     8e-07   52 of 52       33

Outputs are the greatest difference over the greatest logit. Convolutions take nearly all of the time. What a
norm does at inference is elementwise, x * scale + shift of each channel, and XLA fuses it with the bias and
the ReLU behind the convolution into one pass over the features, which is made with or without the norm (one
loop fusion in the compiled program, either way). So fold for runtimes that do not fuse, to quantise, or to
export; not for speed under XLA.

Command: `python -m experiments.benchmarks.fold_speed` (both cases, or those named).
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from biasjax import adapters, surgery

BATCH, SIZE, ROUNDS = 32, 32, 15


class Convolution(nn.Module):
    """A convolution with a bias and batch norm, or ``folded``: the convolution alone."""

    features: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    folded: bool = False

    @nn.compact
    def __call__(self, x, train):
        """Return features."""
        window = (self.kernel, self.kernel)
        options = {"feature_group_count": self.groups, "name": "conv"}
        x = nn.Conv(self.features, window, self.stride, **options)(x)
        return x if self.folded else nn.BatchNorm(use_running_average=not train, name="norm")(x)


class ResNet18(nn.Module):
    """Eight blocks of two convolutions in four stages, for small images: a 3x3 stem and no pooling."""

    folded: bool = False

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        layer = functools.partial(Convolution, folded=self.folded)
        x = nn.relu(layer(64)(x, train))
        for stage, features in enumerate((64, 128, 256, 512)):
            for stride in (1 if stage == 0 else 2, 1):
                y = nn.relu(layer(features, 3, stride)(x, train))
                y = layer(features)(y, train)
                x = x if x.shape[-1] == features else layer(features, 1, stride)(x, train)
                x = nn.relu(x + y)
        return nn.Dense(10)(x.mean((1, 2)))


class MobileNetV2(nn.Module):
    """Inverted residuals (Sandler et al., arXiv 1801.04381, table 2), strides of 1 at first.

    Its depthwise convolutions do little work per feature, so that a norm's share is as large as it gets.
    """

    folded: bool = False

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        layer = functools.partial(Convolution, folded=self.folded)
        x = nn.relu6(layer(32)(x, train))
        stages = (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)
        for expansion, features, repeats, stride in (*stages, (6, 320, 1, 1)):
            for i in range(repeats):
                wide = expansion * x.shape[-1]
                y = x if expansion == 1 else nn.relu6(layer(wide, 1)(x, train))
                y = nn.relu6(layer(wide, 3, stride if i == 0 else 1, wide)(y, train))
                y = layer(features, 1)(y, train)
                x = x + y if x.shape == y.shape else y
        x = nn.relu6(layer(1280, 1)(x, train))
        return nn.Dense(10)(x.mean((1, 2)))


CASES: dict[str, Callable[..., nn.Module]] = {"resnet18": ResNet18, "mobilenet_v2": MobileNetV2}


def trained(module: nn.Module, x: jax.Array) -> adapters.Pure:
    """A model whose norms do something: their parameters and statistics are drawn around the first ones."""
    variables = jax.jit(lambda key: module.init(key, x, False))(jax.random.key(0))
    # Statistics of data, as a training pass measures them, keep features of size one through all layers
    measured = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    for _ in range(3):
        variables = {**variables, **jax.jit(lambda given: measured(given, x)[1])(variables)}
    rng = np.random.default_rng(0)

    def moved(leaf: jax.Array) -> jax.Array:
        noise = jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
        return leaf + 0.1 * noise if leaf.ndim == 1 else leaf

    return adapters.from_linen(module, {**variables, "params": jax.tree.map(moved, variables["params"])})


def without_norms(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without those of norms, for the module that is built without them.

    Raises
    ------
    ValueError
        If what is left of a norm is more than a bias, which is added to that of its convolution.
    """
    found = {}
    for name, leaves in params.items():
        if "norm" in leaves:
            bias = leaves["conv"]["bias"] + leaves["norm"]["bias"]
            leaves = {"conv": {**leaves["conv"], "bias": bias}}
        found[name] = leaves
    return found


def milliseconds(calls: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Times of each call, one after the other in each round, so that a busy machine slows all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(1000 * (time.perf_counter() - began))
    return times


def case(name: str) -> None:
    """Fold one model and print its row."""
    x = jax.random.normal(jax.random.key(1), (BATCH, SIZE, SIZE, 3))
    pure = trained(CASES[name](), x)
    began = time.perf_counter()
    new, receipt = surgery.fold_batch_norm(pure, x[:2])
    seconds = time.perf_counter() - began
    short = adapters.from_linen(CASES[name](folded=True), {"params": without_norms(new.params)})
    models = {"as is": pure, "folded": new, "left out": short}
    # Parameters are arguments: as constants the compiler would fold them in itself
    run = {which: jax.jit(functools.partial(one.apply, train=False)) for which, one in models.items()}
    calls = {which: functools.partial(run[which], one.params, one.state, x) for which, one in models.items()}
    outs = {which: np.asarray(call()[0]) for which, call in calls.items()}  # compiles, too
    size = np.abs(outs["as is"]).max()
    off = max(np.abs(out - outs["as is"]).max() for out in outs.values()) / size
    times = milliseconds(calls)
    row = "".join(f"{statistics.median(times[which]):10.1f}" for which in models)
    ratios = (
        statistics.median(a / b for a, b in zip(times[which], times["as is"], strict=True))
        for which in ("folded", "left out")
    )
    row += "".join(f"{ratio:10.2f}" for ratio in ratios)
    folded = f"{len(receipt.done)} of {len(receipt.changes)}"
    print(f"{name:13s}{row}   {off:7.0e}   {folded:>9s}   {seconds:6.0f}", flush=True)


def main(names: list[str]) -> None:
    """Print the table."""
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        sys.exit(f"expected cases among {', '.join(CASES)}, got {', '.join(unknown)}")
    print(f"milliseconds per batch of {BATCH}, medians of {ROUNDS}, and ratios to the model as it is")
    print("case              as is    folded  left out    folded  left out   outputs      norms   s to fold")
    for name in names or list(CASES):
        case(name)


if __name__ == "__main__":
    main(sys.argv[1:])
