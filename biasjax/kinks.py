"""Derivatives that take every kink both ways.

Near the inputs that are drawn a ReLU may be on throughout: it looks linear there, and its bias and a later
one look like stand-ins for each other; or off, and the biases before it look dead. Which of the pieces of a
piecewise function one meets says little about the function. So the derivative of max(a, b) is that of a or
of b at random, as if the inputs reached all pieces; values stay what they are. The two shares still sum to
one, so that a shift of both operands goes through as it does through max, and whatever subtracts it later
(softmax its maximum, a norm its mean) cancels it as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from biasjax.double import bind

# A kink this many standard deviations away from the values (a clip at 1e6, a floor at -1e30) is out of reach.
_REACH = 10.0


@jax.custom_jvp
def _larger(a, b, first):
    return jax.lax.max(a, b)


@jax.custom_jvp
def _smaller(a, b, first):
    return jax.lax.min(a, b)


@_larger.defjvp
def _(primals, tangents):
    return _larger(*primals), jnp.where(primals[2], *tangents[:2])


@_smaller.defjvp
def _(primals, tangents):
    return _smaller(*primals), jnp.where(primals[2], tangents[1], tangents[0])


_KINKS = {"max": _larger, "min": _smaller}


def both_ways(closed: jex.ClosedJaxpr) -> jex.ClosedJaxpr:
    """Let the derivative of a program take the kinks of ``max`` and ``min`` both ways.

    Parameters
    ----------
    closed
        Program in float64 without calls, as `biasjax.double.program` gives it.

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
        return _evaluate(closed, leaves, jax.random.key(seed))

    avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]
    return jax.make_jaxpr(evaluate)(*avals, jax.ShapeDtypeStruct((), np.int32))


def _evaluate(closed: jex.ClosedJaxpr, args: Sequence, key: jax.Array) -> list:
    jaxpr = closed.jaxpr
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))
    first: dict = {}

    def read(atom):
        return atom.val if isinstance(atom, jex.Literal) else env[atom]

    for i, eqn in enumerate(jaxpr.eqns):
        ins, name = [read(atom) for atom in eqn.invars], eqn.primitive.name
        if name in _KINKS and jnp.issubdtype(eqn.outvars[0].aval.dtype, np.floating):
            # max(a, b) and min(a, b) of the same operands are two halves of one kink
            operands = tuple(float(a.val) if isinstance(a, jex.Literal) else a for a in eqn.invars)
            first.setdefault(operands, _first_of(*ins, jax.random.fold_in(key, i)))
            outs = [_KINKS[name](*ins, first[operands])]
        elif name in _CONTROL:
            outs = _CONTROL[name](eqn, ins, jax.random.fold_in(key, i))
        else:
            outs = bind(eqn, ins, eqn.params)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _first_of(a: Any, b: Any, key: jax.Array) -> jax.Array:
    """Whether the first operand is to count as the larger one."""
    step = jax.lax.stop_gradient(a - b)
    finite = jnp.isfinite(step)
    near = finite & (jnp.abs(step) <= _REACH * jnp.std(step, where=finite))
    return jnp.where(near, jax.random.bernoulli(key, shape=step.shape), step > 0)


def _scan(eqn, ins: Sequence, key: jax.Array) -> list:
    p, n = eqn.params, eqn.params["num_consts"]
    k = p["num_carry"]

    def body(carry, xs):
        i, *carried = carry
        outs = _evaluate(p["jaxpr"], [*ins[:n], *carried, *xs], jax.random.fold_in(key, i))
        return (i + 1, *outs[:k]), outs[k:]

    start, xs = (np.int32(0), *ins[n : n + k]), list(ins[n + k :])
    carry, ys = jax.lax.scan(body, start, xs, p["length"], p["reverse"], p["unroll"])
    return [*carry[1:], *ys]


def _cond(eqn, ins: Sequence, key: jax.Array) -> list:
    def branch(body: jex.ClosedJaxpr) -> Callable:
        return lambda *args: _evaluate(body, args, key)

    return jax.lax.switch(jnp.int32(ins[0]), [branch(body) for body in eqn.params["branches"]], *ins[1:])


_CONTROL = {"scan": _scan, "cond": _cond}
