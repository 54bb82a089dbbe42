"""What each bias of any JAX model can do: cancelled, absorbable or needed, and where a shift of it dies.

`audit_biases` takes any pure function of parameters, `audit_modes` one with training and evaluation modes;
`biasjax.adapters` make such functions of Flax, Equinox, Haiku and Keras models. Everything is numerical: no
layer is known by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from biasjax import check
from biasjax._audit import cancellation, deaths, model, rows, shifts
from biasjax._audit.absorption import compare
from biasjax._audit.drawing import Varies
from biasjax._audit.findings import VERDICTS, Basis, BiasAudit, Death, Finding, ModesAudit, verdict_of

__all__ = ["VERDICTS", "BiasAudit", "Finding", "ModesAudit", "audit_biases", "audit_modes", "in_mode"]


def audit_biases(
    fn: Callable,
    params: Any,
    *args: Any,
    is_bias: Any = None,
    seed: int = 0,
    randomize: Varies = True,
    vary_inputs: Varies = True,
    joint: bool = True,
    draws: int = 8,
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
        Predicate on (path, leaf) or a mask like ``params``; by default leaves named bias, b, beta, offset and
        the like. Real floating leaves only.
    seed
        Of all draws.
    randomize
        Judge the architecture: draw parameters, so that no zero-initialised kernel or scale hides a bias
        (default). False judges the given values. A predicate on (path, leaf) chooses which leaves are drawn:
        masks among the parameters should not be.
    vary_inputs
        Draw floating arguments, random keys and integers of more than two values too, so that no dead unit
        hides a bias (default); or a predicate on (path, leaf), path "0/tokens" for ``args[0]["tokens"]``.
    joint
        Also ask what other biases can reproduce.
    draws
        Number of parameter draws, each with as many inputs as the ranks need; half of it for models of more
        than 2048 bias entries. Biases are compared at all draws up to 512 entries, at a quarter beyond. Where
        they do not suffice (a bottleneck shows a few directions at each) there are more.
    joint_limit
        Up to so many bias entries the joint analysis is exact. Beyond, it compares biases within overlapping
        windows of half as many, in the order of their first use: ``unique`` is then an upper bound, for what
        only biases of different windows could reproduce together is not seen. Behind a bottleneck of less
        than a sixteenth of its size the ``unique`` of a bias in more than 512 entries can be too small.

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
    it, small and large, move the output by no more than round-off, also at a draw that was not used to find
    it. For piecewise analytic functions a zero derivative at random points means, with probability one, no
    effect in these pieces; and at the kinks of max, min and leaky ReLU the derivative takes either side at
    random (`biasjax._jaxpr.kinks`), so that all pieces count, whether the inputs reach them or not. Round-off is
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
    batch: of tokens that are all equal none is varied. What saturates a softmax or tanh to round-off (pixels
    from 0 to 255 before a first layer, a temperature of .02) leaves no derivative to measure. Where rounding
    or a sign leaves none, directions are judged by finite shifts one by one, which can find too few dead.
    Derivatives do not see hard choices either: a bias that also decides which expert is taken (argmax) comes
    out absorbable where others can do what it does within the expert. What leads out of the function's domain
    when it is drawn (a probability, a graph's edges) is moved by a tenth of itself only.
    That all pieces count has a price: relu(x) - relu(-x) is not seen to be x, nor clip(x, -9, 9) to be x as
    long as inputs are small, so that a bias before these comes out needed where another could replace it.

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
    return _audit(
        (fn,),
        params,
        args,
        is_bias=is_bias,
        seed=seed,
        randomize=randomize,
        vary_inputs=vary_inputs,
        joint=joint,
        draws=draws,
        joint_limit=joint_limit,
    )[0]


def _audit(
    fns: Sequence[Callable],
    params: Any,
    args: Sequence,
    *,
    is_bias: Any,
    seed: int,
    randomize: Varies,
    vary_inputs: Varies,
    joint: bool,
    draws: int,
    joint_limit: int,
) -> list[BiasAudit]:
    """Audit several functions of the same arguments side by side; trace them in the caller's thread."""
    check.positive_int("draws", draws)
    check.positive_int("joint_limit", joint_limit)
    models = [model.model(fn, params, *args, is_bias=is_bias) for fn in fns]
    plan = rows.Draws(seed, randomize, vary_inputs)
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]

    def judge(model):
        with jax.default_device(device), jax.enable_x64(True):
            return _judge(model, plan, draws, joint_limit if joint else 0)

    # Side by side, for compiling takes one core
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(judge, model) for model in models[1:]]
        return [judge(models[0]), *(other.result() for other in others)]


