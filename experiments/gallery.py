"""A gallery of small Flax models for `audit_tour`, every layer with the bias that is Flax's default.

Each factory returns ``(pure, *args)``, as ``python -m biasjax audit experiments.gallery:resnet_v1`` wants it.
`BY_HAND` says which bias directions each of them cancels in training, from the architecture alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from biasjax import adapters, attention

WIDTH = 8
BATCH, PIXELS, LENGTH, CLASSES, LATENT = 4, 8, 6, 5, 6
GROUPS, HEADS = 4, 2


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


class Attend(nn.Module):
    """`biasjax.attention` as a linen module."""

    rotary: bool
    qk_norm: bool

    @nn.compact
    def __call__(self, x):
        """Return features."""
        options = {"features": x.shape[-1], "heads": HEADS, "qk_norm": self.qk_norm}
        init: Any = functools.partial(attention.attention_init, **options)
        params: Any = self.param("heads", init)
        return attention.attention(params, x, heads=HEADS, rotary=self.rotary)


class Transformer(nn.Module):
    """One layer, layer norm before each sublayer or after each sum (Xiong et al., arXiv 2002.04745)."""

    width: int
    before: bool
    rotary: bool = False
    qk_norm: bool = False

    @nn.compact
    def __call__(self, tokens, train):
        """Return logits at every position."""

        def mlp(x):
            return nn.Dense(self.width, name="down")(nn.gelu(nn.Dense(2 * self.width)(x)))

        x = nn.Embed(CLASSES, self.width)(tokens)
        x = x + self.param("position", nn.initializers.normal(1.0), x.shape[1:])
        for sublayer in (Attend(self.rotary, self.qk_norm), mlp):
            norm = nn.LayerNorm()
            x = x + sublayer(norm(x)) if self.before else norm(x + sublayer(x))
        x = nn.LayerNorm()(x) if self.before else x
        return nn.Dense(CLASSES)(x)


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


def _pure(net: nn.Module, *args: Any) -> tuple:
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(1), *args)
    return adapters.from_linen(net, variables), *args


def _images() -> jax.Array:
    return jax.random.normal(jax.random.key(2), (BATCH, PIXELS, PIXELS, 3))


def _vectors() -> jax.Array:
    return jax.random.normal(jax.random.key(3), (BATCH, LATENT))


def _of_images(net: Callable, width: int = WIDTH) -> tuple:
    return _pure(net(width), _images())


def _of_tokens(*, width: int = WIDTH, **options: Any) -> tuple:
    tokens = jax.random.randint(jax.random.key(4), (BATCH, LENGTH), 0, CLASSES)
    return _pure(Transformer(width, **options), tokens)


vgg_bn = functools.partial(_of_images, VGG)
resnet_v1 = functools.partial(_of_images, ResNetV1)
resnet_v2 = functools.partial(_of_images, ResNetV2)
mobilenet = functools.partial(_of_images, MobileNet)
unet = functools.partial(_of_images, UNet)
pre_norm = functools.partial(_of_tokens, before=True)
pre_norm_rotary = functools.partial(_of_tokens, before=True, rotary=True)
pre_norm_qk_norm = functools.partial(_of_tokens, before=True, qk_norm=True)
post_norm = functools.partial(_of_tokens, before=False)
post_norm_rotary = functools.partial(_of_tokens, before=False, rotary=True)
post_norm_qk_norm = functools.partial(_of_tokens, before=False, qk_norm=True)


def dcgan(width: int = WIDTH) -> tuple:
    """Make the generator and its latent vectors."""
    return _pure(DCGAN(width), _vectors())


def conditional_bn(width: int = WIDTH) -> tuple:
    """Make the generator, its latent vectors and labels."""
    return _pure(ConditionalGenerator(width), _vectors(), jnp.arange(BATCH) % CLASSES)


def film(width: int = WIDTH) -> tuple:
    """Make the network, its images and questions."""
    return _pure(FiLM(width), _images(), _vectors())


class Rule(NamedTuple):
    """Directions that every bias whose path contains a match of ``pattern`` loses.

    Attributes
    ----------
    pattern
        Regular expression.
    directions
        Function of width giving their number; None for all entries.
    evaluation
        Whether they are lost in evaluation mode, too.
    """

    pattern: str
    directions: Callable[[int], int] | None = None
    evaluation: bool = False


class Entry(NamedTuple):
    """A factory, what its architecture cancels, and why."""

    factory: Callable[..., tuple]
    rules: tuple[Rule, ...]
    why: str


def _one(width: int) -> int:
    return 1


_CONVS = Rule(r"\bConv_\d")
# What is added to the stream is read through layer norms alone. A value bias loses a direction, too, but at
# every draw of the output kernel another one: none that the architecture cancels
_STREAM = Rule("out/bias|down", _one, evaluation=True)
_KEYS = Rule("key/bias", evaluation=True)
_ATTENTION, _TURNED = (_KEYS, _STREAM), (_STREAM,)
_BEFORE_BN = "every conv bias: batch norm follows"
_SUM = "one direction of biases added to the stream: only layer norms read it"
_KEY_SUM = "key biases: one score for all keys; " + _SUM

GALLERY = {
    "vgg_bn": Entry(vgg_bn, (_CONVS,), _BEFORE_BN),
    "resnet_v1": Entry(resnet_v1, (_CONVS,), _BEFORE_BN),
    "resnet_v2": Entry(resnet_v2, (_CONVS,), "every conv bias: only batch norms read the stream"),
    "mobilenet": Entry(
        mobilenet,
        (_CONVS, Rule("bottleneck")),
        "every conv bias; biases of batch norms at linear bottlenecks: 1x1 conv and batch norm read them",
    ),
    "unet": Entry(
        unet,
        (Rule(r"\bConv_\d", lambda width: GROUPS, evaluation=True),),
        f"{GROUPS} directions of a conv bias before {GROUPS} groups",
    ),
    "pre_norm": Entry(pre_norm, _ATTENTION, _KEY_SUM),
    "pre_norm_rotary": Entry(pre_norm_rotary, _TURNED, _SUM),
    "pre_norm_qk_norm": Entry(pre_norm_qk_norm, _TURNED, _SUM),
    "post_norm": Entry(post_norm, _ATTENTION, _KEY_SUM),
    "post_norm_rotary": Entry(post_norm_rotary, _TURNED, _SUM),
    "post_norm_qk_norm": Entry(post_norm_qk_norm, _TURNED, _SUM),
    "dcgan": Entry(
        dcgan,
        (Rule(r"\bConvTranspose_\d"), Rule(r"\bDense_0", lambda width: width)),
        "transposed conv biases before batch norm; one direction per channel of the dense one",
    ),
    "conditional_bn": Entry(
        conditional_bn,
        (_CONVS, Rule(r"^Dense_0", lambda width: width)),
        "conv biases, also in shortcuts; one direction per channel of the dense one",
    ),
    "film": Entry(film, (_CONVS,), "conv biases before the modulated batch norms"),
}


def by_hand(name: str, path: str, size: int, width: int, train: bool) -> int:
    """Directions of a bias that the rules of a model cancel.

    Examples
    --------
    >>> by_hand("unet", "Conv_0/bias", 8, 8, True), by_hand("vgg_bn", "Conv_0/bias", 8, 8, False)
    (4, 0)
    """
    for rule in GALLERY[name].rules:
        if (train or rule.evaluation) and re.search(rule.pattern, path):
            return rule.directions(width) if rule.directions else size
    return 0
