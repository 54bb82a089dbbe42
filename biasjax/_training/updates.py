"""One update of a run, and what there is before the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

from biasjax import check
from biasjax._training.records import Hyperparams, TrainState
from biasjax.network import Network, Params, State, apply, following_stats, hidden_biases

Tree = TypeVar("Tree")


def first_state(
    network: Network, tx: optax.GradientTransformation, params: Params, state: State
) -> TrainState:
    """State before the first update."""
    biases, stats = hidden_biases(params), following_stats(network, state)
    gradient = None if biases is None else jnp.zeros(network.depth, biases.dtype)
    share = None if biases is None or stats is None else jnp.zeros_like(biases)
    return TrainState(params, state, optimizer_start(tx, params), gradient, share)


def optimizer_start(tx: optax.GradientTransformation, params: Any) -> Any:
    """State of the optimiser before the first update."""
    with _as_optax_wants():
        return tx.init(params)


def moved(
    tx: optax.GradientTransformation, params: Tree, optimizer_state: Any, gradients: Tree
) -> tuple[Tree, Any]:
    """Parameters and state of the optimiser after a step, in the dtypes that they had."""
    with _as_optax_wants():
        updates, new_state = tx.update(cast(Any, gradients), optimizer_state, cast(Any, params))
    new_params = jax.tree.map(lambda p, u: p + jnp.asarray(u, p.dtype), params, updates)
    # Traced hyperparameters may be wider than the run
    return new_params, jax.tree.map(lambda was, now: jnp.asarray(now, was.dtype), optimizer_state, new_state)


@contextlib.contextmanager
def _as_optax_wants() -> Iterator[None]:
    """Allow promotion: optax's Adam raises a traced decay rate to the power of an integer count."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run(
    network: Network, hyperparams: Hyperparams, params: Params, state: State, x: jax.Array, *, train: bool
) -> tuple[jax.Array, State]:
    """Apply the network as the hyperparameters say."""
    options = {
        "depth": hyperparams.depth,
        "momentum": hyperparams.bn_momentum,
        "epsilon": hyperparams.norm_epsilon,
    }
    return apply(network, params, state, x, train=train, **options)


def cross_entropy(logits: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Mean over examples, accumulated in at least float32."""
    logits = logits.astype(check.accumulator(logits.dtype))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(where=where)


def update(
    network: Network,
    tx: optax.GradientTransformation,
    hyperparams: Hyperparams,
    old: TrainState,
    batch: tuple[jax.Array, jax.Array],
) -> tuple[TrainState, jax.Array]:
    """Take one step; return also the loss before it."""
    x, y = batch

    def loss_fn(params):
        logits, state = run(network, hyperparams, params, old.state, x, train=True)
        return cross_entropy(logits, y), state

    (loss, state), gradients = jax.value_and_grad(loss_fn, has_aux=True)(old.params)
    params, optimizer_state = moved(tx, old.params, old.optimizer_state, gradients)
    return TrainState(params, state, optimizer_state, *_follow(hyperparams, old, gradients)), loss


def _follow(hyperparams: Hyperparams, old: TrainState, gradients: Params) -> tuple[Any, Any]:
    """Largest bias gradients since the last report, and the biases' shares in the running means."""
    biases, gradient, share = hidden_biases(old.params), hidden_biases(gradients), old.share
    if gradient is not None and old.bias_gradient is not None:
        gradient = jnp.maximum(old.bias_gradient, jnp.linalg.norm(gradient, axis=1))
    if share is not None and biases is not None:
        # The running mean is linear in what it averages, so the bias has a share of its own in it
        momentum = jnp.asarray(hyperparams.bn_momentum, share.dtype)
        share = momentum * share + (1 - momentum) * biases
    return gradient, share
