"""Loops under `jax.shard_map`: what they carry must vary over the same mesh axes from the start."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree")


def vary_like(tree: Tree, *others: Any) -> Tree:
    """Return ``tree`` marked as varying over the mesh axes that anything in ``others`` varies over.

    Zeros that a loop starts from are the same on all devices, what it makes of them is not, and
    `jax.shard_map` wants one type for both. Outside of it this does nothing.
    """
    axes = frozenset[Any]().union(*(_axes(leaf) for leaf in jax.tree.leaves((tree, others))))
    return jax.tree.map(functools.partial(_vary, axes), tree) if axes else tree


def _axes(leaf: Any) -> frozenset[Any]:
    kind = jax.typeof(leaf)
    # Older versions of jax call it vma
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying


def _vary(axes: frozenset[Any], leaf: Any) -> Any:
    missing = tuple(sorted(axes - _axes(leaf)))
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf  # pyright: ignore
