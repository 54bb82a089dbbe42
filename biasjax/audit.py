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
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from biasjax import check
from biasjax._audit.findings import (
    VERDICTS,
    Basis,
    BiasAudit,
    Death,
    Finding,
    ModesAudit,
    Shifted,
    check_verdicts,
)
from biasjax._audit.judging import judge
from biasjax._audit.model import flatten
from biasjax._audit.options import Options
from biasjax._audit.points import Varies

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
    options = Options(is_bias, seed, randomize, vary_inputs, joint, draws, joint_limit)
    return judge((fn,), params, args, options)[0]


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
        check.choice("audit_modes", name, Options._fields)
    (train, keys), (evaluation, _) = (in_mode(apply, state, mode) for mode in (True, False))
    return ModesAudit(*judge((train, evaluation), params, (*args, keys), Options(**options)))


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
