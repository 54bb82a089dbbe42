"""One hidden layer of a random network at a time: forward, and backward through what was kept.

`propagation` and `jacobian` are made of these. Weights are never scaled: a layer computes
sigma_w · (y W0) + (bias_mean + sigma_b · b0), so that under a vmap over scales all points multiply one
shared W0 in one large matrix product. Norms stand at their initial scale 1 and bias 0.
Cotangents are linear, so those of every network are carried in a unit of their own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from biasjax import check, linear, network, norms
from biasjax._network.architecture import (
    NORMS,
    LinearLayer,
    Network,
    NormOptions,
    Order,
    linear_layer,
    parse_order,
)
from biasjax._propagation.units import Signal, is_homogeneous, rescale
from biasjax._varying import vary_like
from biasjax.network import Scales


class Setting(NamedTuple):
    """What is static of a pass, beside the epsilon of the norms."""

    network: Network
    order: Order
    linear: LinearLayer
    epsilon: ArrayLike
    own_unit: bool


class Layer(NamedTuple):
    """Base draws and scales of one layer, or of several along a leading axis; ``bias`` may be None."""

    kernel: jax.Array
    bias: Any
    scales: Scales


class Kept(NamedTuple):
    """What the backward pass needs of a layer.

    That is what the linear layer multiplied, y, in a unit of this log; its output z; and, where steps stand
    before it (else None), the features below them.
    """

    features: jax.Array | None
    y: jax.Array
    z: jax.Array
    unit: jax.Array


class Seen(NamedTuple):
    """What statistics are made of, in the unit ``unit``.

    Attributes
    ----------
    pre
        Pre-activations: the linear output, or the features (with the residual connection) where the order
        ends with the linear layer.
    features
        What leaves the layer.
    dead
        Whether the activation's derivative is 0 for a unit, for the whole batch; ``(width,)``.
    unit
        Log of their unit.
    """

    pre: jax.Array
    features: jax.Array
    dead: jax.Array
    unit: jax.Array


def check_input(net: Network, x: ArrayLike) -> jax.Array:
    """Return an input of the network as an array, or raise."""
    x = check.floating("propagate", x)
    rank = linear_layer(net).positions(net)
    if x.ndim != rank + 2 or x.shape[-1] != net.inputs or 0 in x.shape:
        layout = "(batch, *positions, inputs)" if rank else "(batch, inputs)"
        fix = "A single example needs a batch axis, x[None]."
        check.fail("propagate", f"{layout} with {net.inputs} inputs and {rank} positions axes", x.shape, fix)
    return x


def direction(key: jax.Array, features: jax.Array) -> jax.Array:
    """Draw the Gaussian direction that stands for a loss's gradient, shaped like the last features."""
    return jax.random.normal(jax.random.fold_in(key, 2**31), features.shape, features.dtype)  # no layer's key


def prepare(
    settings: Setting, key: jax.Array, scales: Scales, x: jax.Array
) -> tuple[Layer, Layer, jax.Array]:
    """Make the base draws of `network.draw`, of the first layer and of the others stacked, and the input.

    Under `jax.shard_map` all of them vary as soon as one does, or a cotangent would be summed over devices.
    """
    net = settings.network
    if not isinstance(scales, Scales):
        check.fail("propagate", "Scales", type(scales).__name__, "E.g. Scales(sigma_w=1.4).", TypeError)
    each = scales.each_layer(net.depth, x.dtype)
    params, _ = network.draw(key, dataclasses.replace(net, outputs=None), dtype=x.dtype)
    first, rest = jax.tree.map(lambda s: s[0], each), jax.tree.map(lambda s: s[1:], each)
    made = Layer(*params.stem.linear, first), Layer(*params.body.linear, rest), x
    return vary_like(made, settings.epsilon)


def setting(net: Network, epsilon: ArrayLike, own_unit: bool | None = None) -> Setting:
    """Make the setting of a pass, by default in a unit of its own where the network is homogeneous."""
    check.number("epsilon", epsilon, 0.0, float(jnp.finfo(jnp.float32).max))
    epsilon = epsilon if isinstance(epsilon, jax.Array) else float(cast(Any, epsilon))
    order = parse_order(net)
    own_unit = is_homogeneous(order) if own_unit is None else own_unit
    return Setting(net, order, linear_layer(net), epsilon, own_unit)


def multiply(settings: Setting, kernel: jax.Array, y: jax.Array) -> jax.Array:
    """Multiply by a kernel: a hidden linear layer without scale and bias."""
    return settings.linear.apply(settings.network, linear.Linear(kernel), y)


def forward(
    settings: Setting,
    first: Layer,
    rest: Layer,
    x: jax.Array,
    report: Callable[[Seen], Any] = lambda seen: (),
    *,
    keep: bool,
) -> tuple[Any, Signal, tuple[Any, Any]]:
    """Run all layers in one scan.

    Parameters
    ----------
    settings, first, rest
        From `setting` and `prepare`.
    x
        Inputs of the network.
    report
        Function of a `Seen`; its results are stacked.
    keep
        Whether to return what the backward pass needs.

    Returns
    -------
    reports
        With a leading axis of depth.
    signal : Signal
        After the last layer.
    kept : tuple of Kept, each None without ``keep``
        Of the first layer, and of the others stacked.
    """

    def step(signal: Signal, layer: Layer):
        signal, seen, kept = _layer(settings, signal, layer)
        return signal, (report(seen), kept if keep else None)

    zero = jnp.zeros((), check.accumulator(x.dtype))
    signal, (head, first_kept) = step(Signal(None, x, zero), first)
    signal, (body, rest_kept) = jax.lax.scan(step, vary_like(signal, rest), rest)
    reports = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), head, body)
    return reports, signal, (first_kept, rest_kept)


