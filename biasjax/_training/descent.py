"""Gradient descent on any loss, and the losses that are asked for most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from biasjax import check, tree
from biasjax._text import brief
from biasjax._training.updates import cross_entropy as mean_cross_entropy
from biasjax._training.updates import moved, optimizer_start
from biasjax._varying import vary_like

Loss = Callable[[Any, Any, Any], tuple[jax.Array, Any]]


class Fit(NamedTuple):
    """What gradient descent carries from update to update.

    Attributes
    ----------
    params
        Tree of arrays, what is trained.
    state
        What the loss carries besides, e.g. running statistics; None if nothing.
    optimizer_state
        That of optax.
    """

    params: Any
    state: Any
    optimizer_state: Any

    def __repr__(self) -> str:
        return brief(self)


def begin(optimizer: optax.GradientTransformation, params: Any, state: Any = None) -> Fit:
    """Return what `descend` starts from.

    Examples
    --------
    >>> begin(optax.sgd(0.1), {"w": jnp.ones(3)}).params
    {'w': Array([1., 1., 1.], dtype=float32)}
    """
    _check_optimizer(optimizer)
    for path, leaf in tree.paths(params).items():
        check.floating(f"params at {path!r}", leaf)
    for path, leaf in tree.paths(state).items():
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            fix = "Close over what is no array."
            check.fail(f"state at {path!r}", "an array", type(leaf).__name__, fix, TypeError)
    return vary_like(Fit(params, state, optimizer_start(optimizer, params)), params)


def descend(
    optimizer: optax.GradientTransformation, loss: Loss, fit: Fit, batch: Any
) -> tuple[Fit, jax.Array]:
    """Take one step down the gradient of a loss: the body of a `jax.lax.scan` over batches.

    Regression, masked and adversarial training are losses, what is frozen is a matter of the optimiser
    (`optax.partition`), and several players take a step each.

    Parameters
    ----------
    optimizer
        Its numbers may be traced.
    loss
        ``loss(params, state, batch) -> (value, state)``.
    fit
        From `begin`, or the last call.
    batch
        Any tree, e.g. indices of examples or a key.

    Returns
    -------
    fit : Fit
        In the dtypes that it had.
    value : jax.Array
        Loss before the step.

    Examples
    --------
    A line through four points, by 100 steps in one program:

    >>> import functools
    >>> from biasjax import linear
    >>> x, y = jnp.arange(4.0)[:, None], 2 * jnp.arange(4.0)[:, None] + 1
    >>> def loss(params, state, rows):
    ...     return squared_error(linear.dense(params, x[rows]), y[rows]), state
    >>> sgd = optax.sgd(0.1)
    >>> first = begin(sgd, linear.dense_init(jax.random.key(0), 1, 1))
    >>> rows = jnp.tile(jnp.arange(4), (100, 1))
    >>> fit, losses = jax.lax.scan(functools.partial(descend, sgd, loss), first, rows)
    >>> fit.params.bias.round(1)
    Array([1.], dtype=float32)
    """
    _check_optimizer(optimizer)
    check.function("loss", loss)
    if not isinstance(cast(object, fit), Fit):
        fix = "Make it with training.begin(optimizer, params)."
        check.fail("fit", "Fit", type(fit).__name__, fix, TypeError)

    def pair(*args: Any) -> tuple[jax.Array, Any]:
        found = loss(*args)
        if not isinstance(found, tuple) or len(found) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
            fix = "Return value, state; state may be None."
            check.fail("loss", "a function that returns a pair", type(found).__name__, fix, TypeError)
        return found

    (value, state), gradients = jax.value_and_grad(pair, has_aux=True)(fit.params, fit.state, batch)
    params, optimizer_state = moved(optimizer, fit.params, fit.optimizer_state, gradients)
    return Fit(params, state, optimizer_state), value


def cross_entropy(logits: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Mean cross-entropy of classes, accumulated in at least float32.

    Parameters
    ----------
    logits
        ``(..., classes)``, floating.
    labels
        ``(...)``, integers from 0.
    where
        Boolean ``(...)``, True for what counts, at least one; default all.

    Examples
    --------
    >>> cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])) == jnp.log(4.0)
    Array(True, dtype=bool)
    """
    logits = check.floating("cross_entropy", logits)
    labels = check.integers("cross_entropy", labels)
    if logits.shape[:-1] != labels.shape or logits.ndim == 0:
        fix = "Give each row of logits one label."
        check.fail("cross_entropy", f"labels of shape {logits.shape[:-1]}", labels.shape, fix)
    return mean_cross_entropy(logits, labels, _where("cross_entropy", where, labels.shape))


def squared_error(outputs: jax.Array, targets: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Mean squared error, accumulated in at least float32.

    Parameters
    ----------
    outputs, targets
        Floating, of one shape.
    where
        Boolean of that shape, True for what counts, at least one; default all.

    Examples
    --------
    >>> squared_error(jnp.array([1.0, 5.0]), jnp.zeros(2), where=jnp.array([True, False]))
    Array(1., dtype=float32)
    """
    outputs = check.floating("squared_error", outputs)
    targets = check.floating("squared_error", targets)
    if outputs.shape != targets.shape:
        fix = "Reshape one of them; they are not broadcast."
        check.fail("squared_error", f"targets of shape {outputs.shape}", targets.shape, fix)
    wide = check.accumulator(outputs.dtype)
    gap = outputs.astype(wide) - targets.astype(wide)
    return jnp.mean(jnp.square(gap), where=_where("squared_error", where, outputs.shape))


def _where(what: str, where: Any, shape: tuple[int, ...]) -> jax.Array | None:
    if where is None:
        return None
    if str(getattr(where, "dtype", None)) != "bool" or where.shape != shape:
        got = f"{getattr(where, 'dtype', type(where).__name__)} of shape {getattr(where, 'shape', None)}"
        check.fail(what, f"a boolean mask of shape {shape}", got, "Write e.g. targets > 0.")
    return cast(jax.Array, where)


def _check_optimizer(optimizer: Any) -> None:
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        fix = "E.g. optax.adam(1e-3)."
        check.fail("optimizer", "an optax transformation", type(optimizer).__name__, fix, TypeError)
