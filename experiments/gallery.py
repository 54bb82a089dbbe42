"""A gallery of small Flax models for `audit_tour`, every layer with the bias that is Flax's default.

Each factory returns ``(pure, *args)``, as ``python -m biasjax audit experiments.gallery:resnet_v1`` wants it.
`GALLERY` says which bias directions each of them cancels in training, from the architecture alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from biasjax import adapters
from experiments._gallery import convolutional, transformers

WIDTH = 8
BATCH, PIXELS, LENGTH = 4, 8, 6


def _pure(net: nn.Module, *args: Any) -> tuple:
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(1), *args)
    return adapters.from_linen(net, variables), *args


def _images() -> jax.Array:
    return jax.random.normal(jax.random.key(2), (BATCH, PIXELS, PIXELS, 3))


def _vectors() -> jax.Array:
    return jax.random.normal(jax.random.key(3), (BATCH, convolutional.LATENT))


def _of_images(net: Callable, width: int = WIDTH) -> tuple:
    return _pure(net(width), _images())


def _of_tokens(*, width: int = WIDTH, **options: Any) -> tuple:
    tokens = jax.random.randint(jax.random.key(4), (BATCH, LENGTH), 0, transformers.TOKENS)
    return _pure(transformers.Transformer(width, **options), tokens)


vgg_bn = functools.partial(_of_images, convolutional.VGG)
resnet_v1 = functools.partial(_of_images, convolutional.ResNetV1)
resnet_v2 = functools.partial(_of_images, convolutional.ResNetV2)
mobilenet = functools.partial(_of_images, convolutional.MobileNet)
unet = functools.partial(_of_images, convolutional.UNet)
pre_norm = functools.partial(_of_tokens, before=True)
pre_norm_rotary = functools.partial(_of_tokens, before=True, rotary=True)
pre_norm_qk_norm = functools.partial(_of_tokens, before=True, qk_norm=True)
post_norm = functools.partial(_of_tokens, before=False)
post_norm_rotary = functools.partial(_of_tokens, before=False, rotary=True)
post_norm_qk_norm = functools.partial(_of_tokens, before=False, qk_norm=True)


def dcgan(width: int = WIDTH) -> tuple:
    """Make the generator and its latent vectors."""
    return _pure(convolutional.DCGAN(width), _vectors())


def conditional_bn(width: int = WIDTH) -> tuple:
    """Make the generator, its latent vectors and labels."""
    return _pure(
        convolutional.ConditionalGenerator(width), _vectors(), jnp.arange(BATCH) % convolutional.CLASSES
    )


def film(width: int = WIDTH) -> tuple:
    """Make the network, its images and questions."""
    return _pure(convolutional.FiLM(width), _images(), _vectors())


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
        (Rule(r"\bConv_\d", lambda width: convolutional.GROUPS, evaluation=True),),
        f"{convolutional.GROUPS} directions of a conv bias before {convolutional.GROUPS} groups",
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
