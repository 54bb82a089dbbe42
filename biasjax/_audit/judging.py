"""From a function to what is found of its biases: the order in which an audit's parts are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import jax
import numpy as np

from biasjax._audit import budget, cancellation, shifts
from biasjax._audit.absorption import compare
from biasjax._audit.findings import Basis, BiasAudit, Finding, verdict_of
from biasjax._audit.model import Model, trace
from biasjax._audit.options import Options, checked
from biasjax._audit.points import Draws
from biasjax._audit.rows import sampler


def judge(
    fns: Sequence[Callable[..., Any]], params: Any, args: Sequence[Any], options: Options
) -> list[BiasAudit]:
    """Audit several functions of the same arguments side by side; trace them in the caller's thread."""
    checked(options)
    models = [trace(fn, params, *args, is_bias=options.is_bias) for fn in fns]
    device = cast(Any, jax.config).jax_default_device

    def one(model: Model) -> BiasAudit:
        with jax.default_device(device), jax.enable_x64(True):
            return _judge(model, options)

    # Side by side, for compiling takes one core
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(one, model) for model in models[1:]]
        return [one(models[0]), *(other.result() for other in others)]


def _judge(model: Model, options: Options) -> BiasAudit:
    shifter = shifts.prepare(model, Draws(options.seed, options.randomize, options.vary_inputs))
    sizes, limit = model.biases.sizes, options.joint_limit if options.joint else 0
    evidence = shifts.each(shifter, [np.eye(size) for size in sizes], 0)
    wanted = budget.rows_wanted(sizes, model.width, options.draws, limit)
    draw = sampler(model, shifter.draws)
    samples, dead = cancellation.sample(shifter, draw, wanted, evidence)
    joint = compare(model, draw, samples, dead, options.draws, limit) if limit else None
    places = cancellation.places(model, shifter.draws, dead)
    findings: list[Finding] = []
    for b, i in enumerate(model.biases.indices):
        size, rank = sizes[b], sizes[b] - dead[b].shape[1]
        unique = None if joint is None else min(joint.unique[b], rank)
        finding = Finding(
            path=model.paths[i],
            size=size,
            rank=rank,
            unique=unique,
            verdict=verdict_of(model.program.used[i], size, rank, unique),
            is_zero=bool((model.leaves[i] == 0).all()),
            evidence=evidence[b],
            basis=Basis(cancellation.basis_name(dead[b]), dead[b]) if 0 < rank < size else None,
            absorbed_by=joint.absorbers[b] if joint else (),
            deaths=places[b],
        )
        findings.append(finding)
    return BiasAudit(tuple(findings), joint is None or joint.exact)
