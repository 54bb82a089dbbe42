"""Affine stretches of a program: what parameters do to data between two equations that are not linear in it.

A stretch begins at a value that data has made (of a layer, or of what a norm has divided) and goes on as
long as parameters are only added to it or multiplied with it: z = scale * value + shift. So a batch norm at
inference is one with the bias of the layer before it, and the scale and bias of a layer norm are one. They
are found by following data, not by names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex

from biasjax._audit import invariances
from biasjax._audit.invariances import Flow
from biasjax._jaxpr import constant

_LAYOUTS = ("transpose", "convert_element_type", "copy")
_AFFINE = ("add", "add_any", "sub", "mul", "div", "neg", *_LAYOUTS)
LAYERS = ("dot_general", "conv_general_dilated")


class Stretch(NamedTuple):
    """A stretch up to the last equation in which parameters take part.

    Attributes
    ----------
    source, end
        Variables.
    steps
        Numbers of the equations from one to the other.
    leaves
        Numbers of the inputs that take part.
    beside
        Whether other data takes part, too, as a factor.
    trouble
        Why it can't be dealt with; empty if it can.
    """

    source: Any
    end: Any
    steps: tuple[int, ...]
    leaves: frozenset[int]
    beside: bool
    trouble: str


class Read(NamedTuple):
    """A program with its stretches.

    Attributes
    ----------
    flow
        What depends on what.
    stretches
        In program order.
    made, readers
        For each variable the number of the equation that makes it, and of those that take it; -1 for the
        output of the program.
    leaves
        For each variable without data the inputs that it depends on.
    uses
        For each input the equations in which it meets data.
    """

    flow: Flow
    stretches: tuple[Stretch, ...]
    made: dict[Any, int]
    readers: dict[Any, tuple[int, ...]]
    leaves: dict[Any, frozenset[int]]
    uses: dict[int, frozenset[int]]

    @property
    def eqns(self) -> Sequence[Any]:
        """Equations of the program."""
        return self.flow.jaxpr.jaxpr.eqns

    def known(self, values: Sequence) -> constant.Known:
        """What is known at some values of the inputs that are no data."""
        data = [None] * (len(self.flow.jaxpr.jaxpr.invars) - len(values))
        found = invariances.known(self.flow, [*values, *data], lambda eqn, operand: None)

        def value(atom: Any) -> np.ndarray | None:
            with jax.enable_x64(True):
                return found.value(atom)

        return constant.Known(value, found.row_sum)

    def operand(self, step: int, data: Any = None) -> int:
        """Number of the operand of an equation that is data: the first, or a given one."""
        atoms = self.eqns[step].invars
        given = [data] if data is not None else self.flow.data
        return next(k for k, v in enumerate(atoms) if not isinstance(v, jex.Literal) and v in given)

    def coefficients(self, stretch: Stretch, values: Sequence) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of a stretch at some values, reduced, with the axes of its end."""
        ask, at = self.known(values), stretch.source
        scale, shift = (np.full([1] * (at.aval.ndim + 1), one) for one in (1.0, 0.0))
        for step in stretch.steps:
            eqn = self.eqns[step]
            scale, shift = _next(eqn, self.operand(step, at), scale, shift, ask, self.flow.data)
            at = eqn.outvars[0]
        return scale[0], shift[0]

    def scales(self, stretch: Stretch, leaf: int) -> bool:
        """Whether an input scales what a stretch takes; if not, it is added."""
        at, moved = ([np.full(v.aval.shape, 1.25) for v in self.flow.jaxpr.jaxpr.invars] for _ in range(2))
        moved[leaf] = moved[leaf] + 1
        count = len(self.uses)
        first, second = (self.coefficients(stretch, values[:count])[0] for values in (at, moved))
        return not np.array_equal(first, second)

    def permutation(self, stretch: Stretch, first: int = 0) -> tuple[int, ...]:
        """For each axis of the end of a stretch that of its source, or of what equation ``first`` takes."""
        order = tuple(range(stretch.source.aval.ndim))
        for step in stretch.steps:
            if step >= first and self.eqns[step].primitive.name == "transpose":
                order = tuple(order[axis] for axis in self.eqns[step].params["permutation"])
        return order


class _Chain(NamedTuple):
    """How a variable comes from the source of its stretch."""

    source: Any
    steps: tuple[int, ...]
    scaled_only: bool
    beside: bool


def read(closed: jex.ClosedJaxpr, values: int) -> Read:
    """Find the stretches of a program in float64 without calls; its first ``values`` inputs are no data."""
    given = invariances.flow(closed, values)
    jaxpr = closed.jaxpr
    leaves = {v: frozenset({i}) for i, v in enumerate(jaxpr.invars[:values])}
    chains: dict[Any, _Chain] = {}
    uses: dict[int, set[int]] = {i: set() for i in range(values)}
    readers: dict[Any, list[int]] = {}
    made = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.outvars}
    for i, eqn in enumerate(jaxpr.eqns):
        named = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
        for v in dict.fromkeys(named):
            readers.setdefault(v, []).append(i)
        depends = _depends(eqn, leaves)
        if given.data.isdisjoint(named):
            leaves.update(dict.fromkeys(eqn.outvars, depends))
            continue
        for leaf in depends:
            uses[leaf].add(i)
        chains |= _extended(i, eqn, chains, given, leaves)
    for v in jaxpr.outvars:
        if not isinstance(v, jex.Literal):
            readers.setdefault(v, []).append(-1)
            for leaf in leaves.get(v, ()):
                uses[leaf].add(-1)
    found = Read(
        given,
        (),
        made,
        {v: tuple(some) for v, some in readers.items()},
        leaves,
        {leaf: frozenset(some) for leaf, some in uses.items()},
    )
    return found._replace(stretches=_stretches(found, chains))


