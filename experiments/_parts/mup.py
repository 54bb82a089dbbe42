"""Networks of any width under muP and under rules that miss it by a power of width.

muP as in Table 3 of arXiv 2203.03466, where the kernels differ from Table 8 by constants alone. Everything is
relative to a base width, at which all rules are one. Powers of width:

                    in, hidden biases    hidden    out    output bias
    initial std     0                    -1/2      -1     0
    rate of SGD     1                    0         -1     0
    rate of Adam    0                    -1        -1     0

The rate of a bias is fan_out under SGD, and its fan_in is 1: that of the constant which it multiplies.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

import biasjax as bj

HIDDEN = 2
LAYERS = ("hidden 1", "hidden 2", "output")
OPTIMIZERS = ("SGD", "Adam")
PROBES = 64
"""Examples on which changes are measured."""


class Rule(NamedTuple):
    """Powers of width beside those of muP; or one rate for all, and an output kernel of 1/sqrt(fan_in)."""

    bias_rate: int = 0
    bias_init: float = 0.0
    out_bias_rate: int = 0
    standard: bool = False


RULES = {
    "muP": Rule(),
    "standard": Rule(standard=True),
    "bias rate / n": Rule(bias_rate=-1),
    "bias rate * n": Rule(bias_rate=1),
    "output bias rate / n": Rule(out_bias_rate=-1),
    "output bias rate * n": Rule(out_bias_rate=1),
    "bias init / sqrt(n)": Rule(bias_init=-0.5),
    "bias init * sqrt(n)": Rule(bias_init=0.5),
}
_RATES = {"SGD": (1, 0, -1, 1, 0), "Adam": (0, -1, -1, 0, 0)}  # three kernels, hidden biases, output bias


class Powers(NamedTuple):
    """Powers of width of one rule: two of initial standard deviations, five of rates."""

    out_init: Any
    bias_init: Any
    rates: Any


def powers(optimizer: str, rule: Rule) -> Powers:
    """Powers of width of a rule for an optimiser."""
    rates = np.zeros(5) if rule.standard else np.array(_RATES[optimizer], float)
    beside = np.array([0, 0, 0, rule.bias_rate, rule.out_bias_rate])
    return Powers(-0.5 if rule.standard else -1.0, rule.bias_init, rates + beside)


def table() -> Powers:
    """Powers of all optimisers and rules, (optimizer, rule) in front."""
    rows = [[powers(name, rule) for rule in RULES.values()] for name in OPTIMIZERS]
    return Powers(*(np.array([[one[i] for one in row] for row in rows], np.float32) for i in range(3)))


def draw(config: Any, key: Any, width: int, rule: Powers) -> tuple[bj.linear.Linear, ...]:
    """Two hidden layers of ReLU and an output, for 64 pixels and 10 classes."""
    import jax
    import jax.numpy as jnp

    sizes, ratio = (64, *[width] * HIDDEN, 10), width / config.base_width
    counts = [a * b for a, b in itertools.pairwise(sizes)] + list(sizes[1:])
    # One draw for all layers: each one takes a second to compile
    flat = jnp.split(jax.random.normal(key, (sum(counts),)), np.cumsum(counts)[:-1])
    out_std = config.out_scale * config.base_width**-0.5 * ratio**rule.out_init
    kernel_std = [*((2 / inputs) ** 0.5 for inputs in sizes[:HIDDEN]), out_std]
    bias_std = [config.sigma_b * ratio**rule.bias_init] * HIDDEN + [0.0]
    shapes = itertools.pairwise(sizes)
    kernels = (s * x.reshape(shape) for s, x, shape in zip(kernel_std, flat, shapes, strict=False))
    biases = (std * x for std, x in zip(bias_std, flat[HIDDEN + 1 :], strict=True))
    return tuple(bj.linear.Linear(*one) for one in zip(kernels, biases, strict=True))


def forward(params: tuple[bj.linear.Linear, ...], x: Any) -> tuple[Any, ...]:
    """Pre-activations of every layer, logits last."""
    import jax

    found = [bj.linear.dense(params[0], x)]
    for layer in params[1:]:
        found.append(bj.linear.dense(layer, jax.nn.relu(found[-1])))
    return tuple(found)


def optimizer(adam: Any, rate: Any, ratio: float, rule: Powers, bias: Any = 1.0, kernels: Any = 1.0) -> Any:
    """SGD, or Adam if ``adam`` is 1, with a rate for each leaf.

    ``bias`` multiplies the rates of hidden biases, and ``kernels`` those of all other leaves.
    """
    import jax
    import jax.numpy as jnp
    import optax

    each = -rate * ratio**rule.rates * jnp.array([kernels, kernels, kernels, bias, kernels])
    scales = tuple(bj.linear.Linear(each[i], each[3 if i < HIDDEN else 4]) for i in range(HIDDEN + 1))
    # Gradients fall with width, so that epsilon must not matter
    inner = optax.scale_by_adam(eps=1e-12)

    def update(updates, state, params=None):
        adams, state = inner.update(updates, state, params)
        steps = jax.tree.map(lambda s, a, g: s * jnp.where(adam > 0, a, g), scales, adams, updates)
        return steps, state

    return optax.GradientTransformation(inner.init, update)


def _rms(x: Any) -> Any:
    import jax.numpy as jnp

    return jnp.sqrt(jnp.mean(x**2))


def changes(start: Any, params: Any, x: Any) -> dict[str, Any]:
    """RMS of what training added to each layer's pre-activations: all, by its bias, and by its kernel.

    By its kernel: its own change times what it gets now. What is left of the whole came from below.
    """
    import jax
    import jax.numpy as jnp

    before, after = forward(start, x), forward(params, x)
    inputs = (x, *map(jax.nn.relu, after[:-1]))
    pairs = list(zip(params, start, strict=True))
    kernels = [_rms(h @ (now.kernel - was.kernel)) for h, (now, was) in zip(inputs, pairs, strict=True)]
    return {
        "whole": jnp.stack([_rms(b - a) for a, b in zip(before, after, strict=True)]),
        "bias": jnp.stack([_rms(now.bias - was.bias) for now, was in pairs]),
        "kernel": jnp.stack(kernels),
    }


def share(params: Any, x: Any) -> Any:
    """RMS of each layer's bias over that of the rest of its pre-activation."""
    import jax.numpy as jnp

    found = zip(params, forward(params, x), strict=True)
    return jnp.stack([_rms(layer.bias) / _rms(z - layer.bias) for layer, z in found])


