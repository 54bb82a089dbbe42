"""Measured signal propagation: statistics of every layer of a random network, forward and backward.

`meanfield`, `phases` and `normrates` say what wide networks do; here networks of any width are drawn and
measured, with the same names for the same things. One scan reports all layers, so depth is free. Scales are
traced and multiply shared draws: under a vmap (or `sweep.run`) over sigma_w and sigma_b a whole grid is one
large matrix product per layer.

Standard deviations are std(x / max|x|) · max|x|, for squares overflow 20 layers before values do, and all
that can leave the dtype's range is there as a log too. Networks that are positively homogeneous but for their
biases (linear, ReLU, leaky ReLU, no norm) have exact logs at any depth, together with the layers at which
plain arithmetic overflows or vanishes. XLA's CPU backend flushes denormals, so on CPUs float32 vanishes
below 1.2e-38 and not 1.4e-45.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import _layerwise, check, linear, network
from biasjax._status import FINITE, NAN, OVERFLOW, STATUS, UNDERFLOW
from biasjax.network import Network, Scales

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "DIMS",
    "FINITE",
    "NAN",
    "OVERFLOW",
    "STATUS",
    "UNDERFLOW",
    "Propagation",
    "features",
    "growth",
    "propagate",
]


def __dir__() -> list[str]:
    return __all__


class Propagation(NamedTuple):
    """Statistics of each layer, ``(depth,)`` unless stated, over the batch, positions and units.

    "Features" are what leaves a layer, after its norm, activation and residual connection. "Pre-activations"
    are the outputs of its linear layer or, where the order ends with the linear layer ("relu-dense"), its
    features. Gradients are those of <features of the last layer, a fixed Gaussian direction>, summed over the
    batch.

    Attributes
    ----------
    mean, std
        Of the features; ``std`` is the population's, without Bessel's correction.
    log_std
        Natural log of ``std``, where it leaves the dtype's range too.
    q, log_q
        Mean square of the pre-activations, and its log.
    correlation
        Cosine of two inputs' pre-activations, mean over all pairs of the batch; 0 where one of them is zero;
        None for a batch of one.
    distance
        1 - ``correlation``, accurate where it is small; None for a batch of one.
    dead
        Fraction of units whose activation has derivative 0 for the whole batch.
    overflow_layer
        First layer with an infinite entry in plain arithmetic, from 1; 0 if there is none. Shape ``()``.
    underflow_layer
        First layer whose pre-activations are all zero in plain arithmetic, from 1; 0 if there is none.
    status
        Position in `STATUS`: what happened first in plain arithmetic.
    log_grad_features, log_grad_kernels, log_grad_biases
        Log of the squared norm of the gradient with respect to the features, the (scaled) kernel and the
        bias; None without ``backward``, the last one also without biases.
    """

    mean: jax.Array
    std: jax.Array
    log_std: jax.Array
    q: jax.Array
    log_q: jax.Array
    correlation: jax.Array | None
    distance: jax.Array | None
    dead: jax.Array
    overflow_layer: jax.Array
    underflow_layer: jax.Array
    status: jax.Array
    log_grad_features: jax.Array | None = None
    log_grad_kernels: jax.Array | None = None
    log_grad_biases: jax.Array | None = None


_PER_LAYER = [name for name in Propagation._fields if not name.endswith("_layer") and name != "status"]
DIMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_PER_LAYER, ("layer",)),
    "features": ("layer", "example", "unit"),
}
"""Named dimensions of a `Propagation`'s arrays and of a dense network's `features`, for `sweep.run`, which
takes the names of outputs that a function does not have, too."""


def propagate(
    key: jax.Array,
    network: Network,
    scales: Scales,
    x: jax.Array,
    *,
    backward: bool = True,
    epsilon: jax.typing.ArrayLike = 1e-5,
) -> Propagation:
    """Draw a network and measure every layer, forward and backward.

    Parameters
    ----------
    key
        Typed PRNG key; the network is the one of `network.init` with this key.
    network
        What to draw; its head, if it has one, is left out.
    scales
        Traced scales of weights and biases.
    x
        ``(batch, inputs)``, or ``(batch, *positions, inputs)`` for a convolutional network; its dtype is that
        of the network. Batch norm uses the statistics of this batch.
    backward
        Whether to measure gradients; they cost about twice the forward pass.
    epsilon
        Of the norms.

    Returns
    -------
    Propagation
        Floating statistics have the dtype of ``x``, but at least float32.

    Raises
    ------
    ValueError, TypeError
        If ``x`` does not fit the network or is not floating, a scale is negative or has a wrong shape.

    Examples
    --------
    A bias of variance 1 holds the deep linear network of seed document 004 near a standard deviation of
    sqrt(784/734) = 1.03, and makes two inputs the same:

    >>> net = Network(inputs=784, width=50, depth=100, order="dense")
    >>> x = jax.random.normal(jax.random.key(1), (2, 784))
    >>> deep = propagate(jax.random.key(0), net, Scales(jnp.sqrt(jnp.r_[784, [50] * 99] / 784), 1.0), x)
    >>> print(f"{jnp.sqrt(deep.q[50:].mean()):.1f} {deep.distance[0]:.1f} {deep.distance[50] < 1e-12}")
    1.0 0.6 True

    References
    ----------
    Schoenholz et al., arXiv 1611.01232; seed document 004.
    """
    x = check_input(network, x)
    settings = _layerwise.setting(network, epsilon)
    first, rest = _layerwise.prepare(key, network, scales, x.dtype)
    reports, signal, kept = _layerwise.forward(settings, first, rest, x, _statistics, keep=backward)
    moments, events = reports
    if settings.own_unit:
        plain = settings._replace(own_unit=False)
        (_, events), _, _ = _layerwise.forward(plain, first, rest, x, _statistics, keep=False)
    found = Propagation(**moments, **_events(*events))
    if not backward:
        return found
    report = functools.partial(_gradients, settings)
    above = direction(key, signal.y)
    gradients, _, _ = _layerwise.backward(settings, first, rest, kept, above, report)
    return found._replace(**gradients)


def features(
    key: jax.Array,
    network: Network,
    scales: Scales,
    x: jax.Array,
    *,
    epsilon: jax.typing.ArrayLike = 1e-5,
) -> jax.Array:
    """Features of every layer in plain arithmetic, as a plot of activations per layer needs them.

    Parameters
    ----------
    key, network, scales, x, epsilon
        As in `propagate`.

    Returns
    -------
    jax.Array
        ``(depth, batch, *positions, width)``, infinite or NaN where they overflow.

    Raises
    ------
    ValueError, TypeError
        As `propagate`.

    Examples
    --------
    >>> net = Network(inputs=3, width=8, depth=5, order="dense-tanh")
    >>> features(jax.random.key(0), net, Scales(2.0), jnp.ones((4, 3))).shape
    (5, 4, 8)
    """
    x = check_input(network, x)
    settings = _layerwise.setting(network, epsilon, own_unit=False)
    first, rest = _layerwise.prepare(key, network, scales, x.dtype)
    seen, _, _ = _layerwise.forward(settings, first, rest, x, lambda seen: seen.features, keep=False)
    return seen


def growth(log_grads: xr.DataArray, *, ends: int = 0) -> xr.DataArray:
    """Factor by which the squared gradient norm grows per layer, towards the input.

    Parameters
    ----------
    log_grads
        Logs of squared norms, such as ``log_grad_features`` of a sweep, with a dimension "layer".
    ends
        Number of layers to leave out at either end, which still know the input or the loss.

    Returns
    -------
    xr.DataArray
        exp(log_grads[l] - log_grads[l + 1]), with ``1 + 2 * ends`` layers fewer.

    Examples
    --------
    >>> import xarray as xr
    >>> growth(xr.DataArray(np.log([8.0, 4.0, 2.0]), dims="layer")).values.round(6)
    array([2., 2.])
    """
    return np.exp(-log_grads.diff("layer")).isel(layer=slice(ends, -ends or None))


def check_input(net: Network, x: jax.Array) -> jax.Array:
    """Return an input of the network as an array, or raise."""
    x = check.floating("propagate", x)
    rank = len(net.kernel_size) if network.parse_order(net).linear == "conv" else 0
    if x.ndim != rank + 2 or x.shape[-1] != net.inputs or 0 in x.shape:
        layout = "(batch, *positions, inputs)" if rank else "(batch, inputs)"
        fix = "A single example needs a batch axis, x[None]."
        check.fail("propagate", f"{layout} with {net.inputs} inputs and {rank} positions axes", x.shape, fix)
    return x


def direction(key: jax.Array, features: jax.Array) -> jax.Array:
    """Draw the Gaussian direction that stands for a loss's gradient, shaped like the last features."""
    return jax.random.normal(jax.random.fold_in(key, 2**31), features.shape, features.dtype)  # no layer's key


