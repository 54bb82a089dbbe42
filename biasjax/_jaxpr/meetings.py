"""Where the parameters of a layer meet data in a traced program, by tracing alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core as jex

from biasjax._jaxpr.interpret import Rules, interpret, within


class Meeting(NamedTuple):
    """The last equation in which a layer's parameters meet data: the shape it gives, how often it runs."""

    shape: tuple[int, ...]
    repeats: int


# What a value depends on: None for scalar constants alone, the name of a layer for its parameters alone, or
# the data (arguments, arrays closed over, and anything mixed with them).
_DATA = object()


def find(closed: jex.ClosedJaxpr, owners: Sequence[str]) -> dict[str, Meeting]:
    """Find where layers meet data.

    Parameters
    ----------
    closed
        Traced program.
    owners
        Names of the layers that own its first inputs; the others are data.

    Returns
    -------
    dict of Meeting
        By layer, in the order of the program.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> dense = jax.make_jaxpr(lambda w, b, x: x @ w + b)(jnp.ones((3, 2)), jnp.ones(2), jnp.ones((5, 3)))
    >>> find(dense, ["dense", "dense"])
    {'dense': Meeting(shape=(5, 2), repeats=1)}
    """
    scope = _Scope(1, {})
    data = [_DATA] * (len(closed.jaxpr.invars) - len(owners))
    _walk(closed.jaxpr, [*owners, *data], scope)
    return scope.meetings


class _Scope(NamedTuple):
    repeats: int
    meetings: dict[str, Meeting]


def _walk(jaxpr: jex.Jaxpr, owners: Sequence, scope: _Scope) -> list:
    return interpret(_RULES, jaxpr, [_DATA] * len(jaxpr.constvars), owners, scope)


def _equation(eqn: Any, ins: list, scope: _Scope) -> list:
    named = {owner for owner in ins if isinstance(owner, str)}
    mixed = _DATA in ins or len(named) > 1
    for name in named if mixed else ():
        scope.meetings.pop(name, None)  # the last meeting gives the place in the order
        scope.meetings[name] = Meeting(tuple(eqn.outvars[0].aval.shape), scope.repeats)
    return [_DATA if mixed else next(iter(named), None)] * len(eqn.outvars)


def _descending(eqn: Any, ins: list, scope: _Scope) -> list:
    """Descend into bodies of calls, scans, loops and branches, whose inputs are the last of the equation."""
    inner = [getattr(body, "jaxpr", body) for name, body in within(eqn) if name != "cond_jaxpr"]
    if not inner:
        return _equation(eqn, ins, scope)
    length = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    scope = scope._replace(repeats=scope.repeats * length)
    *_, outs = [_walk(body, ins[len(ins) - len(body.invars) :], scope) for body in inner]
    return [_DATA] * len(eqn.outvars) if _DATA in ins else outs


# Programs that only say how two entries become one
_SCATTERS = ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")
_COMBINING = (*_SCATTERS, "reduce", "reduce_window", "select_and_scatter")
_RULES = Rules(
    dict.fromkeys(_COMBINING, _equation),
    default=_descending,
    literal=lambda number: _DATA if np.ndim(number) else None,
)
