"""Running statistics and cancelled biases, repaired by hand within a sweep and by the library's functions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import biasjax as bj

if TYPE_CHECKING:
    import xarray as xr

_AUDITED = 8
"""Examples that the audit is run on, whose time grows with them."""


class Setting(NamedTuple):
    """One way to train: the network, its data, the run in steps."""

    network: bj.network.Network
    data: bj.data.Data
    run: bj.stepwise.Stepwise


def setting(config: Any, batch_size: int, *, decay_biases: bool = True) -> Setting:
    """One hidden layer on the digits, by SGD, with reports early, at the end, and some updates later."""
    data = bj.data.flatten(bj.data.digits())
    sizes = {"inputs": data.train_x.shape[-1], "width": config.width, "depth": 1, "outputs": 10}
    network = bj.network.Network(**sizes, order="dense-bn-relu")
    reports = (config.early, config.steps, config.steps + config.more)
    options = {"steps": reports[-1], "batch_size": batch_size, "report_at": reports}
    steps = bj.training.make_steps(network, "sgd", data, decay_biases=decay_biases, **options)
    return Setting(network, data, steps)


def numbers_of(config: Any, key, bn_momentum, bias_value) -> tuple:
    """Key, scales and hyperparameters of a run."""
    rates = (config.learning_rate, config.weight_decay)
    hyperparams = bj.training.Hyperparams(*rates, bn_momentum=bn_momentum)
    return key, bj.network.Scales(bias_mean=bias_value), hyperparams


def to_the_end(run: bj.stepwise.Stepwise, carry, numbers: tuple):
    """Train through the early report to that at ``steps``."""
    import jax

    return jax.lax.scan(lambda now, _: (run.advance(now, *numbers), None), carry, length=2)[0]


def point(config: Any, key, *, batch_size: int, decay_biases: bool, bn_momentum, bias_value) -> dict:
    """Train one network; re-estimate; go on with its bias and without."""
    import jax
    import jax.numpy as jnp

    network, data, run = setting(config, batch_size, decay_biases=decay_biases)
    numbers = numbers_of(config, key, bn_momentum, bias_value)

    def to_report(both, _):
        both = jax.vmap(lambda now: run.advance(now, *numbers))(both)
        one, other = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in (0, 1))
        without = other._replace(train_state=removed(other.train_state))
        other = jax.tree.map(functools.partial(jnp.where, other.reported == 2), without, other)
        anew = reestimated(network, one.train_state, data.train_x)
        both = jax.tree.map(lambda *pair: jnp.stack(pair), one, other)
        return both, accuracy(network, anew.params, anew.state, data)

    # Two that part at the second report, so that one update is compiled for all
    start = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), run.start(*numbers))
    both, anew = jax.lax.scan(to_report, start, length=3)
    history = jax.vmap(lambda now: run.finish(now, *numbers)[1])(both)
    found = {name: getattr(history, name)[0] for name in ("accuracy_running", "accuracy_batch")}
    return found | {"accuracy_reestimated": anew, "accuracy_removed": history.accuracy_running[1]}


def reestimated(network: bj.network.Network, now: bj.training.TrainState, x) -> bj.training.TrainState:
    """Mean and variance over all of ``x``: of a single norm, what `statistics.reestimate` finds.

    A running average that keeps nothing of the old is the last batch's.
    """
    _, state = bj.network.apply(network, now.params, now.state, x, train=True, momentum=0.0)
    return now._replace(state=state)


def removed(now: bj.training.TrainState) -> bj.training.TrainState:
    """Zero the hidden bias and take it out of the running mean, as `surgery.remove_biases` does."""
    import jax

    stem: Any = now.params.stem
    stats: Any = now.state.stem
    linear = stem.linear._replace(bias=jax.numpy.zeros_like(stem.linear.bias))
    params = now.params._replace(stem=stem._replace(linear=linear))
    state = now.state._replace(stem=stats._replace(mean=stats.mean - stem.linear.bias))
    return now._replace(params=params, state=state)


def accuracy(network: bj.network.Network, params: Any, state: Any, data: bj.data.Data):
    """Accuracy at inference on the test set."""
    logits, _ = bj.network.apply(network, params, state, data.test_x, train=False)
    return (logits.argmax(-1).astype(data.test_y.dtype) == data.test_y).mean()


def pure(network: bj.network.Network, now: bj.training.TrainState) -> bj.adapters.Pure:
    """The network of a run for the library's functions."""

    def apply(params, state, x, train: bool):
        return bj.network.apply(network, params, state, x, train=train)

    return bj.adapters.Pure(apply, now.params, now.state)


def put_back(now: bj.training.TrainState, model: bj.adapters.Pure) -> bj.training.TrainState:
    """What a function made of `pure`, in the run that it was taken from."""
    return now._replace(params=model.params, state=model.state)


def cell(config: Any) -> xr.Dataset:
    """Accuracies at inference that the library's own functions lead to, one cell, real calls."""
    import jax
    import xarray as xr

    network, data, run = setting(config, config.cell_batch_size)
    at = functools.partial(numbers_of, config, bn_momentum=max(config.bn_momenta))

    @jax.jit
    def start(key, bias_value):
        return run.start(*at(key, bias_value=bias_value))

    @jax.jit
    def end(carry, key):
        numbers = at(key, bias_value=0.0)  # which matters at the start alone
        return to_the_end(run, carry, numbers).train_state

    examples, audit, rows = data.train_x[:_AUDITED], None, []
    for seed in range(config.cell_seeds):
        key = jax.random.fold_in(jax.random.key(0), seed)  # as in the sweep, so that draws are shared
        begun = start(key, max(config.bias_values))
        first = pure(network, begun.train_state)
        audit = bj.audit.audit_modes(first, examples, joint=False) if audit is None else audit
        first, _ = bj.surgery.remove_biases(first, examples, audit=audit)
        first = begun._replace(train_state=put_back(begun.train_state, first))
        last = end(begun, key)
        anew = bj.statistics.reestimate(pure(network, last), np.array_split(data.train_x, 3))
        runs = {
            "as_is": last,
            "twin": end(start(key, 0.0), key),
            "removed_first": end(first, key),
            "reestimated": put_back(last, anew),
        }
        rows.append({name: accuracy(network, one.params, one.state, data) for name, one in runs.items()})
    names = [f"cell_{name}" for name in rows[0]]
    columns = np.array([[float(one) for one in row.values()] for row in rows]).T
    return xr.Dataset({name: ("cell_seed", column) for name, column in zip(names, columns, strict=True)})