def _layer(settings: Setting, signal: Signal, layer: Layer) -> tuple[Signal, Seen, Kept]:
    net, order, scales, bias = settings.network, settings.order, layer.scales, layer.bias
    skip, y, unit = signal.features if net.residual else None, signal.y, signal.unit
    bias = None if bias is None else scales.bias_mean + scales.sigma_b * bias
    if settings.own_unit:
        (skip, y), unit, bias = rescale((skip, y), unit, bias)
    z = scales.sigma_w * multiply(settings, layer.kernel, y)
    z = jnp.asarray(z if bias is None else z + bias)
    features, slope = _run(settings, order.after, z)
    features = features if skip is None else skip + features
    above, slope = _run(settings, order.before, features, slope)
    axes = tuple(range(z.ndim - 1))
    dead = jnp.zeros(z.shape[-1], bool) if slope is None else jnp.all(slope == 0, axes)
    seen = Seen(z if order.after else features, features, dead, unit)
    kept = Kept(signal.features if order.before else None, y, z, unit)
    return Signal(features if order.before or net.residual else None, above, unit), seen, kept


def _run(settings: Setting, steps: Iterable[Any], h: Any, slope: Any = None) -> tuple[jax.Array, Any]:
    """Take what stands before or after a linear layer; return the last activation's slope, too."""
    net = settings.network
    stats = norms.batch_stats_init(net.width, h.dtype) if settings.order.norm == "bn" else None
    options = NormOptions(train=True, epsilon=settings.epsilon)
    for step in steps:
        if callable(step):
            h, pull = jax.vjp(step, h)  # unlike jvp, it takes functions with a custom_vjp
            (slope,) = pull(jnp.ones_like(h))
        else:
            h, _ = NORMS[step].apply(net, norms.Norm(), stats, h, options)
    return h, slope


def _pull(settings: Setting, steps: Iterable[Any], at: jax.Array, cotangent: jax.Array) -> jax.Array:
    _, pull = jax.vjp(lambda h: _run(settings, steps, h)[0], at)
    return pull(cotangent)[0]


class Pulled(NamedTuple):
    """Cotangents at one layer, in the unit ``unit`` (a log).

    Attributes
    ----------
    features, z
        Gradients with respect to the layer's features and to its linear output (so to its bias, per example).
    unit
        Log of their unit.
    """

    features: jax.Array
    z: jax.Array
    unit: jax.Array


def backward(
    settings: Setting,
    first: Layer,
    rest: Layer,
    kept: tuple[Kept, Kept],
    cotangent: jax.Array,
    report: Callable[[Kept, Pulled, Layer], Any] = lambda kept, pulled, layer: (),
    *,
    units: jax.Array | None = None,
) -> tuple[Any, jax.Array, jax.Array]:
    """Pull a cotangent of the last layer's features back to the input, in one scan.

    Parameters
    ----------
    settings, first, rest, kept
        Of the forward pass.
    cotangent
        Shaped like these features.
    report
        Function of a `Kept`, a `Pulled` and the layer; its results are stacked in the order of the layers.
    units
        Logs to divide by above each layer, ``(depth,)``; with them the map is linear. Default: what makes the
        largest entry 1.

    Returns
    -------
    reports
        With a leading axis of depth.
    cotangent : jax.Array
        Of the input, in the unit exp(sum of units).
    units : jax.Array
        ``(depth,)``.
    """
    order, residual = settings.order, settings.network.residual

    def step(carry, inputs):
        # Of the features, through the residual connection (None without) and through the layer above
        skip, features, total = carry
        layer, at, unit = inputs
        if units is None:
            tops = [jnp.max(jnp.abs(part)) for part in (skip, features) if part is not None]
            top = functools.reduce(jnp.maximum, tops).astype(total.dtype)
            unit = jnp.where(top > 0, jnp.log(jnp.where(top > 0, top, 1.0)), 0.0)
        shrink = jnp.exp(-unit).astype(features.dtype)
        skip, features = jax.tree.map(lambda part: part * shrink, (skip, features))
        features = features if skip is None else skip + features
        z = _pull(settings, order.after, at.z, features)
        _, back = jax.vjp(functools.partial(multiply, settings, layer.kernel), at.y)
        (below,) = back(layer.scales.sigma_w * z)
        if at.features is not None:
            below = _pull(settings, order.before, at.features, below)
        total = total + unit
        carry = features if residual else None, below, total
        return carry, (report(at, Pulled(features, z, total), layer), unit)

    total = jnp.zeros((), check.accumulator(cotangent.dtype))
    above_skip = jnp.zeros_like(cotangent) if residual else None
    given = (None, None) if units is None else (units[0], units[1:])
    layers = rest, kept[1], given[1]
    carry = vary_like((above_skip, cotangent, total), layers)
    carry, (body, body_units) = jax.lax.scan(step, carry, layers, reverse=True)
    (_, below, _), (head, head_unit) = step(carry, (first, kept[0], given[0]))
    join = functools.partial(jax.tree.map, lambda a, b: jnp.concatenate([a[None], b]))
    return join(head, body), below, join(head_unit, body_units)
