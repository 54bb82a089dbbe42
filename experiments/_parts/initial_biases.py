"""Networks without norms from chosen initial biases: ten classes, and one rare class against the rest."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj

if TYPE_CHECKING:
    import jax

    Params = tuple[bj.linear.Linear, ...]

INITS: dict[str, str | float] = {
    "zeros": "zeros",
    "0.1": 0.1,
    "ones": "ones",
    "-1": -1.0,
    "N(0, .05²)": "normal",
    "N(0, 1)": "standard_normal",
    "Xavier": "glorot_uniform",
    "PyTorch": "torch_uniform",
}
"""Initial biases by the name they have in figures."""
WHEN = ("before", "after")


def draw(key: jax.Array, sizes: tuple[int, ...], init: Any) -> Params:
    """Draw a dense network with Keras' kernels; ``init`` is the number of the biases' initialiser."""
    import jax
    import jax.numpy as jnp

    params = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        first, second = jax.random.split(jax.random.fold_in(key, number))
        layer = bj.linear.dense_init(first, inputs, outputs, kernel_init="glorot_uniform")
        # All are drawn and one taken, so that one program serves all
        drawn = [bj.initializers.draw(name, second, (outputs,), fan_in=inputs) for name in INITS.values()]
        params.append(layer._replace(bias=jnp.stack(drawn)[init]))
    return tuple(params)


def forward(activation: str, params: Params, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Pre-activations of the hidden layers, and outputs."""
    act, before = bj.activations.get(activation), []
    for layer in params[:-1]:
        before.append(bj.linear.dense(layer, x))
        x = act(before[-1])
    return before, bj.linear.dense(params[-1], x)


def point(
    config: Any, data: bj.data.Data, held: bj.data.Data, key, *, rate, init, activation: str
) -> dict[str, jax.Array]:
    """Train one network on digits by SGD, whose rate falls to 0.

    Parameters
    ----------
    config
        Has ``width``, ``depth``, ``steps`` and ``batch_size``.
    data, held
        To test on; to train on, and in place of a test set to choose the rate on.
    key
        Of the draws.
    rate, init, activation
        Learning rate at first, number of the initialiser, name.

    Returns
    -------
    dict
        Loss of each batch; accuracies; hidden biases before and after, ``(when, layer, unit)``; shares of
        hidden units that are negative, or positive, for all training examples, ``(when,)``.
    """
    import jax
    import jax.numpy as jnp
    import optax

    params = draw(key, (data.train_x.shape[1], *[config.width] * config.depth, 10), init)

    def loss(params, state, rows):
        logits = forward(activation, params, held.train_x[rows])[1]
        return bj.training.cross_entropy(logits, held.train_y[rows]), state

    sgd = optax.sgd(optax.cosine_decay_schedule(rate, config.steps))
    order = bj.training.batch_order(key, held.train_y.shape[0], config.steps, config.batch_size)
    fit, losses = jax.lax.scan(
        functools.partial(bj.training.descend, sgd, loss), bj.training.begin(sgd, params), order
    )

    def accuracy(x, y):
        return jnp.mean(jnp.argmax(forward(activation, fit.params, x)[1], -1).astype(y.dtype) == y)

    both = [_units(activation, p, held.train_x) for p in (params, fit.params)]
    measured = {name: jnp.stack([one[name] for one in both]) for name in both[0]}
    chosen = {"validation": accuracy(held.test_x, held.test_y), "test": accuracy(data.test_x, data.test_y)}
    return {"loss": losses, **chosen, **measured}


def _units(activation: str, params: Params, x: jax.Array) -> dict[str, jax.Array]:
    """Hidden biases, and shares of hidden units on one side for all inputs."""
    import jax.numpy as jnp

    before = jnp.stack(forward(activation, params, x)[0])
    sides = {"dead": jnp.mean((before <= 0).all(1)), "always_on": jnp.mean((before > 0).all(1))}
    return {"biases": jnp.stack([jnp.asarray(layer.bias) for layer in params[:-1]]), **sides}


