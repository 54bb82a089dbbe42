"""Deep networks whose blocks take any order of linear layer, norm and activation.

A `Network` is static and hashable: what changes a shape or the program. `Scales` are traced numbers that
multiply shared draws, W = sigma_w · W0 with W0 of variance 1/fan_in and b = bias_mean + sigma_b · b0 with
b0 ~ N(0, 1). The hidden layers are one `jax.lax.scan`, so compile time does not grow with depth.

The order is written as people say it, e.g. "conv-bn-relu", "dense-relu-bn" or "bn-relu-conv". Whatever
stands before the linear layer acts on the hidden features, never on the raw input: the first layer (stem)
leaves it out and the output head has it before itself (tail), as in a pre-activation ResNet. So each depth
counts linear layers, and without residual connections "bn-relu-conv" is the same function as "conv-bn-relu".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from biasjax import activations, check, initializers, linear, norms

_HEAD = 2**32 - 1  # number of the head's key, beyond any layer's
LINEARS = ("dense", "conv")
NORMS = ("bn", "ln", "rms", "gn", "in")


@dataclasses.dataclass(frozen=True)
class Network:
    """What is static of a network.

    Attributes
    ----------
    inputs
        Input features or channels.
    width
        Features or channels of every hidden layer.
    depth
        Number of hidden linear layers.
    outputs
        Size of the linear head (after a mean over positions if convolutional); None for no head.
    order
        One linear layer ("dense" or "conv"), at most one norm ("bn", "ln", "rms", "gn", "in") and at most
        one activation (a name from `activations.NAMES`, or "act" for ``activation``), joined by "-".
    activation
        Any elementwise callable, used where ``order`` says "act".
    residual
        Whether every hidden layer but the first adds its input to its output.
    linear_bias, norm_scale, norm_bias, head_bias
        Whether that kind of layer has that parameter; absent ones are None.
    kernel_init, bias_init
        Draws that `Scales` multiply, by name or callable.
    kernel_size, padding
        Of the convolutions, as in `linear.conv`; "SAME" or "CIRCULAR", for hidden layers keep their shape.
    conv_method
        "im2col", the faster under a vmap over networks, or "direct", the faster for one network.
    groups
        Number of groups of "gn".

    Raises
    ------
    ValueError, TypeError
        On construction, if a size is not a positive integer or a name unknown.

    Examples
    --------
    >>> network = Network(inputs=3, width=8, depth=2, outputs=10, order="conv-bn-relu", linear_bias=False)
    >>> params, state = init(jax.random.key(0), network)
    >>> logits, state = apply(network, params, state, jnp.ones((4, 8, 8, 3)), train=True)
    >>> logits.shape, params.stem.linear.bias is None
    ((4, 10), True)
    """

    inputs: int
    width: int
    depth: int
    outputs: int | None = None
    order: str = "dense-relu"
    activation: Callable | None = None
    residual: bool = False
    linear_bias: bool = True
    norm_scale: bool = True
    norm_bias: bool = True
    head_bias: bool = True
    kernel_init: str | initializers.Initializer = "gaussian"
    bias_init: str | initializers.Initializer = "standard_normal"
    kernel_size: tuple[int, ...] = (3, 3)
    padding: str = "SAME"
    conv_method: str = "im2col"
    groups: int = 1

    def __post_init__(self):
        for name in ("inputs", "width", "depth", "groups"):
            check.positive_int(name, getattr(self, name))
        if self.outputs is not None:
            check.positive_int("outputs", self.outputs)
        order = parse_order(self)
        if order.norm == "gn" and self.width % self.groups:
            check.fail("groups", f"a divisor of the width {self.width}", self.groups, "Choose a divisor.")
        object.__setattr__(self, "kernel_size", tuple(self.kernel_size))
        check.choice("padding", self.padding, ("SAME", "CIRCULAR"))
        check.choice("conv_method", self.conv_method, ("im2col", "direct"))
        initializers.get(self.kernel_init)
        initializers.get(self.bias_init, fan_in=1)


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

    sigma_w: jax.typing.ArrayLike = 1.0
    sigma_b: jax.typing.ArrayLike = 0.0
    bias_mean: jax.typing.ArrayLike = 0.0


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


class State(NamedTuple):
    """Running statistics of the batch norms of stem, body (stacked) and tail, None where there is none."""

    stem: norms.BatchStats | None = None
    body: norms.BatchStats | None = None
    tail: norms.BatchStats | None = None


class Order(NamedTuple):
    """A parsed order: what stands before the linear layer, which one it is, what stands after."""

    before: tuple[str | activations.Activation, ...]
    linear: str
    after: tuple[str | activations.Activation, ...]

    @property
    def norm(self) -> str | None:
        """Name of the norm, if there is one."""
        return next((step for step in (*self.before, *self.after) if isinstance(step, str)), None)


def parse_order(network: Network) -> Order:
    """Parse the order of a network into steps; norms stay names, activations become functions.

    Raises
    ------
    ValueError
        If a token is unknown, or a kind stands more than once, or there is no linear layer.

    Examples
    --------
    >>> parse_order(Network(inputs=1, width=1, depth=1, order="bn-relu-conv")).linear
    'conv'
    """
    tokens = network.order.split("-") if isinstance(network.order, str) else [network.order]
    for token in tokens:
        check.choice(f"order {network.order!r}", token, (*LINEARS, *NORMS, *activations.NAMES, "act"))
    kinds = ["linear" if t in LINEARS else "norm" if t in NORMS else "activation" for t in tokens]
    if kinds.count("linear") != 1 or kinds.count("norm") > 1 or kinds.count("activation") > 1:
        expected = "one linear layer, at most one norm and at most one activation"
        check.fail("order", expected, repr(network.order), 'Write it like "conv-bn-relu".')
    if ("act" in tokens) != (network.activation is not None):
        got = f"order={network.order!r} and activation={network.activation!r}"
        fix = 'E.g. Network(order="dense-bn-act", activation=jnp.cos).'
        check.fail("order", '"act" where your own activation stands, and that activation', got, fix)
    at = kinds.index("linear")
    steps = [
        activations.get((token == "act" and network.activation) or token) if kind == "activation" else token
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    return Order(tuple(steps[:at]), tokens[at], tuple(steps[at + 1 :]))


def init(
    key: jax.Array, network: Network, scales: Scales = Scales(), *, dtype=jnp.float32
) -> tuple[Params, State]:
    """Draw the parameters and the starting state of a network.

    Layer l draws from ``fold_in(key, l)`` and the head from a key of its own, so a deeper or biased network
    shares the draws of a shallower or bias-free one.

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

    Raises
    ------
    ValueError
        If sigma_w or sigma_b is negative or its shape neither () nor (depth,).
    """
    order = parse_order(network)
    if not isinstance(scales.sigma_b, jax.core.Tracer) and not np.any(scales.sigma_b):
        network = dataclasses.replace(network, bias_init="zeros")  # drawing them would only cost compile time
    scales = Scales(*(per_layer(network, name, value, dtype) for name, value in scales._asdict().items()))
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(network.depth))
    first, rest = jax.tree.map(lambda x: x[0], scales), jax.tree.map(lambda x: x[1:], scales)

    stem = _linear_init(network, order, network.inputs, dtype, keys[0], first)
    draw = functools.partial(_linear_init, network, order, network.width, dtype)
    # Layer by layer: random bits of all layers at once leave the cache and take twice the time on a CPU
    body = jax.lax.map(lambda layer: draw(*layer), (keys[1:], rest))
    head = None
    if network.outputs is not None:
        options = {"use_bias": network.head_bias, "kernel_init": "gaussian", "dtype": dtype}
        head = linear.dense_init(jax.random.fold_in(key, _HEAD), network.width, network.outputs, **options)

    norm = norms.norm_init(
        network.width, use_scale=network.norm_scale, use_bias=network.norm_bias, dtype=dtype
    )
    norm = norm if order.norm else None
    stats = norms.batch_stats_init(network.width, dtype) if order.norm == "bn" else None
    stacked_norm, stacked_stats = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (network.depth - 1, *x.shape)), (norm, stats)
    )
    if order.norm in order.before:
        params = Params(Block(stem), Block(body, stacked_norm), norm, head)
        return params, State(None, stacked_stats, stats)
    params = Params(Block(stem, norm), Block(body, stacked_norm), None, head)
    return params, State(stats, stacked_stats, None)


def apply(
    network: Network,
    params: Params,
    state: State,
    x: jax.Array,
    *,
    train: bool,
    depth: jax.typing.ArrayLike | None = None,
    momentum: jax.typing.ArrayLike = 0.99,
    epsilon: jax.typing.ArrayLike = 1e-5,
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

    Raises
    ------
    ValueError, TypeError
        If ``x`` does not fit, as `linear.dense`, `linear.conv` and the norms raise.
    """
    order = parse_order(network)
    if depth is not None:
        check.in_range("depth", depth, 1, network.depth)
    if params.body.linear.kernel.shape[0] != network.depth - 1:
        got, fix = params.body.linear.kernel.shape[0] + 1, "Draw them with init for this network."
        check.fail("network.apply", f"parameters of {network.depth} hidden layers", got, fix)
    options = {"momentum": momentum, "epsilon": epsilon, "train": train}

    def run(steps, norm, stats, h: Any):
        for step in steps:
            if callable(step):
                h = step(h)
            else:
                h, stats = apply_norm(network, step, norm, stats, h, options)
        return h, stats

    def block(h, layer):
        index, (linear_params, norm), stats = layer
        y, new_stats = run(order.before, norm, stats, h)
        y, new_stats = run(order.after, norm, new_stats, apply_linear(network, order, linear_params, y))
        y = h + y if network.residual else y
        if depth is None:
            return y, new_stats
        used = index < depth
        return jax.tree.map(functools.partial(jnp.where, used), (y, new_stats), (h, stats))

    h = apply_linear(network, order, params.stem.linear, x)
    h, stem_stats = run(order.after, params.stem.norm, state.stem, h)
    h, body_stats = jax.lax.scan(block, h, (jnp.arange(1, network.depth), params.body, state.body))
    h, tail_stats = run(order.before, params.tail, state.tail, h)
    state = State(stem_stats, body_stats, tail_stats)
    if params.head is None:
        return h, state
    if order.linear == "conv":
        h = jnp.mean(h, tuple(range(1, h.ndim - 1)))
    return linear.dense(params.head, h), state


