"""Programs with their loops over layers written out, and what such loops stack taken apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from biasjax._jaxpr.interpret import CALLS, Rules, bind, interpret, wrapped

# Longer loops run over time, not over layers
_LONGEST = 64

# Start, limit and strides of a slice
Cut = tuple[tuple[int, ...], ...]


def unrolled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Write out the calls and the scans of up to 64 steps of a function.

    Examples
    --------
    >>> loop = lambda w, x: jax.lax.scan(lambda h, w: (w * h, None), x, w)[0]
    >>> "scan" in str(jax.make_jaxpr(unrolled(loop))(jnp.ones(2), 3.0))
    False
    """

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
        outs = _walk(closed, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outs)

    return run


def _walk(program: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    return interpret(_RULES, getattr(program, "jaxpr", program), consts, args)


def _called(eqn: Any, ins: list[Any], scope: None) -> list[Any]:
    body = wrapped(eqn)
    return _walk(body, getattr(body, "consts", ()), ins)


def _scanned(eqn: Any, ins: list[Any], scope: None) -> list[Any]:
    p = eqn.params
    if not 0 < p["length"] <= _LONGEST:
        return bind(eqn, ins)
    n, k = p["num_consts"], p["num_carry"]
    carry, stacked = ins[n : n + k], ins[n + k :]
    steps = range(p["length"])
    reported: list[list[Any]] = []
    for i in reversed(steps) if p["reverse"] else steps:
        xs = [jax.lax.index_in_dim(x, i, keepdims=False) for x in stacked]
        outs = _walk(p["jaxpr"], p["jaxpr"].consts, [*ins[:n], *carry, *xs])
        carry = outs[:k]
        reported.append(outs[k:])
    ordered = reported[::-1] if p["reverse"] else reported
    return [*carry, *(jnp.stack(ys) for ys in zip(*ordered, strict=True))]


_RULES = Rules(
    {**dict.fromkeys(CALLS, _called), "scan": _scanned}, default=lambda eqn, ins, scope: bind(eqn, ins)
)


class Pieces(NamedTuple):
    """A program whose stacked inputs are taken apart.

    Attributes
    ----------
    closed
        The program of the pieces.
    cuts
        For each new input the number of the old one, and where it is cut from it (None for all of it).
    """

    closed: jex.ClosedJaxpr
    cuts: tuple[tuple[int, Cut | None], ...]

    def apart(self, values: Sequence[Any]) -> list[Any]:
        """Pieces of values of the old inputs."""
        return [values[i] if cut is None else values[i][_index(cut)] for i, cut in self.cuts]

    def together(self, values: Sequence[Any], pieces: Mapping[int, Any]) -> list[Any]:
        """Old inputs with some pieces replaced; the others are the same objects."""
        new = list(values)
        for number, piece in pieces.items():
            i, cut = self.cuts[number]
            if cut is None:
                new[i] = piece
                continue
            new[i] = np.array(new[i])
            new[i][_index(cut)] = piece
        return new


def pieces(closed: jex.ClosedJaxpr, values: int) -> Pieces:
    """Take apart those of the first inputs that a program without calls reads in slices alone, each once.

    Examples
    --------
    >>> two = jax.make_jaxpr(lambda w, x: w[1:2] * (w[0:1] * x))(jnp.ones(2), jnp.ones(1))
    >>> pieces(two, 1).cuts
    ((0, ((0,), (1,), (1,))), (0, ((1,), (2,), (1,))), (1, None))
    """
    jaxpr = closed.jaxpr
    read: dict[Any, list[Cut | None]] = {v: [] for v in jaxpr.invars}
    for eqn in jaxpr.eqns:
        for v in eqn.invars:
            if not isinstance(v, jex.Literal) and v in read:
                read[v].append(_cut(eqn) if eqn.primitive.name == "slice" else None)
    for v in jaxpr.outvars:
        if not isinstance(v, jex.Literal) and v in read:
            read[v].append(None)
    cuts: list[tuple[int, Cut | None]] = []
    for i, v in enumerate(jaxpr.invars):
        own = sorted({cut for cut in read[v] if cut is not None})
        apart = i < values and own and None not in read[v] and _disjoint(own, v.aval.shape)
        cuts += [(i, cut) for cut in own] if apart else [(i, None)]

    def rule(eqn: Any, ins: list[Any], scope: None) -> list[Any]:
        return [ins[0][_cut(eqn)]] if isinstance(ins[0], dict) else bind(eqn, ins)

    def evaluate(*args: Any) -> list[Any]:
        whole: list[Any] = [{} for _ in jaxpr.invars]
        for (i, cut), x in zip(cuts, args, strict=True):
            if cut is None:
                whole[i] = x
            else:
                whole[i][cut] = x
        rules = Rules({"slice": rule}, default=lambda eqn, ins, scope: bind(eqn, ins))
        return interpret(rules, jaxpr, closed.consts, whole)

    def shape(i: int, cut: Cut | None) -> jax.ShapeDtypeStruct:
        aval = jaxpr.invars[i].aval
        size = aval.shape if cut is None else np.empty(aval.shape, np.bool_)[_index(cut)].shape
        return jax.ShapeDtypeStruct(size, aval.dtype)

    return Pieces(jax.make_jaxpr(evaluate)(*(shape(i, cut) for i, cut in cuts)), tuple(cuts))


def _cut(eqn: Any) -> Cut:
    p = eqn.params
    return p["start_indices"], p["limit_indices"], p["strides"] or (1,) * len(p["start_indices"])


def _index(cut: Cut) -> tuple[slice, ...]:
    return tuple(map(slice, *cut))


def _disjoint(cuts: Sequence[Cut], shape: Sequence[int]) -> bool:
    """Whether no number is in two slices."""
    seen = np.zeros(shape, np.int8)
    for cut in cuts:
        seen[_index(cut)] += 1
    return bool(seen.max(initial=0) <= 1)
