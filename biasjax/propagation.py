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
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from biasjax import check
from biasjax._propagation import layerwise, statistics
from biasjax._status import FINITE, NAN, OVERFLOW, STATUS, UNDERFLOW
from biasjax._text import brief
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
    features. What stands before a linear layer belongs to that layer, so nothing follows the last features.
    Gradients are those of <features of the last layer, a fixed Gaussian direction>, summed over the batch.

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

    def __repr__(self) -> str:
        return brief(self)


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
    epsilon: ArrayLike = 1e-5,
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

    Examples
    --------
    A bias of variance 1 holds a deep linear network with weights of variance 1/784 near a standard deviation
    of sqrt(784/734) = 1.03, and makes two inputs the same:

    >>> net = Network(inputs=784, width=50, depth=100, order="dense")
    >>> x = jax.random.normal(jax.random.key(1), (2, 784))
    >>> deep = propagate(jax.random.key(0), net, Scales(np.sqrt(np.r_[784, [50] * 99] / 784), 1.0), x)
    >>> print(f"{np.sqrt(deep.q[50:].mean()):.1f} {deep.distance[0]:.1f} {deep.distance[50] < 1e-12}")
    1.0 0.6 True

    References
    ----------
    Schoenholz et al., arXiv 1611.01232; the example is of a notebook on the role of the bias.
    """
    check.flags(backward=backward)
    x = layerwise.check_input(network, x)
    settings = layerwise.setting(network, epsilon)
    first, rest, x = layerwise.prepare(settings, key, scales, x)
    reports, signal, kept = layerwise.forward(settings, first, rest, x, statistics.statistics, keep=backward)
    moments, events = reports
    if settings.own_unit:
        plain = settings._replace(own_unit=False)
        (_, events), _, _ = layerwise.forward(plain, first, rest, x, statistics.statistics, keep=False)
    found = Propagation(**moments, **statistics.events(*events))
    if not backward:
        return found
    report = functools.partial(statistics.gradients, settings)
    above = layerwise.direction(key, signal.y)
    gradients, _, _ = layerwise.backward(settings, first, rest, kept, above, report)
    return found._replace(**gradients)


def features(
    key: jax.Array,
    network: Network,
    scales: Scales,
    x: jax.Array,
    *,
    epsilon: ArrayLike = 1e-5,
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

    Examples
    --------
    >>> net = Network(inputs=3, width=8, depth=5, order="dense-tanh")
    >>> features(jax.random.key(0), net, Scales(2.0), np.ones((4, 3), np.float32)).shape
    (5, 4, 8)
    """
    x = layerwise.check_input(network, x)
    settings = layerwise.setting(network, epsilon, own_unit=False)
    first, rest, x = layerwise.prepare(settings, key, scales, x)
    found, _, _ = layerwise.forward(settings, first, rest, x, _features, keep=False)
    return found


def _features(seen: layerwise.Seen) -> jax.Array:
    return seen.features


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
    if "layer" not in getattr(log_grads, "dims", ()):
        got, fix = getattr(log_grads, "dims", type(log_grads).__name__), "Select one of a sweep's Dataset."
        check.fail("growth", 'a DataArray with a dimension "layer"', got, fix, TypeError)
    check.positive_int("ends", ends, 0)
    each: xr.DataArray = np.exp(-log_grads.diff("layer"))  # pyright: ignore[reportAssignmentType]
    return each.isel(layer=slice(ends, -ends or None))
