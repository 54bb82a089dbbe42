"""What a run reports of its state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from biasjax._training.records import Hyperparams, TrainState
from biasjax._training.updates import cross_entropy, run
from biasjax.data import Data
from biasjax.network import Network, following_stats, hidden_biases


def report(
    network: Network, data: Data, hyperparams: Hyperparams, start_biases: jax.Array | None, now: TrainState
) -> dict[str, Any]:
    """Fields of a `History` that have an axis of reports, at one of them."""
    found: dict[str, Any] = {}
    for name, train in (("batch", True), ("running", False)):
        logits, _ = run(network, hyperparams, now.params, now.state, data.test_x, train=train)
        right = jnp.argmax(logits, -1).astype(data.test_y.dtype) == data.test_y
        found |= {f"accuracy_{name}": jnp.mean(right), f"loss_{name}": cross_entropy(logits, data.test_y)}

    biases, stats = hidden_biases(now.params), following_stats(network, now.state, hyperparams.depth)
    used = network.depth if hyperparams.depth is None else hyperparams.depth
    in_use = jnp.arange(network.depth) < used
    found |= dict.fromkeys(("bias_gradient", "bias_mean", "bias_drift", "lag", "running_mean", "running_std"))
    if biases is not None and start_biases is not None:
        drift = jnp.sqrt(jnp.mean(jnp.square(biases - start_biases), 1))
        found |= {"bias_gradient": now.bias_gradient, "bias_mean": biases.mean(1), "bias_drift": drift}
    if stats is not None:
        found["running_mean"] = jnp.where(in_use, stats.mean.mean(1), 0)
        found["running_std"] = jnp.where(in_use, jnp.sqrt(stats.var.mean(1)), 0)
    if biases is not None and now.share is not None:
        found["lag"] = jnp.where(in_use, jnp.sqrt(jnp.mean(jnp.square(biases - now.share), 1)), 0)
    return found
