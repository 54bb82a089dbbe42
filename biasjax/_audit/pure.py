"""Models without hidden state, and one mode of such a model as a function to audit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from biasjax import check


class Pure(NamedTuple):
    """A model without hidden state.

    Attributes
    ----------
    apply
        ``apply(params, state, *args, train) -> (y, state)``.
    params, state
        Its initial arguments.
    """

    apply: Callable[..., tuple[Any, Any]]
    params: Any
    state: Any


def unpacked(what: str, model: Any, args: Sequence[Any]) -> tuple[Pure, Sequence[Any]]:
    """A model and its arguments, given as (pure, *args) or (apply, params, state, *args)."""
    if isinstance(model, Pure):
        return model, args
    if len(args) < 2:
        got = f"{type(model).__name__} and {len(args)} more"
        check.fail(
            what, "(pure, *args) or (apply, params, state, *args)", got, "See biasjax.adapters.", TypeError
        )
    return Pure(check.function("apply", model), args[0], args[1]), args[2:]


def flatten(what: str, values: Any) -> tuple[list[Any], Any]:
    """Leaves with their paths, and the structure of the tree, whose dicts must have keys of one type."""
    try:
        return jax.tree_util.tree_flatten_with_path(values)
    except ValueError as error:  # keys that cannot be sorted
        check.fail(what, "a pytree", error, "Use one type of keys.", TypeError)


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
    keys = {str(i): leaf for i, (_, leaf) in enumerate(flatten("state", state)[0]) if is_key(leaf)}

    def fn(params: Any, *args: Any) -> Any:
        *rest, drawn = args
        number = itertools.count()

        def put(leaf: Any) -> Any:
            return drawn.get(str(next(number)), leaf)

        return apply(params, jax.tree.map(put, state), *rest, train=train)[0]

    return fn, keys


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds random keys, typed or raw."""
    if not isinstance(leaf, jax.Array):
        return False
    typed = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return typed or (leaf.dtype == np.uint32 and leaf.shape[-1:] == (2,))
