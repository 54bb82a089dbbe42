"""One hidden layer of a random network at a time: forward, and backward through what was kept.

`propagation` and `jacobian` are made of these. Weights are never scaled: a layer computes
sigma_w · (y W0) + (bias_mean + sigma_b · b0), so that under a vmap over scales all points multiply one
shared W0 in one large matrix product. Norms stand at their initial scale 1 and bias 0.
Cotangents are linear, so those of every network are carried in a unit of their own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

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
    """What the backward pass needs of a layer: the signal below, in the layer's unit, and its output."""

    below: Signal
    z: jax.Array


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
    each = scales.each_layer(net.depth, x.dtype)
    params, _ = network.draw(key, dataclasses.replace(net, outputs=None), dtype=x.dtype)
    first, rest = jax.tree.map(lambda s: s[0], each), jax.tree.map(lambda s: s[1:], each)
    made = Layer(*params.stem.linear, first), Layer(*params.body.linear, rest), x
    return vary_like(made, settings.epsilon)


def setting(net: Network, epsilon: ArrayLike, own_unit: bool | None = None) -> Setting:
    """Make the setting of a pass, by default in a unit of its own where the network is homogeneous."""
    check.in_range("epsilon", epsilon, low=0.0)
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
    scales, bias = layer.scales, layer.bias
    bias = None if bias is None else scales.bias_mean + scales.sigma_b * bias
    if settings.own_unit:
        signal, bias = rescale(signal, bias)
    z = scales.sigma_w * multiply(settings, layer.kernel, signal.y)
    z = jnp.asarray(z if bias is None else z + bias)
    features, skip, y, slope = _tail(settings, signal.skip, z)
    axes = tuple(range(z.ndim - 1))
    dead = jnp.zeros(z.shape[-1], bool) if slope is None else jnp.all(slope == 0, axes)
    pre = z if settings.order.after else features
    above = Signal(skip, y, signal.unit)
    return above, Seen(pre, features, dead, signal.unit), Kept(signal, z)


def _tail(settings: Setting, skip, z: jax.Array, at_features: Any = 0):
    """From the linear output to features, skip connection, next linear input, and slope of the activation."""
    net, order = settings.network, settings.order
    stats = norms.batch_stats_init(net.width, z.dtype) if order.norm == "bn" else None
    options = NormOptions(train=True, epsilon=settings.epsilon)
    slope: Any = None

    def run(steps, h: Any) -> Any:
        nonlocal slope
        for step in steps:
            if callable(step):
                h, pull = jax.vjp(step, h)  # unlike jvp, it takes functions with a custom_vjp
                (slope,) = pull(jnp.ones_like(h))
            else:
                h, _ = NORMS[step].apply(net, norms.Norm(), stats, h, options)
        return h

    features = run(order.after, z)
    features = features + at_features if skip is None else skip + features + at_features
    return features, features if net.residual else None, run(order.before, features), slope


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
    """Pull a cotangent of the last signal's ``y`` back to the input, in one scan.

    Parameters
    ----------
    settings, first, rest, kept
        Of the forward pass.
    cotangent
        Shaped like the network's features after its last layer.
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

    def step(carry, inputs):
        skip, y, total = carry
        layer, at, unit = inputs
        if units is None:
            tops = [jnp.max(jnp.abs(part)) for part in (skip, y) if part is not None]
            top = functools.reduce(jnp.maximum, tops).astype(total.dtype)
            unit = jnp.where(top > 0, jnp.log(jnp.where(top > 0, top, 1.0)), 0.0)
        shrink = jnp.exp(-unit).astype(y.dtype)
        skip, y = jax.tree.map(lambda part: part * shrink, (skip, y))

        def tail(below, z, probe):
            _, skip, y, _ = _tail(settings, below, z, probe)
            return skip, y

        _, pull = jax.vjp(tail, at.below.skip, at.z, jnp.zeros_like(at.z))
        skip, z, features = pull((skip, y))
        _, pull = jax.vjp(functools.partial(multiply, settings, layer.kernel), at.below.y)
        (y,) = pull(layer.scales.sigma_w * z)
        total = total + unit
        return (skip, y, total), (report(at, Pulled(features, z, total), layer), unit)

    total = jnp.zeros((), check.accumulator(cotangent.dtype))
    below_skip = jnp.zeros_like(cotangent) if settings.network.residual else None
    given = (None, None) if units is None else (units[0], units[1:])
    layers = rest, kept[1], given[1]
    carry = vary_like((below_skip, cotangent, total), layers)
    carry, (body, body_units) = jax.lax.scan(step, carry, layers, reverse=True)
    (_, y, _), (head, head_unit) = step(carry, (first, kept[0], given[0]))
    join = functools.partial(jax.tree.map, lambda a, b: jnp.concatenate([a[None], b]))
    return join(head, body), y, join(head_unit, body_units)
