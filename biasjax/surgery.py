"""Take biases out of a trained model, and fold norms into layers, without changing what it computes.

Nothing is done by name. Which biases can go is the auditor's plan; how far others have to move for them, and
what a norm does between the layers around it, is read from the traced program at the given values. All is
then held to the whole model: outputs before and after in float64 and in the model's own precision, on the
given inputs and on fresh ones. What cannot be proven is not done, and `Receipt` says why. The given model is
never changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from biasjax import check
from biasjax._audit.modes import ModesAudit
from biasjax._surgery import centring, delivering, folding, folds, removal, tying
from biasjax._surgery.proofs import Error
from biasjax._surgery.receipts import Change, Receipt
from biasjax._surgery.whole import Whole, paths, whole
from biasjax.audit import Pure, audit_modes, check_verdicts

__all__ = [
    "Change",
    "Error",
    "Receipt",
    "fold_batch_norm",
    "fold_layer_norm",
    "remove_biases",
    "tie",
    "untie",
]

_ACTIONS = {"zero": "zeroed", "drop": "dropped"}


def __dir__() -> list[str]:
    return __all__


def remove_biases(
    pure: Pure,
    *args: Any,
    verdicts: Sequence[str] = ("cancelled", "absorbable"),
    how: str = "zero",
    audit: ModesAudit | None = None,
    seed: int = 0,
) -> tuple[Pure, Receipt]:
    """Remove the biases that do nothing, or nothing that others could not do.

    What they did at inference moves into what absorbs it: another bias (of the value projection that of the
    output), or a running mean (``mean -= b``). Training goes on as it would have. A running mean that lagged
    behind its bias lags as much afterwards, and forgets it as it forgets all: before training, set it to zero
    instead, or measure it anew by `biasjax.statistics.reestimate`.

    Parameters
    ----------
    pure
        From `biasjax.adapters`, or a `biasjax.adapters.Pure` of your own.
    args
        Typical inputs, a batch.
    verdicts
        Of biases that may go, in training: "cancelled", "absorbable", "unused".
    how
        "zero" keeps the tree, and checkpoints compatible; "drop" puts None, where the model allows it.
    audit
        Of `biasjax.audit.audit_modes` for these arguments, if there is one; its plan is followed.
    seed
        Of all draws.

    Returns
    -------
    Pure
        The model without these biases, its outputs the same in training and evaluation.
    Receipt
        What was done with each.

    Raises
    ------
    ValueError
        If outputs change by more than 1e-10 in float64, or 1e-5 in float32 (or what the model's own precision
        rounds), or the model does not run without the biases to drop.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from biasjax import norms
    >>> def apply(params, state, x, train):
    ...     return norms.batch_norm(norms.Norm(), state, x + params["bias"], train=train)
    >>> pure = Pure(apply, {"bias": jnp.array([3.0, 4.0])}, norms.batch_stats_init(2))
    >>> new, receipt = remove_biases(pure, jnp.arange(8.0).reshape(4, 2))
    >>> receipt.changes
    (Change(path='bias', action='zeroed', into=('state/mean',), size=2, why=''),)
    >>> new.params["bias"], new.state.mean
    (Array([0., 0.], dtype=float32), Array([-3., -4.], dtype=float32))
    """
    what = "remove_biases"
    given = whole(what, pure, args)
    check.choice("how", how, _ACTIONS)
    check_verdicts("verdicts", verdicts, joint=True)
    for verdict in verdicts:
        check.choice("verdicts", verdict, ("cancelled", "absorbable", "unused"))
    modes = audit_modes(pure, *args, seed=seed) if audit is None else _audit(audit, given)
    plan = modes.plan()
    going = [path for path in plan.remove if modes.train[path].verdict in verdicts]
    if not going:
        return pure, Receipt((), ())
    found = removal.amounts(given, going, plan.keep, seed)
    gone = [path for path in going if path not in found.stuck]
    leaves = paths(given.values)
    values = {path: np.asarray(leaves[path], np.float64) + x for path, x in found.steps.items() if x.any()}
    values |= {path: np.zeros(np.shape(leaves[path])) for path in gone}
    stuck = "no shift of others that is the same for all data makes up for it"
    changes = [
        Change(path, "kept", why=stuck)
        if path in found.stuck
        else Change(path, _ACTIONS[how], found.into.get(path, ()), int(np.size(leaves[path])))
        for path in going
    ]
    new, receipt = delivering.proven(what, given, values, changes, seed, train=True)
    return (delivering.dropped(given, new, gone) if how == "drop" else new), receipt


def fold_batch_norm(pure: Pure, *args: Any, seed: int = 0) -> tuple[Pure, Receipt]:
    """Fold every batch norm into the layer before it, or into those that read it, for inference.

    The parameters keep their tree: kernels and biases take over, and of a norm nothing but the identity is
    left (and the bias, if its layer has none). Dense and convolutional layers of any rank, strides, groups,
    transposed or not, channels first or last, with tied biases or untied; a norm before its layer where no
    padding with zeros stands between. What a training pass would do afterwards is not the same: fold last.

    Parameters
    ----------
    pure
        From `biasjax.adapters`, or a `biasjax.adapters.Pure` of your own.
    args
        Typical inputs, a batch.
    seed
        Of the fresh inputs that outputs are compared at.

    Returns
    -------
    Pure
        The model, its outputs the same in evaluation.
    Receipt
        What became of each norm: into what it was folded, or why it was kept.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from biasjax import norms
    >>> def apply(params, state, x, train):
    ...     return norms.batch_norm(params["norm"], state, x @ params["kernel"], train=train)
    >>> stats = norms.BatchStats(jnp.array([1.0, 2.0]), jnp.array([4.0, 9.0]))
    >>> pure = Pure(apply, {"kernel": jnp.eye(2), "norm": norms.norm_init(2)}, stats)
    >>> new, receipt = fold_batch_norm(pure, jnp.arange(8.0).reshape(4, 2))
    >>> receipt.changes
    (Change(path='state', action='folded', into=('kernel', 'norm/bias'), size=6, why=''),)
    >>> print(new.params["kernel"].diagonal().round(3))
    [0.5   0.333]
    """
    given = whole("fold_batch_norm", pure, args)
    both = folding.after_layer, folding.before_layers
    values, changes = folds.folded(given, folds.batch_norms, both)
    return delivering.proven("fold_batch_norm", given, values, changes, seed, train=False)


def fold_layer_norm(pure: Pure, *args: Any, centre: bool = False, seed: int = 0) -> tuple[Pure, Receipt]:
    """Fold the scale and bias of every layer or RMS norm into the layers that read it.

    Exact where only linear layers read a norm (pre-norm); a norm whose output is also added to something
    (post-norm), whose readers share their kernel with others (tied), or whose scale is data (conditional) is
    kept, with the reason.

    Parameters
    ----------
    pure, args, seed
        As of `fold_batch_norm`.
    centre
        Also take the mean over features out of every kernel, bias and embedding of which no output minds it:
        what writes into layer norms alone. A layer norm of a model all of whose writers are centred is an RMS
        norm.

    Returns
    -------
    Pure
        The model, its outputs the same in training and evaluation.
    Receipt
        What became of each norm.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from biasjax import norms
    >>> def apply(params, state, x, train):
    ...     return norms.rms_norm(params["norm"], x) @ params["kernel"], state
    >>> norm = norms.Norm(jnp.array([2.0, 3.0]))
    >>> pure = Pure(apply, {"norm": norm, "kernel": jnp.eye(2)}, None)
    >>> new, receipt = fold_layer_norm(pure, jnp.arange(8.0).reshape(4, 2))
    >>> new.params["norm"].scale.tolist(), new.params["kernel"].tolist()
    ([1.0, 1.0], [[2.0, 0.0], [0.0, 3.0]])
    """
    what = "fold_layer_norm"
    given = whole(what, pure, args)
    check.flags(centre=centre)
    values, changes = folds.folded(given, folds.layer_norms, (folding.before_layers,))
    if centre:
        centred = centring.centred(given, values, seed)
        changes += [Change(path, "centred") for path in centred]
        values |= centred
    return delivering.proven(what, given, values, changes, seed, train=True)


def tie(pure: Pure, path: str, *args: Any, axis: int = -1, seed: int = 0) -> tuple[Pure, Receipt]:
    """Replace a bias per position and channel by its mean over positions, one per channel.

    Lossless where all positions are alike; the receipt says by how much outputs change where they are not.

    Parameters
    ----------
    pure, args, seed
        As of `fold_batch_norm`.
    path
        Of the bias, keys joined by "/".
    axis
        Of its channels.

    Returns
    -------
    Pure
        The model with a bias (channels,) where it runs with one, or else of the same shape.
    Receipt
        What outputs change by.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> params = {"bias": jnp.array([[1.0, 2.0], [3.0, 2.0]])}
    >>> pure = Pure(lambda p, s, x, train: (x + p["bias"], s), params, None)
    >>> new, receipt = tie(pure, "bias", jnp.zeros((1, 2, 2)))
    >>> new.params["bias"].tolist(), receipt.done[0].why
    ([2.0, 2.0], 'outputs change by 0.33')
    """
    given = whole("tie", pure, args)
    mean = tying.tied(given, path, axis)
    full = np.broadcast_to(mean, np.shape(paths(given.values)[path]))
    return delivering.retied(given, path, "tied", full, (mean.ravel(), mean[0], mean), seed)


def untie(pure: Pure, path: str, *args: Any, seed: int = 0) -> tuple[Pure, Receipt]:
    """Replace a bias per channel by one per position and channel; always lossless.

    Parameters
    ----------
    pure, path, args, seed
        As of `tie`.

    Raises
    ------
    ValueError
        If the bias is added to data in several places, or the model does not run with the larger one.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> pure = Pure(lambda p, s, x, train: (x + p["bias"], s), {"bias": jnp.array([1.0, 2.0])}, None)
    >>> untie(pure, "bias", jnp.zeros((1, 3, 2)))[0].params["bias"].shape
    (3, 2)
    """
    given = whole("untie", pure, args)
    shape, leaf = tying.positions(given, path), np.asarray(paths(given.values)[path], np.float64)
    return delivering.retied(given, path, "untied", leaf, (np.broadcast_to(leaf, shape),), seed)


def _audit(audit: Any, given: Whole) -> ModesAudit:
    if not isinstance(audit, ModesAudit):
        got = type(audit).__name__
        check.fail("audit", "a ModesAudit", got, "Take audit_modes, of both modes.", TypeError)
    unknown = [f.path for f in audit.train.findings if f.path not in paths(given.values)]
    if unknown:
        check.fail("audit", "one of this model", f"one of another, with {unknown[0]!r}", "Audit this one.")
    return audit
