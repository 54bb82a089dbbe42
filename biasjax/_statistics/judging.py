"""What running statistics should be, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import check, tree
from biasjax._surgery import proofs, running
from biasjax._surgery.numbered import Numbered, numbered
from biasjax._surgery.running import Moments, Norm
from biasjax._surgery.whole import Whole

# Batches at which outputs in training and evaluation are compared
_COMPARED = 4
# A lag that costs accuracy: .003 at 1/2 in experiments/regime_map
_LAGS = 0.5
# A variance that is off by so much
_OFF = 2.0


class Statistic(NamedTuple):
    """What is found of one norm's running statistics.

    Attributes
    ----------
    path, mean, var
        Of the layer, and of its statistics in the state.
    momentum
        Weight of the old value at an update, measured.
    window
        Updates that are remembered, 1 / (1 - momentum).
    lag, largest_lag
        Distance of the running mean from the mean over all batches, in standard deviations: root mean square
        and largest over channels.
    ratio
        Running variance over that of all batches (geometric mean over channels).
    share
        Part of the difference between training and evaluation that is gone once this norm is right.
    problems
        What is wrong, in words.
    """

    path: str
    mean: str
    var: str
    momentum: float
    window: float
    lag: float
    largest_lag: float
    ratio: float
    share: float
    problems: tuple[str, ...]


def found_norms(what: str, model: Numbered) -> list[Norm]:
    """Norms of a model; raise if it has none."""
    norms = running.norms(model)
    if not norms:
        fix = "It needs norms that subtract a running mean and divide by a running variance in evaluation."
        check.fail(what, "a model with running statistics", "none", fix)
    return norms


def exact(
    what: str,
    given: Whole,
    model: Numbered,
    norms: Sequence[Norm],
    batches: Sequence[tuple[Any, ...]],
) -> tuple[list[Any], list[Moments]]:
    """Values with all running statistics measured, norm after norm, and the moments that they are."""
    moments = running.measured(given, model, norms, batches)
    values, found = list(model.values), dict[int, Moments]()
    for level in range(1 + max(norm.level for norm in norms)):
        now = moments(values)
        for i, norm in enumerate(norms):
            if norm.level != level:
                continue
            found[i] = now[i]
            fitted = running.fitted(model, norm, values, now[i])
            if fitted is None:
                fix = "Its statistics are computed from several; measure them in the model's own way."
                check.fail(what, f"running statistics that enter {norm.path!r} one by one", "others", fix)
            values[norm.mean], values[norm.var] = fitted
    return values, [found[i] for i in range(len(norms))]


def judged(
    what: str, given: Whole, batches: Sequence[tuple[Any, ...]]
) -> tuple[tuple[Statistic, ...], float]:
    """What is found of each norm, and how much training and evaluation differ."""
    model = numbered(given)
    norms = found_norms(what, model)
    values, moments = exact(what, given, model, norms, batches)
    momenta = _momenta(given, model, norms)
    gaps = _gaps(given, model, norms, values, batches[:_COMPARED])
    found: list[Statistic] = []
    for norm, moment, momentum, gap in zip(norms, moments, momenta, gaps[1:], strict=True):
        std, off = np.sqrt(moment.var), running.subtracted(model, norm, model.values) - moment.mean
        with np.errstate(all="ignore"):
            lags = np.abs(np.where(off == 0, 0.0, off / std))
            old, new = np.ravel(model.values[norm.var]), np.ravel(values[norm.var])
            ratio = float(np.exp(np.mean(np.log(old[new > 0] / new[new > 0])))) if (new > 0).any() else 1.0
        one = Statistic(
            path=norm.path,
            mean=model.names[norm.mean],
            var=model.names[norm.var],
            momentum=momentum,
            window=float("inf") if momentum >= 1 else 1 / (1 - momentum),
            lag=float(np.sqrt(np.mean(lags**2))),
            largest_lag=float(lags.max()),
            ratio=ratio,
            share=1 - gap / gaps[0] if gaps[0] > 0 else 0.0,
            problems=(),
        )
        found.append(one._replace(problems=tuple(_problems(one, model, norm, values))))
    return tuple(found), gaps[0]


def _momenta(given: Whole, model: Numbered, norms: Sequence[Norm]) -> list[float]:
    """Weight of each old running mean in the new one: what is left of a difference after another update."""

    @jax.jit
    def updated(pure_state: Any, *args: Any) -> tuple[list[Any], Any]:
        state = given.pure.apply(given.pure.params, pure_state, *args, train=True)[1]
        known = tree.paths(state)
        new = {path: known[path] for path in given.values["state"]}
        leaves = model.pieces.apart(jax.tree.leaves({**given.values, "state": new}))
        return [leaves[norm.mean] for norm in norms], state

    def twice(value: float) -> list[np.ndarray]:
        # Plain values, as what is not finite would hide the difference
        plain = {path: jnp.full_like(leaf, value) for path, leaf in given.values["state"].items()}
        state, found = given.model({**given.values, "state": plain}).state, list[Any]()
        for _ in range(2):
            means, state = updated(state, *given.args[:-1])
            found.append(means)
        return found

    one, other = twice(1.0), twice(2.0)
    differences = [
        [np.asarray(b - a) for a, b in zip(*pair, strict=True)] for pair in zip(one, other, strict=True)
    ]
    with np.errstate(all="ignore"):
        return [
            float(np.median(np.where(first == 0, 0.0, second / first)))
            for first, second in zip(*differences, strict=True)
        ]


def _gaps(
    given: Whole, model: Numbered, norms: Sequence[Norm], values: Sequence[Any], batches: Sequence[Any]
) -> list[float]:
    """Difference of outputs in training and evaluation: as they are, and with each norm alone set right."""
    sets: list[list[Any]] = [[*model.values]]
    for norm in norms:
        right = {norm.mean: values[norm.mean], norm.var: values[norm.var]}
        sets.append([right.get(i, x) for i, x in enumerate(model.values)])
    trees = [running.with_statistics(given, model, one) for one in sets]
    evaluation, training = (
        jax.jit(
            lambda params, state, *args, train=train: given.pure.apply(params, state, *args, train=train)[0]
        )
        for train in (False, True)
    )
    squares, size = np.zeros(len(sets)), 0.0
    for batch in batches:
        there = proofs.flat(training(given.pure.params, given.pure.state, *batch))
        size += float(np.mean(there**2))
        outs = [proofs.flat(evaluation(one.params, one.state, *batch)) for one in trees]
        squares += [float(np.mean((out - there) ** 2)) for out in outs]
    return np.sqrt(squares / (size or 1.0)).tolist()


def _problems(found: Statistic, model: Numbered, norm: Norm, values: Sequence[Any]) -> list[str]:
    mean, var = (np.asarray(model.values[leaf]) for leaf in (norm.mean, norm.var))
    problems: list[str] = []
    if not (np.isfinite(mean).all() and np.isfinite(var).all()):
        problems.append("NaN or infinite")
    elif found.momentum >= 1 or ((mean == 0).all() and ((var == 1).all() or (var == 0).all())):
        problems.append("never updated")
    if (var <= 0).any() or (np.asarray(values[norm.var]) <= 0).any():
        dead = int(((var <= 0) | (np.asarray(values[norm.var]) <= 0)).sum())
        problems.append(f"{dead} channels of zero variance")
    if found.momentum < 0.01:
        last = 1 - found.momentum
        problems.append(f"{last:.1%} of them is the last batch: an epsilon as momentum?")
    elif found.momentum < 0.5:
        problems.append(f"momentum {found.momentum:.3g}: PyTorch's is {1 - found.momentum:.3g} here")
    if found.lag > _LAGS:
        problems.append(f"the mean lags by {found.lag:.2g} standard deviations")
    if not 1 / _OFF < found.ratio < _OFF:
        problems.append(f"the variance is {found.ratio:.2g} times that of the batches")
    return problems
