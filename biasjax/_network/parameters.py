"""The numbers of a network: what they are, their base draws, and scales that multiply these."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from biasjax import check, linear, norms
from biasjax._network import architecture
from biasjax._network.architecture import Network
from biasjax._text import brief

_HEAD = 2**32 - 1  # number of the head's key, beyond any layer's


class Scales(NamedTuple):
    """Traced numbers that scale the draws of the hidden linear layers (the head keeps the draws).

    Attributes
    ----------
    sigma_w
        Standard deviation of the weights times sqrt(fan_in); a scalar, or ``(depth,)``, one for each layer.
    sigma_b
        Standard deviation of the biases; scalar or ``(depth,)``.
    bias_mean
        Added to every bias; scalar or ``(depth,)``.
    """

    sigma_w: ArrayLike = 1.0
    sigma_b: ArrayLike = 0.0
    bias_mean: ArrayLike = 0.0

    def each_layer(self, depth: int, dtype: DTypeLike) -> Scales:
        """Check the scales and give each layer its own, ``(depth,)``."""
        depth, dtype = check.positive_int("depth", depth), check.dtype(dtype)
        for name, value in self._asdict().items():
            check.in_range(name, value, low=-np.inf if name == "bias_mean" else 0.0)
            if np.shape(value) not in ((), (depth,)):
                fix = "Give one for each layer."
                check.fail(name, f"a scalar or shape ({depth},)", np.shape(value), fix)
        return Scales(*(jnp.broadcast_to(jnp.asarray(value, dtype), (depth,)) for value in self))


class Block(NamedTuple):
    """Parameters of one hidden layer; ``norm`` is None where the block has none."""

    linear: linear.Linear
    norm: norms.Norm | None = None


class Params(NamedTuple):
    """Parameters of a network.

    Attributes
    ----------
    stem
        First hidden layer, inputs to width.
    body
        The other hidden layers, stacked along a leading axis of depth - 1.
    tail
        Norm before the head, for orders that begin with a norm; else None.
    head
        Linear head or None.
    """

    stem: Block
    body: Block
    tail: norms.Norm | None
    head: linear.Linear | None

    def __repr__(self) -> str:
        return brief(self)


class State(NamedTuple):
    """Running statistics of the batch norms of stem, body (stacked) and tail, None where there is none."""

    stem: norms.BatchStats | None = None
    body: norms.BatchStats | None = None
    tail: norms.BatchStats | None = None

    def __repr__(self) -> str:
        return brief(self)


def draw(key: jax.Array, network: Network, *, dtype: DTypeLike = jnp.float32) -> tuple[Params, State]:
    """Make the base draws, which all scales share: hidden kernels of variance 1/fan_in, biases of variance 1.

    Layer l draws from ``fold_in(key, l)`` and the head from a key of its own, so a deeper or biased network
    shares the draws of a shallower or bias-free one. Parameters are those of `init`.

    Examples
    --------
    >>> net, key = Network(inputs=3, width=4, depth=2), jax.random.key(0)
    >>> params, _ = draw(key, net)
    >>> bool(jnp.all(scale(params, Scales(2.0)).stem.linear.kernel == 2 * params.stem.linear.kernel))
    True
    """
    order, row = architecture.parse_order(network), architecture.linear_layer(network)
    key, dtype = check.key(key), check.dtype(dtype)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(network.depth))
    stem = row.init(network, keys[0], network.inputs, dtype)
    # Layer by layer: random bits of all layers at once leave the cache and take twice the time on a CPU
    body = jax.lax.map(lambda key: row.init(network, key, network.width, dtype), keys[1:])
    head = None
    if network.outputs is not None:
        options = {"use_bias": network.head_bias, "kernel_init": "gaussian", "dtype": dtype}
        head = linear.dense_init(jax.random.fold_in(key, _HEAD), network.width, network.outputs, **options)
    norm, stats = (None, None) if order.norm is None else architecture.NORMS[order.norm].init(network, dtype)
    stacked_norm, stacked_stats = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (network.depth - 1, *x.shape)), (norm, stats)
    )
    if order.norm in order.before:
        params = Params(Block(stem), Block(body, stacked_norm), norm, head)
        return params, State(None, stacked_stats, stats)
    params = Params(Block(stem, norm), Block(body, stacked_norm), None, head)
    return params, State(stats, stacked_stats, None)


def scale(params: Params, scales: Scales) -> Params:
    """Multiply base draws by scales: W = sigma_w · W0, b = bias_mean + sigma_b · b0.

    Parameters
    ----------
    params
        From `draw`.
    scales
        Traced; `ValueError` if sigma_w or sigma_b is negative or its shape neither () nor (depth,).
    """
    if not isinstance(scales, Scales):
        got, fix = type(scales).__name__, "E.g. Scales(sigma_w=1.4)."
        check.fail("scale", "Scales", got, fix, TypeError)
    kernels = check_params("scale", params).body.linear.kernel
    each = scales.each_layer(kernels.shape[0] + 1, kernels.dtype)
    first, rest = jax.tree.map(lambda x: x[0], each), jax.tree.map(lambda x: x[1:], each)
    stem = params.stem._replace(linear=_scale(params.stem.linear, first))
    body = params.body._replace(linear=jax.vmap(_scale)(params.body.linear, rest))
    return params._replace(stem=stem, body=body)


def check_params(what: str, params: Params) -> Params:
    """Return the parameters of a network, or raise `TypeError` when something else stands where they do."""
    fix = "Draw them with network.init."
    if not isinstance(params, Params):
        check.fail(what, "Params", type(params).__name__, fix, TypeError)
    for block in (params.stem, params.body):
        if not isinstance(block, Block):
            check.fail(what, "a Block", type(block).__name__, fix, TypeError)
        check.record(what, block.linear, linear.Linear, fix)
    return params


def _scale(draws: linear.Linear, scales: Scales) -> linear.Linear:
    sigma_w, sigma_b, mean = map(jnp.asarray, scales)
    bias = None if draws.bias is None else mean + sigma_b * draws.bias
    return linear.Linear(sigma_w * draws.kernel, bias)
