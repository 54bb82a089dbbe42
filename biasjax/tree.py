"""Parameter trees: paths, bias masks, counts and a Keras-style summary.

Everything here works on any pytree of parameters (biasjax's own, Flax, Equinox, Haiku, plain dicts) and
looks at shapes alone, so `jax.ShapeDtypeStruct` leaves do as well as arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

IsBias = Callable[[str, Any], bool]

_BIAS_NAME = re.compile(r"b|b\d+|b_?[qkvo]|beta|offset|shift|intercept|(.*_)?bias(es|\d+)?(_.*)?")


def path_string(path: tuple) -> str:
    """Join the keys of a leaf's path by "/", e.g. "encoder/0/bias"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def paths(params: Any) -> dict[str, Any]:
    """Leaves by path, in tree order.

    Examples
    --------
    >>> paths({"dense": {"kernel": 1.0, "bias": None}, "head": [2.0]})
    {'dense/kernel': 1.0, 'head/0': 2.0}
    """
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def is_bias(path: str, leaf: Any = None) -> bool:
    """Tell whether a leaf is a bias by its name: bias, b (Haiku), b1, bq, beta, offset, in_proj_bias, ...

    Parameters
    ----------
    path
        Keys joined by "/"; the last decides (the last but one where Flax nnx ends in "value").
    leaf
        Unused; a predicate of your own may look at it.

    Returns
    -------
    bool

    Examples
    --------
    >>> [is_bias(p) for p in ("mlp/bias", "linear/b", "norm/offset", "mlp/kernel", "bias_net/kernel")]
    [True, True, True, False, False]
    """
    keys = [key for key in re.split(r"[/.]", path) if key != "value"]
    return bool(keys) and _BIAS_NAME.fullmatch(keys[-1].lower()) is not None


