"""Whole training runs as pure functions of a key and numbers, so that they jit and vmap over all of these.

`make_train` fixes what is static and returns ``train(key, scales, hyperparams)``. Beside loss and accuracy
it follows the hidden biases: their gradient, their drift, and how far the running mean of a following
batch norm lags behind them. A run that diverges goes on and says at which step it did.

For models and losses of your own, `begin` and `descend` are one update, to be scanned over batches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax

from biasjax import check
from biasjax._training import stages
from biasjax._training.descent import Fit, Loss, begin, cross_entropy, descend, squared_error
from biasjax._training.optimizers import OPTIMIZERS, SCHEDULES, Optimizer, Schedule
from biasjax._training.plan import batch_order, check_run, default_reports
from biasjax._training.records import DIMS, Carry, History, Hyperparams, TrainState
from biasjax.data import Data
from biasjax.network import Network, Scales
from biasjax.stepwise import Stepwise

__all__ = [
    "DIMS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Carry",
    "Fit",
    "History",
    "Hyperparams",
    "Loss",
    "Optimizer",
    "Schedule",
    "TrainState",
    "batch_order",
    "begin",
    "cross_entropy",
    "default_reports",
    "descend",
    "make_steps",
    "make_train",
    "squared_error",
]


def __dir__() -> list[str]:
    return __all__


def make_train(
    network: Network,
    optimizer: str | Optimizer,
    data: Data,
    *,
    steps: int,
    batch_size: int,
    report_at: Sequence[int] | None = None,
    decay_biases: bool = True,
    schedule: str | Schedule | None = None,
) -> Callable[..., tuple[TrainState, History]]:
    """Make a training run out of what is static.

    Parameters
    ----------
    network
        With a head of at least as many outputs as there are classes.
    optimizer
        Name from `OPTIMIZERS`, or ``f(hyperparams, decay_mask)`` that returns an optax transformation.
    data
        Training and test set, labels from 0; its dtype is that of the run.
    steps, batch_size
        Number of updates and examples in each. Batches go through the training set in an order drawn anew
        each epoch, the incomplete last batch left out; the order depends on the key alone.
    report_at
        Increasing numbers of updates after which to report, from 0 to ``steps``; default 21 evenly spaced.
    decay_biases
        Whether weight decay acts on biases (of linear layers and norms) too.
    schedule
        Of the learning rate: name from `SCHEDULES`, or ``f(hyperparams, steps)`` that returns an optax
        schedule, e.g. ``lambda h, steps: optax.exponential_decay(h.learning_rate, steps, 0.1)``; its numbers
        are traced. Default: ``hyperparams.learning_rate`` at every step.

    Returns
    -------
    callable
        ``train(key, scales=Scales(), hyperparams=Hyperparams()) -> (TrainState, History)``, pure: jit it, and
        vmap it over any number. Under ``jax.transfer_guard("disallow")`` it works jitted alone.

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
    >>> history = grid(jax.random.split(jax.random.key(0), 4), jax.numpy.array([0.0, 1.0, 10.0]))
    >>> history.loss.shape
    (4, 3, 20)
    """
    run = _plan(network, optimizer, data, steps, batch_size, report_at, decay_biases, schedule)

    def train(
        key: jax.Array, scales: Scales = Scales(), hyperparams: Hyperparams = Hyperparams()
    ) -> tuple[TrainState, History]:
        batches = run.batches(key)  # once, not at every report

        def until_report(carry: Carry, _: None) -> tuple[Carry, None]:
            return stages.advance(run, carry, key, scales, hyperparams, batches), None

        carry = stages.start(run, key, scales, hyperparams)
        carry, _ = jax.lax.scan(until_report, carry, length=len(run.report_at))
        return stages.finish(run, carry, key, scales, hyperparams)

    return train


def make_steps(
    network: Network,
    optimizer: str | Optimizer,
    data: Data,
    *,
    steps: int,
    batch_size: int,
    report_at: Sequence[int] | None = None,
    decay_biases: bool = True,
    schedule: str | Schedule | None = None,
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
    run = _plan(network, optimizer, data, steps, batch_size, report_at, decay_biases, schedule)
    each = (functools.partial(stage, run) for stage in (stages.start, stages.advance, stages.finish))
    return Stepwise(*each, steps=len(run.report_at))


def _plan(
    network: Network,
    optimizer: str | Optimizer,
    data: Data,
    steps: int,
    batch_size: int,
    report_at: Sequence[int] | None,
    decay_biases: bool,
    schedule: str | Schedule | None,
) -> stages.Run:
    if not callable(optimizer):
        optimizer = OPTIMIZERS[check.choice("optimizer", optimizer, OPTIMIZERS)]
    if schedule is not None and not callable(schedule):
        schedule = SCHEDULES[check.choice("schedule", schedule, SCHEDULES)]
    check.flags(decay_biases=decay_biases)
    report_at = check_run(network, data, steps, batch_size, report_at)
    return stages.Run(network, optimizer, data, steps, batch_size, report_at, decay_biases, schedule)