def _judge(model: model.Model, plan: rows.Draws, draws: int, joint_limit: int) -> BiasAudit:
    """Audit a traced function, without the joint analysis where its limit is 0."""
    shifter = shifts.prepare(model, plan)
    plan = shifter.draws
    whole = [np.eye(place.stop - place.start) for place in model.biases.slices]
    evidence = shifts.each(shifter, whole, 0)
    wanted = cancellation.rows_wanted(model, draws, joint_limit)
    draw = rows.sampler(model, plan)
    samples, dead = cancellation.sample(shifter, draw, wanted, evidence)
    found = compare(model, draw, samples, dead, draws, joint_limit) if joint_limit else None
    places = _deaths(model, plan, dead)
    findings = []
    for b, i in enumerate(model.biases.indices):
        size, rank = len(dead[b]), len(dead[b]) - dead[b].shape[1]
        unique = None if found is None else min(found.unique[b], rank)
        verdict = verdict_of(model.program.used[i], size, rank, unique)
        basis = Basis(cancellation.basis_name(dead[b]), dead[b]) if 0 < rank < size else None
        absorbers = found.absorbers[b] if found else ()
        is_zero = bool((model.leaves[i] == 0).all())
        findings.append(
            Finding(
                model.paths[i], size, rank, unique, verdict, is_zero, evidence[b], basis, absorbers, places[b]
            )
        )
    return BiasAudit(tuple(findings), found is None or found.exact)


def _deaths(model, plan, dead) -> list[tuple[Death, ...]]:
    """Equations at which a random dead shift, large or small, comes to nothing."""
    asked = [
        b for b, basis in enumerate(dead) if basis.shape[1] and model.program.used[model.biases.indices[b]]
    ]
    places: list[tuple[Death, ...]] = [()] * len(dead)
    if not asked:
        return places
    leaves = rows.point(model, plan, 0, 1)
    flat = model.biases.gather(leaves)
    rng = np.random.default_rng([plan.seed, 4])
    # In a large model something of every layer is on, and no shift dies at a ReLU by chance
    sizes = (3.0, -0.5) if flat.size <= rows.LARGE else (3.0,)
    shifted = np.tile(flat, (len(asked), len(sizes), 1))
    for row, b in zip(shifted, asked, strict=True):
        direction = dead[b] @ rng.standard_normal(dead[b].shape[1])
        row[:, model.biases.slices[b]] += np.outer(sizes, direction / np.sqrt(np.mean(direction**2)))
    copies = [
        shifted[..., place].reshape(len(asked), len(sizes), *shape)
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
    functions, keys = zip(*(in_mode(apply, state, train) for train in (True, False)), strict=True)
    options = (audit_biases.__kwdefaults__ or {}) | options
    return ModesAudit(*_audit(functions, params, (*args, keys[0]), **options))


def in_mode(apply: Callable, state: Any, train: bool) -> tuple[Callable, dict]:
    """Make a function for `audit_biases` of one mode of a model.

    Parameters
    ----------
    apply, state
        As for `audit_modes`.
    train
        The mode.

    Returns
    -------
    callable
        ``fn(params, *args, keys) -> y``.
    dict
        The random keys in the state, which an audit is to draw.
    """
    leaves, structure = jax.tree.flatten(state)
    keys = {str(i): leaf for i, leaf in enumerate(leaves) if _is_key(leaf)}

    def fn(params, *args):
        *args, keys = args
        whole = [keys.get(str(i), leaf) for i, leaf in enumerate(leaves)]
        return apply(params, jax.tree.unflatten(structure, whole), *args, train=train)[0]

    return fn, keys


def _is_key(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return False
    typed = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return typed or (leaf.dtype == np.uint32 and leaf.shape[-1:] == (2,))
