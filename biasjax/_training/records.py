"""What a training run takes, carries and reports. Nothing is computed here."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from biasjax._text import brief
from biasjax.network import Params, State

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
        Number of hidden layers in use, from 1 to the network's; None for all.

    Examples
    --------
    Networks of 1, 2 and 3 layers in one compiled program:

    >>> from biasjax import data, training
    >>> from biasjax.network import Network, Scales
    >>> clusters = data.clusters(jax.random.key(0), classes=3, features=4)
    >>> deep = Network(inputs=4, width=8, depth=3, outputs=3)
    >>> train = training.make_train(deep, "sgd", clusters, steps=20, batch_size=32)
    >>> run = lambda depth: train(jax.random.key(0), Scales(), Hyperparams(0.1, depth=depth))[1].loss
    >>> jax.jit(jax.vmap(run))(jax.numpy.array([1, 2, 3])).shape
    (3, 20)
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

    def __repr__(self) -> str:
        return brief(self)


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

    def __repr__(self) -> str:
        return brief(self)


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
    loss_batch, loss_running
        ``(reports,)`` cross-entropy on the test set, likewise.
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
        too.
    running_std
        ``(reports, depth)`` root of the mean over channels of the running variance, likewise. Lag over it is
        what a norm at inference shifts its output by. These three are 0 for layers beyond the depth in use.
    """

    loss: jax.Array
    diverged_at: jax.Array
    accuracy_batch: jax.Array
    accuracy_running: jax.Array
    loss_batch: jax.Array
    loss_running: jax.Array
    bias_gradient: jax.Array | None
    bias_mean: jax.Array | None
    bias_drift: jax.Array | None
    lag: jax.Array | None
    running_mean: jax.Array | None
    running_std: jax.Array | None

    def __repr__(self) -> str:
        return brief(self)


DIMS: dict[str, tuple[str, ...]] = {
    "loss": ("step",),
    "accuracy_batch": ("report",),
    "accuracy_running": ("report",),
    "loss_batch": ("report",),
    "loss_running": ("report",),
    "bias_gradient": ("report", "layer"),
    "bias_mean": ("report", "layer"),
    "bias_drift": ("report", "layer"),
    "lag": ("report", "layer"),
    "running_mean": ("report", "layer"),
    "running_std": ("report", "layer"),
}
"""Named dimensions of a `History`'s arrays."""
