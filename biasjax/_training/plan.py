"""What is fixed before a run: whether data and network fit, when to report, which examples when."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from biasjax import check
from biasjax._network.architecture import linear_layer
from biasjax.data import Data
from biasjax.network import Network


def default_reports(steps: int) -> tuple[int, ...]:
    """Steps at which a run reports unless told otherwise: at most 21, evenly spaced from 0 to ``steps``.

    Examples
    --------
    >>> default_reports(100)[:3], len(default_reports(100))
    ((0, 5, 10), 21)
    """
    check.positive_int("steps", steps)
    return tuple(sorted({round(i * steps / 20) for i in range(21)}))


def check_run(
    network: Network, data: Data, steps: int, batch_size: int, report_at: Sequence[int] | None
) -> tuple[int, ...]:
    """Raise where data, network and sizes do not fit; return the steps at which to report."""
    check.positive_int("steps", steps)
    check.positive_int("batch_size", batch_size)
    linear_layer(network)
    check.record("data", data, Data, "Make it with data.Data(train_x, train_y, test_x, test_y).")
    check.floating("data", data.train_x)
    check.floating("data", data.test_x)
    for part in ("train", "test"):
        _check_labels(part, getattr(data, f"{part}_x"), getattr(data, f"{part}_y"))
    _check_data(network, data, batch_size)
    chosen = default_reports(steps) if report_at is None else _steps(report_at)
    increasing = list(chosen) == sorted(set(chosen))
    if not chosen or not increasing or chosen[0] < 0 or chosen[-1] != steps:
        fix = f"End with steps={steps} so that the run is whole."
        check.fail("report_at", f"increasing steps from 0 that end at {steps}", chosen, fix)
    return chosen


def _steps(report_at: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(operator.index(step) for step in report_at)
    except TypeError as error:
        check.fail("report_at", "a sequence of integers", error, "Write e.g. (0, 10, 20).", TypeError)


def _check_labels(part: str, x: jax.Array, y: jax.Array) -> None:
    """Raise unless there is one integer from 0 for each example."""
    if not jnp.issubdtype(y.dtype, jnp.integer):
        fix = "Cast them, e.g. labels.astype(jnp.int32)."
        check.fail("data", f"integer labels in {part}_y", y.dtype, fix, TypeError)
    if x.ndim == 0 or y.shape != x.shape[:1]:
        fix = "Give each example one label, and each label its example."
        check.fail("data", f"{part}_y of shape {x.shape[:1]}, as {part}_x has examples", y.shape, fix)
    if not isinstance(y, jax.core.Tracer) and y.size and (lowest := int(np.asarray(y).min())) < 0:
        check.fail("data", f"labels from 0 in {part}_y", lowest, "Leave out examples without a label.")


def _check_data(network: Network, data: Data, batch_size: int) -> None:
    examples, features = data.train_x.shape[0], data.train_x.shape[-1]
    if data.test_x.shape[1:] != data.train_x.shape[1:]:
        check.fail("data", f"test inputs like {data.train_x.shape[1:]}", data.test_x.shape, "Reshape them.")
    dense = linear_layer(network).positions(network) == 0
    if batch_size > examples:
        check.fail("batch_size", f"at most the {examples} training examples", batch_size, "Make it smaller.")
    if batch_size == 1 and dense and network.order.split("-").count("bn"):
        fix = "Batch norm of a single example leaves only its bias."
        check.fail("batch_size", "at least 2 under batch norm", batch_size, fix)
    if dense and data.train_x.ndim != 2:
        fix = "Flatten images with data.flatten."
        check.fail("data", "inputs (examples, features) for a dense network", data.train_x.shape, fix)
    if network.inputs != features:
        fix = "Set Network(inputs=...), or flatten images with data.flatten for dense layers."
        check.fail("network", f"inputs={features} as in the data", network.inputs, fix)
    known = [np.asarray(y) for y in (data.train_y, data.test_y) if not isinstance(y, jax.core.Tracer)]
    classes = 1 + max((int(y.max()) for y in known if y.size), default=0)
    if network.outputs is None or network.outputs < classes:
        check.fail("network", f"outputs={classes} or more", network.outputs, "Set Network(outputs=...).")


def batch_order(key: jax.Array, examples: int, steps: int, batch_size: int) -> jax.Array:
    """Draw which examples each batch has: an order anew each epoch, its incomplete last batch left out.

    Parameters
    ----------
    key
        Typed PRNG key; of a run, that of `make_train`.
    examples, steps, batch_size
        Examples there are, updates, and examples of each.

    Returns
    -------
    jax.Array
        Indices ``(steps, batch_size)``.

    Examples
    --------
    >>> batch_order(jax.random.key(0), examples=10, steps=7, batch_size=4).shape
    (7, 4)
    """
    for name, value in (("examples", examples), ("steps", steps), ("batch_size", batch_size)):
        check.positive_int(name, value)
    if batch_size > examples:
        check.fail("batch_size", f"at most the {examples} examples", batch_size, "Make it smaller.")
    key = jax.random.split(check.key(key))[1]  # the first is for the parameters
    per_epoch = examples // batch_size
    epochs = -(-steps // per_epoch)
    keys = jax.vmap(lambda epoch: jax.random.fold_in(key, epoch))(jnp.arange(epochs))
    orders = jax.vmap(lambda k: jax.random.permutation(k, examples))(keys)
    return orders[:, : per_epoch * batch_size].reshape(-1, batch_size)[:steps]
