"""Programs with shifts of inner values as further inputs, and with sums of inner values as outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from biasjax._jaxpr.interpret import Rules, bind, interpret


def shifted(closed: jex.ClosedJaxpr, shapes: Mapping[Any, Sequence[int]], place: int) -> jex.ClosedJaxpr:
    """Add to variables of a program what further inputs say.

    Parameters
    ----------
    closed
        Program in float64 without calls; call this inside ``jax.enable_x64(True)``.
    shapes
        For each variable the shape of its shift, which is broadcast.
    place
        Number of the first of the new inputs.

    Examples
    --------
    >>> closed = jax.make_jaxpr(lambda x: 2 * jnp.sin(x))(1.0)
    >>> moved = shifted(closed, {closed.jaxpr.eqns[0].outvars[0]: ()}, 1)
    >>> float(jex.jaxpr_as_fun(moved)(0.0, 3.0)[0])
    6.0
    """

    def evaluate(*args: Any) -> list:
        steps = dict(zip(shapes, args[place : place + len(shapes)], strict=True))
        leaves = [*args[:place], *args[place + len(shapes) :]]
        inputs = [x + steps[v] if v in steps else x for v, x in zip(closed.jaxpr.invars, leaves, strict=True)]
        return interpret(_ADDING, closed.jaxpr, closed.consts, inputs, steps)

    avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]
    dtypes = [v.aval.dtype for v in shapes]
    added = [jax.ShapeDtypeStruct(tuple(s), d) for s, d in zip(shapes.values(), dtypes, strict=True)]
    return jax.make_jaxpr(evaluate)(*avals[:place], *added, *avals[place:])


def _add(eqn: Any, ins: list, steps: Mapping[Any, Any]) -> list:
    return [x + steps[v] if v in steps else x for v, x in zip(eqn.outvars, bind(eqn, ins), strict=True)]


_ADDING = Rules({}, default=_add)


def row_sums(closed: jex.ClosedJaxpr, wanted: Sequence[tuple[Any, int]]) -> Callable[..., list[tuple]]:
    """``sums(*leaves)``: least and greatest sum over contracted axes, for operands of dot products.

    Parameters
    ----------
    closed
        Program in float64 without calls.
    wanted
        For each operand the first output of its equation, and the number of the operand.
    """
    operands = dict[Any, set[int]]()
    for variable, operand in wanted:
        operands.setdefault(variable, set()).add(operand)

    def look(eqn: Any, ins: list, found: dict) -> list:
        for operand in operands.get(eqn.outvars[0], ()):
            axes = eqn.params["dimension_numbers"][0][operand]
            sums = jnp.sum(ins[operand], axes)
            found[eqn.outvars[0], operand] = (sums.min(), sums.max())
        return bind(eqn, ins)

    def sums(*leaves: Any) -> list[tuple]:
        found: dict = {}
        interpret(Rules({}, default=look), closed.jaxpr, closed.consts, leaves, found)
        return [found[one] for one in wanted]

    return sums
