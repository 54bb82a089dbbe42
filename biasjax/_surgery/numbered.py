"""A model's evaluation as a program of numbered values, with what it scales and adds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from biasjax._audit import drawing, stretches
from biasjax._audit.stretches import Read, Stretch
from biasjax._jaxpr import double
from biasjax._jaxpr.unrolled import Pieces, pieces, unrolled
from biasjax._surgery.whole import Whole, paths


class Numbered(NamedTuple):
    """A model's evaluation as a program, with its values by number."""

    read: Read
    pieces: Pieces
    values: tuple[Any, ...]
    names: tuple[str, ...]
    params: int

    def together(self, given: Whole, new: Sequence[Any]) -> dict[str, np.ndarray]:
        """By path, the values of a model that differ."""
        leaves = [drawing.to_host(leaf) for leaf in jax.tree.leaves(given.values)]
        changed = {i: x for i, (x, old) in enumerate(zip(new, self.values, strict=True)) if x is not old}
        whole = self.pieces.together(leaves, changed)
        names = paths(given.values)
        return {name: x for name, x, old in zip(names, whole, leaves, strict=True) if x is not old}

    def state(self, stretch: Stretch) -> list[int]:
        """Numbers of the state that takes part in a stretch."""
        return [leaf for leaf in sorted(stretch.leaves) if leaf >= self.params]

    def layer(self, stretch: Stretch) -> str:
        """Path that a norm's running statistics share, or that of its last parameter."""
        names = [self.names[leaf] for leaf in self.state(stretch) or [max(stretch.leaves)]]
        _, bracket, number = names[0].partition("[")
        keys = zip(*(name.split("/")[:-1] for name in names), strict=False)
        shared = "/".join(key[0] for key in itertools.takewhile(lambda key: len({*key}) == 1, keys))
        return (shared or names[0].removesuffix(bracket + number)) + bracket + number


def numbered(given: Whole) -> Numbered:
    """Trace a model's evaluation and find what it scales and adds."""
    program = double.program(unrolled(given.evaluation), given.values, *given.args, products=False)
    names = (*paths(given.values),)
    count, params = len(names), len(names) - len(given.values["state"])
    with jax.enable_x64(True):
        cut = pieces(program.jaxpr, count)
        own = [(i, at) for i, at in cut.cuts if i < count]
        read = stretches.read(cut.closed, len(own))
    leaves = [drawing.to_host(leaf) for leaf in jax.tree.leaves(given.values)]
    named = tuple(names[i] if at is None else f"{names[i]}[{at[0][0]}]" for i, at in own)
    cut = cut._replace(cuts=tuple(own))
    return Numbered(read, cut, tuple(cut.apart(leaves)), named, sum(i < params for i, _ in own))
