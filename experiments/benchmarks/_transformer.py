"""Training of a small transformer of biasjax's layers over the rows of a digit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from biasjax import linear, norms, transformer
from experiments.benchmarks._workloads import Workload

DECAY = 1e-2


class Params(NamedTuple):
    """Of the whole model; ``blocks`` has their number in front of every leaf."""

    embed: linear.Linear
    position: jax.Array
    blocks: transformer.Block
    norm: norms.Norm
    head: linear.Linear


def init(key: jax.Array, work: Workload) -> Params:
    """Draw the parameters."""
    embed, position, blocks, head = jax.random.split(key, 4)

    def block(key: jax.Array) -> transformer.Block:
        return transformer.block_init(key, work.width, work.heads)

    return Params(
        linear.dense_init(embed, 8, work.width),
        0.02 * jax.random.normal(position, (8, work.width)),
        jax.vmap(block)(jax.random.split(blocks, work.depth)),
        norms.norm_init(work.width),
        linear.dense_init(head, work.width, 10),
    )


def apply(params: Params, x: jax.Array, heads: int) -> jax.Array:
    """Return logits."""

    def block(x: jax.Array, own: transformer.Block) -> tuple[jax.Array, None]:
        return transformer.block(own, x, heads=heads, activation=jax.nn.relu), None

    x = linear.dense(params.embed, x) + params.position
    x, _ = jax.lax.scan(block, x, params.blocks, unroll=True)
    return linear.dense(params.head, norms.layer_norm(params.norm, x).mean(-2))


def make_run(work: Workload) -> Callable[..., jax.Array]:
    """Make a training run that returns its losses."""
    images, labels = map(jnp.asarray, work.data())

    def loss_fn(params: Params, batch: jax.Array) -> jax.Array:
        logits = apply(params, images[batch], work.heads)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def run(key: jax.Array, rate: jax.Array) -> jax.Array:
        drawing, ordering = jax.random.split(key)

        def step(params: Params, batch: jax.Array) -> tuple[Params, jax.Array]:
            loss, grads = jax.value_and_grad(loss_fn)(params, batch)
            return jax.tree.map(lambda p, g: p - rate * (g + DECAY * p), params, grads), loss

        return jax.lax.scan(step, init(drawing, work), work.order(ordering, len(images)))[1]

    return run
