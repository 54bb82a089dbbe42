"""Models of other frameworks as pure functions ``apply(params, state, *args, train) -> (y, state)``.

Parameters keep the names that their framework gives them. State is what training carries besides: running
statistics and random keys. The frameworks are imported only where they are used.
"""

# The frameworks leave parts of their signatures untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax

from biasjax import check
from biasjax._audit.pure import Pure

__all__ = ["Pure", "from_equinox", "from_haiku", "from_keras", "from_linen", "from_nnx"]


def __dir__() -> list[str]:
    return __all__


# Keyword arguments of a model's call for ``train``
Mode = Callable[[bool], dict[str, Any]]
Apply = Callable[..., tuple[Any, Any]]

# Names that models give their mode, and whether it is that of training
_MODES = {
    **dict.fromkeys(("train", "training", "is_training", "is_train"), True),
    **dict.fromkeys(("deterministic", "inference", "use_running_average", "eval"), False),
}


def _found_mode(fn: Callable[..., Any]) -> Mode:
    """Keyword arguments that a function takes for its mode, by their names."""
    names = [name for name in inspect.signature(fn).parameters if name in _MODES]
    return lambda train: {name: train == _MODES[name] for name in names}


def from_linen(
    module: Any,
    variables: Mapping[str, Any],
    *,
    mode: Mode | None = None,
    rngs: dict[str, jax.Array] | None = None,
) -> Pure:
    """Wrap a Flax linen module and its variables.

    Parameters
    ----------
    module
        `flax.linen.Module`.
    variables
        From ``module.init``; "params" become the parameters, all other collections the state.
    mode
        Keyword arguments of the call for ``train``, e.g. ``lambda train: {"drop": train}``. By default those
        that the module's call has, of train, training, is_training, deterministic, inference,
        use_running_average; none for a module without.
    rngs
        Keys by stream for training, e.g. ``{"dropout": jax.random.key(0)}``.

    Examples
    --------
    >>> import flax.linen as nn, jax.numpy as jnp
    >>> dense = nn.Dense(2)
    >>> pure = from_linen(dense, dense.init(jax.random.key(0), jnp.ones((1, 3))))
    >>> pure.apply(pure.params, pure.state, jnp.ones((1, 3)), train=True)[0].shape
    (1, 2)
    """
    if not isinstance(cast(object, variables), Mapping) or "params" not in variables:
        named = isinstance(cast(object, variables), Mapping)
        got = f"only {', '.join(map(repr, variables)) or 'none'}" if named else type(variables).__name__
        fix = 'Pass what module.init returns, not its ["params"].'
        check.fail("from_linen", 'variables with "params"', got, fix, TypeError)
    moded = _found_mode(type(module).__call__) if mode is None else check.function("mode", mode)
    rest = {name: value for name, value in variables.items() if name != "params"}

    def apply(params: Any, state: Any, *args: Any, train: bool) -> tuple[Any, Any]:
        collections, keys = state
        given = {"params": params, **collections}
        if not train:
            return module.apply(given, *args, **moded(False)), state
        y, new = module.apply(given, *args, rngs=keys, mutable=list(collections), **moded(True))
        return y, ({**collections, **new}, keys)

    return Pure(apply, variables["params"], (rest, rngs))


def from_nnx(model: Any) -> Pure:
    """Wrap a Flax nnx module; ``model.train()`` and ``model.eval()`` set its mode.

    Everything but `flax.nnx.Param` is state, random keys included.
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        check.fail("from_nnx", "a module of flax.nnx", type(model).__name__, "Pass the module.", TypeError)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def apply(params: Any, state: Any, *args: Any, train: bool) -> tuple[Any, Any]:
        merged = nnx.merge(graph, params, state, copy=True)
        merged.train() if train else merged.eval()
        y = merged(*args)
        return y, nnx.as_pure(nnx.split(merged, nnx.Param, ...)[2])

    return Pure(apply, nnx.as_pure(params), nnx.as_pure(rest))


def from_equinox(model: Any, state: Any = None, *, call: Apply | None = None) -> Pure:
    """Wrap an Equinox module; `equinox.nn.inference_mode` sets its mode.

    Parameters
    ----------
    model
        `equinox.Module`; its floating arrays become the parameters.
    state
        `equinox.nn.State` of a model that has one, e.g. from `equinox.nn.make_with_state`.
    call
        ``call(model, state, *args) -> (y, state)``; the default maps the model over the first axis of all
        args, named "batch".
    """
    import equinox as eqx

    params, static = eqx.partition(model, eqx.is_inexact_array)

    def over_batch(model: Any, state: Any, *args: Any) -> tuple[Any, Any]:
        if state is None:
            return jax.vmap(model, axis_name="batch")(*args), None
        axes = (*(0 for _ in args), None)
        return jax.vmap(model, axis_name="batch", in_axes=axes, out_axes=(0, None))(*args, state)

    def apply(params: Any, state: Any, *args: Any, train: bool) -> tuple[Any, Any]:
        moded = eqx.nn.inference_mode(eqx.combine(params, static), value=not train)
        return (call or over_batch)(moded, state, *args)

    return Pure(apply, params, state)


def from_haiku(
    transformed: Any,
    params: Any,
    state: Any = None,
    *,
    mode: Mode | None = None,
    key: jax.Array | None = None,
) -> Pure:
    """Wrap a Haiku function, transformed with or without state.

    Parameters
    ----------
    transformed
        Result of `haiku.transform` or `haiku.transform_with_state`.
    params, state
        From its ``init``; state is None for `haiku.transform`.
    mode
        Keyword arguments of the call for ``train``; by default those that the function has, as `from_linen`.
    key
        Random key for training.
    """
    if not hasattr(transformed, "apply"):
        got = type(transformed).__name__
        check.fail("from_haiku", "what haiku.transform returns", got, "Transform it first.", TypeError)
    stateful = state is not None
    moded = _found_mode(_transformed(transformed.apply)) if mode is None else check.function("mode", mode)

    def apply(params: Any, state: Any, *args: Any, train: bool) -> tuple[Any, Any]:
        own, key = state
        key = key if train else None
        if not stateful:
            return transformed.apply(params, key, *args, **moded(train)), state
        y, own = transformed.apply(params, own, key, *args, **moded(train))
        return y, (own, state[1])

    return Pure(apply, params, (state, key))


def _transformed(apply: Callable[..., Any]) -> Callable[..., Any]:
    """The function that Haiku transformed, which its apply functions close over as f."""
    inner: Any = inspect.getclosurevars(apply).nonlocals.get("f", apply)
    return _transformed(inner.apply) if hasattr(inner, "apply") else inner


def from_keras(model: Any) -> Pure:
    """Wrap a built Keras model on the JAX backend, by its ``stateless_call``."""
    if not hasattr(model, "stateless_call"):
        got = type(model).__name__
        check.fail("from_keras", "a Keras model", got, "Its backend has to be JAX.", TypeError)
    trained = [v.path for v in model.trainable_variables]
    others = [v.path for v in model.non_trainable_variables]

    def apply(params: Any, state: Any, *args: Any, train: bool) -> tuple[Any, Any]:
        values = [params[path] for path in trained], [state[path] for path in others]
        y, new = model.stateless_call(*values, *args, training=train)
        return y, dict(zip(others, new, strict=True))

    params = {v.path: v.value for v in model.trainable_variables}
    return Pure(apply, params, {v.path: v.value for v in model.non_trainable_variables})
