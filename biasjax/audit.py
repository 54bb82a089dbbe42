"""What each bias of any JAX model can do: cancelled, absorbable or needed, and where a shift of it dies.

`audit_biases` takes any pure function of parameters, `audit_modes` one with training and evaluation modes;
`biasjax.adapters` make such functions of Flax, Equinox, Haiku and Keras models. Everything is numerical: no
layer or primitive is known by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from biasjax import check, deaths, probe, shifts
from biasjax.draws import Varies
from biasjax.findings import VERDICTS, Basis, BiasAudit, Finding, ModesAudit, basis_name, verdict_of
from biasjax.joint import compare, draws_compared, rows_compared

__all__ = ["VERDICTS", "BiasAudit", "Finding", "ModesAudit", "audit_biases", "audit_modes"]


def audit_biases(
    fn: Callable,
    params: Any,
    *args: Any,
    is_bias: Any = None,
    seed: int = 0,
    randomize: Varies = True,
    vary_inputs: Varies = True,
    joint: bool = True,
    draws: int = 16,
    joint_limit: int = 2048,
) -> BiasAudit:
    """Find out what each bias of a pure function can do.

    Parameters
    ----------
    fn
        ``fn(params, *args)``, pure; any pytree of outputs, of which the floating ones count.
    params, args
        Pytrees of arrays. Floats are lifted to float64, also inside ``fn``; `jax_enable_x64` stays as it is.
    is_bias
        Predicate on (path, leaf) or a mask like ``params``; by default leaves named bias, b, beta, offset.
    seed
        Of all draws.
    randomize
        Judge the architecture: draw parameters, so that no zero-initialised kernel or scale hides a bias
        (default). False judges the given values. A predicate on (path, leaf) chooses which leaves are drawn.
    vary_inputs
        Draw floating arguments, random keys and integers of more than two values too, so that no dead unit
        hides a bias (default); or a predicate on (path, leaf), path "0/tokens" for ``args[0]["tokens"]``.
    joint
        Also ask what other biases can reproduce.
    draws
        Number of parameter draws, each with as many inputs as the ranks need; a quarter of it for models of
        more than 2048 bias entries. Biases are compared at all draws up to 512 entries, at an eighth beyond.
        At four, one unit in twenty of a ReLU layer on pooled features was on at every input of every draw,
        and so looked linear.
    joint_limit
        Up to so many bias entries the joint analysis is exact. Beyond, it compares biases within overlapping
        windows of half as many, in the order of their first use: ``unique`` is then an upper bound, for what
        only biases of different windows could reproduce together is not seen.

    Returns
    -------
    BiasAudit

    Raises
    ------
    ValueError
        If ``fn`` raises or is not pure, ``params`` has no bias, outputs are not finite at the given input,
        or arrays lie on different devices.

    Notes
    -----
    A direction v of bias b is dead if J_b v = 0 at all draws of parameters and inputs and finite shifts along
    it, small and large, move the output by no more than round-off. For piecewise analytic functions a zero
    derivative at random points means, with probability one, no effect in the pieces visited. Round-off is
    measured at every input of a small model, and at one input of two draws of a large one: where it is
    hundreds of times larger at others (a norm over two features that are nearly equal at some inputs), a dead
    direction could be taken for a live one.

    v is reproducible if, at each draw of the parameters, J_b v lies in the range of the other biases'
    Jacobian over many inputs; what the others do for it may depend on the draw, v may not. A share that
    misses this range by less than round-off (units so saturated that their outputs are constant to 1e-12)
    counts as inside, and directions too weak to be told apart from round-off count as outside. At generic
    points that rank is constant, so the null spaces of the joint Jacobian are the tangents of the sets of
    biases with equal outputs: the inclusion holds along a curve, not at a point only, and b can be moved
    while others make up for it. It is a local statement: where the others reach b through a saturating
    function, they make up for no more than that function's range.

    Both rest on the inputs that are drawn, which resemble the given ones. Give typical ones, several to a
    batch: of tokens that are all equal none is varied, and a ReLU that is on at every input drawn is linear,
    so that its bias and a later one can stand in for each other. Of hundreds of units some always are: in
    evaluation the last bias of a ResNet-18 comes out absorbable for that reason. What saturates a softmax or
    tanh to round-off (pixels from 0 to 255 before a first layer, a temperature of .02) leaves no derivative
    to measure. Where rounding or a sign leaves none, directions are judged by finite shifts one by one, which
    can find too few dead.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> def fn(params, x):
    ...     y = x @ params["w"] + params["bias"]
    ...     return y - y.mean(0)
    >>> audit = audit_biases(fn, {"w": jnp.ones((3, 2)), "bias": jnp.zeros(2)}, jnp.ones((4, 3)))
    >>> audit.findings[0].verdict, audit.summary()
    ('cancelled', '1 of 1 biases, 2 of 2 parameters, do nothing.')
    """
    check.positive_int("draws", draws)
    check.positive_int("joint_limit", joint_limit)
    model = probe.model(fn, params, *args, is_bias=is_bias)
    plan = probe.Draws(seed, randomize, vary_inputs)
    with jax.enable_x64(True):
        shifter = shifts.prepare(model, plan)
        whole = [np.eye(place.stop - place.start) for place in model.biases.slices]
        evidence = shifts.each(shifter, whole, 0)
        samples, dead = _sample(model, plan, draws, joint_limit if joint else 0, shifter, evidence)
        found = compare(model, samples, dead, draws, joint_limit) if joint else None
        places = _deaths(model, plan, dead)
    findings = []
    for b, i in enumerate(model.biases.indices):
        size, rank = len(dead[b]), len(dead[b]) - dead[b].shape[1]
        unique = None if found is None else min(found.unique[b], rank)
        verdict = verdict_of(model.program.used[i], size, rank, unique)
        basis = Basis(basis_name(dead[b]), dead[b]) if 0 < rank < size else None
        absorbers = found.absorbers[b] if found else ()
        is_zero = bool((model.leaves[i] == 0).all())
        findings.append(
            Finding(
                model.paths[i], size, rank, unique, verdict, is_zero, evidence[b], basis, absorbers, places[b]
            )
        )
    return BiasAudit(tuple(findings), found is None or found.exact)


# A wide layer before few outputs shows them a few directions at each draw of the parameters only.
_MANY_DRAWS = 16
# Inputs at each draw of the parameters of a small model: a unit that is on at all of them looks linear.
_INPUTS = 16
# A draw of the parameters that is never sampled: what is dead there, too, was not fitted to the samples.
_FRESH = 2**20


def _sample(model, plan, draws: int, joint_limit: int, shifter, evidence) -> tuple[list, list]:
    """Jacobian rows and dead directions, with more draws while finite shifts contradict the rows.

    Behind a narrow linear layer a draw shows a few directions of a bias only, others at each draw.
    """
    sample = probe.sampler(model, plan)
    samples = [sample(w, rows.tolist()) for w, rows in enumerate(_plan(model, draws, joint_limit))]
    while True:
        dead = probe.dead_directions(model, samples)
        doubtful = _doubtful(samples, dead, shifter, evidence)
        ranks_now = [basis.shape[1] for basis in dead]
        if not doubtful:
            break
        samples += [sample(w, [1] * len(dead)) for w in range(len(samples), 2 * len(samples))]
        dead = probe.dead_directions(model, samples)
        if all(dead[b].shape[1] == ranks_now[b] for b in doubtful):
            break
    for b in doubtful:
        if dead[b].shape[1]:
            slope = max(sample.slopes[b] for sample in samples)
            dead[b] = shifts.survivors(shifter, b, dead[b], slope)
    return samples, dead


def _plan(model, draws: int, joint_limit: int) -> list[np.ndarray]:
    """Rows wanted for each bias at each draw of the parameters."""
    sizes = np.array([place.stop - place.start for place in model.biases.slices])
    unknowns = sizes.copy()
    if sum(sizes) > probe.LARGE:
        # Small biases need few rows, and often lie in early layers, the dearest to go back to
        for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 1.0)):
            some = (sizes > low * max(sizes)) & (sizes <= high * max(sizes))
            unknowns[some] = max(sizes[some], default=0)
    else:
        unknowns[:] = max(sizes)
    rows = unknowns + 32
    calls = -(-rows // model.width)
    least = draws if sum(sizes) <= probe.LARGE else max(draws // 4, 1)
    most = np.maximum(least, -(-calls // -(-calls // _MANY_DRAWS)))
    plan = [np.where(w < most, -(-rows // most), 0) for w in range(max(most))]
    if sum(sizes) <= probe.LARGE:
        plan = [np.maximum(wanted, _INPUTS * probe.ROWS) for wanted in plan]
    if joint_limit:
        together = rows_compared(sizes.tolist(), joint_limit)
        first = draws_compared(sizes.tolist(), draws)
        plan[:first] = [np.maximum(wanted, together) for wanted in plan[:first]]
    return plan


def _doubtful(samples, dead, shifter, evidence) -> list[int]:
    """Biases that a finite shift along a dead direction brings to life."""
    slopes = np.max([sample.slopes for sample in samples], 0)
    moved = any(shifts.together(shifter, dead, weights, slopes).alive for weights in (0, _FRESH))
    # One by one only where they move something all at once, or a wholly dead one did by itself
    asked = [
        basis if moved or (basis.shape[1] == len(basis) and alone.alive) else basis[:, :0]
        for basis, alone in zip(dead, evidence, strict=True)
    ]
    if not any(basis.shape[1] for basis in asked):
        return []
    shifted = [shifts.each(shifter, asked, weights, slopes) for weights in (0, _FRESH)]
    return [b for b, pair in enumerate(zip(*shifted, strict=True)) if any(shift.alive for shift in pair)]


def _deaths(model, plan, dead) -> list[tuple[deaths.Death, ...]]:
    """Equations at which a random dead shift, large or small, comes to nothing."""
    asked = [
        b for b, basis in enumerate(dead) if basis.shape[1] and model.program.used[model.biases.indices[b]]
    ]
    places: list[tuple[deaths.Death, ...]] = [()] * len(dead)
    if not asked:
        return places
    leaves = probe.point(model, plan, 0, 1)
    flat = model.biases.gather(leaves)
    rng = np.random.default_rng([plan.seed, 4])
    shifted = np.tile(flat, (len(asked), 2, 1))
    for row, b in zip(shifted, asked, strict=True):
        direction = dead[b] @ rng.standard_normal(dead[b].shape[1])
        row[:, model.biases.slices[b]] += np.outer((3.0, -0.5), direction / np.sqrt(np.mean(direction**2)))
    copies = [
        shifted[..., place].reshape(len(asked), 2, *shape)
        for place, shape in zip(model.biases.slices, model.biases.shapes, strict=True)
    ]
    found = deaths.find(model.program.jaxpr, leaves, copies, model.biases.indices)
    for b, where in zip(asked, found, strict=True):
        places[b] = where
    return places


def audit_modes(apply: Callable, params: Any, state: Any, *args: Any, **options: Any) -> ModesAudit:
    """Audit a model in training and in evaluation.

    Parameters
    ----------
    apply
        ``apply(params, state, *args, train) -> (y, state)``; only y counts, so what a bias does to running
        statistics is not an effect of the training pass. `biasjax.adapters` make it.
    params, state, args
        Its arguments. Random keys in the state are drawn like those in the arguments; the rest of it stays.
    options
        Those of `audit_biases`.

    Returns
    -------
    ModesAudit

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from biasjax import norms
    >>> def apply(params, state, x, *, train):
    ...     return norms.batch_norm(norms.Norm(), state, x + params["bias"], train=train)
    >>> params, state = {"bias": jnp.zeros(2)}, norms.batch_stats_init(2)
    >>> modes = audit_modes(apply, params, state, jnp.arange(8.0).reshape(4, 2))
    >>> modes.train["bias"].verdict, modes.eval["bias"].verdict, modes.differing
    ('cancelled', 'needed', ('bias',))
    """
    leaves, structure = jax.tree.flatten(state)
    keys = {str(i): leaf for i, leaf in enumerate(leaves) if _is_key(leaf)}

    def run(train: bool) -> BiasAudit:
        def fn(params, keys, *args):
            whole = [keys.get(str(i), leaf) for i, leaf in enumerate(leaves)]
            return apply(params, jax.tree.unflatten(structure, whole), *args, train=train)[0]

        return audit_biases(fn, params, keys, *args, **options)

    return ModesAudit(run(True), run(False))


def _is_key(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return False
    typed = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return typed or (leaf.dtype == np.uint32 and leaf.shape[-1:] == (2,))
