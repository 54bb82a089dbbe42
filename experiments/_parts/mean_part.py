"""Residual networks whose norms subtract the mean or do not, in the stream or behind ReLU."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

import biasjax as bj

PLACES = ("stream", "ReLU")
OPTIMIZERS = ("SGD", "Adam")
NORMS = ("RMS", "LN")
BIASES = ("none", "zeros", "random", "constant")
"""How biases start; the last two, in the embedding alone, are as large as each other."""


class Block(NamedTuple):
    """One branch, with the scale of its norm."""

    inner: bj.linear.Linear
    outer: bj.linear.Linear
    scale: Any


class Params(NamedTuple):
    """Embedding, branches, scale of the last norm, and head."""

    embed: bj.linear.Linear
    blocks: tuple[Block, ...]
    scale: Any
    head: bj.linear.Linear


def draw(config: Any, key: Any, start: Any) -> Params:
    """A network for 64 pixels and 10 classes, ``start`` the number of how biases start."""
    import jax
    import jax.numpy as jnp

    n, depth = config.width, config.depth
    shapes = [(64, n), *[(n, n)] * (2 * depth), (n, 10)]
    counts = [n, *(a * b for a, b in shapes)]
    # One draw for all: each one takes a second to compile
    random, *flat = jnp.split(jax.random.normal(key, (sum(counts),)), np.cumsum(counts)[:-1])
    gains = [1.0, *[2**0.5, 1.0] * depth, 1.0]
    kernels = [
        (gain / shape[0] ** 0.5) * x.reshape(shape)
        for gain, shape, x in zip(gains, shapes, flat, strict=True)
    ]
    first = config.bias * jnp.stack([jnp.zeros(n), jnp.zeros(n), random, jnp.ones(n)])[start]
    biases = [first, *(jnp.zeros(shape[1]) for shape in shapes[1:])]
    embed, *inside, head = (bj.linear.Linear(*one) for one in zip(kernels, biases, strict=True))
    pairs = zip(inside[::2], inside[1::2], strict=True)
    return Params(embed, tuple(Block(*pair, jnp.ones(n)) for pair in pairs), jnp.ones(n), head)


def norm(x: Any, scale: Any, centred: Any) -> Any:
    """RMS norm, after the mean is subtracted where ``centred`` is 1, which is layer norm; 0 is RMS norm."""
    import jax.numpy as jnp

    return bj.norms.rms_norm(bj.norms.Norm(scale), x - centred * jnp.mean(x, -1, keepdims=True))


def forward(params: Params, x: Any, centred: Any, behind: Any) -> tuple[Any, list[Any]]:
    """Logits, and what the norm of each branch is given.

    ``behind`` is 1 for norms behind ReLU, and 0 for norms in front of each branch and of the head. A number,
    like ``centred``, so that one program serves both.
    """
    import jax
    import jax.numpy as jnp

    stream, given = bj.linear.dense(params.embed, x), []
    for block in params.blocks:
        first = jnp.where(behind > 0, stream, norm(stream, block.scale, centred))
        h = jax.nn.relu(bj.linear.dense(block.inner, first))
        given.append(jnp.where(behind > 0, h, stream))
        h = jnp.where(behind > 0, norm(h, block.scale, centred), h)
        stream = stream + bj.linear.dense(block.outer, h)
    last = jnp.where(behind > 0, stream, norm(stream, params.scale, centred))
    return bj.linear.dense(params.head, last), given


def alignment(x: Any) -> Any:
    """Mean over examples of the squared cosine between a vector and that of ones."""
    import jax.numpy as jnp

    return jnp.mean(jnp.mean(x, -1) ** 2 / jnp.mean(x**2, -1))


def optimizer(adam: Any, rate: Any, use_bias: Any) -> Any:
    """SGD, or Adam if ``adam`` is 1; biases stay as they are unless ``use_bias`` is 1."""
    import jax
    import jax.numpy as jnp
    import optax

    inner = optax.scale_by_adam()

    def update(updates, state, params=None):
        adams, state = inner.update(updates, state, params)
        steps = jax.tree.map(lambda a, g: -rate * jnp.where(adam > 0, a, g), adams, updates)
        return jax.tree.map(lambda s, b: use_bias * s if b else s, steps, bj.tree.bias_mask(steps)), state

    return optax.GradientTransformation(inner.init, update)


def writers(params: Params) -> list[Any]:
    """Parameters that write to the stream, its features last."""
    layers = [params.embed, *(block.outer for block in params.blocks)]
    return [leaf for layer in layers for leaf in layer]


def share_of_ones(start: Params, params: Params) -> Any:
    """Share of what training added to the writers that lies along the ones, times width: 1 if at random."""
    import jax.numpy as jnp

    added = [now - was for now, was in zip(writers(params), writers(start), strict=True)]
    along = sum(jnp.sum(jnp.mean(x, -1) ** 2) for x in added)
    return along * start.scale.size**2 / sum(jnp.sum(x**2) for x in added)


class Kind(NamedTuple):
    """Numbers of what is trained: place of the norms, optimiser, whether they subtract the mean, biases."""

    place: Any
    optimizer: Any
    centred: Any
    start: Any


def train(config: Any, key: Any, data: bj.data.Data, rate: Any, kind: Kind) -> tuple[Params, Params]:
    """Parameters before and after training; SGD has ten times Adam's rate."""
    import jax
    import jax.numpy as jnp

    drawing, ordering = jax.random.split(key)
    first = draw(config, drawing, kind.start)
    each = len(data.train_y) // config.batch
    order = jax.random.permutation(ordering, len(data.train_y))[: each * config.batch]
    rows = order.reshape(each, -1)[np.arange(config.steps) % each]
    rate = rate * jnp.where(kind.optimizer > 0, 1.0, 10.0)
    tx = optimizer(kind.optimizer, rate, jnp.where(kind.start > 0, 1.0, 0.0))

    def loss(params, state, rows):
        logits, _ = forward(params, data.train_x[rows], kind.centred, kind.place)
        return bj.training.cross_entropy(logits, data.train_y[rows]), state

    step = functools.partial(bj.training.descend, tx, loss)
    (params, *_), _ = jax.lax.scan(step, bj.training.begin(tx, first), rows)
    return first, params


