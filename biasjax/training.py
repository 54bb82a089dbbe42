"""Whole training runs as pure functions of a key and numbers, so that they jit and vmap over all of these.

`make_train` fixes what is static and returns ``train(key, scales, hyperparams)``. Beside loss and accuracy
it follows the hidden biases: their gradient, their drift, and how far the running mean of a following
batch norm lags behind them. A run that diverges goes on and says at which step it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from biasjax import check
from biasjax.data import Data
from biasjax.network import (
    Network,
    Params,
    Scales,
    State,
    apply,
    following_stats,
    hidden_biases,
    init,
)
from biasjax._network.architecture import linear_layer
from biasjax.stepwise import Stepwise
from biasjax.tree import bias_mask

Number = float | jax.Array


class Hyperparams(NamedTuple):
    """Traced numbers of a run.

    Attributes
    ----------
    learning_rate
        Step size.
    weight_decay
        L2 coefficient, added to the gradient ("adamw": decoupled).
    momentum
        Of "momentum"; the first moment's decay of "adam" and "adamw"; "sgd" ignores it.
    adam_epsilon
        Added to Adam's denominator.
    bn_momentum
        Weight of the old running statistics.
    norm_epsilon
        Added to the variance by the norms.
    depth
        Number of hidden layers in use; None for all.
    """

    learning_rate: Number = 0.1
    weight_decay: Number = 0.0
    momentum: Number = 0.9
    adam_epsilon: Number = 1e-8
    bn_momentum: Number = 0.99
    norm_epsilon: Number = 1e-5
    depth: Number | None = None


class TrainState(NamedTuple):
    """What a run carries from step to step.

    Attributes
    ----------
    params, state, optimizer_state
        Parameters, running statistics, optax state.
    bias_gradient
        ``(depth,)`` largest norm of the gradient of each layer's bias since the last report, or None
        without biases.
    share
        ``(depth, width)`` share of each bias in the running mean that follows it: the running
        average, from 0, of the bias itself; None unless a batch norm follows directly.
    """

    params: Params
    state: State
    optimizer_state: Any
    bias_gradient: jax.Array | None
    share: jax.Array | None


class History(NamedTuple):
    """What a run reports, at every step (loss) and at the chosen ones (everything else).

    Attributes
    ----------
    loss
        ``(steps,)`` cross-entropy of each training batch before its update, with batch statistics.
    diverged_at
        First step whose loss is not finite, -1 if there is none.
    accuracy_batch, accuracy_running
        ``(reports,)`` accuracy on the test set with its own batch statistics (the whole set as one batch)
        and with the running statistics; equal without batch norm.
    bias_gradient
        ``(reports, depth)`` largest Euclidean norm of the gradient of each hidden bias since the last
        report; None without hidden biases. Likewise:
    bias_mean
        ``(reports, depth)`` mean of each hidden bias.
    bias_drift
        ``(reports, depth)`` root mean square of its change from the start.
    lag
        ``(reports, depth)`` root mean square of bias minus its share of the following running mean; None
        unless a batch norm follows every hidden linear layer directly.
    running_mean
        ``(reports, depth)`` mean over channels of that running mean; None likewise, but there without biases,
        too. Lag and running mean are 0 for layers beyond the depth in use.
    """

    loss: jax.Array
    diverged_at: jax.Array
    accuracy_batch: jax.Array
    accuracy_running: jax.Array
    bias_gradient: jax.Array | None
    bias_mean: jax.Array | None
    bias_drift: jax.Array | None
    lag: jax.Array | None
    running_mean: jax.Array | None


DIMS = {
    "loss": ("step",),
    "accuracy_batch": ("report",),
    "accuracy_running": ("report",),
    "bias_gradient": ("report", "layer"),
    "bias_mean": ("report", "layer"),
    "bias_drift": ("report", "layer"),
    "lag": ("report", "layer"),
    "running_mean": ("report", "layer"),
}
"""Named dimensions of a `History`'s arrays."""

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


