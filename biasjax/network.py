"""Deep networks whose blocks take any order of linear layer, norm and activation.

A `Network` is static and hashable: what changes a shape or the program. `Scales` are traced numbers that
multiply shared draws, W = sigma_w · W0 with W0 of variance 1/fan_in and b = bias_mean + sigma_b · b0 with
b0 ~ N(0, 1). More than four hidden layers are a loop, so compile time does not grow with depth.

The order is written as people say it, e.g. "conv-bn-relu", "dense-relu-bn" or "bn-relu-conv". Whatever
stands before the linear layer acts on the hidden features, never on the raw input: the first layer (stem)
leaves it out and the output head has it before itself (tail), as in a pre-activation ResNet. So each depth
counts linear layers, and without residual connections "bn-relu-conv" is the same function as "conv-bn-relu".
"""

from __future__ import annotations

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeVar, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from biasjax import check, linear, norms
from biasjax._network import architecture
from biasjax._network.architecture import Network, NormOptions
from biasjax._network.parameters import Block, Params, Scales, State, check_params, draw, scale
from biasjax._varying import vary_like
from biasjax.activations import Activation

__all__ = [
    "LINEARS",
    "NORMS",
    "Block",
    "Network",
    "Params",
    "Scales",
    "State",
    "apply",
    "draw",
    "following_stats",
    "hidden_biases",
    "init",
    "scale",
]


def __dir__() -> list[str]:
    return __all__


LINEARS = tuple(architecture.LINEARS)
NORMS = tuple(architecture.NORMS)
Tree = TypeVar("Tree")
_WRITTEN_OUT = 4


def init(
    key: jax.Array, network: Network, scales: Scales = Scales(), *, dtype: DTypeLike = jnp.float32
) -> tuple[Params, State]:
    """Draw the parameters and the starting state of a network: `draw`, then `scale`.

    Parameters
    ----------
    key
        Typed PRNG key.
    network
        What to build.
    scales
        Traced scales; default sigma_w = 1 and zero biases.
    dtype
        Dtype of parameters and running statistics.

    Returns
    -------
    params : Params
    state : State
    """
    if not isinstance(cast(object, scales), Scales):
        check.fail("init", "Scales", type(scales).__name__, "E.g. Scales(sigma_w=1.4).", TypeError)
    if not isinstance(scales.sigma_b, jax.core.Tracer) and not np.any(
        check.in_range("sigma_b", scales.sigma_b, low=0.0)
    ):
        architecture.parse_order(network)
        network = dataclasses.replace(network, bias_init="zeros")  # drawing them would only cost compile time
    params, state = draw(key, network, dtype=dtype)
    return scale(params, scales), state


def apply(
    network: Network,
    params: Params,
    state: State,
    x: jax.Array,
    *,
    train: bool,
    depth: ArrayLike | None = None,
    momentum: ArrayLike = 0.99,
    epsilon: ArrayLike = 1e-5,
) -> tuple[jax.Array, State]:
    """Run a network.

    Parameters
    ----------
    network
        The one that ``params`` and ``state`` were drawn for.
    params, state
        From `init`.
    x
        ``(batch, inputs)``, or ``(batch, *positions, inputs)`` for a convolutional network.
    train
        Whether batch norm uses, and learns, the statistics of this batch.
    depth
        Number of hidden layers to use, from 1 to ``network.depth``; it may be traced, so that several depths
        run in one compiled program. Default all.
    momentum, epsilon
        Of the norms, as in `norms.batch_norm`; may be traced.

    Returns
    -------
    outputs : jax.Array
        Logits ``(batch, outputs)``, or the hidden features if the network has no head.
    state : State
        With new running statistics in training (those of unused layers stay), unchanged otherwise.
    """
    order, row = architecture.parse_order(network), architecture.linear_layer(network)
    check.flags(train=train)
    check.number("momentum", momentum, 0.0, 1.0)
    if depth is not None:
        check.number("depth", depth, 1, network.depth)
    check_params("network.apply", params)
    _check_state("network.apply", state)
    if params.body.linear.kernel.shape[0] != network.depth - 1:
        got, fix = params.body.linear.kernel.shape[0] + 1, "Draw them with init for this network."
        check.fail("network.apply", f"parameters of {network.depth} hidden layers", got, fix)
    run = functools.partial(_run_steps, network, NormOptions(train, epsilon, momentum))

    def block(h: jax.Array, layer: tuple[jax.Array, Block, norms.BatchStats | None]):
        index, own, stats = layer
        y, new_stats = run(order.before, own.norm, stats, h)
        y, new_stats = run(order.after, own.norm, new_stats, row.apply(network, own.linear, y))
        y = h + y if network.residual else y
        if depth is None:
            return y, new_stats
        used = index < depth
        return jax.tree.map(functools.partial(jnp.where, used), (y, new_stats), (h, stats))

    h = row.apply(network, params.stem.linear, x)
    h, stem_stats = run(order.after, params.stem.norm, state.stem, h)
    h = vary_like(h, params, state, depth, momentum, epsilon)
    layers = jnp.arange(1, network.depth), params.body, state.body
    # Written out, few layers need no stack of what their gradients read
    h, body_stats = jax.lax.scan(block, h, layers, unroll=network.depth <= _WRITTEN_OUT)
    h, tail_stats = run(order.before, params.tail, state.tail, h)
    state = State(stem_stats, body_stats, tail_stats)
    if params.head is None:
        return h, state
    if row.positions(network):
        h = jnp.mean(h, tuple(range(1, h.ndim - 1)))
    return linear.dense(params.head, h), state


