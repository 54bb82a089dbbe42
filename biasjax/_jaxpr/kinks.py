"""Derivatives that take every kink both ways.

Near the inputs that are drawn a ReLU may be on throughout: it looks linear there, and its bias and a later
one look like stand-ins for each other; or off, and the biases before it look dead. Which pieces of a
piecewise function one meets says little about the function. So the derivative of max(a, b) is that of a or
of b at random, as if the inputs reached all pieces; values stay what they are. The two shares still sum to
one, so that a shift of both operands goes through as it does through max, and what subtracts it later
(softmax its maximum, a norm its mean) cancels it as before. The same holds for a choice between x and
something else by whether x is larger than a number (leaky ReLU). Other choices (masks, the k largest)
are no kinks and stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from biasjax._jaxpr.interpret import Rules, bind, interpret, scan

# So large are no values but masks.
MASKED = 1e8
# A kink this many standard deviations away from the values (a clip at 1e6) is out of reach.
_REACH = 10.0
# So many rows tell how much a feature varies; of fewer all features together do.
_ROWS = 4


def both_ways(closed: jex.ClosedJaxpr) -> jex.ClosedJaxpr:
    """Let the derivative of a program take its kinks both ways.

    Parameters
    ----------
    closed
        Program in float64 without calls, as `biasjax._jaxpr.double.program` gives it.

    Returns
    -------
    ClosedJaxpr
        The same values; one more input behind the others, an int32 that seeds the choices. Within
        ``while`` kinks stay as they are.

    Examples
    --------
    >>> relu = jax.make_jaxpr(lambda x: jax.lax.max(x, 0.0))(jnp.ones(1000))
    >>> slope = jax.grad(lambda x: jex.jaxpr_as_fun(both_ways(relu))(x, np.int32(0))[0].sum())
    >>> bool(400 < slope(jnp.linspace(1.0, 2.0, 1000)).sum() < 600)
    True
    """

    def evaluate(*args):
        *leaves, seed = args
        return _evaluate(closed, leaves, _mixed(seed.astype(np.uint32)))

    avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]
    return jax.make_jaxpr(evaluate)(*avals, jax.ShapeDtypeStruct((), np.int32))


class _Kink(NamedTuple):
    """What is compared, what comes out where the first of these is the larger one, and where it is not."""

    operands: Sequence
    upper: Any
    lower: Any


class _Scope(NamedTuple):
    """Of one program: the seed, the kink at each variable that has one, a number of its equation, coins."""

    seed: jax.Array
    kinks: dict
    numbers: dict
    coins: dict

    def own(self, eqn: Any) -> jax.Array:
        """Seed of an equation."""
        return _mixed(self.seed, self.numbers[eqn.outvars[0]])


def _evaluate(closed: jex.ClosedJaxpr, args: Sequence, seed: jax.Array) -> list:
    numbers = {v: i for i, eqn in enumerate(closed.jaxpr.eqns) for v in eqn.outvars}
    scope = _Scope(seed, _kinks(closed.jaxpr), numbers, {})
    return interpret(_RULES, closed.jaxpr, closed.consts, args, scope)


# Whether they ask if the first is the larger one
_COMPARISONS = {"gt": True, "ge": True, "lt": False, "le": False}


def _kinks(jaxpr: jex.Jaxpr) -> dict[Any, _Kink]:
    """Kinks by the variable that comes out of each."""
    compared = {e.outvars[0]: e for e in jaxpr.eqns if e.primitive.name in _COMPARISONS}
    smooth = _smooth(jaxpr)
    found = {eqn.outvars[0]: _kink(eqn, compared) for eqn in jaxpr.eqns if eqn.primitive.name in _PIECEWISE}
    return {v: kink for v, kink in found.items() if kink and _names(kink.operands) not in smooth}


def _kink(eqn: Any, compared: dict) -> _Kink | None:
    name, ins = eqn.primitive.name, eqn.invars
    if not jnp.issubdtype(eqn.outvars[0].aval.dtype, np.floating):
        return None
    if name == "max":
        return _Kink(ins, *ins)
    if name == "min":
        return _Kink(ins, *reversed(ins))
    comparison = None if isinstance(ins[0], jex.Literal) else compared.get(ins[0])
    if comparison is None:
        return None
    operands = comparison.invars
    named = [v for v in operands if not isinstance(v, jex.Literal)]
    if len(named) == len(operands) or not any(v in ins[1:] for v in named):
        return None
    no, yes = ins[1:]
    return _Kink(operands, *((yes, no) if _COMPARISONS[comparison.primitive.name] else (no, yes)))


def _names(operands: Sequence) -> tuple:
    return tuple(complex(v.val) if isinstance(v, jex.Literal) else v for v in operands)


def _smooth(jaxpr: jex.Jaxpr) -> set[tuple]:
    """Pairs whose maximum is part of logaddexp, max(a, b) + log(1 + exp(-|a - b|)), which has no kink."""
    steps = {eqn.outvars[0]: _names(eqn.invars) for eqn in jaxpr.eqns if eqn.primitive.name == "sub"}
    sizes = [eqn.invars[0] for eqn in jaxpr.eqns if eqn.primitive.name == "abs"]
    return {steps[v] for v in sizes if not isinstance(v, jex.Literal) and v in steps}


def _piecewise(eqn: Any, ins: Sequence, scope: _Scope) -> list:
    [out] = bind(eqn, ins)
    kink = scope.kinks.get(eqn.outvars[0])
    if kink is None:
        return [out]
    known = {v: x for v, x in zip(eqn.invars, ins, strict=True) if not isinstance(v, jex.Literal)}
    a, b, *pieces = (
        v.val if isinstance(v, jex.Literal) else known[v] for v in (*kink.operands, kink.upper, kink.lower)
    )
    # What is decided by the same operands (the halves of max and min) is decided alike
    pair = _names(kink.operands)
    if pair not in scope.coins:
        scope.coins[pair] = _first(a, b, scope.own(eqn))
    return [_switch(out, scope.coins[pair], *(jnp.broadcast_to(x, out.shape) for x in pieces))]


@jax.custom_jvp
def _switch(value, first, a, b):
    """A value that is a or b, with the derivative of a where ``first``, else of b."""
    return value


@_switch.defjvp
def _(primals, tangents):
    return primals[0], jnp.where(primals[1], *tangents[2:])


def _first(a: Any, b: Any, seed: jax.Array) -> jax.Array:
    """Whether the first operand is to count as the larger one."""
    step = jax.lax.stop_gradient(a - b)
    # Also false of NaN
    numbers = (jnp.abs(a) < MASKED) & (jnp.abs(b) < MASKED)
    # How much a unit varies over inputs and places, where there are some; features are last
    features = step.shape[-1] if step.ndim else 1
    rows = tuple(range(step.ndim - 1)) if step.size >= _ROWS * features else None
    spread = jnp.std(step, rows, where=numbers, keepdims=True)
    near = numbers & (jnp.abs(step) <= _REACH * spread)
    coin = _mixed(jax.lax.iota(np.uint32, step.size), seed) >> 31 == 1
    return jnp.where(near, coin.reshape(step.shape), step > 0)


def _mixed(x: Any, seed: Any = 0) -> jax.Array:
    """Hash 32-bit integers (the finaliser of MurmurHash3).

    Coins need no better one, and threefry at every kink would double the time to compile.
    """
    x = (x ^ jnp.uint32(seed)) * np.uint32(0x9E3779B9)
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _scan(eqn: Any, ins: Sequence, scope: _Scope) -> list:
    seed = scope.own(eqn)
    body = eqn.params["jaxpr"]
    return scan(eqn, ins, lambda i, args: (_evaluate(body, args, _mixed(seed, i)), ()))[0]


def _cond(eqn: Any, ins: Sequence, scope: _Scope) -> list:
    seed = scope.own(eqn)
    branches = [lambda *args, body=body: _evaluate(body, args, seed) for body in eqn.params["branches"]]
    return jax.lax.switch(jnp.int32(ins[0]), branches, *ins[1:])


_PIECEWISE = ("max", "min", "select_n")
_RULES = Rules(
    {**dict.fromkeys(_PIECEWISE, _piecewise), "scan": _scan, "cond": _cond},
    default=lambda eqn, ins, scope: bind(eqn, ins),
)