def make_train(
    network: Network,
    optimizer: str | Optimizer,
    data: Data,
    *,
    steps: int,
    batch_size: int,
    report_at: Sequence[int] | None = None,
    decay_biases: bool = True,
) -> Callable[..., tuple[TrainState, History]]:
    """Make a training run out of what is static.

    Parameters
    ----------
    network
        With a head of at least as many outputs as there are classes.
    optimizer
        Name from `OPTIMIZERS`, or ``f(hyperparams, decay_mask)`` that returns an optax transformation.
    data
        Training and test set; its dtype is that of the run.
    steps, batch_size
        Number of updates and examples in each. Batches go through the training set in an order drawn anew
        each epoch, the incomplete last batch left out; the order depends on the key alone.
    report_at
        Increasing numbers of updates after which to report, from 0 to ``steps``; default 21 evenly spaced.
    decay_biases
        Whether weight decay acts on biases (of linear layers and norms) too.

    Returns
    -------
    callable
        ``train(key, scales=Scales(), hyperparams=Hyperparams()) -> (TrainState, History)``, pure: jit it, and
        vmap it over any number.

    Raises
    ------
    ValueError, TypeError
        If data and network do not fit, the batch is larger than the training set or too small for batch
        norm, the optimiser is unknown, or the steps are not increasing.

    Examples
    --------
    Twelve runs, three initial biases for each of four seeds, in one compiled program:

    >>> from biasjax import data
    >>> clusters = data.clusters(jax.random.key(0), classes=3, features=4)
    >>> network = Network(inputs=4, width=8, depth=1, outputs=3, order="dense-bn-relu")
    >>> train = make_train(network, "sgd", clusters, steps=20, batch_size=32)
    >>> run = lambda key, bias: train(key, Scales(bias_mean=bias))[1]
    >>> over_bias = jax.vmap(run, in_axes=(None, 0))
    >>> grid = jax.jit(jax.vmap(over_bias, in_axes=(0, None)))
    >>> history = grid(jax.random.split(jax.random.key(0), 4), jnp.array([0.0, 1.0, 10.0]))
    >>> history.loss.shape
    (4, 3, 20)
    """
    options = {"steps": steps, "batch_size": batch_size, "report_at": report_at, "decay_biases": decay_biases}
    stages = make_steps(network, optimizer, data, **options)

    def train(key: jax.Array, scales: Scales = Scales(), hyperparams: Hyperparams = Hyperparams()):
        batches = _batch_order(key, data.train_x.shape[0], steps, batch_size)  # once, not at every report

        def until_report(carry, _):
            return stages.advance(carry, key, scales, hyperparams, batches=batches), None

        carry = stages.start(key, scales, hyperparams)
        carry, _ = jax.lax.scan(until_report, carry, length=stages.steps)
        return stages.finish(carry, key, scales, hyperparams)

    return train


class Carry(NamedTuple):
    """What a run in steps carries from report to report.

    Attributes
    ----------
    reported
        Number of reports so far.
    train_state
        What a run carries from update to update.
    start_biases
        ``(depth, width)`` hidden biases at the start, or None.
    loss
        ``(steps,)``, filled so far.
    reports
        Arrays of `History` with an axis of reports, filled so far.
    """

    reported: jax.Array
    train_state: TrainState
    start_biases: jax.Array | None
    loss: jax.Array
    reports: dict[str, Any]


