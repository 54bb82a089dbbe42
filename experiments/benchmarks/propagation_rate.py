"""Speed of mean-field theory and of measured propagation, beside one matrix product and a PyTorch loop.

Bars: a 100x100 tanh phase diagram in theory under 1 s after compilation; a measured 30x30 grid at width
1000 and depth 100 at no less than half the floating-point rate of one large matrix product; a 10x10 grid at
width 512 at least 300 times faster than the loop of the notebook on Xavier and the bias written in PyTorch
(not met, for to draw the weights of one network takes a sixtieth of the loop). Every figure and its peer come
from the same run; only matrix products are counted as operations, drawing the weights as time.

Printed on 2 cores: theory of 100x100 points .39 s in float32, .84 s in float64; 30x30 networks of width 1000
and depth 100 in 2.9 s, two thirds of the rate of one large matrix product (with gradients 5.7 s, the same
rate); 10x10 of width 512 in .27 s, 46 times faster than the loop, three quarters of it for drawing weights.

Command: `python -m experiments.benchmarks.propagation_rate` (about two minutes on 2 cores; PyTorch optional).
"""

from __future__ import annotations

import functools
import math
import time

import jax
import jax.numpy as jnp

import biasjax as bj


def seconds(call, *args, repeats: int = 3) -> tuple[float, float]:
    """Least seconds that a compiled call takes, and seconds to compile it."""
    began = time.perf_counter()
    compiled = jax.jit(call).lower(*args).compile()
    compiling = time.perf_counter() - began
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        taken.append(time.perf_counter() - began)
    return min(taken), compiling


def theory() -> None:
    """Time the theoretical phase diagram in both precisions."""
    for x64 in (False, True):
        with jax.enable_x64(x64):
            scales = jnp.meshgrid(jnp.linspace(0.5, 4.0, 100), jnp.linspace(0.05, 1.0, 100))
            run, compiling = seconds(functools.partial(bj.phases.order_parameters, "tanh"), *scales)
            name = "float64" if x64 else "float32"
            print(f"theory, 100x100 tanh, {name}: {run:.2f} s after {compiling:.1f} s of compiling")


def grid(side: int, width: int, depth: int, *, backward: bool):
    """Make a function that measures a square grid of scales for two inputs, and its arguments."""
    net = bj.network.Network(inputs=width, width=width, depth=depth, order="dense-tanh")

    def point(key, x, sigma_w, sigma_b):
        return bj.propagation.propagate(key, net, bj.network.Scales(sigma_w, sigma_b), x, backward=backward)

    over = jax.vmap(jax.vmap(point, (None, None, None, 0)), (None, None, 0, None))
    x = jax.random.normal(jax.random.key(1), (2, width))
    return over, (jax.random.key(0), x, jnp.linspace(0.5, 4.0, side), jnp.linspace(0.05, 1.0, side))


def matmul_rate(n: int = 4096) -> float:
    """Operations per second of one large matrix product."""
    a, b = jax.random.normal(jax.random.key(2), (2, n, n))
    return 2 * n**3 / seconds(jnp.matmul, a, b)[0]


def measured(side: int = 30, width: int = 1000, depth: int = 100) -> None:
    """Compare the rate of a measured grid with that of one matrix product."""
    for backward in (False, True):
        peer = matmul_rate()
        # One product carries gradients down; the kernel's squared norm needs none of that size
        products = 2 if backward else 1
        work = products * 2 * side**2 * 2 * width**2 * depth
        call, args = grid(side, width, depth, backward=backward)
        run, compiling = seconds(call, *args, repeats=2)
        label = "forward and backward" if backward else "forward"
        print(
            f"{side}x{side} grid, width {width}, depth {depth}, {label}: {run:.1f} s after "
            f"{compiling:.1f} s of compiling, "
            f"{work / run / 1e9:.0f} GFLOP/s = {work / run / peer:.0%} of one matrix product"
        )


def notebook(points: int, width: int, depth: int) -> float:
    """Seconds of the loop of the notebook on Xavier and the bias in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere

    began = time.perf_counter()
    for _ in range(points):
        a = torch.randn(1, width)
        for _ in range(depth):
            w = torch.randn(width, width) / math.sqrt(width)
            b = 0.1 * torch.randn(width)
            a = torch.tanh((a @ w) + b)
            line = f"{a.mean()} {a.std()}"
            if torch.isinf(a.std()) or torch.isnan(a.std()):
                print("numerical instability", line)
                break
    return time.perf_counter() - began


def against_pytorch(side: int = 10, width: int = 512, depth: int = 100, sample: int = 10) -> None:
    """Compare a small grid with the loop, of which ``sample`` points are run and scaled up."""
    call, args = grid(side, width, depth, backward=False)
    run, compiling = seconds(call, *args, repeats=5)
    try:
        loop = notebook(sample, width, depth) * side**2 / sample
    except ImportError:
        print("PyTorch is not installed: no loop to compare with")
        return
    print(
        f"{side}x{side} grid, width {width}, depth {depth}: {run:.2f} s after {compiling:.1f} s, "
        f"PyTorch loop {loop:.0f} s (from {sample} points): {loop / run:.0f} times"
    )


if __name__ == "__main__":
    theory()
    measured()
    against_pytorch()
