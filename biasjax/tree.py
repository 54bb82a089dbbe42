"""Parameter trees: paths, bias masks, counts and a Keras-style summary.

Everything here works on any pytree of parameters (biasjax's own, Flax, Equinox, Haiku, plain dicts) and
looks at shapes alone, so `jax.ShapeDtypeStruct` leaves do as well as arrays.
"""

# jax leaves parts of its signatures untyped
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax

from biasjax import check
from biasjax._jaxpr import meetings
from biasjax._text import table

__all__ = [
    "Count",
    "IsBias",
    "Layer",
    "bias_mask",
    "count",
    "is_bias",
    "layers",
    "path_string",
    "paths",
    "summary",
]


def __dir__() -> list[str]:
    return __all__


IsBias = Callable[[str, Any], bool]

_BIAS_NAME = re.compile(r"b|b\d+|b_?[qkvo]|beta|offset|shift|intercept|(.*_)?bias(es|\d+)?(_.*)?")


def path_string(path: tuple[Any, ...]) -> str:
    """Join the keys of a leaf's path by "/", e.g. "encoder/0/bias"."""
    if not isinstance(cast(object, path), tuple):
        check.fail("path", "a tuple of keys", repr(path), "They come from jax.tree_util.", TypeError)
    return jax.tree_util.keystr(path, simple=True, separator="/")


def paths(params: Any) -> dict[str, Any]:
    """Leaves by path, in tree order; two of one path, as of {"a/b": x, "a": {"b": y}}, are refused.

    Examples
    --------
    >>> paths({"dense": {"kernel": 1.0, "bias": None}, "head": [2.0]})
    {'dense/kernel': 1.0, 'head/0': 2.0}
    """
    found: dict[str, Any] = {}
    for path, leaf in _leaves(params):
        if path in found:
            check.fail("paths", "one leaf at each path", f"two at {path!r}", "Rename one of their keys.")
        found[path] = leaf
    return found


def _leaves(params: Any) -> list[tuple[str, Any]]:
    """Leaves with their paths, which need not differ."""
    try:
        leaves = cast("list[tuple[tuple[Any, ...], Any]]", jax.tree_util.tree_leaves_with_path(params))
    except ValueError as error:  # keys of a dict that cannot be sorted
        check.fail("params", "a pytree", error, "Use one type of keys.", TypeError)
    return [(path_string(path), leaf) for path, leaf in leaves]


def is_bias(path: str, leaf: Any = None) -> bool:
    """Tell whether a leaf is a bias by its name: bias, b (Haiku), b1, bq, beta, offset, in_proj_bias, ...

    Parameters
    ----------
    path
        Keys joined by "/"; the last decides (the last but one where Flax nnx ends in "value").
    leaf
        Unused; a predicate of your own, which all functions here take, may look at it.

    Examples
    --------
    >>> [is_bias(p) for p in ("mlp/bias", "linear/b", "norm/offset", "mlp/kernel", "bias_net/kernel")]
    [True, True, True, False, False]
    """
    if not isinstance(cast(object, path), str):
        check.fail("is_bias", "a path", repr(path), 'Join its keys by "/".', TypeError)
    keys = [key for key in re.split(r"[/.]", path) if key != "value"]
    return bool(keys) and _BIAS_NAME.fullmatch(keys[-1].lower()) is not None


def bias_mask(params: Any, is_bias: IsBias = is_bias) -> Any:
    """Tree of the shape of ``params`` that is True at biases, fit for `optax.masked`.

    An absent bias (None) stays None.

    Examples
    --------
    Weight decay that skips biases:

    >>> import optax
    >>> decayed = lambda params: jax.tree.map(lambda bias: not bias, bias_mask(params))
    >>> tx = optax.adamw(1e-3, weight_decay=1e-2, mask=decayed)
    """
    check.function("is_bias", is_bias)

    def at(path: tuple[Any, ...], leaf: Any) -> bool:
        return is_bias(path_string(path), leaf)

    return jax.tree_util.tree_map_with_path(at, params)


class Count(NamedTuple):
    """Numbers of parameters: in all, and of these in biases."""

    total: int
    biases: int


def count(params: Any, is_bias: IsBias = is_bias) -> Count:
    """Count the parameters of a tree, and those in biases.

    Examples
    --------
    The first convolution of VGG16 (of a forum thread on its bias):

    >>> import jax.numpy as jnp
    >>> count({"kernel": jnp.zeros((3, 3, 3, 64)), "bias": jnp.zeros(64)})
    Count(total=1792, biases=64)
    """
    return _count(_leaves(params), check.function("is_bias", is_bias))


def _count(leaves: list[tuple[str, Any]], is_bias: IsBias) -> Count:
    arrays = [(path, leaf) for path, leaf in leaves if hasattr(leaf, "shape")]
    sizes = [(math.prod(leaf.shape), is_bias(path, leaf)) for path, leaf in arrays]
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


def layers(fn: Callable[..., Any], params: Any, *args: Any, is_bias: IsBias = is_bias) -> list[Layer]:
    """List the layers of any model with their output shapes, by tracing alone.

    A layer is a node of ``params`` that holds arrays. Its output is the result of the last equation of the
    traced program in which one of its parameters meets the data.

    Parameters
    ----------
    fn
        ``fn(params, *args)``, any pure JAX function.
    params, args
        Arrays or `jax.ShapeDtypeStruct`; nothing is allocated.

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
    check.function("fn", fn)
    check.function("is_bias", is_bias)
    _check_traceable({"params": params, "args": args})
    leaves, nodes = _leaves(params), dict[str, list[tuple[str, Any]]]()
    for path, leaf in leaves:
        nodes.setdefault(_node(path), []).append((path, leaf))
    found = meetings.find(jax.make_jaxpr(fn)(params, *args), [_node(path) for path, _ in leaves])
    used = {name: found.get(name, (None, 1)) for name in [*found, *nodes]}
    return [Layer(name, *meeting, *_count(nodes[name], is_bias)) for name, meeting in used.items()]


def _check_traceable(arguments: Any) -> None:
    for path, leaf in _leaves(arguments):
        try:
            jax.typeof(leaf)
        except (TypeError, OverflowError):
            fix = "Close over what is no array, or filter it out."
            check.fail("layers", f"an array or number at {path}", repr(leaf), fix, TypeError)


def _node(path: str) -> str:
    return path.removesuffix("/value").rpartition("/")[0] or "params"


def summary(fn: Callable[..., Any], params: Any, *args: Any, is_bias: IsBias = is_bias) -> str:
    """Keras-style table of any model: layer, output shape, parameters, of which biases.

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
    total = count(params, is_bias)
    cells = [("layer", "output shape", "params", "biases")]
    cells += [
        (row.name, _shape(row), f"{row.parameters:,}", f"{row.biases:,}")
        for row in layers(fn, params, *args, is_bias=is_bias)
    ]
    cells += [("total", "", f"{total.total:,}", f"{total.biases:,}")]
    return table(cells, right=(2, 3), footer=True)


def _shape(row: Layer) -> str:
    shape = "unused" if row.output_shape is None else str(row.output_shape)
    return f"{shape} x{row.repeats}" if row.repeats > 1 else shape
