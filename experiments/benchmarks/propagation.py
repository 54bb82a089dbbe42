"""Propagation through drawn networks, and the phase diagram of mean-field theory.

The first is the notebook on Xavier and the bias: tanh networks of width 512 and depth 100 over a 10x10 grid
of scales, where all points share the draws of their weights. Its limit is another contender: drawing the
weights once, and products as large as those of the grid, with nothing else. The second is a 100x100 diagram:
variance, correlation and their rates of approach, against the same iteration in NumPy, which gives no rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks._race import Contender, Race

SIDE, WIDTH, DEPTH = 10, 512, 100
SCALES = (0.5, 4.0), (0.05, 1.0)


def races(networks: int | None = None) -> dict[str, Race]:
    """Races by name."""
    here = __name__
    return {
        "propagation": Race(
            "network",
            [
                Contender("biasjax, the grid at once", f"{here}:swept"),
                Contender("its draws and products alone", f"{here}:limit"),
                Contender("JAX, jitted loop", f"{here}:jitted"),
                Contender("PyTorch, loop", f"{here}:notebook"),
            ],
        ),
        "phase-diagram": Race(
            "diagram",
            [
                Contender("biasjax", f"{here}:diagram"),
                Contender("NumPy, fixed iteration", f"{here}:iterated"),
            ],
        ),
    }


def _network() -> Any:
    import biasjax as bj

    return bj.network.Network(inputs=WIDTH, width=WIDTH, depth=DEPTH, order="dense-tanh")


def _inputs() -> Any:
    import jax

    return jax.random.normal(jax.random.key(1), (2, WIDTH))


def swept() -> tuple[Callable[[], Any], int]:
    """All points of the grid as the sweep runs them."""
    import biasjax as bj
    from biasjax._sweep import points

    network, x = _network(), _inputs()

    def point(key, *, sigma_w, sigma_b):
        found = bj.propagation.propagate(key, network, bj.network.Scales(sigma_w, sigma_b), x, backward=False)
        return found._asdict()

    axes = {name: np.linspace(*ends, SIDE) for name, ends in zip(("sigma_w", "sigma_b"), SCALES, strict=True)}
    spec = points.specify(point, axes, None, None, bj.propagation.DIMS, 0)
    program = bj.sweep._plan(spec, bj.sweep.Batching()).lower(0, spec.sizes).compile()
    return lambda: program.run((slice(0, SIDE), slice(0, SIDE))), SIDE**2


def limit() -> tuple[Callable[[], Any], int]:
    """Draw each layer's weights, and multiply the inputs of all points by them."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def run(key, h):
        def layer(h, key):
            return jax.random.normal(key, (WIDTH, WIDTH)) @ h / WIDTH, None

        return jax.lax.scan(layer, h, jax.random.split(key, DEPTH))[0]

    h = jnp.ones((WIDTH, 2 * SIDE**2))
    return lambda: np.asarray(run(jax.random.key(0), h)), SIDE**2


def jitted() -> tuple[Callable[[], Any], int]:
    """One point after the other, of which a row of the grid is run."""
    import jax
    import jax.numpy as jnp

    x = _inputs()

    @jax.jit
    def run(key, sigma_w, sigma_b):
        def layer(h, key):
            kernel, bias = jax.random.split(key)
            w = sigma_w * jax.random.normal(kernel, (WIDTH, WIDTH)) / math.sqrt(WIDTH)
            h = jnp.tanh(h @ w + sigma_b * jax.random.normal(bias, (WIDTH,)))
            return h, (h.mean(-1), h.std(-1))

        return jax.lax.scan(layer, x, jax.random.split(key, DEPTH))[1]

    def once() -> None:
        for sigma_w in np.linspace(*SCALES[0], SIDE):
            np.asarray(run(jax.random.key(0), sigma_w, 0.1)[1])

    return once, SIDE


def notebook() -> tuple[Callable[[], Any], int]:
    """Run the loop of the notebook, of which a row of the grid is run."""
    import torch  # pyright: ignore[reportMissingImports]  # optional, and declared nowhere

    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")

    def once() -> None:
        for sigma_w in np.linspace(*SCALES[0], SIDE):
            a = torch.randn(1, WIDTH)
            for _ in range(DEPTH):
                w = float(sigma_w) * torch.randn(WIDTH, WIDTH) / math.sqrt(WIDTH)
                a = torch.tanh(a @ w + 0.1 * torch.randn(WIDTH))
                if torch.isinf(a.std()) or torch.isnan(a.std()):
                    break

    return once, SIDE


def diagram() -> tuple[Callable[[], Any], int]:
    """Theory of biasjax, compiled, to its fixed points."""
    import jax
    import jax.numpy as jnp

    import biasjax as bj

    scales = jnp.meshgrid(*(jnp.linspace(*ends, 100) for ends in SCALES))
    run = jax.jit(lambda w, b: bj.phases.order_parameters("tanh", w, b))
    return lambda: jax.block_until_ready(run(*scales)), 1


def iterated(order: int = 32, layers: int = 100) -> tuple[Callable[[], Any], int]:
    """Iterate the maps of variance and correlation by Gauss-Hermite quadrature, all points at once."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    square, z1, z2 = np.outer(weights, weights), nodes[:, None], nodes[None, :]
    sigma_w, sigma_b = (a[..., None, None] for a in np.meshgrid(*(np.linspace(*e, 100) for e in SCALES)))

    def once() -> tuple[np.ndarray, np.ndarray]:
        q, c = np.ones_like(sigma_w), 0.5 * np.ones_like(sigma_w)
        for _ in range(layers):
            u = np.sqrt(q) * z1
            new = sigma_w**2 * (np.tanh(u) ** 2 * weights[:, None]).sum((-2, -1), keepdims=True) + sigma_b**2
            v = np.sqrt(q) * (c * z1 + np.sqrt(1 - np.minimum(c, 1) ** 2) * z2)
            product = (np.tanh(u) * np.tanh(v) * square).sum((-2, -1), keepdims=True)
            q, c = new, (sigma_w**2 * product + sigma_b**2) / new
        return q, c

    return once, 1
