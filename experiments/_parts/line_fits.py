"""Networks of one input and one hidden layer, fitted to functions; the least errors without hidden biases."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj

if TYPE_CHECKING:
    import jax

TARGETS = ("|x - 1|", "tent")


def positions() -> np.ndarray:
    """Inputs of a network, from -3 to 3 in the middle of cells, so that 0 lies between two of them."""
    return (np.arange(120) - 59.5) / 20


def targets(x: Any) -> list[Any]:
    """Functions to fit, in the order of `TARGETS`, of any kind of array."""
    return [abs(x - 1), (abs(abs(x - 1) - 1) - (abs(x - 1) - 1)) / 2]


def draw(key: jax.Array, hidden: int) -> tuple[bj.linear.Linear, bj.linear.Linear]:
    """Draw a hidden layer, weights and biases of variance 1, and the output."""
    import jax

    first, second = jax.random.split(key)
    params = bj.linear.dense_init(
        first, 1, hidden, kernel_init="standard_normal", bias_init="standard_normal"
    )
    return params, bj.linear.dense_init(second, hidden, 1)


def fit(config: Any, key, *, hidden_bias, output_bias, target, fitted: str) -> dict[str, jax.Array]:
    """Fit a network of one hidden layer to a target; return what it learned and its mean squared error.

    Parameters
    ----------
    config
        Has ``hidden``, ``steps`` and ``rate``.
    key
        Of the draws.
    hidden_bias, output_bias
        1 or 0, whether there is one.
    target
        Number of a target.
    fitted
        Name of the activation.
    """
    import jax
    import jax.numpy as jnp
    import optax

    act, params = bj.activations.get(fitted), draw(key, config.hidden)
    # A bias times 0 is none and has no gradient, so that one program serves all
    switches = tuple(jnp.asarray(on, jnp.float32) for on in (hidden_bias, output_bias))
    x = jnp.asarray(positions(), jnp.float32)[:, None]
    y = jnp.stack(targets(x))[target]

    def f(params):
        hidden, output = (p._replace(bias=on * p.bias) for p, on in zip(params, switches, strict=True))
        return bj.linear.dense(output, act(bj.linear.dense(hidden, x)))

    def loss(params, state, _):
        return bj.training.squared_error(f(params), y), state

    adam = optax.adam(optax.cosine_decay_schedule(config.rate, config.steps))
    step = functools.partial(bj.training.descend, adam, loss)
    found, _ = jax.lax.scan(step, bj.training.begin(adam, params), length=config.steps)
    return {"fit": f(found.params)[:, 0], "error": loss(found.params, None, None)[0]}


def least_error(activation: str, target: str, output_bias: bool) -> float:
    """Least mean squared error of a network without hidden biases, however many units it has.

    A ReLU network is v x for positive and u x for negative inputs; one of tanh is any odd function, to which
    the even part of the target is orthogonal. A bias of the output adds a constant.
    """
    x = positions()
    y = targets(x)[TARGETS.index(target)]
    if activation == "tanh":
        even = (y + y[::-1]) / 2
        return float(np.var(even) if output_bias else np.mean(even**2))
    basis = [np.maximum(x, 0), np.minimum(x, 0), *([np.ones_like(x)] if output_bias else [])]
    design = np.stack(basis, 1)
    return float(np.mean((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2))
