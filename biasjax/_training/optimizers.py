"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from biasjax._training.records import Hyperparams
from biasjax.tree import bias_mask

Optimizer = Callable[[Hyperparams, Any], optax.GradientTransformation]
Schedule = Callable[[Hyperparams, int], optax.Schedule]


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


def _warmup_cosine(h: Hyperparams, steps: int) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(0.0, h.learning_rate, max(1, steps // 10), max(2, steps))


SCHEDULES: dict[str, Schedule] = {
    "linear": lambda h, steps: optax.linear_schedule(h.learning_rate, 0.0, steps),
    "cosine": lambda h, steps: optax.cosine_decay_schedule(h.learning_rate, steps),
    "warmup_cosine": _warmup_cosine,
}
"""Learning rates by name, ``schedule(hyperparams, steps) -> optax.Schedule``: all fall to 0 at the last step,
from ``hyperparams.learning_rate``, "warmup_cosine" after rising to it over a tenth of the steps."""


def not_biases(params: Any) -> Any:
    """Tree that is False at biases, for weight decay."""
    return jax.tree.map(lambda bias: not bias, bias_mask(params))
