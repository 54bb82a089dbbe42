"""A run in stages: its start, what takes it from report to report, and its end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import check
from biasjax._training.optimizers import Optimizer, Schedule, not_biases
from biasjax._training.plan import batch_order
from biasjax._training.records import Carry, History, Hyperparams, TrainState
from biasjax._training.reports import report
from biasjax._training.updates import first_state, update
from biasjax._varying import vary_like
from biasjax.data import Data
from biasjax.network import Network, Scales, hidden_biases, init


class Run(NamedTuple):
    """What is static of a run; fields are the arguments of `training.make_train`."""

    network: Network
    optimizer: Optimizer
    data: Data
    steps: int
    batch_size: int
    report_at: tuple[int, ...]
    decay_biases: bool
    schedule: Schedule | None

    def transformation(self, hyperparams: Hyperparams):
        """Optax transformation of this run."""
        if self.schedule is not None:
            # optax takes a function of the step wherever it takes a learning rate
            rate: Any = self.schedule(hyperparams, self.steps)
            hyperparams = hyperparams._replace(learning_rate=rate)
        return self.optimizer(hyperparams, None if self.decay_biases else not_biases)

    def batches(self, key: jax.Array) -> jax.Array:
        """Indices of the examples of each step, ``(steps, batch_size)``."""
        return batch_order(key, self.data.train_x.shape[0], self.steps, self.batch_size)


def start(run: Run, key: jax.Array, scales: Scales, hyperparams: Hyperparams) -> Carry:
    """Draw the network and make room for the reports."""
    dtype = run.data.train_x.dtype
    params, state = init(jax.random.split(key)[0], run.network, scales, dtype=dtype)
    train_state = first_state(run.network, run.transformation(hyperparams), params, state)
    biases = hidden_biases(params)
    shapes = jax.eval_shape(lambda: report(run.network, run.data, hyperparams, biases, train_state))
    reports = jax.tree.map(lambda x: jnp.zeros((len(run.report_at), *x.shape), x.dtype), shapes)
    losses = jnp.zeros(run.steps, check.accumulator(dtype))
    carry = Carry(jnp.zeros((), jnp.int32), train_state, biases, losses, reports)
    return vary_like(carry, key, scales, hyperparams, run.data)


def advance(
    run: Run,
    carry: Carry,
    key: jax.Array,
    scales: Scales,
    hyperparams: Hyperparams,
    batches: jax.Array | None = None,
) -> Carry:
    """Train to the next report; ``batches`` are those of the run, if they are known already."""
    tx, (train_x, train_y, *_) = run.transformation(hyperparams), run.data
    order = run.batches(key) if batches is None else batches

    def one(step, state_and_losses):
        train_state, losses = state_and_losses
        batch = train_x[order[step]], train_y[order[step]]
        train_state, loss = update(run.network, tx, hyperparams, train_state, batch)
        return train_state, losses.at[step].set(loss)

    bounds = np.stack([(0, *run.report_at[:-1]), run.report_at], 1).astype(np.int32)
    first, last = jnp.asarray(bounds)[carry.reported]
    largest = vary_like(jax.tree.map(jnp.zeros_like, carry.train_state.bias_gradient), carry)
    fresh = carry.train_state._replace(bias_gradient=largest)
    train_state, losses = jax.lax.fori_loop(first, last, one, (fresh, carry.loss))
    found = report(run.network, run.data, hyperparams, carry.start_biases, train_state)
    reports = jax.tree.map(lambda all_, one: all_.at[carry.reported].set(one), carry.reports, found)
    return Carry(carry.reported + 1, train_state, carry.start_biases, losses, reports)


def finish(
    run: Run, carry: Carry, key: jax.Array, scales: Scales, hyperparams: Hyperparams
) -> tuple[TrainState, History]:
    """Say whether the run diverged, and what it reported."""
    bad = ~jnp.isfinite(carry.loss)
    diverged_at = jnp.where(bad.any(), jnp.argmax(bad), -1)
    return carry.train_state, History(carry.loss, diverged_at, **carry.reports)
