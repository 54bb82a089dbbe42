"""One hidden layer of a random network at a time: forward, and backward through what was kept.

`propagation` and `jacobian` are made of these. Weights are never scaled: a layer computes
sigma_w · (y W0) + (bias_mean + sigma_b · b0), so that under a vmap over scales all points multiply one
shared W0 in one large matrix product. Norms stand at their initial scale 1 and bias 0.

Features of positively homogeneous networks, phi(a x) = a phi(x) for a > 0, are carried in a unit of their
own, h = exp(unit) u with max |u| about 1, so that they never leave the range of the dtype. Cotangents are
linear and carried like that for every network.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from biasjax import activations, check, linear, network, norms
from biasjax.network import Network, Order, Scales


class Setting(NamedTuple):
    """What is static of a pass: network, parsed order, epsilon of the norms, own unit or not."""

    network: Network
    order: Order
    epsilon: jax.typing.ArrayLike
    own_unit: bool


class Layer(NamedTuple):
    """Base draws and scales of one layer, or of several along a leading axis; ``bias`` may be None."""

    kernel: jax.Array
    bias: Any
    scales: Scales


class Signal(NamedTuple):
    """What goes from one layer to the next.

    Attributes
    ----------
    skip
        Features, for the residual connection; None without one and below the first layer.
    y
        What the next linear layer multiplies: features after the steps before a linear layer.
    unit
        Log of the unit of both; 0 but for networks carried in a unit of their own.
    """

    skip: jax.Array | None
    y: jax.Array
    unit: jax.Array


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


def prepare(key, net: Network, scales: Scales, dtype) -> tuple[Layer, Layer]:
    """Draw the unscaled parameters and check the scales; first layer, and the others stacked.

    They are the draws of `network.init`, which multiplies them by the scales.
    """
    each = Scales(*(network.per_layer(net, name, value, dtype) for name, value in scales._asdict().items()))
    params, _ = network.init(key, dataclasses.replace(net, outputs=None), Scales(sigma_b=1.0), dtype=dtype)
    first, rest = jax.tree.map(lambda s: s[0], each), jax.tree.map(lambda s: s[1:], each)
    return Layer(*params.stem.linear, first), Layer(*params.body.linear, rest)


def setting(net: Network, epsilon: jax.typing.ArrayLike, own_unit: bool | None = None) -> Setting:
    """Make the setting of a pass, by default in a unit of its own where the network is homogeneous."""
    check.in_range("epsilon", epsilon, low=0.0)
    order = network.parse_order(net)
    return Setting(net, order, epsilon, is_homogeneous(order) if own_unit is None else own_unit)


def is_homogeneous(order: Order) -> bool:
    """Tell whether a bias-free network of this order is positively homogeneous.

    Examples
    --------
    >>> orders = ("dense", "dense-relu", "tanh-dense", "dense-bn-relu")
    >>> [is_homogeneous(network.parse_order(Network(1, 1, 1, order=order))) for order in orders]
    [True, True, False, False]
    """
    return all(callable(step) and _homogeneous(step) for step in (*order.before, *order.after))


@functools.lru_cache(maxsize=256)
def _homogeneous(act: activations.Activation) -> bool:
    # phi is homogeneous iff it is linear on either side of 0; powers of two keep that exact
    with jax.ensure_compile_time_eval():
        x = jnp.asarray([0.0, 1.0, -1.0])
        scaled = [jnp.array_equal(act(2.0**k * x), 2.0**k * act(x)) for k in (-60, -11, -3, -1, 1, 2, 7, 60)]
        return all(bool(same) for same in scaled) and bool(jnp.allclose(act(1.7 * x), 1.7 * act(x)))


def forward(
    settings: Setting, first: Layer, rest: Layer, x: jax.Array, report, *, keep: bool
) -> tuple[Any, Signal, Any]:
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
    signal, (body, rest_kept) = jax.lax.scan(step, signal, rest)
    reports = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), head, body)
    return reports, signal, (first_kept, rest_kept)


def _layer(settings: Setting, signal: Signal, layer: Layer) -> tuple[Signal, Seen, Kept]:
    net, order = settings.network, settings.order
    scales, bias = layer.scales, layer.bias
    bias = None if bias is None else scales.bias_mean + scales.sigma_b * bias
    if settings.own_unit:
        signal, bias = _rescale(signal, bias)
    z = scales.sigma_w * network.apply_linear(net, order, linear.Linear(layer.kernel), signal.y)
    z = jnp.asarray(z if bias is None else z + bias)
    features, skip, y, slope = _tail(settings, signal.skip, z)
    axes = tuple(range(z.ndim - 1))
    dead = jnp.zeros(z.shape[-1], bool) if slope is None else jnp.all(slope == 0, axes)
    pre = z if order.after else features
    above = Signal(skip, y, signal.unit)
    return above, Seen(pre, features, dead, signal.unit), Kept(signal, z)


def _tail(settings: Setting, skip, z: jax.Array, at_features: Any = 0):
    """From the linear output to features, skip connection, next linear input, and slope of the activation."""
    net, order = settings.network, settings.order
    stats = norms.batch_stats_init(net.width, z.dtype) if order.norm == "bn" else None
    options = {"train": True, "momentum": 0.99, "epsilon": settings.epsilon}
    slope: Any = None

    def run(steps, h: Any) -> Any:
        nonlocal slope
        for step in steps:
            if callable(step):
                h, pull = jax.vjp(step, h)  # unlike jvp, it takes functions with a custom_vjp
                (slope,) = pull(jnp.ones_like(h))
            else:
                h, _ = network.apply_norm(net, step, norms.Norm(), stats, h, options)
        return h

    features = run(order.after, z)
    features = features + at_features if skip is None else skip + features + at_features
    return features, features if net.residual else None, run(order.before, features), slope


def _rescale(signal: Signal, bias) -> tuple[Signal, Any]:
    """Change to the unit in which the larger of signal and bias is 1."""
    tops = [jnp.max(jnp.abs(part)) for part in (signal.y, signal.skip) if part is not None]
    unit = signal.unit + jnp.log(functools.reduce(jnp.maximum, tops).astype(signal.unit.dtype))
    if bias is not None:
        unit = jnp.maximum(unit, jnp.log(jnp.max(jnp.abs(bias)).astype(unit.dtype)))
    unit = jnp.where(unit == -jnp.inf, 0.0, unit)  # nothing left
    factor = jnp.exp(signal.unit - unit).astype(signal.y.dtype)
    y, skip = jax.tree.map(lambda part: part * factor, (signal.y, signal.skip))
    if bias is not None:
        # exp(-unit) may overflow where there is no bias to speak of
        bias = jnp.where(bias == 0, 0.0, bias * jnp.exp(-unit).astype(bias.dtype))
    return Signal(skip, y, unit), bias


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
    report,
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
        multiply = functools.partial(network.apply_linear, settings.network, settings.order)
        _, pull = jax.vjp(lambda y: multiply(linear.Linear(layer.kernel), y), at.below.y)
        (y,) = pull(layer.scales.sigma_w * z)
        total = total + unit
        return (skip, y, total), (report(at, Pulled(features, z, total), layer), unit)

    total = jnp.zeros((), check.accumulator(cotangent.dtype))
    below_skip = jnp.zeros_like(cotangent) if settings.network.residual else None
    given = (None, None) if units is None else (units[0], units[1:])
    carry, (body, body_units) = jax.lax.scan(
        step, (below_skip, cotangent, total), (rest, kept[1], given[1]), reverse=True
    )
    (_, y, _), (head, head_unit) = step(carry, (first, kept[0], given[0]))
    join = functools.partial(jax.tree.map, lambda a, b: jnp.concatenate([a[None], b]))
    return join(head, body), y, join(head_unit, body_units)
