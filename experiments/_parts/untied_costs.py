"""What one bias for each position costs: parameters, what is kept for a gradient, time of an update."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import untied

if TYPE_CHECKING:
    import xarray as xr

KINDS = ("tied", "untied", "untied scale")
"""What a convolution's output is added to, or multiplied by."""
VGG16 = ((64, 224, 2), (128, 112, 2), (256, 56, 3), (512, 28, 3), (512, 14, 3))
"""Channels, side and number of the convolutions of each stage."""


def measure(pool: bj.data.Data, batch_size: int, repeats: int) -> xr.Dataset:
    """Measure all of them: counts, values kept in a layer, milliseconds of updates."""
    import xarray as xr

    counts = {biases: vgg16_biases(biases) for biases in untied.BIASES}
    kept = np.array([values_kept(kind, batch_size) for kind in KINDS])
    positions = untied.SIDES[0] ** 2 * untied.CHANNELS[2]
    return xr.Dataset(
        {
            "vgg16_biases": ("biases", [counts[biases] for biases in untied.BIASES]),
            "kept_values": ("kind", (kept - kept[0]) / positions),
            "milliseconds": (("biases", "repeat"), np.stack(update_times(pool, batch_size, repeats))),
        },
        {"biases": list(untied.BIASES), "kind": list(KINDS)},
    )


def vgg16_biases(biases: str) -> int:
    """Biases of the convolutions of VGG16; no array is made."""
    import jax

    total, inputs = 0, 3
    for channels, side, layers in VGG16:
        for _ in range(layers):
            size = (side, side) if biases == "untied" else None
            options: dict[str, Any] = {"output_size": size, **untied.BIASES[biases]}
            init = functools.partial(bj.linear.conv_init, inputs=inputs, outputs=channels, kernel_size=(3, 3))
            total += bj.tree.count(
                jax.eval_shape(functools.partial(init, **options), jax.random.key(0))
            ).biases
            inputs = channels
    return total


def values_kept(kind: str, batch_size: int) -> int:
    """Numbers that differentiation keeps for the backward pass of a layer in front of another one."""
    import jax
    import jax.numpy as jnp

    side, (_, inputs, outputs) = untied.SIDES[0], untied.CHANNELS
    keys = jax.random.split(jax.random.key(0))
    scaled = kind == "untied scale"
    options = {"output_size": (side, side), "untie_biases": True} if kind == "untied" else {}
    layer = bj.linear.conv_init(keys[0], inputs, outputs, (3, 3), use_bias=not scaled, **options)
    scale = jnp.ones((side, side, outputs)) if scaled else None
    following = bj.linear.conv_init(keys[1], outputs, inputs, (3, 3))

    def loss(params, x):
        layer, scale, following = params
        y = bj.linear.conv(layer, x)
        y = y if scale is None else y * scale
        return jnp.mean(bj.linear.conv(following, jax.nn.relu(y), strides=2) ** 2)

    x = jnp.ones((batch_size, side, side, inputs))
    # What a pullback holds is what was kept; nothing is computed
    pullback = jax.eval_shape(lambda p: jax.vjp(lambda q: loss(q, x), p)[1], (layer, scale, following))
    return sum(leaf.size for leaf in jax.tree.leaves(pullback))


def update_times(pool: bj.data.Data, batch_size: int, repeats: int) -> list[np.ndarray]:
    """Milliseconds of updates with tied and with untied biases, taken in turns."""
    import jax
    import jax.numpy as jnp
    import optax

    adam, rows, fits = optax.adam(1e-3), jnp.arange(batch_size), {}
    step = jax.jit(functools.partial(bj.training.descend, adam, functools.partial(untied.loss, pool)))
    draw = jax.jit(untied.draw, static_argnums=(1, 2))
    for biases in untied.BIASES:
        fits[biases] = bj.training.begin(adam, draw(jax.random.key(0), biases, "flatten"))
        jax.block_until_ready(step(fits[biases], rows))
    times = {biases: np.zeros(repeats) for biases in untied.BIASES}
    for repeat in range(repeats):
        for biases, fit in fits.items():
            began = time.perf_counter()
            jax.block_until_ready(step(fit, rows))
            times[biases][repeat] = 1e3 * (time.perf_counter() - began)
    return list(times.values())