def log_prior(share: float) -> float:
    """Output bias at which a logit of zero else is the share's, -log((1 - share) / share)."""
    return -math.log((1 - share) / share)


def first_loss(bias: float, share: float) -> float:
    """Cross-entropy of a constant logit where a share of the labels is 1."""
    return share * math.log1p(math.exp(-bias)) + (1 - share) * math.log1p(math.exp(bias))


def reports(config: Any) -> list[int]:
    """Updates after which the rare class is reported on."""
    return [0, *config.early, config.rare_steps]


def rare(
    config: Any, data: bj.data.Data, held: bj.data.Data, key, *, rare_rate, start, head_scale
) -> dict[str, jax.Array]:
    """Train one network, by SGD with momentum .9, to tell a rare class from the rest.

    Parameters
    ----------
    config
        Has ``width``, ``early``, ``rare_steps``, ``rare_batch_size`` and ``share``.
    data
        Rare in training; tested on.
    held
        Rare likewise; its test set is the one to choose on.
    key
        Of the draws.
    rare_rate, start, head_scale
        Learning rate; initial output bias, times the log prior; standard deviation of the output's kernel.

    Returns
    -------
    dict
        Loss, norm of the gradient and its component along the output bias on the training set,
        ``(report,)``; areas under the ROC curve; losses at the training set's share.
    """
    import jax
    import jax.numpy as jnp
    import optax

    body = draw(key, (data.train_x.shape[1], config.width, config.width), 0)
    kernel = head_scale * jax.random.normal(jax.random.fold_in(key, 9), (config.width, 1))
    params = (*body, bj.linear.Linear(kernel, jnp.full(1, start * log_prior(config.share))))

    def loss(params, state, rows):
        logits = forward("relu", params, held.train_x[rows])[1][:, 0]
        labels = held.train_y[rows].astype(logits.dtype)
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), state

    sgd = optax.sgd(rare_rate, momentum=0.9)
    step = functools.partial(bj.training.descend, sgd, loss)
    order = bj.training.batch_order(key, held.train_y.shape[0], config.rare_steps, config.rare_batch_size)
    everything = jnp.arange(held.train_y.shape[0])
    fit, measured = bj.training.begin(sgd, params), []
    for begin, end in itertools.pairwise([0, *reports(config)]):
        fit, _ = jax.lax.scan(step, fit, order[begin:end])
        value, gradient = jax.value_and_grad(lambda p: loss(p, None, everything)[0])(fit.params)
        measured.append(
            (value, jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))), gradient[-1].bias[0])
        )
    names = ("rare_loss", "gradient", "bias_gradient")
    found = {name: jnp.stack(values) for name, values in zip(names, zip(*measured, strict=True), strict=True)}
    share = np.asarray(held.train_y, np.float32).mean()
    for name, x, y in (("chosen", held.test_x, held.test_y), ("test", data.test_x, data.test_y)):
        logits = forward("relu", fit.params, x)[1][:, 0]
        found |= {f"{name}_area": area(logits, y), f"{name}_loss": weighted_loss(logits, y, share)}
    return found


def area(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Area under the ROC curve: share of pairs whose positive has the greater score, ties counting half."""
    import jax.numpy as jnp

    positive = np.flatnonzero(np.asarray(labels))
    negative = np.flatnonzero(1 - np.asarray(labels))
    gap = scores[positive][:, None] - scores[negative]
    return jnp.mean((jnp.sign(gap) + 1) / 2)


def weighted_loss(logits: jax.Array, labels: jax.Array, share: float) -> jax.Array:
    """Cross-entropy as it were if a share of the labels were 1."""
    import jax
    import jax.numpy as jnp

    positive = np.asarray(labels) == 1
    return share * jnp.mean(jax.nn.softplus(-logits[positive])) + (1 - share) * jnp.mean(
        jax.nn.softplus(logits[~positive])
    )
