"""Architectures that everybody counts: VGG16 of biasjax's layers, channels first, and ResNet-50 in Flax."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

import biasjax as bj

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels of VGG16's stages, and number of convolutions in each, before a pooling."""


class VGG(NamedTuple):
    """Size of a VGG16: channels are divided by ``narrow``; ``hidden`` features in two dense layers."""

    narrow: int = 1
    pixels: int = 224
    hidden: int = 4096
    classes: int = 1000
    batch_norm: bool = False

    def init(self, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw parameters and running statistics, named as the paper's layers."""
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        keys, inputs = iter(jax.random.split(key, 16)), 3
        for stage, (channels, count) in enumerate(STAGES, 1):
            channels //= self.narrow
            for i in range(1, count + 1):
                name = f"{stage}_{i}"
                params[f"conv{name}"] = bj.linear.conv_init(next(keys), inputs, channels, (3, 3))
                if self.batch_norm:
                    params[f"norm{name}"] = bj.norms.norm_init(channels)
                    state[f"norm{name}"] = bj.norms.batch_stats_init(channels)
                inputs = channels
        inputs *= (self.pixels // 32) ** 2
        for name, outputs in (("fc6", self.hidden), ("fc7", self.hidden), ("fc8", self.classes)):
            params[name] = bj.linear.dense_init(next(keys), inputs, outputs)
            inputs = outputs
        return params, state

    def apply(
        self, params: dict[str, Any], state: dict[str, Any], x: jax.Array, *, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Return logits of images ``(batch, 3, pixels, pixels)``, and new running statistics."""
        state = dict(state)
        for stage, (_, count) in enumerate(STAGES, 1):
            for i in range(1, count + 1):
                name = f"{stage}_{i}"
                x = bj.linear.conv(params[f"conv{name}"], x, channels_first=True)
                if self.batch_norm:
                    norm = f"norm{name}"
                    x, state[norm] = bj.norms.batch_norm(
                        params[norm], state[norm], x, train=train, channels_first=True
                    )
                x = jax.nn.relu(x)
            window = (1, 1, 2, 2)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = jax.nn.relu(bj.linear.dense(params[name], x))
        return bj.linear.dense(params["fc8"], x), state


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with a bias and batch norm as in Keras, and a shortcut."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return features."""

        def block(y: jax.Array, features: int, size: int, stride: int = 1) -> jax.Array:
            y = nn.Conv(features, (size, size), stride)(y)
            return nn.BatchNorm(use_running_average=not train)(y)

        y = nn.relu(block(x, self.features, 1, self.stride))
        y = nn.relu(block(y, self.features, 3))
        y = block(y, 4 * self.features, 1)
        if x.shape[-1] != y.shape[-1]:
            x = block(x, 4 * self.features, 1, self.stride)
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """He et al., arXiv 1512.03385, with a bias in every convolution, as Keras has it."""

    width: int = 64
    classes: int = 1000
    blocks: tuple[int, ...] = (3, 4, 6, 3)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return logits."""
        x = nn.Conv(self.width, (7, 7), 2)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                x = Bottleneck(self.width * 2**stage, 2 if stage and not i else 1)(x, train)
        return nn.Dense(self.classes)(x.mean((1, 2)))
