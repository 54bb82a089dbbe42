"""What each bias of any JAX model can do: cancelled, absorbable or needed, and where a shift of it dies.

`audit_biases` takes any pure function of parameters, `audit_modes` one with training and evaluation modes;
`biasjax.adapters` make such functions of Flax, Equinox, Haiku and Keras models. Everything is numerical: no
layer is known by name.

**Cancelled.** A direction v of bias b is dead if J_b v = 0 at all draws of parameters and inputs and finite
shifts along it, small and large, move the output by no more than round-off, also at a draw that was not used
to find it. For piecewise analytic functions a zero derivative at random points means, with probability one,
no effect in these pieces; and at the kinks of max, min and leaky ReLU the derivative takes either side at
random (`biasjax._jaxpr.kinks`), so that all pieces count, whether the inputs reach them or not.

**Absorbable.** v is reproducible if, at each draw of the parameters, J_b v lies in the range of the other
biases' Jacobian over many inputs; what the others do for it may depend on the draw, v may not. At generic
points that rank is constant, so the null spaces of the joint Jacobian are the tangents of the sets of biases
with equal outputs: the inclusion holds along a curve, not at a point only, and b can be moved while others
make up for it.

Limits:

- Inputs that are drawn resemble the given ones. Give typical ones, several to a batch: of tokens that are
  all equal none is varied. What leads out of the function's domain when it is drawn (a probability, a
  graph's edges) is moved by a tenth of itself only.
- What saturates a softmax or tanh to round-off (pixels from 0 to 255 before a first layer, a temperature of
  .02) leaves no derivative to measure. Where rounding or a sign leaves none, directions are judged by finite
  shifts one by one, which can find too few dead.
- Round-off is measured at every input of a small model, and at one input of two draws of a large one: where
  it is hundreds of times larger at others (a norm over two features that are nearly equal at some inputs), a
  dead direction could be taken for a live one. A share that misses the others' range by less than round-off
  (units saturated to 1e-12) counts as inside, and directions too weak to be told from it as outside.
- Absorbable is a local statement: where the others reach b through a saturating function, they make up for
  no more than its range. Nor do derivatives see hard choices: a bias that also decides which expert is taken
  (argmax) comes out absorbable where others can do what it does within the expert.
- That all pieces count has a price: relu(x) - relu(-x) is not seen to be x, nor clip(x, -9, 9) to be x as
  long as inputs are small, so that a bias before these comes out needed where another could replace it.
- Beyond ``joint_limit`` entries biases are compared within overlapping windows of half as many, in the order
  of their first use: ``unique`` is then an upper bound, for what only biases of different windows could
  reproduce together is not seen. Behind a bottleneck of less than a sixteenth of its size the ``unique`` of a
  bias in more than 512 entries can be too small.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from biasjax import check
from biasjax._audit import budget, cancellation, shifts
from biasjax._audit.absorption import compare
from biasjax._audit.findings import (
    VERDICTS,
    Basis,
    BiasAudit,
    Death,
    Finding,
    ModesAudit,
    Shifted,
    check_verdicts,
    verdict_of,
)
from biasjax._audit.model import Model, flatten, trace
from biasjax._audit.points import Draws, Varies
from biasjax._audit.rows import sampler

__all__ = [
    "VERDICTS",
    "Basis",
    "BiasAudit",
    "Death",
    "Finding",
    "ModesAudit",
    "Shifted",
    "audit_biases",
    "audit_modes",
    "check_verdicts",
    "in_mode",
]


def __dir__() -> list[str]:
    return __all__


class _Options(NamedTuple):
    """Options of `audit_biases`."""

    is_bias: Any
    seed: int
    randomize: Varies
    vary_inputs: Varies
    joint: bool
    draws: int
    joint_limit: int


def audit_biases(
    fn: Callable[..., Any],
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
        Number of parameter draws, each with as many inputs as the ranks need; fewer for large models, more
        where they do not suffice (a bottleneck shows a few directions at each).
    joint_limit
        Up to so many bias entries all biases are compared at once.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> def fn(params, x):
    ...     y = x @ params["w"] + params["bias"]
    ...     return y - y.mean(0)
    >>> audit_biases(fn, {"w": jnp.ones((3, 2)), "bias": jnp.zeros(2)}, jnp.ones((4, 3)))
    BiasAudit(1 bias: 1 cancelled; 2 of 2 parameters do nothing)
    """
    options = _Options(is_bias, seed, randomize, vary_inputs, joint, draws, joint_limit)
    return _audit((fn,), params, args, options)[0]


def audit_modes(apply: Callable[..., Any], params: Any, state: Any, *args: Any, **options: Any) -> ModesAudit:
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
    for name in options:
        check.choice("audit_modes", name, _Options._fields)
    (train, keys), (evaluation, _) = (in_mode(apply, state, mode) for mode in (True, False))
    given = _Options(**((audit_biases.__kwdefaults__ or {}) | options))
    return ModesAudit(*_audit((train, evaluation), params, (*args, keys), given))


def in_mode(
    apply: Callable[..., Any], state: Any, train: bool
) -> tuple[Callable[..., Any], dict[str, jax.Array]]:
    """Make ``fn(params, *args, keys) -> y`` for `audit_biases` of one mode; see `audit_modes`.

    Returns
    -------
    callable
    dict
        The random keys in the state, which an audit is to draw.
    """
    check.function("apply", apply)
    check.flags(train=train)
    keys = {str(i): leaf for i, (_, leaf) in enumerate(flatten("state", state)[0]) if _is_key(leaf)}

    def fn(params: Any, *args: Any) -> Any:
        *rest, drawn = args
        number = itertools.count()

        def put(leaf: Any) -> Any:
            return drawn.get(str(next(number)), leaf)

        return apply(params, jax.tree.map(put, state), *rest, train=train)[0]

    return fn, keys


def _is_key(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return False
    typed = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return typed or (leaf.dtype == np.uint32 and leaf.shape[-1:] == (2,))


def _audit(
    fns: Sequence[Callable[..., Any]], params: Any, args: Sequence[Any], options: _Options
) -> list[BiasAudit]:
    """Audit several functions of the same arguments side by side; trace them in the caller's thread."""
    _check_options(options)
    models = [trace(fn, params, *args, is_bias=options.is_bias) for fn in fns]
    device = cast(Any, jax.config).jax_default_device

    def judge(model: Model) -> BiasAudit:
        with jax.default_device(device), jax.enable_x64(True):
            return _judge(model, options)

    # Side by side, for compiling takes one core
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(judge, model) for model in models[1:]]
        return [judge(models[0]), *(other.result() for other in others)]


def _check_options(options: _Options) -> None:
    check.positive_int("draws", options.draws)
    check.positive_int("joint_limit", options.joint_limit)
    check.flags(joint=options.joint)
    if isinstance(options.seed, bool) or not isinstance(options.seed, (int, np.integer)) or options.seed < 0:
        check.fail("seed", "an integer of at least 0", repr(options.seed), "Give a number, not a key.")
    for name in ("randomize", "vary_inputs"):
        value = getattr(options, name)
        if not callable(value) and not isinstance(value, (bool, np.bool_)):
            fix = "A predicate takes (path, leaf)."
            check.fail(name, "True, False or a predicate", repr(value), fix, TypeError)


def _judge(model: Model, options: _Options) -> BiasAudit:
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