def _statistics(seen: _layerwise.Seen) -> tuple[dict, tuple]:
    """Moments of a layer, and whether it has infinities or NaNs or is all zero."""
    pre, kept = seen.pre, seen.features
    top, v = _normalize(kept)
    mean = jnp.mean(v)
    std = jnp.sqrt(jnp.mean(jnp.square(v - mean)))
    unit = jnp.log(top) + seen.unit
    pre_top, u = _normalize(pre)
    square = jnp.mean(jnp.square(u))
    log_q = jnp.log(square) + 2 * (jnp.log(pre_top) + seen.unit)
    correlation, distance = _correlation(u)
    moments = {
        "mean": _restore(mean * top, seen.unit),
        "std": _restore(std * top, seen.unit),
        "log_std": jnp.log(std) + unit,
        "q": _restore(jnp.sqrt(square) * pre_top, seen.unit) ** 2,
        "log_q": log_q,
        "correlation": correlation,
        "distance": distance,
        "dead": jnp.mean(seen.dead.astype(mean.dtype)),
    }
    infinite, nan = (found(pre).any() | found(kept).any() for found in (jnp.isinf, jnp.isnan))
    return moments, (infinite, nan, jnp.all(pre == 0))


def _normalize(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Largest entry (1 if none is positive and finite), and the array over it."""
    x = x.astype(check.accumulator(x.dtype))
    top = jnp.max(jnp.abs(x))
    top = jnp.where((top > 0) & jnp.isfinite(top), top, 1.0)
    return top, x / top


def _restore(value: jax.Array, unit: jax.Array) -> jax.Array:
    return jnp.where(value == 0, value, value * jnp.exp(unit))


def _correlation(x: jax.Array) -> tuple[Any, Any]:
    """Mean cosine of all pairs of examples, and what is left to 1.

    With v_i of unit length and mean m, the mean of 1 - v_i · v_j over pairs is sum_i |v_i - m|²/(B - 1).
    """
    batch = x.shape[0]
    if batch == 1:
        return None, None
    x = x.reshape(batch, -1)
    top = jnp.max(jnp.abs(x), 1, keepdims=True)
    x = x / jnp.where(top > 0, top, 1.0)
    norm = jnp.sqrt(jnp.sum(jnp.square(x), 1, keepdims=True))
    v = x / jnp.where(norm > 0, norm, 1.0)
    distance = jnp.sum(jnp.square(v - jnp.mean(v, 0))) / (batch - 1)
    # A zero vector has no direction: distance 1, where the sum has 1/2 for one and 0 for two in a pair
    distance = distance + jnp.mean((norm == 0).astype(x.dtype))
    return 1 - distance, distance


def _events(infinite: jax.Array, nan: jax.Array, zero: jax.Array) -> dict[str, jax.Array]:
    """Layers and status of the first infinity, NaN and all-zero layer."""
    depth = infinite.shape[0]
    overflow, invalid, underflow = (
        jnp.where(jnp.any(flags), jnp.argmax(flags), depth).astype(jnp.int32)
        for flags in (infinite, nan, zero)
    )
    # An overflow makes infinities and NaNs at once; which comes out first says nothing
    firsts = jnp.stack([jnp.asarray(depth - 0.5), *(t.astype(float) for t in (overflow, invalid, underflow))])
    return {
        "overflow_layer": jnp.where(overflow < depth, overflow + 1, 0),
        "underflow_layer": jnp.where(underflow < depth, underflow + 1, 0),
        "status": jnp.argmin(firsts).astype(jnp.int32),
    }


def _gradients(settings, kept: _layerwise.Kept, pulled: _layerwise.Pulled, layer) -> dict[str, Any]:
    """Logs of squared gradient norms at one layer."""
    unit = 2 * pulled.unit
    z = pulled.z.astype(unit.dtype)
    found = {
        "log_grad_features": _log_square(pulled.features.astype(unit.dtype)) + unit,
        "log_grad_kernels": _kernel_gradient(settings, kept.below.y, pulled.z, layer.kernel)
        + unit
        + 2 * kept.below.unit,
    }
    if layer.bias is not None:
        found["log_grad_biases"] = _log_square(jnp.sum(z, tuple(range(z.ndim - 1)))) + unit
    return found


def _log_square(x: jax.Array) -> jax.Array:
    top, v = _normalize(x)
    return jnp.log(jnp.sum(jnp.square(v))) + 2 * jnp.log(top)


def _kernel_gradient(settings, y: jax.Array, z: jax.Array, kernel: jax.Array) -> jax.Array:
    """Log of the squared norm of sum_b y_b z_b^T, for a convolution also over positions."""
    y_top, y = _normalize(y)
    z_top, z = _normalize(z)
    tops = 2 * (jnp.log(y_top) + jnp.log(z_top))
    if settings.order.linear == "dense" and y.shape[0] < math.sqrt(kernel.size):
        # |Y^T Z|² = sum of (Y Y^T) ∘ (Z Z^T): no array of the kernel's size for each point of a grid
        return jnp.log(jnp.maximum(jnp.sum((y @ y.T) * (z @ z.T)), 0.0)) + tops
    multiply = functools.partial(network.apply_linear, settings.network, settings.order)
    _, pull = jax.vjp(lambda w: multiply(linear.Linear(w), y), kernel.astype(y.dtype))
    return _log_square(pull(z)[0]) + tops
