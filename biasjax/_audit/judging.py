"""From a function to what is found of its biases: the order in which an audit's parts are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import jax
import numpy as np

from biasjax._audit import budget, cancellation, origins, progress, shifts
from biasjax._audit.absorption import compare
from biasjax._audit.evidence import Evidence
from biasjax._audit.findings import Basis, BiasAudit, Death, Finding, verdict_of
from biasjax._audit.model import Model, trace
from biasjax._audit.options import Options, checked
from biasjax._audit.points import Draws
from biasjax._audit.proving import prove
from biasjax._audit.rows import sampler
from biasjax._audit.shifts import Shifts


def judge(
    fns: Sequence[Callable[..., Any]], params: Any, args: Sequence[Any], options: Options
) -> list[BiasAudit]:
    """Audit several functions of the same arguments side by side; trace them in the caller's thread."""
    checked(options)
    models: list[Model] = []
    for fn in fns:
        known = models[0] if models else None
        models.append(trace(fn, params, *args, is_bias=options.is_bias, known=known))
    device = cast(Any, jax.config).jax_default_device

    def one(model: Model) -> BiasAudit:
        with jax.default_device(device), jax.enable_x64(True):
            return _judge(model, options)

    # Side by side, for compiling takes one core
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(one, model) for model in models[1:] if model is not models[0]]
        first = one(models[0])
        found = (other.result() for other in others)
        return [first if model is models[0] else next(found) for model in models]


def _judge(model: Model, options: Options) -> BiasAudit:
    shifter = shifts.prepare(model, Draws(options.seed, options.randomize, options.vary_inputs))
    method = _exactly if model.biases.total <= options.joint_limit else prove
    found = method(shifter, options.draws, options.joint)
    progress.at(f"audit of {len(model.names)} biases: where shifts die")
    deaths = cancellation.places(shifter, found.dead)
    progress.at()
    findings = [_finding(model, found, deaths[b], b) for b in range(len(deaths))]
    return BiasAudit(tuple(findings), found.joint is None or found.joint.exact)


def _exactly(shifter: Shifts, draws: int, joint: bool) -> Evidence:
    """Judge all biases by their whole Jacobian."""
    model, sizes = shifter.model, shifter.model.biases.sizes
    shifted = shifts.each(shifter, [np.eye(size) for size in sizes], 0)
    draw = sampler(model, shifter.draws, shifter.weights)
    wanted = budget.rows_wanted(sizes, model.width, draws, joint)
    samples, dead = cancellation.sample(shifter, draw, wanted, shifted)
    return Evidence(dead, shifted, compare(model, draw, samples, dead, draws) if joint else None)


def _finding(model: Model, found: Evidence, deaths: tuple[Death, ...], b: int) -> Finding:
    i, dead = model.biases.indices[b], found.dead[b]
    size, rank = len(dead), len(dead) - dead.shape[1]
    unique = None if found.joint is None else min(found.joint.unique[b], rank)
    return Finding(
        path=model.paths[i],
        size=size,
        rank=rank,
        unique=unique,
        verdict=verdict_of(model.program.used[i], size, rank, unique),
        is_zero=bool((model.given[i] == 0).all()),
        evidence=found.shifted[b],
        basis=Basis(cancellation.basis_name(dead), dead) if 0 < rank < size else None,
        absorbed_by=found.joint.absorbers[b] if found.joint else (),
        compensation=found.joint.compensation[b] if found.joint else None,
        deaths=deaths,
        made=origins.made(model.program.jaxpr.jaxpr, i, model.paths[i]),
    )
