"""Running statistics of a model: found in its evaluation, measured over batches, set to what is measured.

A norm at inference is an affine stretch that takes a running mean and a running variance
(`biasjax._audit.stretches`). Its input is the value that the mean is taken from; which axes it normalises are
those along which the mean is the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from biasjax._audit import compiling, drawing, entering
from biasjax._audit.pure import Pure
from biasjax._audit.stretches import Stretch
from biasjax._jaxpr.interpret import Rules, bind, interpret
from biasjax._surgery.numbered import Numbered, numbered
from biasjax._surgery.whole import Whole, like, replaced


class Norm(NamedTuple):
    """A norm with running statistics.

    Attributes
    ----------
    path
        Of the layer.
    mean, var
        Numbers of its running statistics among the model's values.
    stretch
        Where it is in the program.
    taken
        Number of the equation that takes the mean.
    level
        One more than that of the norms before it, from 0.
    """

    path: str
    mean: int
    var: int
    stretch: Stretch
    taken: int
    level: int


class Moments(NamedTuple):
    """Mean and variance over all batches, with the axes of a norm's input, reduced, and how many numbers."""

    mean: np.ndarray
    var: np.ndarray
    count: float


def norms(model: Numbered) -> list[Norm]:
    """All norms with running statistics that evaluation reads, in program order."""
    read = model.read
    found: list[Norm] = []
    depends = behind(model)
    for stretch in read.stretches:
        state = model.state(stretch)
        others = [leaf for leaf in state if read.scales(stretch, leaf)]
        means = [leaf for leaf in state if leaf not in others]
        if len(means) != 1 or len(others) != 1:
            continue
        taken = next(step for step in stretch.steps if step in read.uses[means[0]])
        before = depends.get(input_of(model, stretch, taken), frozenset())
        level = 1 + max((norm.level for norm in found if norm.mean in before), default=-1)
        found.append(Norm(model.layer(stretch), means[0], others[0], stretch, taken, level))
    return found


def input_of(model: Numbered, stretch: Stretch, taken: int) -> Any:
    """Variable that a norm takes its mean from."""
    eqn = model.read.eqns[taken]
    return eqn.invars[next(k for k, v in enumerate(eqn.invars) if _is_data(model, v))]


def _is_data(model: Numbered, atom: Any) -> bool:
    return not isinstance(atom, jex.Literal) and atom in model.read.flow.data


def behind(model: Numbered) -> dict[Any, frozenset[int]]:
    """For each variable the values that it depends on."""
    found: dict[Any, frozenset[int]] = dict(model.read.leaves)
    for eqn in model.read.eqns:
        named = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
        depends = frozenset[int]().union(*(found.get(v, frozenset()) for v in named))
        found.update(dict.fromkeys(eqn.outvars, depends))
    return found


def subtracted(model: Numbered, norm: Norm, values: Sequence[Any]) -> np.ndarray:
    """What a norm takes from its input, reduced."""
    eqn = model.read.eqns[norm.taken]
    k = next(k for k, v in enumerate(eqn.invars) if not _is_data(model, v))
    known: Any = model.read.known(values).value(eqn.invars[k])
    return -known if eqn.primitive.name != "sub" else known


def measured(
    given: Whole, model: Numbered, found: Sequence[Norm], batches: Sequence[tuple[Any, ...]]
) -> Callable[..., list[Moments]]:
    """Return ``moments(values, before)``: of the inputs of all norms over all batches.

    ``before`` are moments of other values: then every norm takes as much more as its input's mean has grown
    since, as its running mean should, so that those behind it see nothing of that.
    """
    axes = [_axes(model, norm) for norm in found]
    programs: dict[Any, Callable[..., Any]] = {}

    def program(batch: tuple[Any, ...]) -> Callable[..., Any]:
        """Of a batch of this shape: traced anew where it is not the first."""
        shapes = [jnp.shape(x) for x in jax.tree.leaves(batch)]
        if str(shapes) not in programs:
            there = given._replace(args=(*batch, given.args[-1]))
            own, its = (model, found) if batch is batches[0] else _again(there)
            programs[str(shapes)] = _collector(own, its, axes)
        return programs[str(shapes)]

    def moments(values: Sequence[Any], before: Sequence[Moments] | None = None) -> list[Moments]:
        means = None if before is None else [moment.mean for moment in before]
        each: list[list[Moments]] = []
        for batch in batches:
            leaves = [drawing.to_host(leaf) for leaf in jax.tree.leaves((batch, given.args[-1]))]
            with jax.enable_x64(True):
                some = program(batch)(means, *values, *leaves)
            count = float(len(jax.tree.leaves(batch)[0]))
            each.append([Moments(np.asarray(mean), np.asarray(var), count) for mean, var in some])
        return [functools.reduce(_merged, parts) for parts in zip(*each, strict=True)]

    return moments


