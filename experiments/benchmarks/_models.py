"""Models of real size that the auditor's benchmark is run on, with what they are applied to."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from biasjax import adapters
from biasjax.adapters import Pure


class Residual(nn.Module):
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
    """Eight blocks in four stages, for small images: a 3x3 stem, no pooling before the blocks."""

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(64, (3, 3))(x)))
        for stage, features in enumerate((64, 128, 256, 512)):
            for stride in (1 if stage == 0 else 2, 1):
                x = Residual(features, stride)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


class Layer(nn.Module):
    """Pre-norm attention, its query, key and value in one projection, and a perceptron."""

    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x):
        """Return the residual stream."""
        batch, length, width = x.shape
        joined = nn.Dense(3 * width, name="c_attn")(nn.LayerNorm(name="ln_1")(x))
        query, key, value = (
            part.reshape(batch, length, self.heads, -1) for part in jnp.split(joined, 3, axis=-1)
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(width // self.heads)
        if self.causal:
            scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e9)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value)
        x = x + nn.Dense(width, name="c_proj")(mixed.reshape(x.shape))
        y = nn.gelu(nn.Dense(4 * width, name="mlp_fc")(nn.LayerNorm(name="ln_2")(x)))
        return x + nn.Dense(width, name="mlp_proj")(y)


class GPT2(nn.Module):
    """GPT-2; small by default."""

    vocabulary: int = 50257
    width: int = 768
    heads: int = 12
    layers: int = 12

    @nn.compact
    def __call__(self, tokens):
        """Return logits."""
        embedding = nn.Embed(self.vocabulary, self.width, name="wte")
        places = self.param("wpe", nn.initializers.normal(0.02), (1024, self.width))
        x = embedding(tokens) + places[: tokens.shape[1]]
        for i in range(self.layers):
            x = Layer(self.heads, causal=True, name=f"h_{i}")(x)
        return embedding.attend(nn.LayerNorm(name="ln_f")(x))


class ViT(nn.Module):
    """Vision transformer; S/16 by default."""

    width: int = 384
    heads: int = 6
    layers: int = 12
    classes: int = 1000

    @nn.compact
    def __call__(self, x):
        """Return logits."""
        x = nn.Conv(self.width, (16, 16), 16, padding="VALID", name="embedding")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        first = self.param("class", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, self.width)), x], 1)
        x = x + self.param("places", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for i in range(self.layers):
            x = Layer(self.heads, causal=False, name=f"layer_{i}")(x)
        return nn.Dense(self.classes, name="head")(nn.LayerNorm(name="ln")(x)[:, 0])


def _linen(module: nn.Module, x: jax.Array, *rest: Any, **options: Any) -> tuple[Pure, jax.Array]:
    variables = jax.jit(lambda key: module.init(key, x, *rest))(jax.random.key(0))
    return adapters.from_linen(module, variables, **options), x


def _images(size: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, size, size, 3))


def _keras(name: str, size: int) -> tuple[Pure, jax.Array]:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    applications = importlib.import_module("keras").applications

    build = getattr(applications, name)
    return adapters.from_keras(build(weights=None, input_shape=(size, size, 3))), _images(size)


def _gpt2() -> tuple[Pure, jax.Array]:
    tokens = jax.random.randint(jax.random.key(1), (2, 64), 0, 50257)
    return _linen(GPT2(), tokens, mode=lambda train: {})


# Each gives a model and its input
CASES: dict[str, Callable[[], tuple[Pure, jax.Array]]] = {
    "resnet18": lambda: _linen(ResNet18(), _images(32), False),
    "resnet50": lambda: _keras("ResNet50", 64),
    "mobilenet_v2": lambda: _keras("MobileNetV2", 96),
    "vit_s16": lambda: _linen(ViT(), _images(64), mode=lambda train: {}),
    "gpt2": _gpt2,
}
