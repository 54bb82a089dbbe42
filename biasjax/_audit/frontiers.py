"""The frontier of a model's biases, and what each value of it does not mind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core as jex

from biasjax._audit import compiling, invariances, nullspaces, patterns
from biasjax._audit.invariances import Flow
from biasjax._audit.model import Biases, Model, assembled
from biasjax._audit.rows import Sample
from biasjax._jaxpr import shifted
from biasjax._jaxpr.constant import Known

# Sums over what attention weighs differ by no more than this
_SAME = 1e-9


class Frontier(NamedTuple):
    """Where shifts of a model's biases stop being constant.

    Attributes
    ----------
    flow
        What depends on what in its program.
    biases
        Number of each variable that is a bias.
    shapes
        Its variables, with the reduced shapes of the shifts that reach them.
    sums
        Data-dependent operands of dot products that add up to one number, with it: attention weights.
    """

    flow: Flow
    biases: dict[Any, int]
    shapes: dict[Any, tuple[int, ...]]
    sums: dict[tuple[Any, int], float]

    @property
    def inner(self) -> dict[Any, tuple[int, ...]]:
        """Those of ``shapes`` that are neither biases nor outputs."""
        outs = {v for v in self.flow.jaxpr.jaxpr.outvars if not isinstance(v, jex.Literal)}
        return {v: shape for v, shape in self.shapes.items() if v not in self.biases and v not in outs}


def frontier(model: Model, leaves: Sequence, others: Sequence) -> Frontier:
    """Find where shifts of biases stop being constant, at one draw; what adds up does so at another, too."""
    jaxpr = model.program.jaxpr
    flow = invariances.flow(jaxpr, model.parameters)
    biases = {jaxpr.jaxpr.invars[i]: b for b, i in enumerate(model.biases.indices)}
    asked: dict[tuple[Any, int], float] = {}

    def hoped_for(eqn: Any, operand: int) -> float:
        return asked.setdefault((eqn.outvars[0], operand), 1.0)

    invariances.frontier(flow, invariances.known(flow, leaves, hoped_for), biases)
    sums: dict[tuple[Any, int], float] = {}
    if asked:
        run = compiling.quick_jit(shifted.row_sums(jaxpr, [*asked]))
        for one, *found in zip(asked, run(*leaves), run(*others), strict=True):
            low, high = min(float(low) for low, _ in found), max(float(high) for _, high in found)
            if high - low <= _SAME * abs(high):
                sums[one] = high
    front = Frontier(flow, biases, {}, sums)
    return front._replace(shapes=invariances.frontier(flow, known(front, leaves), biases))


def known(front: Frontier, leaves: Sequence) -> Known:
    """What is known at one draw of the parameters."""
    return invariances.known(
        front.flow, leaves, lambda eqn, operand: front.sums.get((eqn.outvars[0], operand))
    )


def extended(model: Model, front: Frontier) -> Model:
    """Make the shifts at the frontier further biases, behind the model's own."""
    shapes, n = front.inner, model.parameters
    program = model.program._replace(
        jaxpr=shifted.shifted(model.program.jaxpr, shapes, n),
        used=(*model.program.used[:n], *(True for _ in shapes), *model.program.used[n:]),
    )
    given = (*model.given[:n], *map(np.zeros, shapes.values()), *model.given[n:])
    paths = (*model.paths[:n], *(f"frontier/{i}" for i in range(len(shapes))), *model.paths[n:])
    indices = (*model.biases.indices, *range(n, n + len(shapes)))
    biases = Biases(indices, (*model.biases.shapes, *shapes.values()))
    return assembled(program, given, paths, n + len(shapes), biases, model.scales)


def unminded(
    wide: Model, front: Frontier, samples: Sequence[Sample]
) -> tuple[list[np.ndarray], dict[Any, np.ndarray | None]]:
    """What changes no output, of each bias and at each variable of the frontier.

    Parameters
    ----------
    wide
        The `extended` model.
    front, samples
        Its frontier, and rows of its Jacobian.

    Returns
    -------
    list of array
        For each bias an orthonormal basis (size, dimension).
    dict
        For each variable of the frontier (dimension, *shape); None for all.
    """
    found = []
    for b, (place, shape) in enumerate(zip(wide.biases.slices, wide.biases.shapes, strict=True)):
        rows = [nullspaces.levelled(sample.in_noise(b, place)) for sample in samples if len(sample.rows)]
        found.append(patterns.unminded(np.concatenate(rows), shape))
    own = len(wide.biases.indices) - len(front.inner)
    numbers = front.biases | {v: own + i for i, v in enumerate(front.inner)}
    minds: dict[Any, np.ndarray | None] = {}
    for v, shape in front.shapes.items():
        basis = found[numbers[v]].T if v in numbers else np.zeros((0, int(np.prod(shape))))
        minds[v] = None if len(basis) == basis.shape[1] else basis.reshape(-1, *shape)
    return found[:own], minds
