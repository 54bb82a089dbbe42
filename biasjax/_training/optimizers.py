"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from biasjax._training.records import Hyperparams
from biasjax.tree import bias_mask

Optimizer = Callable[[Hyperparams, Any], optax.GradientTransformation]


def _l2(step: Callable[[Hyperparams], optax.GradientTransformation]) -> Optimizer:
    """Add weight decay to the gradient, then take a step."""
    return lambda h, mask: optax.chain(optax.add_decayed_weights(h.weight_decay, mask), step(h))


def _adamw(h: Hyperparams, mask) -> optax.GradientTransformation:
    return optax.adamw(
        h.learning_rate, h.momentum, eps=h.adam_epsilon, weight_decay=h.weight_decay, mask=mask
    )


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": _l2(lambda h: optax.sgd(h.learning_rate)),
    "momentum": _l2(lambda h: optax.sgd(h.learning_rate, h.momentum)),
    "adam": _l2(lambda h: optax.adam(h.learning_rate, h.momentum, eps=h.adam_epsilon)),
    "adamw": _adamw,
}
"""Optimisers by name: ``optimizer(hyperparams, decay_mask) -> optax.GradientTransformation``."""


def not_biases(params: Any) -> Any:
    """Tree that is False at biases, for weight decay."""
    return jax.tree.map(lambda bias: not bias, bias_mask(params))
