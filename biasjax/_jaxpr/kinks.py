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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from biasjax._audit.drawing import MASKED
from biasjax._jaxpr.double import bind

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


@jax.custom_jvp
def _switch(value, first, a, b):
    """A value that is a or b, with the derivative of a where ``first``, else of b."""
    return value


@_switch.defjvp
def _(primals, tangents):
    return primals[0], jnp.where(primals[1], *tangents[2:])


def _evaluate(closed: jex.ClosedJaxpr, args: Sequence, seed: jax.Array) -> list:
    jaxpr = closed.jaxpr
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))
    smooth = _smooth(jaxpr)
    compared: dict = {}
    first: dict = {}

    def read(atom):
        return atom.val if isinstance(atom, jex.Literal) else env[atom]

    for i, eqn in enumerate(jaxpr.eqns):
        ins, name, own = [read(atom) for atom in eqn.invars], eqn.primitive.name, _mixed(seed, i)
        outs = _CONTROL[name](eqn, ins, own) if name in _CONTROL else bind(eqn, ins, eqn.params)
        if name in _COMPARISONS:
            compared[eqn.outvars[0]] = name, *eqn.invars
        kink = _kink(eqn, compared)
        if kink and _names(kink.operands) not in smooth:
            # What is decided by the same operands (the halves of max and min) is decided alike
            pair = _names(kink.operands)
            if pair not in first:
                a, b = map(read, kink.operands)
                first[pair] = _first(a, b, own)
            sides = [jnp.broadcast_to(read(atom), outs[0].shape) for atom in (kink.upper, kink.lower)]
            outs = [_switch(outs[0], first[pair], *sides)]
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


class _Kink(NamedTuple):
    """What is compared, what comes out where the first of these is the larger one, and where it is not."""

    operands: Sequence
    upper: Any
    lower: Any


def _names(operands: Sequence) -> tuple:
    return tuple(complex(v.val) if isinstance(v, jex.Literal) else v for v in operands)


def _smooth(jaxpr: jex.Jaxpr) -> set[tuple]:
    """Pairs whose maximum is part of logaddexp, max(a, b) + log(1 + exp(-|a - b|)), which has no kink."""
    steps = {eqn.outvars[0]: _names(eqn.invars) for eqn in jaxpr.eqns if eqn.primitive.name == "sub"}
    sizes = [eqn.invars[0] for eqn in jaxpr.eqns if eqn.primitive.name == "abs"]
    return {steps[v] for v in sizes if not isinstance(v, jex.Literal) and v in steps}


def _kink(eqn: Any, compared: dict) -> _Kink | None:
    name, ins = eqn.primitive.name, eqn.invars
    if name not in ("max", "min", "select_n") or not jnp.issubdtype(eqn.outvars[0].aval.dtype, np.floating):
        return None
    if name == "max":
        return _Kink(ins, *ins)
    if name == "min":
        return _Kink(ins, *reversed(ins))
    if ins[0] in compared:
        comparison, *operands = compared[ins[0]]
        number = any(isinstance(v, jex.Literal) for v in operands)
        if number and any(v in ins[1:] for v in operands if not isinstance(v, jex.Literal)):
            no, yes = ins[1:]
            return _Kink(operands, *((yes, no) if _COMPARISONS[comparison] else (no, yes)))
    return None


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


def _scan(eqn, ins: Sequence, seed: jax.Array) -> list:
    p, n = eqn.params, eqn.params["num_consts"]
    k = p["num_carry"]

    def body(carry, xs):
        i, *carried = carry
        outs = _evaluate(p["jaxpr"], [*ins[:n], *carried, *xs], _mixed(seed, i))
        return (i + 1, *outs[:k]), outs[k:]

    start, xs = (np.int32(0), *ins[n : n + k]), list(ins[n + k :])
    carry, ys = jax.lax.scan(body, start, xs, p["length"], p["reverse"], p["unroll"])
    return [*carry[1:], *ys]


def _cond(eqn, ins: Sequence, seed: jax.Array) -> list:
    def branch(body: jex.ClosedJaxpr) -> Callable:
        return lambda *args: _evaluate(body, args, seed)

    return jax.lax.switch(jnp.int32(ins[0]), [branch(body) for body in eqn.params["branches"]], *ins[1:])


_CONTROL = {"scan": _scan, "cond": _cond}
# Whether they ask if the first is the larger one
_COMPARISONS = {"gt": True, "ge": True, "lt": False, "le": False}
