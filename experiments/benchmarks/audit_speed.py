"""Seconds and memory that an audit takes: a ResNet-18 in both modes, a 6-layer transformer.

Bars: the transformer with joint analysis and the ResNet without it under 60 s on 2 idle cores, compiling
included, and the ResNet under 4 GB. Printed: the transformer 24 s and .8 GiB; the ResNet 51 s and 2.9 GiB
(50 s and 2.6 GiB with one image: fewer outputs take more calls), its two modes side by side, half of the CPU
time for the Jacobian's rows, a fifth for compiling; with joint analysis 230 s and 3.2 GiB. On a busy machine
the same runs took half as long again.

The ResNet is that of He et al. (arXiv 1512.03385) for 32x32 images (3x3 stem, no pooling before the blocks)
in Flax linen: 11.2 million parameters, batch norm, a bias in every convolution, two images. The transformer
has width 128, pre-norm, `biasjax.attention`, eight tokens. Every case runs in its own process, for its own
peak memory.

With joint analysis both have more bias entries than are compared at once: 9,610 and 8,576 in windows of
1,024 (see `audit_biases`). That takes a thousand rows of the Jacobian at each of two draws of the
parameters.

Command: `OPENBLAS_NUM_THREADS=1 python -m experiments.benchmarks.audit_speed` (all cases, or those named).
"""

from __future__ import annotations

import collections
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import flax.linen as nn
import jax

from biasjax import adapters, attention, audit


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        """Return features."""

        def norm(y):
            return nn.BatchNorm(use_running_average=not train)(y)

        y = nn.relu(norm(nn.Conv(self.features, (3, 3), self.stride)(x)))
        y = norm(nn.Conv(self.features, (3, 3))(y))
        if x.shape[-1] != self.features:
            x = norm(nn.Conv(self.features, (1, 1), self.stride)(x))
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """Eight blocks in four stages."""

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(64, (3, 3))(x)))
        for stage, features in enumerate((64, 128, 256, 512)):
            for stride in (1 if stage == 0 else 2, 1):
                x = Block(features, stride)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


class Transformer(nn.Module):
    """Pre-norm layers of attention and a perceptron of four times the width."""

    layers: int = 6
    width: int = 128
    heads: int = 4

    @nn.compact
    def __call__(self, x, train):
        """Return features."""
        for i in range(self.layers):
            heads = self.param(f"attention_{i}", attention.attention_init, self.width, self.heads)
            x = x + attention.attention(heads, nn.LayerNorm()(x), heads=self.heads)
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.LayerNorm()(x)


def resnet(joint: bool, images: int = 2) -> Callable[[], list[audit.BiasAudit]]:
    """Initialise the ResNet; return its audit in both modes."""
    x = jax.random.normal(jax.random.key(1), (images, 32, 32, 3))
    variables = jax.jit(lambda key: ResNet18().init(key, x, False))(jax.random.key(0))
    pure = adapters.from_linen(ResNet18(), variables)

    def run():
        modes = audit.audit_modes(*pure, x, joint=joint)
        return [modes.train, modes.eval]

    return run


def transformer(joint: bool) -> Callable[[], list[audit.BiasAudit]]:
    """Initialise the transformer; return its audit, in its one mode."""
    x = jax.random.normal(jax.random.key(1), (2, 8, 128))
    params = jax.jit(lambda key: Transformer().init(key, x, False))(jax.random.key(0))["params"]

    def fn(params, x):
        return Transformer().apply({"params": params}, x, False)

    return lambda: [audit.audit_biases(fn, params, x, joint=joint)]


CASES = {
    "resnet18-alone": lambda: resnet(joint=False),
    "resnet18-one-image": lambda: resnet(joint=False, images=1),
    "resnet18-joint": lambda: resnet(joint=True),
    "transformer-joint": lambda: transformer(joint=True),
}


def case(name: str) -> None:
    """Run one case and print its row."""
    run = CASES[name]()
    wall, cpu = time.perf_counter(), time.process_time()
    audits = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = [dict(collections.Counter(f.verdict for f in one.findings)) for one in audits]
    print(f"{name:18s} {wall:8.1f} {cpu:8.1f} {peak:8.2f}   {found}", flush=True)


def main(names: list[str]) -> None:
    """Print the table."""
    print("case                seconds   CPU s   peak GiB   verdicts in each mode", flush=True)
    for name in names or list(CASES):
        command = "import sys; from experiments.benchmarks import audit_speed as a; a.case(sys.argv[1])"
        subprocess.run([sys.executable, "-c", command, name], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
