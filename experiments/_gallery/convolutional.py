"""Convolutional networks: classifiers, and those that return images."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

CLASSES, LATENT, GROUPS = 5, 6, 4
"""Classes to tell apart or to draw, entries of a latent vector, groups of a group norm."""


def _norm(train: bool, **options: Any) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, **options)


class VGG(nn.Module):
    """Convolution, batch norm, ReLU; pooling between stages; two dense layers (Simonyan & Zisserman)."""

    width: int

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        for features in (self.width, 2 * self.width):
            x = nn.relu(_norm(train)(nn.Conv(features, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(2 * self.width)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(x)


class ResNetV1(nn.Module):
    """Norm after every convolution, ReLU after the sum (He et al., arXiv 1512.03385)."""

    width: int

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        x = nn.relu(_norm(train)(nn.Conv(self.width, (3, 3))(x)))
        for stride in (1, 2):
            y = nn.relu(_norm(train)(nn.Conv(self.width * stride, (3, 3), stride)(x)))
            y = _norm(train)(nn.Conv(self.width * stride, (3, 3))(y))
            if stride > 1:
                x = _norm(train)(nn.Conv(self.width * stride, (1, 1), stride)(x))
            x = nn.relu(x + y)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class ResNetV2(nn.Module):
    """Norm and ReLU before every convolution, nothing after the sum (He et al., arXiv 1603.05027)."""

    width: int

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        x = nn.Conv(self.width, (3, 3))(x)
        for stride in (1, 2):
            before = nn.relu(_norm(train)(x))
            y = nn.Conv(self.width * stride, (3, 3), stride)(before)
            y = nn.Conv(self.width * stride, (3, 3))(nn.relu(_norm(train)(y)))
            if stride > 1:
                x = nn.Conv(self.width * stride, (1, 1), stride)(before)
            x = x + y
        return nn.Dense(CLASSES)(nn.relu(_norm(train)(x)).mean((1, 2)))


class MobileNet(nn.Module):
    """Inverted residuals around linear bottlenecks (MobileNet v2; Sandler et al., arXiv 1801.04381)."""

    width: int

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        x = nn.relu6(_norm(train)(nn.Conv(self.width, (3, 3), 2)(x)))
        x = _norm(train, name="bottleneck_stem")(nn.Conv(self.width, (1, 1))(x))
        wide = 2 * self.width
        y = nn.relu6(_norm(train)(nn.Conv(wide, (1, 1))(x)))
        y = nn.relu6(_norm(train)(nn.Conv(wide, (3, 3), feature_group_count=wide)(y)))
        x = x + _norm(train, name="bottleneck")(nn.Conv(self.width, (1, 1))(y))
        x = nn.relu6(_norm(train)(nn.Conv(wide, (1, 1))(x)))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class UNet(nn.Module):
    """Group norm, one skip connection by concatenation (Ronneberger et al., arXiv 1505.04597)."""

    width: int

    @nn.compact
    def __call__(self, x, train):
        """Return logits of every pixel."""

        def block(features, x):
            return nn.relu(nn.GroupNorm(GROUPS)(nn.Conv(features, (3, 3))(x)))

        skip = block(self.width, x)
        x = block(2 * self.width, nn.max_pool(skip, (2, 2), (2, 2)))
        x = nn.ConvTranspose(self.width, (2, 2), (2, 2), name="up")(x)
        x = block(self.width, jnp.concatenate([x, skip], -1))
        return nn.Conv(3, (1, 1), name="out")(x)


class DCGAN(nn.Module):
    """Generator of transposed convolutions and batch norm (Radford et al., arXiv 1511.06434)."""

    width: int

    @nn.compact
    def __call__(self, z, train):
        """Return images."""
        x = nn.Dense(2 * 2 * self.width)(z).reshape(len(z), 2, 2, self.width)
        x = nn.relu(_norm(train)(x))
        for _ in range(2):
            x = nn.relu(_norm(train)(nn.ConvTranspose(self.width, (4, 4), (2, 2))(x)))
        return nn.tanh(nn.ConvTranspose(3, (4, 4), (2, 2), name="out")(x))


class ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift are linear in a condition (de Vries et al., arXiv 1707.00683)."""

    @nn.compact
    def __call__(self, x, condition, train):
        """Return modulated features."""
        x = _norm(train, use_scale=False, use_bias=False)(x)
        scale, shift = (nn.Dense(x.shape[-1], name=name)(condition) for name in ("to_scale", "to_shift"))
        return x * (1 + scale[:, None, None]) + shift[:, None, None]


class ConditionalGenerator(nn.Module):
    """Residual block with conditional batch norm (as in SNGAN; Miyato et al., arXiv 1802.05957)."""

    width: int

    @nn.compact
    def __call__(self, z, labels, train):
        """Return images."""
        condition = nn.Embed(CLASSES, LATENT)(labels)
        x = nn.Dense(4 * 4 * self.width)(z).reshape(len(z), 4, 4, self.width)
        y = nn.relu(ConditionalNorm()(x, condition, train)).repeat(2, 1).repeat(2, 2)
        y = nn.relu(ConditionalNorm()(nn.Conv(self.width, (3, 3))(y), condition, train))
        x = nn.Conv(self.width, (1, 1))(x.repeat(2, 1).repeat(2, 2)) + nn.Conv(self.width, (3, 3))(y)
        return nn.tanh(nn.Conv(3, (3, 3), name="out")(nn.relu(_norm(train)(x))))


class FiLM(nn.Module):
    """A residual block modulated by a question (Perez et al., arXiv 1709.07871)."""

    width: int

    @nn.compact
    def __call__(self, x, question, train):
        """Return logits."""
        x = nn.relu(_norm(train)(nn.Conv(self.width, (3, 3), 2)(x)))
        x = nn.relu(nn.Conv(self.width, (1, 1), name="mix")(x))
        y = ConditionalNorm()(nn.Conv(self.width, (3, 3))(x), question, train)
        x = x + nn.relu(y)
        return nn.Dense(CLASSES)(x.max((1, 2)))