class Run(NamedTuple):
    """Where a run starts, how it steps, and its data: rows of each batch, and of what to measure on."""

    start: Any
    step: Any
    data: bj.data.Data
    rows: Any
    probes: Any


def begin(
    config: Any, key: Any, width: int, of: tuple[Any, Any], rate: Any, steps: int, **scales: Any
) -> Run:
    """Draw a network, its batches and its optimiser, ``of`` the numbers of an optimiser and of a rule."""
    import jax
    import jax.numpy as jnp

    data, rule = digits(), Powers(*(jnp.asarray(x)[of] for x in table()))
    drawing, ordering = jax.random.split(key)
    order = jax.random.permutation(ordering, len(data.train_y))
    probes, each = order[:PROBES], (len(order) - PROBES) // config.batch
    rows = order[PROBES : PROBES + each * config.batch].reshape(each, -1)[np.arange(steps) % each]
    tx = optimizer(of[0], rate, width / config.base_width, rule, **scales)
    start, loss = draw(config, drawing, width, rule), functools.partial(_loss, data)
    first = bj.training.begin(tx, start)
    return Run(first, functools.partial(bj.training.descend, tx, loss), data, rows, probes)


def digits() -> bj.data.Data:
    """The training set of the 8x8 digits, of which the last fifth is held out."""
    data = bj.data.flatten(bj.data.digits())
    x, y, some = data.train_x, data.train_y, len(data.train_y) * 4 // 5
    return bj.data.Data(x[:some], y[:some], x[some:], y[some:])


def _loss(data: bj.data.Data, params: Any, state: Any, rows: Any) -> Any:
    logits = forward(params, data.train_x[rows])[-1]
    return bj.training.cross_entropy(logits, data.train_y[rows]), state


def coordinates(
    config: Any, rates: tuple[float, ...], key: Any, *, optimizer: Any, rule: Any, width: int
) -> dict[str, Any]:
    """Changes of pre-activations after each step of a short run."""
    import jax
    import jax.numpy as jnp

    of, rate = (optimizer, rule), jnp.asarray(rates)[optimizer]
    run = begin(config, key, width, of, rate, config.steps)
    start, x = run.start.params, run.data.train_x[run.probes]

    def step(fit, rows):
        fit, _ = run.step(fit, rows)
        return fit, changes(start, fit.params, x)

    _, found = jax.lax.scan(step, run.start, run.rows)
    return {**found, "share": share(start, x)}


def race(
    config: Any,
    rates: tuple[Any, ...],
    key: Any,
    *,
    optimizer: Any,
    rule: Any = 0,
    multiplier: Any = 1.0,
    kernels: Any = 1.0,
    width: int,
) -> dict[str, Any]:
    """Losses on examples that were trained on, and on those held out, after a longer run."""
    import jax
    import jax.numpy as jnp

    options = {"bias": multiplier, "kernels": kernels}
    rate = jnp.asarray(rates)[optimizer]
    run = begin(config, key, width, (optimizer, rule), rate, config.race_steps, **options)
    (params, *_), _ = jax.lax.scan(run.step, run.start, run.rows)
    train, _ = _loss(run.data, params, None, run.rows[:8].ravel())
    logits = forward(params, run.data.test_x)[-1]
    return {"train": train, "held_out": bj.training.cross_entropy(logits, run.data.test_y)}


def tune(config: Any, key: Any, *, optimizer: Any, rate: Any) -> dict[str, Any]:
    """Run the race at the base width at some rate, under muP."""
    return race(config, (rate,) * len(OPTIMIZERS), key, optimizer=optimizer, width=config.base_width)
