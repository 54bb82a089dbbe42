"""Growth per layer of the squared gradient norm in wide networks with norms or residual branches.

A rate above one means that gradients explode towards the input, at initialisation and whatever the weight
scale: the norm undoes it. Norms have scale 1, bias 0 and epsilon 0 here. "before" puts the norm between the
linear layer and the activation (its usual place), "after" behind the activation.

Where batch normalisation sees h = W x + b with a batch of size B per neuron, its output is sqrt(B) times a
direction that is uniform on the sphere of centred batches, so expectations over one and two examples are
integrals over one and two angles.

References: Yang et al., arXiv 1902.08129 (batch norm); Yang & Schoenholz, arXiv 1712.08969 (residual).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from biasjax import activations, check, gaussian, meanfield
from biasjax.activations import Activation

PLACES = ("before", "after")

# Angles are cut into panels that end at kinks; beyond 10 standard deviations of the angle nothing is left
_PANELS, _NODES, _ANGLE_REACH = 12, 24, 10.0
# Integrals over whole batches: entries (points x batch size) of a Latin hypercube, and its replicates
_ENTRIES, _REPLICATES = 2**18, 16


def batch_norm(
    activation: gaussian.Function,
    batch_size: ArrayLike,
    *,
    place: str = "before",
    sigma_w: ArrayLike = 1.0,
    sigma_b: ArrayLike = 0.0,
) -> jax.Array:
    """Gradient growth per layer with batch normalisation, (B - 2)/(B - 3) for linear networks.

    Parameters
    ----------
    activation
        Name, `Activation` or elementwise callable.
    batch_size
        B, at least 4: below, the inverse of the batch variance has no mean. An array or traced number is
        fine with ``place="before"``; "after" a nonlinear activation wants an integer.
    place
        "before" (default) or "after" the activation.
    sigma_w, sigma_b
        Scales of weights and bias. They cancel with "before"; with "after", sigma_b / sigma_w matters.

    Returns
    -------
    jax.Array
        Exact for B << width. With "after" a nonlinear activation, a mean over 65536 or more stratified
        batches with a fixed seed, right to some 1e-3. For ReLU with a bias this mean diverges, though only
        logarithmically: a bias may leave two examples of a batch alive, whose variance can be arbitrarily
        small. There the value is that of the sample.

    Raises
    ------
    ValueError
        If ``batch_size`` is below 4, a scale negative, or the place or activation unknown.

    Examples
    --------
    >>> print(f"{batch_norm('linear', 8.0):.4f} {batch_norm('relu', 8.0):.4f}")
    1.2000 1.7882

    References
    ----------
    Yang et al., arXiv 1902.08129.
    """
    act = activations.get(activation)
    check.choice("place", place, PLACES)
    _check_batch(batch_size)
    check.in_range("sigma_w", sigma_w, low=0.0)
    check.in_range("sigma_b", sigma_b, low=0.0)
    (size, sigma_w, sigma_b), dtype = gaussian.floats(batch_size, sigma_w, sigma_b)
    if act == activations.get("linear"):
        rate = (size - 2) / (size - 3) + jnp.zeros_like(sigma_w * sigma_b)
    elif place == "before":
        rate = _before(act, size) + jnp.zeros_like(sigma_w * sigma_b)
    else:
        if isinstance(batch_size, jax.core.Tracer) or np.ndim(batch_size):
            check.fail(
                "batch_size",
                "one integer",
                batch_size,
                'It is a dimension of the integral with place="after".',
            )
        rate = _after(act, int(np.asarray(batch_size)), *jnp.broadcast_arrays(sigma_w, sigma_b))
    return rate.astype(dtype)


def batch_norm_relu(batch_size: ArrayLike) -> jax.Array:
    """Evaluate the closed form of `batch_norm` before ReLU.

    It is (J'(c) + B - 1)/((B - 3)(1 - J(c))) - 1/(B - 3) at c = -1/(B - 1), where J is the arc-cosine kernel
    with J(1) = 1. The limit of large batches is pi / (pi - 1).

    Parameters
    ----------
    batch_size
        B, at least 4, any shape.

    Returns
    -------
    jax.Array

    Raises
    ------
    ValueError
        If ``batch_size`` is below 4.

    Examples
    --------
    >>> print(f"{batch_norm_relu(8.0):.4f}")
    1.7882

    References
    ----------
    Yang et al., arXiv 1902.08129.
    """
    _check_batch(batch_size)
    (size,), dtype = gaussian.floats(batch_size)
    c = -1 / (size - 1)
    angle = jnp.pi - jnp.arccos(c)
    kernel, slope = (jnp.sqrt(1 - c**2) + c * angle) / jnp.pi, angle / jnp.pi
    return ((slope + size - 1) / ((size - 3) * (1 - kernel)) - 1 / (size - 3)).astype(dtype)


def layer_norm(
    activation: gaussian.Function,
    sigma_w: ArrayLike = 1.0,
    sigma_b: ArrayLike = 0.0,
    *,
    place: str = "before",
    centred: bool = True,
) -> jax.Array:
    """Gradient growth per layer with layer (or RMS) normalisation.

    Parameters
    ----------
    activation
        Name, `Activation` or elementwise callable.
    sigma_w, sigma_b
        Scales of weights (positive) and bias; only their ratio matters, but for the scale on which a norm
        behind the activation lets it work.
    place
        "before" (default): E[phi'^2] / (E[phi^2] + sigma_b^2/sigma_w^2) at q = 1.
        "after": sigma_w^2 E[phi'^2] / Var[phi] at q = sigma_w^2 + sigma_b^2; for ReLU
        (pi/(pi - 1)) / (1 + sigma_b^2/sigma_w^2), so that a bias can turn explosion into decay.
    centred
        True (default) for layer normalisation, False for RMS normalisation, whose "after" divides by
        E[phi^2].

    Returns
    -------
    jax.Array

    Raises
    ------
    ValueError
        If a scale is negative, or the place or activation unknown.

    Examples
    --------
    >>> print(f"{layer_norm('tanh'):.4f} {layer_norm('relu', place='after'):.4f}")
    1.1778 1.4669
    """
    act = activations.get(activation)
    check.choice("place", place, PLACES)
    (sigma_w, sigma_b), dtype = meanfield.inputs(sigma_w, sigma_b)
    if place == "before":
        one = jnp.ones_like(sigma_w)
        variance = sigma_w**2 * meanfield.second_moment(act, one) + sigma_b**2
        slope = meanfield.slope_moment(act, one)
    else:
        q = sigma_w**2 + sigma_b**2
        variance, slope = meanfield.second_moment(act, q), meanfield.slope_moment(act, q)
        if centred:
            variance -= gaussian.expectation(act, jnp.sqrt(q)) ** 2
    return (sigma_w**2 * slope / variance).astype(dtype)


def layer_norm_correlation(
    activation: gaussian.Function,
    c: ArrayLike,
    sigma_w: ArrayLike = 1.0,
    sigma_b: ArrayLike = 0.0,
    *,
    place: str = "before",
    centred: bool = True,
) -> jax.Array:
    """One layer of the correlation map with layer (or RMS) normalisation.

    Its slope at c = 1 is the rate of `layer_norm`: where gradients explode two inputs part, and where a bias
    makes gradients decay it makes all inputs one.

    Parameters
    ----------
    activation
        Name, `Activation` or elementwise callable.
    c
        Correlation of two inputs' pre-activations, in [-1, 1].
    sigma_w, sigma_b
        Scales of weights (positive) and bias; shapes broadcast.
    place, centred
        As in `layer_norm`.

    Returns
    -------
    jax.Array
        Correlation of the pre-activations in the layer above.

    Raises
    ------
    ValueError
        If a scale is negative, ``c`` outside [-1, 1], or the place or activation unknown.

    Examples
    --------
    >>> print(f"{layer_norm_correlation('relu', 0.0):.4f}")
    0.3183
    >>> print(f"{jax.grad(lambda c: layer_norm_correlation('tanh', c))(1.0):.4f}")
    1.1778
    """
    act = activations.get(activation)
    check.choice("place", place, PLACES)
    if place == "before":
        return meanfield.correlation_map(act, c, 1.0, sigma_w, sigma_b)
    check.in_range("c", c, low=-1.0, high=1.0)
    (sigma_w, sigma_b, c), dtype = meanfield.inputs(sigma_w, sigma_b, c=c)
    q = sigma_w**2 + sigma_b**2
    root = jnp.sqrt(q)
    shift = gaussian.expectation(act, root) ** 2 if centred else 0.0
    covariance = gaussian.joint_expectation(act, act, c, root) - shift
    features = covariance / (meanfield.second_moment(act, q) - shift)
    return ((sigma_w**2 * features + sigma_b**2) / q).astype(dtype)


class Residual(NamedTuple):
    """One residual layer x + W phi(x) + b: the variance above it, and the growth of squared gradients."""

    q: jax.Array
    rate: jax.Array


def residual(
    activation: gaussian.Function, q: ArrayLike, sigma_w: ArrayLike, sigma_b: ArrayLike = 0.0
) -> Residual:
    """Variance and gradient growth of x + W phi(x) + b.

    Parameters
    ----------
    activation
        Name, `Activation` or elementwise callable.
    q
        Variance of x.
    sigma_w, sigma_b
        Scales of weights and bias; shapes broadcast.

    Returns
    -------
    Residual
        ``q + sigma_w^2 E[phi^2] + sigma_b^2`` and ``1 + sigma_w^2 E[phi'^2]``: there is no fixed point, and
        gradients never decay.

    Raises
    ------
    ValueError
        If a scale or variance is negative or the activation unknown.

    Examples
    --------
    >>> q, rate = residual("relu", 1.0, 1.0, 0.5)
    >>> print(f"{q:.2f} {rate:.2f}")
    1.75 1.50

    References
    ----------
    Yang & Schoenholz, arXiv 1712.08969.
    """
    act = activations.get(activation)
    above = meanfield.variance_map(act, q, sigma_w, sigma_b)
    return Residual(jnp.asarray(q) + above, 1 + meanfield.chi(act, q, sigma_w))


def _check_batch(batch_size: ArrayLike) -> None:
    if isinstance(batch_size, jax.core.Tracer):
        return
    if not np.all(np.asarray(batch_size, np.float64) >= 4):
        check.fail(
            "batch_size", "at least 4", batch_size, "Below that, gradients have no mean behind batch norm."
        )


@functools.partial(jax.jit, static_argnums=0)
def _before(act: Activation, size: jax.Array) -> jax.Array:
    """B / ((B - 3) mu) tr E[P D G D P] / (B - 1), with D = diag phi'(y) and P = G - y y^T / B.

    G centres the batch, y is uniform of squared length B among centred batches, and mu = E[phi(y_1)^2] -
    E[phi(y_1) phi(y_2)]. The batch variance of the linear layer is independent of y; E[1/chi^2_{B-1}] is
    1/(B - 3).
    """
    slope = gaussian.derivative(act)
    y1, y2, weights = _two_examples(act.kinks, size)
    f1, f2, d1, d2 = act(y1), act(y2), slope(y1), slope(y2)
    f11, f12, d11, d12, s11, s12 = (
        jnp.sum(weights * x, axis=(-2, -1))
        for x in (f1**2, f1 * f2, d1**2, d1 * d2, (d1 * y1) ** 2, d1 * y1 * d2 * y2)
    )
    # tr(G D G D) and y^T D G D y / B, by exchangeability
    trace = (size - 1) ** 2 / size * d11 + (size - 1) / size * d12
    along = (size - 1) / size * (s11 - s12)
    return size / ((size - 3) * (f11 - f12)) * (trace - along) / (size - 1)


def _two_examples(kinks, size):
    """Two entries of a centred batch uniform on the sphere: y_1, y_2 and weights, (*size.shape, n, n)."""
    radius, c = jnp.sqrt(size - 1), -1 / (size - 1)
    s = jnp.sqrt(1 - c**2)
    places = [jnp.clip(k / radius, -1, 1) for k in sorted({0.0, *kinks})]
    # y_1 = radius sin(a); and where the range of y_2 given y_1 begins and ends to hold a kink
    ends = [c * k + side * s * jnp.sqrt(1 - k**2) for k in places for side in (-1, 1)]
    first, first_weights = _angles([*places, *ends], size - 3)
    t, width = jnp.sin(first), s[..., None] * jnp.cos(first)
    # Given it, y_2 = radius (c sin(a) + s cos(a) sin(b))
    places = [(k[..., None] - c[..., None] * t) / width for k in places]
    second, second_weights = _angles(places, jnp.broadcast_to(size[..., None] - 4, t.shape))
    y1 = (radius[..., None] * t)[..., None]
    y2 = radius[..., None, None] * ((c[..., None] * t)[..., None] + width[..., None] * jnp.sin(second))
    return y1, y2, first_weights[..., None] * second_weights


def _angles(kinks, power):
    """Angles in [-pi/2, pi/2] with weights of the density ~ cos^power, cut where the sine is a kink."""
    reach = jnp.minimum(_ANGLE_REACH / jnp.sqrt(jnp.maximum(power, 1.0)), math.pi / 2)
    steps = np.linspace(-1, 1, _PANELS + 1)
    edges = reach[..., None] * jnp.asarray(steps, power.dtype)
    cuts = jnp.stack([jnp.arcsin(jnp.clip(k, -1, 1)) for k in kinks], axis=-1)
    cuts = jnp.clip(cuts, edges[..., :1], edges[..., -1:])
    edges = jnp.sort(jnp.concatenate([edges, cuts], axis=-1), axis=-1)
    t, weights = (jnp.asarray(x, power.dtype) for x in gaussian.legendre(_NODES))
    length = jnp.diff(edges, axis=-1)[..., None]
    angles = (edges[..., :-1, None] + length * t).reshape(*power.shape, -1)
    # cos^power, without the rounding of a cosine near one
    squares = jnp.minimum(jnp.sin(angles) ** 2, 1 - jnp.finfo(power.dtype).eps)
    density = jnp.exp(power[..., None] / 2 * jnp.log1p(-squares))
    weights = (length * weights).reshape(*power.shape, -1) * density
    return angles, weights / jnp.sum(weights, axis=-1, keepdims=True)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _after(act: Activation, size: int, sigma_w: jax.Array, sigma_b: jax.Array) -> jax.Array:
    """sigma_w^2 E[B tr(G D P D) / |G f|^2] / (B - 1), with f = phi(h) and D = diag phi'(h).

    G centres the batch and P = G - G f f^T G / |G f|^2. Outputs of the norm below have the Gram matrix
    B/(B - 1) G exactly, so that h is Gaussian with covariance sigma_w^2 B/(B - 1) G + sigma_b^2.
    """
    slope = gaussian.derivative(act)

    points = min(max(_ENTRIES // size, 256), 16384)

    def replicate(total, key):
        normals = _latin_normals(key, points, size + 1, sigma_w.dtype)
        own, shared = normals[:, :-1], normals[:, -1:]
        own = math.sqrt(size / (size - 1)) * (own - jnp.mean(own, axis=-1, keepdims=True))
        h = sigma_w[..., None, None] * own + sigma_b[..., None, None] * shared
        f, d = act(h), slope(h)
        f = f - jnp.mean(f, axis=-1, keepdims=True)
        norm = jnp.sum(f**2, axis=-1)
        # tr(G D G D) and f^T D G D f
        trace = (1 - 2 / size) * jnp.sum(d**2, axis=-1) + (jnp.sum(d, axis=-1) / size) ** 2
        along = jnp.sum((d * f) ** 2, axis=-1) - jnp.sum(d * f, axis=-1) ** 2 / size
        norm = jnp.where(norm > 0, norm, jnp.inf)  # a batch of equal outputs: measure zero but for dead ReLUs
        return total + jnp.mean(size * (trace - along / norm) / norm, axis=-1), None

    keys = jax.random.split(jax.random.key(0), _REPLICATES)
    total, _ = jax.lax.scan(replicate, jnp.zeros_like(sigma_w), keys)
    return sigma_w**2 * total / (_REPLICATES * (size - 1))


def _latin_normals(key: jax.Array, points: int, dimensions: int, dtype) -> jax.Array:
    """Draw standard normals in a Latin hypercube: every coordinate has one point in each quantile."""
    for_order, for_place = jax.random.split(key)
    cells = jnp.broadcast_to(jnp.arange(points, dtype=dtype)[:, None], (points, dimensions))
    cells = jax.random.permutation(for_order, cells, axis=0, independent=True)
    place = jax.random.uniform(for_place, cells.shape, dtype, 1e-3, 1 - 1e-3)
    return jax.scipy.special.ndtri((cells + place) / points)
