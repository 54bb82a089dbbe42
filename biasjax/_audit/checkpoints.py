"""Two sets of parameters: which leaves differ, and in which parts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import check, tree
from biasjax._audit import drawing
from biasjax._audit.exchange import Part
from biasjax._audit.model import Model, flatten

_WHAT = "explain_difference"
# So many roundings of a leaf's largest entry are no difference of their own
_ROUNDINGS = 128


def differing(params_a: Any, params_b: Any) -> tuple[dict[int, Any], dict[int, float]]:
    """Second leaves where they differ, as an audit has them, and by how much their dtypes round."""
    (flat, structure), (flat_b, structure_b) = flatten(_WHAT, params_a), flatten(_WHAT, params_b)
    if structure != structure_b:
        odd = sorted({tree.path_string(path) for path, _ in flat} ^ {tree.path_string(p) for p, _ in flat_b})
        got = f"{', '.join(odd[:4])} in one of them" if odd else f"{structure} and {structure_b}"
        check.fail(_WHAT, "parameters of one structure", got, "Convert one of the checkpoints first.")
    others, rounding = {}, {}
    for i, ((path, leaf), (_, other)) in enumerate(zip(flat, flat_b, strict=True)):
        a, b = (_host(tree.path_string(path), one) for one in (leaf, other))
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            got = f"{a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}"
            fix = "Convert one of the checkpoints first."
            check.fail(_WHAT, f"leaves of one shape and kind at {tree.path_string(path)!r}", got, fix)
        if not _equal(a, b):
            others[i], rounding[i] = b, max(map(_rounding, (leaf, other)))
    return others, rounding


def _host(path: str, leaf: Any) -> Any:
    try:
        return drawing.to_host(jnp.asarray(leaf))
    except (TypeError, ValueError, OverflowError):
        fix = "Close over what is not an array, or use biasjax.adapters."
        check.fail(_WHAT, f"an array at {path!r}", type(leaf).__name__, fix, TypeError)


def _equal(a: Any, b: Any) -> bool:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return np.array_equal(a, b, equal_nan=jnp.issubdtype(a.dtype, jnp.inexact))


def parts(
    model: Model, others: dict[int, Any], rounding: dict[int, float], dead: dict[str, np.ndarray]
) -> tuple[list[Part], list[str]]:
    """Parts of the difference, and their names within the leaf."""
    found, labels = [], []
    for i, other in others.items():
        leaf = model.leaf(i)
        if _finite(leaf, other):
            steps = _split(other - leaf, dead.get(model.paths[i]), _unit(rounding[i], leaf, other))
            some = {name: Part(i, one, True, rounding[i]) for name, one in steps.items()}
        else:
            some = {"": Part(i, other, False, rounding[i])}
        found += some.values()
        labels += some
    return found, labels


def is_rounding(model: Model, part: Part) -> bool:
    """Whether a difference is itself of the size of what the rounding of stored values makes."""
    if not part.added:
        return False
    leaf = model.leaf(part.leaf)
    return bool(np.abs(part.value).max() <= _unit(part.rounding, leaf, leaf + part.value))


def _unit(rounding: float, *leaves: np.ndarray) -> float:
    return _ROUNDINGS * rounding * max(np.abs(leaf).max() for leaf in leaves)


def _finite(*leaves: Any) -> bool:
    return all(jnp.issubdtype(leaf.dtype, jnp.inexact) and np.isfinite(leaf).all() for leaf in leaves)


def _split(step: np.ndarray, vectors: np.ndarray | None, unit: float) -> dict[str, np.ndarray]:
    """Dead part of a difference and the rest, or the whole if one of them is no more than rounding."""
    if vectors is None or len(vectors) != step.size:
        return {"": step}
    dead = (vectors @ (vectors.T @ step.ravel())).reshape(step.shape)
    named = {"dead": dead, "rest": step - dead}
    return named if all(np.abs(one).max() > unit for one in named.values()) else {"": step}


def _rounding(leaf: Any) -> float:
    """Largest relative error of a number rounded to a leaf's dtype."""
    dtype = jnp.asarray(leaf).dtype
    return float(jnp.finfo(dtype).eps) / 2 if jnp.issubdtype(dtype, jnp.inexact) else 0.0