def hidden_biases(params: Params) -> Any:
    """Biases of the hidden linear layers, ``(depth, width)``, or None if they have none."""
    if params.stem.linear.bias is None:
        return None
    return jax.tree.map(_stack, params.stem.linear.bias, params.body.linear.bias)


def following_stats(
    network: Network, state: State, depth: jax.typing.ArrayLike | None = None
) -> norms.BatchStats | None:
    """Return the running statistics of the batch norm that each hidden linear layer feeds directly.

    Parameters
    ----------
    network, state
        As in `apply`.
    depth
        Number of hidden layers in use, as in `apply`.

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
    before, _, after = parse_order(network)
    if after[:1] == ("bn",):
        return jax.tree.map(_stack, state.stem, state.body)
    if not after and before[:1] == ("bn",) and not network.residual:
        rows = jax.tree.map(lambda rest, last: jnp.concatenate([rest, last[None]]), state.body, state.tail)
        if depth is None:
            return rows
        # The last layer in use feeds the tail
        last = (jnp.arange(network.depth) == depth - 1)[:, None]
        return jax.tree.map(lambda row, tail: jnp.where(last, tail, row), rows, state.tail)
    return None


def _stack(first: jax.Array, rest: jax.Array) -> jax.Array:
    return jnp.concatenate([first[None], rest])


def per_layer(network: Network, name: str, value: jax.typing.ArrayLike, dtype) -> jax.Array:
    """Check a scale and give each layer its own, ``(depth,)``."""
    check.in_range(name, value, low=-jnp.inf if name == "bias_mean" else 0.0)
    value = jnp.asarray(value, dtype)
    if value.shape not in ((), (network.depth,)):
        check.fail(name, f"a scalar or shape ({network.depth},)", value.shape, "Give one for each layer.")
    return jnp.broadcast_to(value, (network.depth,))


def _linear_init(network: Network, order: Order, inputs: int, dtype, key, scales) -> linear.Linear:
    options = {
        "use_bias": network.linear_bias,
        "kernel_init": network.kernel_init,
        "bias_init": network.bias_init,
        "dtype": dtype,
    }
    if order.linear == "conv":
        kernel, bias = linear.conv_init(key, inputs, network.width, network.kernel_size, **options)
    else:
        kernel, bias = linear.dense_init(key, inputs, network.width, **options)
    bias = None if bias is None else scales.bias_mean + scales.sigma_b * bias
    return linear.Linear(scales.sigma_w * kernel, bias)


def apply_linear(network: Network, order: Order, params: linear.Linear, x: jax.Array) -> jax.Array:
    """Apply one hidden linear layer."""
    if order.linear == "conv":
        return linear.conv(params, x, padding=network.padding, method=network.conv_method)
    return linear.dense(params, x)


def apply_norm(network: Network, name: str, params, stats, x: jax.Array, options: dict):
    """Apply one norm of the network; only batch norm has, and changes, ``stats``."""
    if name == "bn":
        return norms.batch_norm(params, stats, x, **options)
    epsilon = options["epsilon"]
    if name == "gn":
        return norms.group_norm(params, x, groups=network.groups, epsilon=epsilon), stats
    norm = {"ln": norms.layer_norm, "rms": norms.rms_norm, "in": norms.instance_norm}[name]
    return norm(params, x, epsilon=epsilon), stats