def make_steps(
    network: Network,
    optimizer: str | Optimizer,
    data: Data,
    *,
    steps: int,
    batch_size: int,
    report_at: Sequence[int] | None = None,
    decay_biases: bool = True,
) -> Stepwise:
    """Make a training run that can be stopped at every report and resumed, as `sweep.run` does with it.

    Parameters and errors are those of `make_train`, which runs the same steps in one program.

    Returns
    -------
    Stepwise
        ``start(key, scales, hyperparams) -> Carry``, ``advance(carry, key, scales, hyperparams) -> Carry`` to
        the next report, and ``finish(carry, key, scales, hyperparams) -> (TrainState, History)``.

    Examples
    --------
    A sweep whose chunks keep their training state in the store after every second report; ``run`` goes on
    from there when it is called again:

    >>> import functools
    >>> from biasjax import data, sweep
    >>> clusters = data.clusters(jax.random.key(0), classes=3, features=4)
    >>> network = Network(inputs=4, width=8, depth=1, outputs=3, order="dense-bn-relu")
    >>> stages = make_steps(network, "sgd", clusters, steps=20, batch_size=32)
    >>> numbers = lambda rate: (Scales(), Hyperparams(rate))
    >>> long = Stepwise(
    ...     start=lambda key, *, rate: stages.start(key, *numbers(rate)),
    ...     advance=lambda carry, key, *, rate: stages.advance(carry, key, *numbers(rate)),
    ...     finish=lambda carry, key, *, rate: stages.finish(carry, key, *numbers(rate))[1]._asdict(),
    ...     steps=stages.steps,
    ... )
    >>> run = functools.partial(sweep.run, long, {"seed": [0, 1], "rate": [0.1, 0.3]}, dims=DIMS)
    >>> run().loss.shape  # run(store="folder", checkpoint_every=2)
    (2, 2, 20)
    """
    if isinstance(optimizer, str):
        optimizer = OPTIMIZERS[check.choice("optimizer", optimizer, OPTIMIZERS)]
    make_tx, mask = optimizer, None if decay_biases else _not_biases
    report_at = _check_run(network, data, steps, batch_size, report_at)
    bounds = np.stack([(0, *report_at[:-1]), report_at], 1).astype(np.int32)

    def start(key, scales: Scales, hyperparams: Hyperparams) -> Carry:
        params, state = init(jax.random.split(key)[0], network, scales, dtype=data.train_x.dtype)
        train_state = _start(network, make_tx(hyperparams, mask), params, state)
        biases = hidden_biases(params)
        shapes = jax.eval_shape(lambda: _report(network, data, hyperparams, biases, train_state))
        reports = jax.tree.map(lambda x: jnp.zeros((len(report_at), *x.shape), x.dtype), shapes)
        losses = jnp.zeros(steps, check.accumulator(data.train_x.dtype))
        return Carry(jnp.zeros((), jnp.int32), train_state, biases, losses, reports)

    def advance(carry: Carry, key, scales: Scales, hyperparams: Hyperparams, batches=None) -> Carry:
        tx = make_tx(hyperparams, mask)
        if batches is None:
            batches = _batch_order(key, data.train_x.shape[0], steps, batch_size)

        def update(step, state_and_losses):
            train_state, losses = state_and_losses
            batch = data.train_x[batches[step]], data.train_y[batches[step]]
            train_state, loss = _update(network, tx, hyperparams, train_state, batch)
            return train_state, losses.at[step].set(loss)

        first, last = jnp.asarray(bounds)[carry.reported]
        fresh = carry.train_state._replace(
            bias_gradient=jax.tree.map(jnp.zeros_like, carry.train_state.bias_gradient)
        )
        train_state, losses = jax.lax.fori_loop(first, last, update, (fresh, carry.loss))
        report = _report(network, data, hyperparams, carry.start_biases, train_state)
        reports = jax.tree.map(lambda all_, one: all_.at[carry.reported].set(one), carry.reports, report)
        return Carry(carry.reported + 1, train_state, carry.start_biases, losses, reports)

    def finish(carry: Carry, key, scales: Scales, hyperparams: Hyperparams) -> tuple[TrainState, History]:
        bad = ~jnp.isfinite(carry.loss)
        diverged_at = jnp.where(bad.any(), jnp.argmax(bad), -1)
        return carry.train_state, History(carry.loss, diverged_at, **carry.reports)

    return Stepwise(start, advance, finish, len(report_at))


def default_reports(steps: int) -> tuple[int, ...]:
    """Steps at which a run reports unless told otherwise: at most 21, evenly spaced from 0 to ``steps``.

    Examples
    --------
    >>> default_reports(100)[:3], len(default_reports(100))
    ((0, 5, 10), 21)
    """
    return tuple(sorted({round(i * steps / 20) for i in range(21)}))


def _check_run(network: Network, data: Data, steps: int, batch_size: int, report_at) -> tuple[int, ...]:
    check.positive_int("steps", steps)
    check.positive_int("batch_size", batch_size)
    check.floating("data", data.train_x)
    examples, features = data.train_x.shape[0], data.train_x.shape[-1]
    if batch_size > examples:
        check.fail("batch_size", f"at most the {examples} training examples", batch_size, "Make it smaller.")
    if batch_size == 1 and network.order.split("-").count("bn") and linear_layer(network).positions(network) == 0:
        fix = "Batch norm of a single example leaves only its bias."
        check.fail("batch_size", "at least 2 under batch norm", batch_size, fix)
    if linear_layer(network).positions(network) == 0 and data.train_x.ndim != 2:
        fix = "Flatten images with data.flatten."
        check.fail("data", "inputs (examples, features) for a dense network", data.train_x.shape, fix)
    if network.inputs != features:
        fix = "Set Network(inputs=...), or flatten images with data.flatten for dense layers."
        check.fail("network", f"inputs={features} as in the data", network.inputs, fix)
    known = [np.asarray(y) for y in (data.train_y, data.test_y) if not isinstance(y, jax.core.Tracer)]
    classes = 1 + max((int(y.max()) for y in known), default=0)
    if network.outputs is None or network.outputs < classes:
        check.fail("network", f"outputs={classes} or more", network.outputs, "Set Network(outputs=...).")
    report_at = default_reports(steps) if report_at is None else tuple(int(step) for step in report_at)
    if (
        not report_at
        or list(report_at) != sorted(set(report_at))
        or report_at[0] < 0
        or report_at[-1] != steps
    ):
        fix = f"End with steps={steps} so that the run is whole."
        check.fail("report_at", f"increasing steps from 0 that end at {steps}", report_at, fix)
    return report_at


