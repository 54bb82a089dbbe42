"""Where a shift of a bias dies: equations whose inputs differ and whose outputs do not.

A program is run equation by equation on a base copy and a shifted copy at once. Nothing here knows what a
norm or a softmax is: a shift that does not reach the output must meet an equation at which the two copies
become equal again, and that equation has a name stack and a source line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.extend import source_info_util

from biasjax._audit.findings import Death
from biasjax._jaxpr.double import bind

# The same entries in another shape: measured once.
_LAYOUT = {"reshape", "broadcast_in_dim", "squeeze", "transpose", "rev"}
# Inputs differ above the first, outputs are equal below the second (relative); float64 round-off is 1e-16.
_DIFFER, _EQUAL = 1e-7, 1e-10


class _Met(NamedTuple):
    """An equation that a shift may reach, with the values it takes and gives (numbers within its scope)."""

    place: Death
    floating: bool
    ins: tuple[int, ...]
    outs: tuple[int, ...]


class _Measured(NamedTuple):
    """Largest change of each value and size of what changes, (..., values); leading axes are loops."""

    step: Any
    size: Any


def find(
    jaxpr: jex.ClosedJaxpr, leaves: Sequence, shifted: Sequence[np.ndarray], which: Sequence[int]
) -> list[tuple[Death, ...]]:
    r"""Find the equations at which shifts die, in one compiled program.

    Parameters
    ----------
    jaxpr
        Program in float64 without calls, as `biasjax._jaxpr.double.program` gives it.
    leaves
        Base inputs.
    shifted
        For each input in ``which`` its shifted copies, (shifts, sizes, \\*shape). A shift dies only where all
        its sizes do.
    which
        Inputs that are shifted.

    Returns
    -------
    list of tuple of Death
        One tuple per shift, in the order of the program, each place once. A death at a comparison or a
        rounding to integers counts only where there is no other.
    """
    scopes: list[list[_Met]] = []

    def measured(base, copies):
        scopes.clear()
        moved = list(base)
        for i, copy in zip(which, copies, strict=True):
            moved[i] = copy
        return _compare(jaxpr.jaxpr, jaxpr.consts, base, moved, scopes)[2]

    def over_shifts(base, copies):
        # The base is an argument: the compiler would evaluate a program of constants, slowly
        return jax.lax.map(jax.vmap(lambda copy: measured(base, copy)), copies)

    # Compiling hundreds of small kernels costs more than running them once
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    run = jax.jit(over_shifts, compiler_options=options)
    found = jax.tree.map(np.asarray, run(list(leaves), list(shifted)))
    return [_deaths(scopes, [_Measured(m.step[i], m.size[i]) for m in found]) for i in range(len(shifted[0]))]


def _deaths(scopes: Sequence[Sequence[_Met]], found: Sequence[_Measured]) -> tuple[Death, ...]:
    hits = [
        met
        for scope, measured in zip(scopes, found, strict=True)
        for met in scope
        if all(_died(met, step, size) for step, size in zip(measured.step, measured.size, strict=True))
    ]
    return tuple(dict.fromkeys([m.place for m in hits if m.floating] or [m.place for m in hits]))


def _died(met: _Met, step: Any, size: Any) -> bool:
    ins, outs = list(met.ins), list(met.outs)
    differ = (step[..., ins] > _DIFFER * size[..., ins]).any(-1)
    # What is left of the difference of x + 3 and 3 has the round-off of 3, not of itself
    scale = np.maximum(size[..., outs], 1e-6 * step[..., ins].max(-1, keepdims=True))
    equal = np.all(step[..., outs] <= _EQUAL * scale, axis=-1)
    # In a loop: whenever it gets there
    return bool(np.any(differ) and np.all(equal | ~differ))


def _compare(jaxpr, consts, base: Sequence, moved: Sequence, scopes: list):
    """Run both copies; return their outputs and what each scope measures, naming scopes in ``scopes``."""
    given = zip([*consts, *base], [*consts, *moved], strict=True)
    env: dict = dict(zip([*jaxpr.constvars, *jaxpr.invars], given, strict=True))
    number: dict = {}
    values: list = []

    def measured(v) -> int:
        if v not in number:
            number[v] = len(values)
            values.append(v)
        return number[v]

    scope: list[_Met] = []
    found: list[_Measured] = []

    def read(atom):
        return (atom.val, atom.val) if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        a, b = [read(atom)[0] for atom in eqn.invars], [read(atom)[1] for atom in eqn.invars]
        differing = [v for v, x, y in zip(eqn.invars, a, b, strict=True) if x is not y]
        if differing and eqn.primitive.name in _CONTROL:
            a_out, b_out, inner = _CONTROL[eqn.primitive.name](eqn, a, b, scopes)
            found += inner
        else:
            a_out = bind(eqn, a, eqn.params)
            b_out = bind(eqn, b, eqn.params) if differing else a_out
            if differing and eqn.primitive.name in _LAYOUT:
                number[eqn.outvars[0]] = measured(differing[0])
                env[eqn.outvars[0]] = (a_out[0], b_out[0])
                continue
            ids = [[measured(v) for v in vs] for vs in (differing, eqn.outvars)]
            if differing:
                scope.append(_met(eqn, *ids))
        env.update(zip(eqn.outvars, zip(a_out, b_out, strict=True), strict=True))
    scopes.append(scope)
    outs = [read(atom) for atom in jaxpr.outvars]
    found.append(_measure([env[v] for v in values]))
    return [a for a, _ in outs], [b for _, b in outs], found


def _measure(pairs: Sequence[tuple]) -> _Measured:
    """Largest change and size of every value, those of one shape and dtype in one reduction."""
    pairs = [_plain(*pair) for pair in pairs]
    groups: dict = {}
    for i, (a, b) in enumerate(pairs):
        key = (a.shape, a.dtype) if a is not b and a.size else None
        groups.setdefault(key, []).append(i)
    still = groups.pop(None, [])
    steps, sizes = [jnp.zeros(len(still), float)], [jnp.zeros(len(still), float)]
    for members in groups.values():
        # The barrier keeps the compiler from computing the values again inside the reduction
        held = jax.lax.optimization_barrier([pairs[i] for i in members])
        a, b = (jnp.stack([pair[side] for pair in held]).reshape(len(members), -1) for side in (0, 1))
        # Of the entries that differ: a mask's 1e38 is not the size of the scores beside it
        differ = a != b
        step = jnp.where(differ, jnp.abs(a - b), 0.0)
        size = jnp.where(differ & jnp.isfinite(a), jnp.abs(a), 0.0)
        # Both in one pass over what does not fit a cache
        largest = jax.lax.reduce((step, size), (0.0, 0.0), lambda x, y: tuple(map(jnp.maximum, x, y)), (1,))
        steps.append(largest[0])
        sizes.append(largest[1])
    order = np.argsort(np.array([*still, *(i for members in groups.values() for i in members)], int))
    return _Measured(jnp.concatenate(steps)[order], jnp.concatenate(sizes)[order])


def _plain(a: Any, b: Any) -> tuple:
    """The copies as numbers that can be subtracted."""
    if a is b or jnp.issubdtype(a.dtype, jax.dtypes.extended):
        return a, a
    return (a, b) if jnp.issubdtype(a.dtype, jnp.inexact) else (a.astype(float), b.astype(float))


def _met(eqn, ins: Sequence[int], outs: Sequence[int]) -> _Met:
    where = source_info_util.summarize(eqn.source_info)
    file, _, rest = where.partition(":")
    line, _, function = rest.partition(":")
    where = f"{file}:{line} {function.partition(' ')[2]}".strip() if line else where
    floating = all(jnp.issubdtype(var.aval.dtype, jnp.inexact) for var in eqn.outvars)
    death = Death(eqn.primitive.name, str(eqn.source_info.name_stack), where)
    return _Met(death, floating, tuple(ins), tuple(outs))


def _scan(eqn, a: Sequence, b: Sequence, scopes: list):
    p, n = eqn.params, eqn.params["num_consts"]
    k = p["num_carry"]
    names: list = []

    def body(carry, xs):
        names.clear()
        base, moved = [[*side[:n], *c, *x] for side, c, x in zip((a, b), carry, xs, strict=True)]
        a_out, b_out, found = _compare(p["jaxpr"].jaxpr, p["jaxpr"].consts, base, moved, names)
        return (a_out[:k], b_out[:k]), (a_out[k:], b_out[k:], found)

    start, xs = [[list(side[i:j]) for side in (a, b)] for i, j in ((n, n + k), (n + k, None))]
    carry, (a_ys, b_ys, found) = jax.lax.scan(
        body, tuple(start), tuple(xs), length=p["length"], reverse=p["reverse"]
    )
    scopes += names
    return [*carry[0], *a_ys], [*carry[1], *b_ys], found


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _cond(eqn, a: Sequence, b: Sequence, scopes: list):
    bodies = eqn.params["branches"]
    named: list[list] = [[] for _ in bodies]

    def branch(i, a, b):
        named[i].clear()
        return _compare(bodies[i].jaxpr, bodies[i].consts, a, b, named[i])[2]

    shapes = [jax.eval_shape(lambda a, b, i=i: branch(i, a, b), a[1:], b[1:]) for i in range(len(bodies))]

    def only(i):
        # Branches not taken see no change
        return lambda a, b: [branch(i, a, b) if i == j else _zeros(s) for j, s in enumerate(shapes)]

    index = a[0].astype(jnp.int32)
    found = jax.lax.switch(index, [only(i) for i in range(len(bodies))], a[1:], b[1:])
    scopes += [scope for names in named for scope in names]
    return bind(eqn, a, eqn.params), bind(eqn, b, eqn.params), [m for group in found for m in group]


def _while(eqn, a: Sequence, b: Sequence, scopes: list):
    p = eqn.params
    i, j = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    test, body = p["cond_jaxpr"], p["body_jaxpr"]
    names: list = []

    def step(a_carry, b_carry):
        names.clear()
        return _compare(body.jaxpr, body.consts, [*a[i:j], *a_carry], [*b[i:j], *b_carry], names)

    def both_run(carry):
        sides = zip((a, b), carry[:2], strict=True)
        return jnp.logical_and(*(jex.jaxpr_as_fun(test)(*side[:i], *c)[0] for side, c in sides))

    def worst(carry):
        a_out, b_out, found = step(*carry[:2])
        return a_out, b_out, jax.tree.map(jnp.maximum, carry[2], found)

    start = _zeros(jax.eval_shape(step, list(a[j:]), list(b[j:]))[2])
    found = jax.lax.while_loop(both_run, worst, (list(a[j:]), list(b[j:]), start))[2]
    scopes += names
    return bind(eqn, a, eqn.params), bind(eqn, b, eqn.params), found


_CONTROL = {"scan": _scan, "cond": _cond, "while": _while}