def bias_mask(params: Any, is_bias: IsBias = is_bias) -> Any:
    """Tree of the shape of ``params`` that is True at biases, fit for `optax.masked`.

    Parameters
    ----------
    params
        Any pytree; an absent bias (None) stays None.
    is_bias
        Predicate on (path, leaf); the default goes by name.

    Returns
    -------
    pytree of bool

    Examples
    --------
    Weight decay that skips biases:

    >>> import optax
    >>> decayed = lambda params: jax.tree.map(lambda bias: not bias, bias_mask(params))
    >>> tx = optax.adamw(1e-3, weight_decay=1e-2, mask=decayed)
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: is_bias(path_string(path), leaf), params)


class Count(NamedTuple):
    """Numbers of parameters: in all, and of these in biases."""

    total: int
    biases: int


def count(params: Any, is_bias: IsBias = is_bias) -> Count:
    """Count the parameters of a tree, and those in biases.

    Examples
    --------
    The first convolution of VGG16 (seed document 000):

    >>> import jax.numpy as jnp
    >>> count({"kernel": jnp.zeros((3, 3, 3, 64)), "bias": jnp.zeros(64)})
    Count(total=1792, biases=64)
    """
    arrays = {path: leaf for path, leaf in paths(params).items() if hasattr(leaf, "shape")}
    sizes = [(math.prod(leaf.shape), is_bias(path, leaf)) for path, leaf in arrays.items()]
    return Count(sum(n for n, _ in sizes), sum(n for n, bias in sizes if bias))


class Layer(NamedTuple):
    """One row of a summary.

    Attributes
    ----------
    name
        Path of the node that holds the layer's parameters.
    output_shape
        Shape where its last parameter meets the data, or None if the function does not use it.
    repeats
        How often a scan runs the layer, 1 outside of scans.
    parameters, biases
        Numbers of parameters in all and in biases.
    """

    name: str
    output_shape: tuple[int, ...] | None
    repeats: int
    parameters: int
    biases: int


def layers(fn: Callable, params: Any, *args: Any, is_bias: IsBias = is_bias) -> list[Layer]:
    """List the layers of any model with their output shapes, by tracing alone.

    A layer is a node of ``params`` that holds arrays. Its output is the result of the last equation of the
    traced program in which one of its parameters meets the data.

    Parameters
    ----------
    fn
        ``fn(params, *args)``, any pure JAX function.
    params, args
        Arrays or `jax.ShapeDtypeStruct`; nothing is allocated.
    is_bias
        Predicate on (path, leaf); the default goes by name.

    Returns
    -------
    list of Layer
        In the order in which the function uses them; unused ones last.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> layers(lambda p, x: x @ p["w"] + p["b"], {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, jnp.ones((5, 3)))
    [Layer(name='params', output_shape=(5, 2), repeats=1, parameters=8, biases=2)]
    """
    leaves = paths(params)
    owners = [path.removesuffix("/value").rpartition("/")[0] or "params" for path in leaves]
    jaxpr = jax.make_jaxpr(fn)(params, *args).jaxpr
    meetings: dict[str, tuple[tuple[int, ...], int]] = {}
    _meet(jaxpr, [*owners, *[_DATA] * (len(jaxpr.invars) - len(owners))], 1, meetings)
    rows = []
    for name in [*meetings, *(name for name in dict.fromkeys(owners) if name not in meetings)]:
        own = {
            path: leaf for (path, leaf), owner in zip(leaves.items(), owners, strict=True) if owner == name
        }
        parameters = sum(math.prod(leaf.shape) for leaf in own.values())
        biases = sum(math.prod(leaf.shape) for path, leaf in own.items() if is_bias(path, leaf))
        rows.append(Layer(name, *meetings.get(name, (None, 1)), parameters, biases))
    return rows


def summary(fn: Callable, params: Any, *args: Any, is_bias: IsBias = is_bias) -> str:
    """Keras-style table of any model: layer, output shape, parameters, of which biases.

    Parameters are those of `layers`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    >>> print(summary(lambda p, x: x @ p["w"] + p["b"], params, jnp.ones((5, 3))))
    layer   output shape  params  biases
    ------------------------------------
    params  (5, 2)             8       2
    ------------------------------------
    total                      8       2
    """
    rows = layers(fn, params, *args, is_bias=is_bias)
    cells = [("layer", "output shape", "params", "biases")]
    for row in rows:
        shape = "unused" if row.output_shape is None else str(row.output_shape)
        shape += f" x{row.repeats}" if row.repeats > 1 else ""
        cells.append((row.name, shape, f"{row.parameters:,}", f"{row.biases:,}"))
    total = count(params, is_bias)
    cells.append(("total", "", f"{total.total:,}", f"{total.biases:,}"))
    a, b, c, d = (max(map(len, column)) for column in zip(*cells, strict=True))
    lines = [f"{name:{a}}  {shape:{b}}  {n:>{c}}  {biases:>{d}}" for name, shape, n, biases in cells]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def constants(jaxpr: Any) -> list[Any]:
    """Arrays that a traced program closes over, those of the programs inside it included."""
    found = list(getattr(jaxpr, "consts", ()))
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        for value in eqn.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(item, (jex.ClosedJaxpr, jex.Jaxpr)):
                    found += constants(item)
    keys = [jnp.issubdtype(jnp.result_type(c), jax.dtypes.prng_key) for c in found]
    return [jax.random.key_data(c) if key else c for key, c in zip(keys, found, strict=True)]


# What a value of the traced program depends on: None for scalar constants alone, the name of a layer for
# its parameters alone, or the data (arguments, arrays closed over, and anything mixed with them).
_DATA = object()


def _subjaxprs(eqn: Any) -> Iterator[Any]:
    """Programs inside an equation whose inputs are its last ones: bodies of calls, scans, loops, branches."""
    for name, value in eqn.params.items():
        if name == "cond_jaxpr":
            continue
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (jex.ClosedJaxpr, jex.Jaxpr)):
                yield getattr(item, "jaxpr", item)


def _meet(jaxpr: Any, owners: list, repeats: int, meetings: dict) -> list:
    """Record in ``meetings`` where each layer's parameters meet data; return the owners of the outputs."""
    env = dict.fromkeys(jaxpr.constvars, _DATA) | dict(zip(jaxpr.invars, owners, strict=True))

    def owner_of(atom):
        if isinstance(atom, jex.Literal):
            return _DATA if np.ndim(atom.val) else None
        return env.get(atom)

    for eqn in jaxpr.eqns:
        ins = [owner_of(atom) for atom in eqn.invars]
        named = {owner for owner in ins if isinstance(owner, str)}
        mixed = _DATA in ins or len(named) > 1
        inner = list(_subjaxprs(eqn))
        outs = [_DATA if mixed else next(iter(named), None)] * len(eqn.outvars)
        for sub in inner:
            length = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            sub_outs = _meet(sub, ins[len(ins) - len(sub.invars) :], repeats * length, meetings)
            outs = outs if _DATA in ins else sub_outs
        if not inner and mixed:
            for name in named:
                meetings.pop(name, None)  # the last meeting gives the place in the order
                meetings[name] = (tuple(eqn.outvars[0].aval.shape), repeats)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [owner_of(atom) for atom in jaxpr.outvars]
