"""A program run on a base copy and moved copies of its inputs at once: how far apart each equation is.

Nothing here knows what an equation means: it is the values before and after it that are measured.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.extend import source_info_util

from biasjax._jaxpr.interpret import Rules, bind, interpret, scan

# Moves that are run at once, beside one base
_AT_ONCE = 4
# Neighbours among so many values are measured together where they are alike
_TOGETHER = 32
# The same entries in another shape: measured once.
_LAYOUT = ("reshape", "broadcast_in_dim", "squeeze", "transpose", "rev")


class Met(NamedTuple):
    """An equation that a move may reach: what and where it is, and the values that it takes and gives.

    Attributes
    ----------
    primitive, module, where
        Primitive, name stack and "file:line (function)".
    floating
        Whether all that comes out are numbers with a fraction.
    ins, outs
        Which of the `Measured` values may differ before it, and which after it. The first values of a whole
        program are its inputs that are moved.
    """

    primitive: str
    module: str
    where: str
    floating: bool
    ins: tuple[int, ...]
    outs: tuple[int, ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=("step", "size"), meta_fields=("equations",))
@dataclasses.dataclass(frozen=True)
class Measured:
    """One program (or body of a loop, or branch): its equations, and what they were measured to do.

    Attributes
    ----------
    step, size
        (..., values): largest change of each value, and size of what changes. Leading axes are loops.
    equations
        Those that the moves may reach.
    """

    step: Any
    size: Any
    equations: tuple[Met, ...]


def measure(
    closed: jex.ClosedJaxpr, base: Sequence, moved: Sequence[np.ndarray], which: Sequence[int]
) -> list[Measured]:
    r"""Run a program on all copies, compiled once.

    Parameters
    ----------
    closed
        Program in float64 without calls, as `biasjax._jaxpr.double.program` gives it.
    base
        Its inputs.
    moved
        For each input in ``which`` its moved copies, (moves, sizes, \*shape).
    which
        Inputs that are moved.

    Returns
    -------
    list of Measured
        The programs inside an equation before those around it. On the host, (moves, sizes, ..., values).
    """

    def measured(base, copies):
        pairs = [(leaf, leaf) for leaf in base]
        for i, copy in zip(which, copies, strict=True):
            pairs[i] = (base[i], copy)
        return _run(closed, pairs)[1]

    def over_moves(base, moved):
        # The base is an argument: the compiler would evaluate a program of constants, slowly
        each = jax.vmap(lambda copies: measured(base, copies))
        return jax.lax.map(each, moved, batch_size=_AT_ONCE)

    # Compiling hundreds of small kernels costs more than running them once
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    run = jax.jit(over_moves, compiler_options=options)
    return jax.tree.map(np.asarray, run(list(base), list(moved)))


class _Scope(NamedTuple):
    """Of one program: the pairs to measure, which of them a variable is, equations, programs inside."""

    pairs: list[tuple]
    numbers: dict[Any, int]
    equations: list[Met]
    inner: list[Measured]

    def number(self, variable: Any, pair: tuple) -> int:
        if variable not in self.numbers:
            self.numbers[variable] = len(self.pairs)
            self.pairs.append(pair)
        return self.numbers[variable]


def _run(closed: jex.ClosedJaxpr, pairs: Sequence[tuple]) -> tuple[list[tuple], list[Measured]]:
    """Evaluate both copies, base first in each pair; values that cannot differ are one object twice."""
    scope = _Scope([], {}, [], [])
    for variable, pair in zip(closed.jaxpr.invars, pairs, strict=True):
        if _differ(pair):
            scope.number(variable, pair)
    consts = [(c, c) for c in closed.consts]
    outs = interpret(_RULES, closed.jaxpr, consts, pairs, scope)
    return outs, [*scope.inner, Measured(*_measure(scope.pairs), tuple(scope.equations))]


def _differ(pair: tuple) -> bool:
    return pair[0] is not pair[1]


def _bind_both(eqn: Any, pairs: Sequence[tuple]) -> list[tuple]:
    base, moved = (bind(eqn, side) for side in zip(*pairs, strict=True))
    return list(zip(base, moved, strict=True))


def _equation(eqn: Any, pairs: Sequence[tuple], scope: _Scope) -> list[tuple]:
    if not any(map(_differ, pairs)):
        return [(out, out) for out in bind(eqn, [base for base, _ in pairs])]
    outs = _bind_both(eqn, pairs)
    ins = [scope.number(v, pair) for v, pair in zip(eqn.invars, pairs, strict=True) if _differ(pair)]
    scope.equations.append(
        _met(eqn, ins, [scope.number(*out) for out in zip(eqn.outvars, outs, strict=True)])
    )
    return outs


def _met(eqn: Any, ins: Sequence[int], outs: Sequence[int]) -> Met:
    where = source_info_util.summarize(eqn.source_info)
    file, _, rest = where.partition(":")
    line, _, function = rest.partition(":")
    where = f"{file}:{line} {function.partition(' ')[2]}".strip() if line else where
    floating = all(jnp.issubdtype(var.aval.dtype, jnp.inexact) for var in eqn.outvars)
    return Met(eqn.primitive.name, str(eqn.source_info.name_stack), where, floating, tuple(ins), tuple(outs))


def _layout(eqn: Any, pairs: Sequence[tuple], scope: _Scope) -> list[tuple]:
    for variable, pair in zip(eqn.invars, pairs, strict=True):
        if _differ(pair):
            scope.numbers[eqn.outvars[0]] = scope.number(variable, pair)
            return _bind_both(eqn, pairs)
    return _equation(eqn, pairs, scope)


def _measure(pairs: Sequence[tuple]) -> tuple[jax.Array, jax.Array]:
    """Largest change and size of every value, those of one shape and dtype in one reduction."""
    pairs = [_plain(*pair) for pair in pairs]
    groups: dict = {}
    still = [i for i, (a, b) in enumerate(pairs) if a is b or not a.size]
    for i in sorted(set(range(len(pairs))).difference(still)):
        a = pairs[i][0]
        # Not all at once: the values of a whole network would be kept until then
        groups.setdefault((a.shape, a.dtype, i // _TOGETHER), []).append(i)
    steps, sizes = [jnp.zeros(len(still), float)], [jnp.zeros(len(still), float)]
    for members in groups.values():
        step, size = _largest([pairs[i] for i in members])
        steps.append(step)
        sizes.append(size)
    order = np.argsort(np.array([*still, *(i for members in groups.values() for i in members)], int))
    return jnp.concatenate(steps)[order], jnp.concatenate(sizes)[order]


def _plain(a: Any, b: Any) -> tuple:
    """The copies as numbers that can be subtracted."""
    if a is b or jnp.issubdtype(a.dtype, jax.dtypes.extended):
        return a, a
    return (a, b) if jnp.issubdtype(a.dtype, jnp.inexact) else (a.astype(float), b.astype(float))


def _largest(pairs: Sequence[tuple]) -> tuple[jax.Array, jax.Array]:
    # The barrier keeps the compiler from computing the values again inside the reduction
    held = jax.lax.optimization_barrier(list(pairs))
    a, b = (jnp.stack(side).reshape(len(held), -1) for side in zip(*held, strict=True))
    # Of the entries that differ: a mask's 1e38 is not the size of the scores beside it
    differ = a != b
    step = jnp.where(differ, jnp.abs(a - b), 0.0)
    size = jnp.where(differ & jnp.isfinite(a), jnp.abs(a), 0.0)
    # Both in one pass over what does not fit a cache
    return jax.lax.reduce((step, size), (0.0, 0.0), lambda x, y: tuple(map(jnp.maximum, x, y)), (1,))


def _descending(descend: Callable[[Any, Sequence[tuple]], tuple[list[tuple], list[Measured]]]) -> Callable:
    """Rule of an equation with programs inside: ``descend(eqn, pairs) -> (outputs, what was measured)``."""

    def rule(eqn: Any, pairs: Sequence[tuple], scope: _Scope) -> list[tuple]:
        if not any(map(_differ, pairs)):
            return _equation(eqn, pairs, scope)
        outs, found = descend(eqn, pairs)
        scope.inner.extend(found)
        return outs

    return rule


def _scan(eqn: Any, pairs: Sequence[tuple]) -> tuple[list[tuple], list[Measured]]:
    return scan(eqn, pairs, lambda _, ins: _run(eqn.params["jaxpr"], ins))


def _cond(eqn: Any, pairs: Sequence[tuple]) -> tuple[list[tuple], list[Measured]]:
    (index, _), *args = pairs
    found = [lambda *args, body=body: _run(body, args)[1] for body in eqn.params["branches"]]
    shapes = [jax.eval_shape(branch, *args) for branch in found]

    def only(i):
        # Branches not taken see no change
        return lambda *args: [found[i](*args) if i == j else _zeros(shape) for j, shape in enumerate(shapes)]

    groups = jax.lax.switch(jnp.int32(index), [only(i) for i in range(len(found))], *args)
    return _bind_both(eqn, pairs), [measured for group in groups for measured in group]


def _while(eqn: Any, pairs: Sequence[tuple]) -> tuple[list[tuple], list[Measured]]:
    p = eqn.params
    i, j = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    test = jex.jaxpr_as_fun(p["cond_jaxpr"])

    def step(carry):
        return _run(p["body_jaxpr"], [*pairs[i:j], *carry])

    def both_run(state):
        return jnp.logical_and(*(test(*side)[0] for side in zip(*pairs[:i], *state[0], strict=True)))

    def worst(state):
        outs, found = step(state[0])
        return outs, jax.tree.map(jnp.maximum, state[1], found)

    carry = list(pairs[j:])
    start = _zeros(jax.eval_shape(step, carry)[1])
    return _bind_both(eqn, pairs), jax.lax.while_loop(both_run, worst, (carry, start))[1]


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


_RULES = Rules(
    {
        **dict.fromkeys(_LAYOUT, _layout),
        **{
            name: _descending(descend)
            for name, descend in (("scan", _scan), ("cond", _cond), ("while", _while))
        },
    },
    default=_equation,
    literal=lambda number: (number, number),
)
