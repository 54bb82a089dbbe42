"""What a caller gives to measure statistics over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import check
from biasjax._audit.pure import Pure, flatten
from biasjax._surgery.whole import Whole, whole


def checked(what: str, pure: Pure, batches: Iterable[Any]) -> tuple[Whole, list[tuple[Any, ...]]]:
    """The model at its first batch, and all batches as tuples of arguments."""
    if isinstance(batches, (jax.Array, np.ndarray, str)) or not isinstance(batches, Iterable):
        fix = "Give a list of batches, or of tuples of arguments."
        check.fail(what, "batches", type(batches).__name__, fix, TypeError)
    every = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    if not every:
        check.fail(what, "at least one batch", "none", "Give a list of them, not an iterator that has ended.")
    for _, leaf in flatten(what, every)[0]:
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            fix = "Give a list of arrays, or of tuples of them."
            check.fail(what, "batches of arrays", type(leaf).__name__, fix, TypeError)
    first = [x.shape[1:] for x in map(jnp.asarray, jax.tree.leaves(every[0]))]
    for number, batch in enumerate(every):
        leaves = [*map(jnp.asarray, jax.tree.leaves(batch))]
        got = [x.shape[1:] for x in leaves]
        if got != first or not all(x.size for x in leaves):
            expected = f"batches that differ in their size alone, {first} each"
            check.fail(what, expected, f"{[x.shape for x in leaves]} as number {number}", "Make them alike.")
    return whole(what, pure, every[0], finite=False), every
