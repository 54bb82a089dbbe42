"""A small convolutional network with one bias for each channel, or for each position of it too."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import biasjax as bj

if TYPE_CHECKING:
    import jax

BIASES = {"tied": {}, "untied": {"untie_biases": True}}
"""Options of the convolutions."""
SIDES = (14, 7)
"""Height and width of the two layers' outputs."""
CHANNELS = (1, 4, 16)
CLASSES = 10
RATES = {"flatten": 1.0, "mean": 3.0}
"""Learning rates by what the dense layer sees, all positions as in VGG16 or their mean, over those given."""


class Params(NamedTuple):
    """Two convolutions, the second one with a stride of 2, and a dense layer."""

    convs: tuple[bj.linear.Linear, ...]
    head: bj.linear.Linear


def draw(key: jax.Array, biases: str, head: str) -> Params:
    """Draw a network for images of 14 by 14; kernels do not depend on how biases are tied."""
    import jax

    keys = jax.random.split(key, 3)
    sizes = zip(keys, CHANNELS, CHANNELS[1:], SIDES, strict=False)
    convs = [
        bj.linear.conv_init(
            key,
            inputs,
            outputs,
            (3, 3),
            kernel_init="he_normal",
            output_size=(side, side) if biases == "untied" else None,
            **BIASES[biases],
        )
        for key, inputs, outputs, side in sizes
    ]
    features = CHANNELS[-1] * (SIDES[-1] ** 2 if head == "flatten" else 1)
    return Params(tuple(convs), bj.linear.dense_init(keys[2], features, CLASSES))


def forward(params: Params, x: jax.Array) -> jax.Array:
    """Logits of images."""
    import jax

    for layer, strides in zip(params.convs, (1, 2), strict=True):
        x = jax.nn.relu(bj.linear.conv(layer, x, strides=strides))
    flat = params.head.kernel.shape[0] != x.shape[-1]
    return bj.linear.dense(params.head, x.reshape(x.shape[0], -1) if flat else x.mean((1, 2)))


def loss(pool: bj.data.Data, params: Params, state: Any, rows: jax.Array) -> tuple[jax.Array, Any]:
    """Cross-entropy of some of the training examples, as `training.descend` takes it."""
    return bj.training.cross_entropy(forward(params, pool.train_x[rows]), pool.train_y[rows]), state


def point(
    config: Any, pool: bj.data.Data, tests: Any, key, *, size, rate, biases: str, head: str
) -> dict[str, jax.Array]:
    """Train one network on a few examples, by Adam, whose rate falls to 0.

    Parameters
    ----------
    config
        Has ``steps``, ``batch_size`` and ``sizes``.
    pool
        Examples to train on, and in place of a test set those to choose on.
    tests
        Images to test on, by name, and their labels.
    key
        Of the draws: kernels, which examples, batches.
    size, rate
        Number of examples, at most the greatest of ``config.sizes``; learning rate at first.
    biases, head
        Names.

    Returns
    -------
    dict
        Loss of each batch; accuracy and loss on the training examples, accuracies on the others.
    """
    import jax
    import jax.numpy as jnp
    import optax

    drawing, choosing, batching = jax.random.split(key, 3)
    mine = jax.random.permutation(choosing, pool.train_y.shape[0])[: max(config.sizes)]
    # With replacement, so that one program serves all sizes
    order = mine[jax.random.randint(batching, (config.steps, config.batch_size), 0, size)]
    adam = optax.adam(optax.cosine_decay_schedule(RATES[head] * rate, config.steps))
    step = functools.partial(bj.training.descend, adam, functools.partial(loss, pool))
    fit, losses = jax.lax.scan(step, bj.training.begin(adam, draw(drawing, biases, head)), order)
    others = {**tests, "validation": (pool.test_x, pool.test_y)}
    images = [pool.train_x[mine], *(x for x, _ in others.values())]
    # All at once, which compiles in a quarter of the time
    ends = np.cumsum([x.shape[0] for x in images])[:-1]
    logits, *rest = jnp.split(forward(fit.params, jnp.concatenate(images)), ends)
    y, mask = pool.train_y[mine], jnp.arange(mine.shape[0]) < size

    def hits(logits, y):
        return jnp.argmax(logits, -1).astype(y.dtype) == y

    accuracies = {n: jnp.mean(hits(z, y)) for z, (n, (_, y)) in zip(rest, others.items(), strict=True)}
    train = {"train": jnp.mean(hits(logits, y), where=mask), **accuracies}
    return {"loss": losses, "train_loss": bj.training.cross_entropy(logits, y, mask), **train}