def _run_steps(
    network: Network,
    options: NormOptions,
    steps: Sequence[str | Activation],
    norm: norms.Norm | None,
    stats: norms.BatchStats | None,
    h: jax.Array,
) -> tuple[jax.Array, norms.BatchStats | None]:
    """Run what stands before or after a linear layer."""
    for step in steps:
        if isinstance(step, str):
            h, stats = architecture.NORMS[step].apply(network, norm, stats, h, options)
        else:
            h = step(h)
    return h, stats


def hidden_biases(params: Params) -> jax.Array | None:
    """Biases of the hidden linear layers, ``(depth, width)``, or None if they have none."""
    if check_params("hidden_biases", params).stem.linear.bias is None:
        return None
    return _stack(params.stem.linear.bias, params.body.linear.bias)


def following_stats(
    network: Network, state: State, depth: ArrayLike | None = None
) -> norms.BatchStats | None:
    """Return the running statistics of the batch norm that each hidden linear layer feeds directly.

    Parameters
    ----------
    network, state, depth
        As in `apply`.

    Returns
    -------
    BatchStats or None
        ``(depth, width)`` each, one row for each hidden layer; None unless the very next thing after every
        hidden linear layer is a batch norm, so that its bias is cancelled in training.

    Examples
    --------
    >>> network = Network(inputs=3, width=8, depth=2, order="dense-bn-relu")
    >>> following_stats(network, init(jax.random.key(0), network)[1]).mean.shape
    (2, 8)
    >>> network = Network(inputs=3, width=8, depth=2, order="dense-relu-bn")
    >>> following_stats(network, init(jax.random.key(0), network)[1]) is None
    True
    """
    before, _, after = architecture.parse_order(network)
    _check_state("following_stats", state)
    if depth is not None:
        check.number("depth", depth, 1, network.depth)
    if after[:1] == ("bn",):
        return _stack(state.stem, state.body)
    if not after and before[:1] == ("bn",) and not network.residual:
        rows = _append(state.body, state.tail)
        if depth is None:
            return rows
        # The last layer in use feeds the tail
        last = (jnp.arange(network.depth) == depth - 1)[:, None]
        return jax.tree.map(functools.partial(jnp.where, last), state.tail, rows)
    return None


def _check_state(what: str, state: State) -> None:
    if not isinstance(cast(object, state), State):
        check.fail(what, "State", type(state).__name__, "It comes with the parameters from init.", TypeError)


def _stack(first: Tree, rest: Tree) -> Tree:
    def join(one: jax.Array, others: jax.Array) -> jax.Array:
        return jnp.concatenate([one[None], others])

    return jax.tree.map(join, first, rest)


def _append(rest: Tree, last: Tree) -> Tree:
    def join(others: jax.Array, one: jax.Array) -> jax.Array:
        return jnp.concatenate([others, one[None]])

    return jax.tree.map(join, rest, last)
