"""What a user of Flax would write for a sweep over training runs: a vmap, or a loop over jitted runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks._workloads import Workload

DECAY, MOMENTUM = 1e-2, 0.99


class Net(nn.Module):
    """Linear layers with a bias, batch norm and ReLU each, and a linear head."""

    width: int
    depth: int
    convolutional: bool

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        for _ in range(self.depth):
            x = nn.Conv(self.width, (3, 3))(x) if self.convolutional else nn.Dense(self.width)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)(x))
        return nn.Dense(10)(x.mean((1, 2)) if self.convolutional else x)


class Transformer(nn.Module):
    """Pre-norm blocks over the rows of a digit, their mean, and a linear head."""

    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        x = nn.Dense(self.width)(x)
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape[-2:])
        for _ in range(self.depth):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.relu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(-2))


def make_run(work: Workload) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Make a training run, a pure function of key and learning rate that returns losses."""
    net: nn.Module = (
        Transformer(work.width, work.depth, work.heads)
        if work.heads
        else Net(work.width, work.depth, work.convolutional)
    )
    images, labels = map(jnp.asarray, work.data())

    def loss_fn(params, stats, x, y):
        variables = {"params": params, "batch_stats": stats}
        logits, new = net.apply(variables, x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new.get("batch_stats", {})

    def run(key, rate):
        variables = net.init(key, images[:1], False)
        optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(rate))
        order = work.order(key, len(images))

        def step(carry, batch):
            params, stats, state = carry
            gradient = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, stats), grads = gradient(params, stats, images[batch], labels[batch])
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), stats, state), loss

        params = variables["params"]
        start = params, variables.get("batch_stats", {}), optimizer.init(params)
        return jax.lax.scan(step, start, order)[1]

    return run


def vmapped(**options: Any) -> tuple[Callable[[], Any], int]:
    """All runs at once."""
    work = Workload(**options)
    run = jax.jit(jax.vmap(make_run(work)))
    keys, rates = jax.vmap(jax.random.key)(jnp.arange(work.models)), jnp.asarray(work.rates())
    return lambda: np.asarray(run(keys, rates)), work.units


def looped(**options: Any) -> tuple[Callable[[], Any], int]:
    """One run after the other."""
    work = Workload(**options)
    run = jax.jit(make_run(work))

    def once() -> None:
        for seed, rate in enumerate(work.rates()):
            np.asarray(run(jax.random.key(seed), rate))

    return once, work.units