def _extended(i: int, eqn: Any, chains: dict, given: Flow, leaves: dict) -> dict[Any, _Chain]:
    """Chain of the output of an equation that takes data."""
    data = [v for v in eqn.invars if not isinstance(v, jex.Literal) and v in given.data]
    name = eqn.primitive.name
    fresh = {v: _Chain(v, (), True, False) for v in eqn.outvars}
    ways = [chains.get(v, _Chain(v, (), True, False)) for v in data]
    if name not in _AFFINE or (name == "div" and len(data) == 1 and eqn.invars[0] is not data[0]):
        return fresh
    if len(data) == 1:
        adds = name in ("add", "add_any", "sub")
        way = ways[0]
        return {eqn.outvars[0]: _Chain(way.source, (*way.steps, i), way.scaled_only and not adds, way.beside)}
    if name not in ("mul", "div") or data[0] is data[1]:
        return fresh
    # What has been scaled by parameters alone, times other data, is other data scaled by them
    for way in ways[:1] if name == "div" else ways:
        if way.scaled_only and any(
            _depends(eqn, leaves) for eqn in map(given.jaxpr.jaxpr.eqns.__getitem__, way.steps)
        ):
            return {eqn.outvars[0]: _Chain(way.source, (*way.steps, i), True, True)}
    return fresh


def _depends(eqn: Any, leaves: dict) -> frozenset[int]:
    """Inputs that take part in an equation beside its data."""
    named = (v for v in eqn.invars if not isinstance(v, jex.Literal))
    return frozenset[int]().union(*(leaves.get(v, frozenset()) for v in named))


def _stretches(given: Read, chains: dict[Any, _Chain]) -> tuple[Stretch, ...]:
    """From each source a stretch to every last equation in which parameters, or other data, take part."""
    members: dict[Any, list[_Chain]] = {}
    for chain in chains.values():
        if chain.steps:
            members.setdefault(chain.source, []).append(chain)
    found: list[Stretch] = []
    for some in members.values():
        taking = [chain for chain in some if _takes_part(given, chain.steps[-1])]
        passed = {step for chain in taking for step in chain.steps[:-1]}
        ends = [chain for chain in taking if chain.steps[-1] not in passed]
        for chain in ends:
            stretch = _stretch(given, chain, len(ends) > 1)
            found += [stretch] if stretch.leaves else []
    return tuple(sorted(found, key=lambda stretch: stretch.steps[0]))


def _stretch(given: Read, chain: _Chain, branches: bool) -> Stretch:
    leaves = frozenset[int]().union(*(_depends(given.eqns[step], given.leaves) for step in chain.steps))
    before = [chain.source, *(given.eqns[step].outvars[0] for step in chain.steps[:-1])]
    trouble = ""
    if branches:
        trouble = "its input goes two ways that parameters take part in"
    elif any(len(given.readers[v]) > 1 for v in before):
        trouble = "what it takes is read elsewhere, too"
    elif any(not given.uses[leaf] <= {*chain.steps} for leaf in leaves):
        trouble = "its parameters are used elsewhere, too"
    end = given.eqns[chain.steps[-1]].outvars[0]
    return Stretch(chain.source, end, chain.steps, leaves, chain.beside, trouble)


def _takes_part(given: Read, step: int) -> bool:
    """Whether parameters, or other data, take part in an equation."""
    eqn = given.eqns[step]
    data = [v for v in eqn.invars if not isinstance(v, jex.Literal) and v in given.flow.data]
    return len(data) > 1 or bool(_depends(eqn, given.leaves))


def _next(
    eqn: Any, k: int, scale: np.ndarray, shift: np.ndarray, ask: constant.Known, data: frozenset[Any]
) -> tuple[np.ndarray, np.ndarray]:
    name = eqn.primitive.name
    if name in ("add", "add_any", "sub"):
        other: Any = ask.value(eqn.invars[1 - k])
        sign = -1 if name == "sub" else 1
        return (scale, shift + sign * other) if k == 0 else (sign * scale, sign * shift + other)
    others = [v for j, v in enumerate(eqn.invars) if j != k and not isinstance(v, jex.Literal)]
    if any(v in data for v in others):
        return scale, shift
    outs = []
    for x in (scale, shift):
        ins: list[np.ndarray | None] = [None] * len(eqn.invars)
        ins[k] = x
        moved: Any = constant.shifts(eqn, ins, ask)
        outs.append(np.zeros([1] * (eqn.outvars[0].aval.ndim + 1)) if moved[0] is None else moved[0])
    return outs[0], outs[1]