def _not_biases(params) -> Any:
    return jax.tree.map(lambda bias: not bias, bias_mask(params))


def _batch_order(key: jax.Array, examples: int, steps: int, batch_size: int) -> jax.Array:
    """Indices ``(steps, batch_size)``: an order drawn anew each epoch, without its incomplete last batch."""
    key = jax.random.split(key)[1]  # the first is for the parameters
    per_epoch = examples // batch_size
    epochs = -(-steps // per_epoch)
    keys = jax.vmap(lambda epoch: jax.random.fold_in(key, epoch))(jnp.arange(epochs))
    orders = jax.vmap(lambda k: jax.random.permutation(k, examples))(keys)
    return orders[:, : per_epoch * batch_size].reshape(-1, batch_size)[:steps]


def _start(network: Network, tx, params: Params, state: State) -> TrainState:
    biases, stats = hidden_biases(params), following_stats(network, state)
    gradient = None if biases is None else jnp.zeros(network.depth, biases.dtype)
    share = None if biases is None or stats is None else jnp.zeros_like(biases)
    return TrainState(params, state, tx.init(params), gradient, share)


def _apply(network: Network, hyperparams: Hyperparams, params, state, x, *, train: bool):
    options = {
        "depth": hyperparams.depth,
        "momentum": hyperparams.bn_momentum,
        "epsilon": hyperparams.norm_epsilon,
    }
    return apply(network, params, state, x, train=train, **options)


def _update(
    network: Network, tx, hyperparams: Hyperparams, old: TrainState, batch
) -> tuple[TrainState, jax.Array]:
    x, y = batch

    def loss_fn(params):
        logits, state = _apply(network, hyperparams, params, old.state, x, train=True)
        logits = logits.astype(check.accumulator(logits.dtype))
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

    (loss, state), gradients = jax.value_and_grad(loss_fn, has_aux=True)(old.params)
    updates, optimizer_state = tx.update(gradients, old.optimizer_state, old.params)
    # Traced hyperparameters may be wider than the run
    params, optimizer_state = jax.tree.map(
        lambda was, now: jnp.asarray(now, was.dtype),
        (old.params, old.optimizer_state),
        (jax.tree.map(lambda p, u: p + jnp.asarray(u, p.dtype), old.params, updates), optimizer_state),
    )
    bias_gradient, share = hidden_biases(gradients), old.share
    if bias_gradient is not None and old.bias_gradient is not None:
        bias_gradient = jnp.maximum(old.bias_gradient, jnp.linalg.norm(bias_gradient, axis=1))
    if share is not None:
        # The running mean is linear in what it averages, so the bias has a share of its own in it
        momentum = jnp.asarray(hyperparams.bn_momentum, share.dtype)
        share = momentum * share + (1 - momentum) * hidden_biases(old.params)
    return TrainState(params, state, optimizer_state, bias_gradient, share), loss


def _report(
    network: Network, data: Data, hyperparams: Hyperparams, start_biases, now: TrainState
) -> dict[str, Any]:
    def accuracy(train):
        logits, _ = _apply(network, hyperparams, now.params, now.state, data.test_x, train=train)
        return jnp.mean(jnp.argmax(logits, -1).astype(data.test_y.dtype) == data.test_y)

    biases, stats = hidden_biases(now.params), following_stats(network, now.state, hyperparams.depth)
    used = network.depth if hyperparams.depth is None else hyperparams.depth
    in_use = jnp.arange(network.depth) < used
    report: dict[str, Any] = {"accuracy_batch": accuracy(True), "accuracy_running": accuracy(False)}
    report |= dict.fromkeys(("bias_gradient", "bias_mean", "bias_drift", "lag", "running_mean"))
    if biases is not None:
        drift = jnp.sqrt(jnp.mean(jnp.square(biases - start_biases), 1))
        report |= {"bias_gradient": now.bias_gradient, "bias_mean": biases.mean(1), "bias_drift": drift}
    if stats is not None:
        report["running_mean"] = jnp.where(in_use, stats.mean.mean(1), 0)
    if biases is not None and now.share is not None:
        report["lag"] = jnp.where(in_use, jnp.sqrt(jnp.mean(jnp.square(biases - now.share), 1)), 0)
    return report
