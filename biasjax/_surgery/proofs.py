"""What an operation changes of a model's outputs: in both modes and precisions, on given and fresh inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import check
from biasjax._audit import drawing
from biasjax._surgery.whole import EVALUATION, LATER, Whole, in_double, is_floating

# Largest relative change in float64, where amounts are not rounded
EXACT = 1e-10
# A step later: momenta are rounded to float32, and no longer agree with their powers (Equinox, Haiku)
_STEPPED = 1e-7
# And in the model's own precision, unless it rounds more than that anyway
_OWN = 1e-5
# Rounding of two programs of one function
_ROUNDED = 4.0


class Error(NamedTuple):
    """Largest change of an output, relative to the largest output.

    Attributes
    ----------
    mode
        "evaluation", "training", or "evaluation a step later", after a training pass.
    precision
        "float64" or "own", that of the model.
    inputs
        "given" or "fresh".
    change
        Relative change.
    allowed
        More is refused.
    """

    mode: str
    precision: str
    inputs: str
    change: float
    allowed: float


def errors(given: Whole, exact: Any, rounded: Any, seed: int, train: bool = True) -> tuple[Error, ...]:
    """Compare a model's outputs before and after.

    Parameters
    ----------
    given
        The model as it was.
    exact, rounded
        Its values after: amounts in float64, and in the model's own dtypes.
    seed
        Of the fresh inputs.
    train
        Whether training should be the same, too.
    """

    def evaluation(values: Any, *args: Any) -> dict[str, Any]:
        return {EVALUATION: given.evaluation(values, *args)}

    found: list[Error] = []
    owned = jax.jit(evaluation)
    places = points(given, seed, owned)
    most = max(float(np.sqrt(_epsilon(given.values))), _OWN)
    for fn, own in [(evaluation, owned), *([(given.training, jax.jit(given.training))] if train else [])]:
        run = in_double(fn, given)
        for name, args in places.items():
            exactly = [run(values, args) for values in (given.values, exact)]
            owns = [own(values, *args) for values in (given.values, rounded)]
            for mode in owns[0]:
                truth, after, before, now = (flat(outs[mode]) for outs in (*exactly, *owns))
                allowed = _STEPPED if mode == LATER else EXACT
                found.append(Error(mode, "float64", name, change(truth, after), allowed))
                allowed = min(max(_OWN, _ROUNDED * change(truth, before)), most)
                found.append(Error(mode, "own", name, change(before, now), allowed))
    return tuple(found)


def points(given: Whole, seed: int, run: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    """Given arguments, and fresh ones at which the outputs ``run(values, *args)`` are finite."""
    leaves, structure = jax.tree.flatten(given.args)

    def drawn(draw: Callable[..., Any]) -> Any:
        rng = np.random.default_rng([seed, 8])
        fresh = [draw(rng, drawing.to_host(jnp.asarray(leaf))) for leaf in leaves]
        own = [jnp.asarray(x, jnp.asarray(leaf).dtype) for x, leaf in zip(fresh, leaves, strict=True)]
        return structure.unflatten(own)

    fresh = drawn(drawing.argument)
    if not np.isfinite(flat(run(given.values, *fresh))).all():
        fresh = drawn(drawing.close)
    return {"given": given.args, "fresh": fresh}


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Largest difference, relative to the largest number; infinite if one is not finite."""
    with np.errstate(invalid="ignore"):
        off = np.abs(after - before).max(initial=0.0)
    return float(off / (np.abs(before).max(initial=0.0) or 1.0)) if np.isfinite(off) else float("inf")


def refuse_if_changed(what: str, found: Sequence[Error]) -> None:
    """Raise with the numbers if an output changes by more than is allowed."""
    worst = max(found, key=lambda one: one.change / one.allowed)
    if worst.change > worst.allowed:
        got = (
            f"{worst.change:.2g} of the largest one in {worst.mode}, "
            f"precision {worst.precision}, {worst.inputs} inputs"
        )
        fix = (
            "The model is left as it was. If it has running statistics that were never updated, train first."
        )
        check.fail(what, f"outputs to change by no more than {worst.allowed:.2g}", got, fix)


def flat(outs: Any) -> np.ndarray:
    """Floating outputs in one vector of float64."""
    kept = [x for x in jax.tree.leaves(outs) if jnp.issubdtype(x.dtype, jnp.inexact)]
    if not kept:
        check.fail("surgery", "a floating output", "none", "Return logits, not classes.")
    parts = [np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64).ravel() for x in kept]
    return np.concatenate([np.concatenate([p.real, p.imag]) if np.iscomplexobj(p) else p for p in parts])


def _epsilon(values: Any) -> float:
    return max(
        (float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(values) if is_floating(x)), default=0.0
    )
