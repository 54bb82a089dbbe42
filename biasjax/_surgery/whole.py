"""A model as one function of all its values: parameters, and the floating part of its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import check, tree
from biasjax._audit import compiling, drawing
from biasjax._audit.pure import Pure, flatten, is_key
from biasjax._jaxpr import double

EVALUATION, TRAINING, LATER = "evaluation", "training", "evaluation a step later"


class Whole(NamedTuple):
    """A model, its values and its arguments.

    Attributes
    ----------
    pure
        The model.
    values
        ``{"params": tree, "state": {path: floating leaf}}``.
    args
        ``(*args, keys)``: what the model is called with, and the random keys of its state.
    """

    pure: Pure
    values: dict[str, Any]
    args: tuple[Any, ...]

    def model(self, values: Any, keys: Any = None) -> Pure:
        """The model with other values."""
        known = {**(keys or {}), **values["state"]}
        leaves, structure = flatten("state", self.pure.state)
        leaves = [known.get(tree.path_string(path), leaf) for path, leaf in leaves]
        return self.pure._replace(params=values["params"], state=structure.unflatten(leaves))

    def evaluation(self, values: Any, *args: Any) -> Any:
        """Outputs in evaluation."""
        return _outputs(self.model(values, args[-1]), args[:-1], train=False)[0]

    def training(self, values: Any, *args: Any) -> dict[str, Any]:
        """Outputs of a training pass, and, where it leaves another state, those of evaluation after it."""
        pure = self.model(values, args[-1])
        y, state = _outputs(pure, args[:-1], train=True)
        if not values["state"]:
            return {TRAINING: y}
        return {TRAINING: y, LATER: _outputs(pure._replace(state=state), args[:-1], train=False)[0]}

    def stepped(self, values: Any, *args: Any) -> dict[str, Any]:
        """Floating state after a training pass, by path."""
        pure = self.model(values, args[-1])
        state = tree.paths(_outputs(pure, args[:-1], train=True)[1])
        return {path: state[path] for path in values["state"]}


def whole(what: str, pure: Any, args: tuple[Any, ...], *, finite: bool = True) -> Whole:
    """Take a model apart; raise `TypeError` for what is none, and for values that are not ``finite``."""
    if not isinstance(pure, Pure):
        check.fail(what, "a Pure", type(pure).__name__, "Wrap the model by biasjax.adapters.", TypeError)
    if not args:
        check.fail(what, "inputs behind the model", "none", "Give typical ones, a batch.", TypeError)
    leaves = dict(sorted(tree.paths(pure.state).items()))  # as jax flattens them
    state = {path: leaf for path, leaf in leaves.items() if is_floating(leaf)}
    keys = {path: leaf for path, leaf in leaves.items() if is_key(leaf)}
    shared = sorted(tree.paths(pure.params).keys() & {f"state/{path}" for path in state})
    if shared:
        check.fail(what, "paths of parameters apart from those of state", repr(shared[0]), "Rename its key.")
    values = {"params": pure.params, "state": state}
    for path, leaf in paths(values).items() if finite else ():
        if is_floating(leaf) and not bool(jnp.isfinite(leaf).all()):
            fix = "Mend it first: nothing can be moved into it."
            check.fail(what, f"finite numbers at {path!r}", "NaN or infinite ones", fix)
    return Whole(pure, values, (*args, keys))


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is an array of real floats."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _outputs(pure: Pure, args: tuple[Any, ...], *, train: bool) -> tuple[Any, Any]:
    return pure.apply(pure.params, pure.state, *args, train=train)


def paths(values: Any) -> dict[str, Any]:
    """Values by path: those of parameters as an audit names them, those of state behind "state/"."""
    params = tree.paths(values["params"])
    return params | {f"state/{path}": leaf for path, leaf in values["state"].items()}


def replaced(values: Any, new: dict[str, Any]) -> dict[str, Any]:
    """Values with some of `paths` replaced; nothing is changed in place."""

    def put(path: Any, leaf: Any) -> Any:
        return new.get(tree.path_string(path), leaf)

    state = {path: new.get(f"state/{path}", leaf) for path, leaf in values["state"].items()}
    return {"params": jax.tree_util.tree_map_with_path(put, values["params"]), "state": state}


def like(leaf: Any, value: np.ndarray) -> Any:
    """Values as an array of the kind of a leaf."""
    if isinstance(leaf, np.ndarray):
        return value.astype(leaf.dtype)
    return jax.device_put(jnp.asarray(value, leaf.dtype), leaf.sharding)


def in_double(fn: Callable[..., Any], given: Whole) -> Callable[[Any, Any], Any]:
    """``run(values, args)``: outputs of a function of them in float64, on the host, compiled once."""
    structure = jax.tree.structure(jax.eval_shape(fn, given.values, *given.args))
    lifted = double.program(fn, given.values, *given.args)
    compiled = compiling.quick_jit(lambda *leaves: lifted(*leaves))

    def run(values: Any, args: Any) -> Any:
        leaves = [drawing.to_host(leaf) for leaf in jax.tree.leaves((values, args))]
        with jax.enable_x64(True):
            return structure.unflatten(map(np.asarray, compiled(*leaves)))

    return run