def _again(given: Whole) -> tuple[Numbered, list[Norm]]:
    model = numbered(given)
    return model, norms(model)


def _collector(model: Numbered, found: Sequence[Norm], axes: Sequence[tuple[int, ...]]) -> Callable[..., Any]:
    """``collect(before, *leaves)``: mean and variance of the input of each norm, compiled.

    With means from ``before``, each norm takes as much more as its input's mean is more than then, so that
    those behind it see nothing of that.
    """
    closed, eqns = model.read.flow.jaxpr, model.read.eqns
    wanted = {eqns[norm.taken].outvars[0]: (i, norm) for i, norm in enumerate(found)}

    def collect(before: Sequence[Any] | None, *leaves: Any) -> list[Any]:
        def look(eqn: Any, ins: list[Any], seen: dict[int, Any]) -> list[Any]:
            i, norm = wanted.get(eqn.outvars[0], (-1, None))
            if norm is not None:
                k = eqns[norm.taken].invars.index(input_of(model, norm.stretch, norm.taken))
                mean = ins[k].mean(axes[i], keepdims=True)
                seen[i] = mean, jnp.square(ins[k] - mean).mean(axes[i], keepdims=True)
                if before is not None:
                    ins = [x - (mean - before[i]) if j == k else x for j, x in enumerate(ins)]
            return bind(eqn, ins)

        seen: dict[int, Any] = {}
        interpret(Rules({}, default=look), closed.jaxpr, closed.consts, leaves, seen)
        return [seen[i] for i in range(len(axes))]

    return compiling.quick_jit(collect)


def _axes(model: Numbered, norm: Norm) -> tuple[int, ...]:
    shape = subtracted(model, norm, model.values).shape
    shape = (1,) * (input_of(model, norm.stretch, norm.taken).aval.ndim - len(shape)) + shape
    return tuple(axis for axis, n in enumerate(shape) if n == 1)


def _merged(a: Moments, b: Moments) -> Moments:
    """Moments of both (Chan, Golub & LeVeque)."""
    count = a.count + b.count
    share, apart = b.count / count, b.mean - a.mean
    var = (1 - share) * a.var + share * b.var + share * (1 - share) * apart**2
    return Moments(a.mean + share * apart, var, count)


def with_mean(model: Numbered, norm: Norm, values: Sequence[Any], by: np.ndarray) -> Any:
    """Running mean with which a norm takes that much more; as it was if it does not enter entry by entry."""

    def taken(value: Any) -> np.ndarray:
        return subtracted(model, norm, [value if i == norm.mean else x for i, x in enumerate(values)])

    old = values[norm.mean]
    found = entering.solved(taken, np.shape(old), taken(old) + by)
    return old if found is None else found


def fitted(model: Numbered, norm: Norm, values: Sequence[Any], moments: Moments) -> tuple[Any, Any] | None:
    """Running mean and variance that normalise by the moments; None if they do not enter one by one."""

    def having(leaf: int, value: Any, plain: frozenset[int] = frozenset()) -> list[Any]:
        own = [np.ones_like(x) if i in plain else x for i, x in enumerate(values)]
        return [value if i == leaf else x for i, x in enumerate(own)]

    # Not scaled by parameters, which may be zero
    plain = frozenset(leaf for leaf in norm.stretch.leaves if leaf < model.params)

    def taken(value: Any) -> np.ndarray:
        return subtracted(model, norm, having(norm.mean, value))

    def spread(value: Any) -> np.ndarray:
        return model.read.coefficients(norm.stretch, having(norm.var, value, plain))[0] ** -2.0

    shapes = [np.shape(values[leaf]) for leaf in (norm.mean, norm.var)]
    mean, var = entering.entry(taken, shapes[0]), entering.entry(spread, shapes[1])
    if mean is None or var is None:
        return None
    laid_out = moments.var.transpose(model.read.permutation(norm.stretch, norm.taken))
    # Debiased statistics are divided alike (Equinox)
    debias = mean.slope.ravel()[0]
    return (
        mean.placed((moments.mean - mean.zero) / mean.slope, shapes[0]),
        var.placed(laid_out / debias, shapes[1]),
    )


def with_statistics(given: Whole, model: Numbered, values: Sequence[Any]) -> Pure:
    """The model with other running statistics, in its own dtypes."""
    state = {
        path: like(given.values["state"][path.removeprefix("state/")], x)
        for path, x in model.together(given, values).items()
    }
    return given.model(replaced(given.values, state))
