"""What is static of a network: sizes, the order of a block, and a table of the layers it may name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.typing import DTypeLike

from biasjax import activations, check, initializers, linear, norms


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
    groups
        Number of groups of "gn".

    Examples
    --------
    >>> from biasjax import network
    >>> import jax.numpy as jnp
    >>> net = Network(inputs=3, width=8, depth=2, outputs=10, order="conv-bn-relu", linear_bias=False)
    >>> params, state = network.init(jax.random.key(0), net)
    >>> logits, state = network.apply(net, params, state, jnp.ones((4, 8, 8, 3)), train=True)
    >>> logits.shape, params.stem.linear.bias is None
    ((4, 10), True)
    """

    inputs: int
    width: int
    depth: int
    outputs: int | None = None
    order: str = "dense-relu"
    activation: Callable[[jax.Array], jax.Array] | None = None
    residual: bool = False
    linear_bias: bool = True
    norm_scale: bool = True
    norm_bias: bool = True
    head_bias: bool = True
    kernel_init: str | initializers.Initializer = "gaussian"
    bias_init: str | initializers.Initializer = "standard_normal"
    kernel_size: tuple[int, ...] = (3, 3)
    padding: str = "SAME"
    groups: int = 1

    def __post_init__(self):
        for name in ("inputs", "width", "depth", "groups"):
            check.positive_int(name, getattr(self, name))
        if self.outputs is not None:
            check.positive_int("outputs", self.outputs)
        for name in ("residual", "linear_bias", "norm_scale", "norm_bias", "head_bias"):
            check.flags(**{name: getattr(self, name)})
        order = parse_order(self)
        if order.norm == "gn" and self.width % self.groups:
            check.fail("groups", f"a divisor of the width {self.width}", self.groups, "Choose a divisor.")
        object.__setattr__(self, "kernel_size", check.sizes("kernel_size", self.kernel_size))
        if not 1 <= len(self.kernel_size) <= 3:
            check.fail("kernel_size", "one to three entries", self.kernel_size, "One for each position axis.")
        check.choice("padding", self.padding, ("SAME", "CIRCULAR"))
        initializers.get(self.kernel_init)
        initializers.get(self.bias_init, fan_in=1)


class LinearLayer(NamedTuple):
    """A linear layer by name.

    Attributes
    ----------
    init
        ``init(network, key, inputs, dtype) -> Linear``.
    apply
        ``apply(network, params, x) -> y``.
    positions
        ``positions(network)``, number of axes between batch and channels.
    """

    init: Callable[[Network, jax.Array, int, DTypeLike], linear.Linear]
    apply: Callable[[Network, linear.Linear, jax.Array], jax.Array]
    positions: Callable[[Network], int]


class NormOptions(NamedTuple):
    """Traced numbers of the norms, and whether batch norm uses the statistics of this batch."""

    train: bool
    epsilon: jax.typing.ArrayLike
    momentum: jax.typing.ArrayLike = 0.99


class NormLayer(NamedTuple):
    """A norm by name.

    Attributes
    ----------
    init
        ``init(network, dtype) -> (params, stats)``; ``stats`` is None for all but batch norm.
    apply
        ``apply(network, params, stats, x, options) -> (y, stats)``.
    """

    init: Callable[[Network, DTypeLike], tuple[norms.Norm, norms.BatchStats | None]]
    apply: Callable[..., tuple[jax.Array, norms.BatchStats | None]]


def _draws(network: Network) -> dict[str, Any]:
    kinds = {"kernel_init": network.kernel_init, "bias_init": network.bias_init}
    return {"use_bias": network.linear_bias, **kinds}


def _dense_init(network: Network, key: jax.Array, inputs: int, dtype: DTypeLike) -> linear.Linear:
    return linear.dense_init(key, inputs, network.width, dtype=dtype, **_draws(network))


def _conv_init(network: Network, key: jax.Array, inputs: int, dtype: DTypeLike) -> linear.Linear:
    window = network.kernel_size
    return linear.conv_init(key, inputs, network.width, window, dtype=dtype, **_draws(network))


def _conv(network: Network, params: linear.Linear, x: jax.Array) -> jax.Array:
    return linear.conv(params, x, padding=network.padding)


def _norm_init(network: Network, dtype: DTypeLike) -> norms.Norm:
    present = {"use_scale": network.norm_scale, "use_bias": network.norm_bias}
    return norms.norm_init(network.width, dtype=dtype, **present)


def _batch_norm(network: Network, params, stats, x: jax.Array, options: NormOptions):
    return norms.batch_norm(params, stats, x, **options._asdict())


def _without_state(norm: Callable[..., jax.Array], groups: bool = False) -> NormLayer:
    """Make the row of a norm that carries nothing from step to step."""

    def apply(network: Network, params, stats, x: jax.Array, options: NormOptions):
        own = {"groups": network.groups} if groups else {}
        return norm(params, x, epsilon=options.epsilon, **own), stats

    return NormLayer(lambda network, dtype: (_norm_init(network, dtype), None), apply)


LINEARS = {
    "dense": LinearLayer(_dense_init, lambda network, params, x: linear.dense(params, x), lambda network: 0),
    "conv": LinearLayer(_conv_init, _conv, lambda network: len(network.kernel_size)),
}
NORMS = {
    "bn": NormLayer(
        lambda network, dtype: (_norm_init(network, dtype), norms.batch_stats_init(network.width, dtype)),
        _batch_norm,
    ),
    "ln": _without_state(norms.layer_norm),
    "rms": _without_state(norms.rms_norm),
    "gn": _without_state(norms.group_norm, groups=True),
    "in": _without_state(norms.instance_norm),
}


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

    Examples
    --------
    >>> parse_order(Network(inputs=1, width=1, depth=1, order="bn-relu-conv")).linear
    'conv'
    """
    if not isinstance(network, Network):
        fix = "Make it with Network(inputs=..., width=..., ...)."
        check.fail("network", "a Network", type(network).__name__, fix, TypeError)
    order, own = network.order, network.activation
    tokens = order.split("-") if isinstance(order, str) else [order]
    for token in tokens:
        check.choice(f"order {order!r}", token, (*LINEARS, *NORMS, *activations.NAMES, "act"))
    kinds = ["linear" if t in LINEARS else "norm" if t in NORMS else "activation" for t in tokens]
    if kinds.count("linear") != 1 or kinds.count("norm") > 1 or kinds.count("activation") > 1:
        expected = "one linear layer, at most one norm and at most one activation"
        check.fail("order", expected, repr(order), 'Write it like "conv-bn-relu".')
    if ("act" in tokens) != (own is not None):
        got = f"order={order!r} and activation={own!r}"
        fix = 'E.g. Network(order="dense-bn-act", activation=jnp.cos).'
        check.fail("order", '"act" where your own activation stands, and that activation', got, fix)
    at = kinds.index("linear")
    steps = [
        activations.get((token == "act" and own) or token) if kind == "activation" else token
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    return Order(tuple(steps[:at]), tokens[at], tuple(steps[at + 1 :]))


def linear_layer(network: Network) -> LinearLayer:
    """Row of the network's linear layer."""
    return LINEARS[parse_order(network).linear]