def initial(config: Any, key: Any, *, place: Any, centred: Any, start: Any) -> dict[str, Any]:
    """How far what norms are given lies along the ones in a new network."""
    import jax.numpy as jnp

    data = bj.data.flatten(bj.data.digits())
    _, given = forward(draw(config, key, start), data.train_x[: config.batch], centred, place)
    return {"initial": jnp.stack([alignment(x) for x in given])}


def tune(config: Any, key: Any, *, rate: Any, **kind: Any) -> dict[str, Any]:
    """Accuracy on the last fifth of the training set, held out."""
    import jax.numpy as jnp

    data = bj.data.flatten(bj.data.digits())
    (x, y), some = (data.train_x, data.train_y), len(data.train_y) * 4 // 5
    data, chosen = bj.data.Data(x[:some], y[:some], x[some:], y[some:]), Kind(**kind)
    _, params = train(config, key, data, rate, chosen)
    logits, _ = forward(params, data.test_x, chosen.centred, chosen.place)
    return {"held_out": jnp.mean(jnp.where(logits.argmax(-1) == data.test_y, 1.0, 0.0))}


def trained(config: Any, rates: Any, key: Any, **kind: Any) -> dict[str, Any]:
    """Accuracy, alignments, and what happens when the mean is left in, or subtracted, at inference alone.

    ``rates`` are nested as the fields of `Kind` are ordered.
    """
    import jax.numpy as jnp

    data, chosen = bj.data.flatten(bj.data.digits()), Kind(**kind)
    rate = jnp.asarray(rates)[tuple(jnp.asarray(number, int) for number in chosen)]
    first, params = train(config, key, data, rate, chosen)
    logits, given = forward(params, data.test_x, chosen.centred, chosen.place)
    swapped, _ = forward(params, data.test_x, 1 - chosen.centred, chosen.place)
    answer, other = logits.argmax(-1), swapped.argmax(-1)
    return {
        "accuracy": jnp.mean(jnp.where(answer == data.test_y, 1.0, 0.0)),
        "changed": jnp.mean(jnp.where(answer == other, 0.0, 1.0)),
        "aligned": jnp.stack([alignment(x) for x in given]),
        "ones": share_of_ones(first, params),
    }


def dead(behind: int, centred: int) -> int:
    """Directions of the embedding's bias that a small network cancels, by the audit."""
    import types

    import jax

    config = types.SimpleNamespace(width=4, depth=1, bias=1.0)
    params = draw(config, jax.random.key(0), 2)
    x = jax.random.normal(jax.random.key(1), (4, 64))
    logits = functools.partial(forward, centred=float(centred), behind=behind)
    audit = bj.audit.audit_biases(lambda params, x: logits(params, x)[0], params, x, joint=False, draws=4)
    found = audit["embed/bias"]
    return found.size - found.rank
