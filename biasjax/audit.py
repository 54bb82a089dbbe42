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
- Round-off is measured at every input of a small model, and at one input of a large one: where it is hundreds
  of times larger at others (a norm over two features that are nearly equal at some inputs), a dead direction
  could be taken for a live one. A share that misses the others' range by less than round-off (units saturated
  to 1e-12) counts as inside, and directions too weak to be told from it as outside. Others that have to move
  a million times as far do not count as stand-ins; `Finding.compensation` says how far they do.
- Absorbable is a local statement: where the others reach b through a saturating function, they make up for
  no more than its range. Nor do derivatives see hard choices: a bias that also decides which expert is taken
  (argmax) comes out absorbable where others can do what it does within the expert.
- That all pieces count has a price: relu(x) - relu(-x) is not seen to be x, nor clip(x, -9, 9) to be x as
  long as inputs are small, so that a bias before these comes out needed where another could replace it.

**Large models.** Beyond ``joint_limit`` entries the Jacobian is not taken in full. A bias adds the same to
all data until it meets an equation that is not linear; which biases make up for each other there, and what
these values do not mind, proves most verdicts at the cost of a few layers (`biasjax._audit.proving`), exactly
and for shifts of any size. All are then held to finite shifts of the whole model: what these refute counts as
alive and needed. So "cancelled" and "absorbable" are right, ``unique`` is an upper bound, and what is not
seen is: dead directions that are neither entries nor groups of neighbours or of every k-th entry, stand-ins
by shifts that differ with the data, and loops (a scan over layers), within which nothing is followed. The
``evidence`` of a bias that is alive is the slope along its shift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from biasjax import check
from biasjax._audit.differences import Difference, Differences, explain_difference
from biasjax._audit.findings import (
    VERDICTS,
    Basis,
    BiasAudit,
    Death,
    Finding,
    Made,
    Shifted,
    check_verdicts,
)
from biasjax._audit.judging import judge
from biasjax._audit.modes import ModesAudit
from biasjax._audit.options import Options
from biasjax._audit.plan import Plan
from biasjax._audit.points import Varies
from biasjax._audit.pure import Pure, in_mode, unpacked
from biasjax._audit.tolerance import Limit, Tolerances, tolerance
from biasjax._audit.verdicts import decay_mask

__all__ = [
    "VERDICTS",
    "Basis",
    "BiasAudit",
    "Death",
    "Difference",
    "Differences",
    "Finding",
    "Limit",
    "Made",
    "ModesAudit",
    "Plan",
    "Shifted",
    "Tolerances",
    "audit_biases",
    "audit_modes",
    "check_verdicts",
    "decay_mask",
    "explain_difference",
    "in_mode",
    "tolerance",
]


def __dir__() -> list[str]:
    return __all__


def audit_biases(
    fn: Callable[..., Any] | Pure,
    *args: Any,
    train: bool | None = None,
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
        ``fn(params, *args)``, pure; any pytree of outputs, of which the floating ones count. Or a
        `biasjax.adapters.Pure`.
    args
        ``params, *args``, pytrees of arrays; of a `Pure` what comes behind its parameters and state. Floats
        are lifted to float64, also inside ``fn``; `jax_enable_x64` stays as it is.
    train
        Mode of a `Pure`; a function has none.
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
        Also ask what other biases can reproduce. Otherwise what is not dead is "alive".
    draws
        Number of parameter draws, each with as many inputs as the ranks need; a quarter for large models,
        more where they do not suffice (a bottleneck shows a few directions at each).
    joint_limit
        Up to so many bias entries the whole Jacobian is taken; beyond, verdicts are proven locally.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> def fn(params, x):
    ...     y = x @ params["w"] + params["bias"]
    ...     return y - y.mean(0)
    >>> audit_biases(fn, {"w": jnp.ones((3, 2)), "bias": jnp.zeros(2)}, jnp.ones((4, 3)))
    BiasAudit(1 bias: 1 cancelled; 2 of 2 parameters do nothing)
    """
    options = Options(is_bias, seed, randomize, vary_inputs, joint, draws, joint_limit)
    if isinstance(fn, Pure):
        if train is None:
            fix = "Or ask audit_modes for both."
            check.fail("audit_biases", "train=True or train=False with a Pure", train, fix, TypeError)
        params = fn.params
        fn, keys = in_mode(fn.apply, fn.state, train)
        return judge((fn,), params, (*args, keys), options)[0]
    if train is not None or not args:
        got = f"train={train}" if args else "a function alone"
        fix = "Only a biasjax.adapters.Pure has modes."
        check.fail("audit_biases", "(fn, params, *args) without train", got, fix, TypeError)
    return judge((fn,), args[0], args[1:], options)[0]


def audit_modes(model: Pure | Callable[..., Any], *args: Any, **options: Any) -> ModesAudit:
    """Audit a model in training and in evaluation.

    Parameters
    ----------
    model
        A `biasjax.adapters.Pure`, or ``apply(params, state, *args, train) -> (y, state)``, of which only y
        counts: what a bias does to running statistics is not an effect of the training pass.
    args
        What comes behind the parameters and state; of an ``apply`` ``params, state, *args``. Random keys in
        the state are drawn like those in the arguments; the rest of it stays.
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
        check.choice("audit_modes", name, Options._fields)
    pure, rest = unpacked("audit_modes", model, args)
    (train, keys), (evaluation, _) = (in_mode(pure.apply, pure.state, mode) for mode in (True, False))
    return ModesAudit(*judge((train, evaluation), pure.params, (*rest, keys), Options(**options)))
