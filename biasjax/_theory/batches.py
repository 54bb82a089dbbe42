"""Expectations over whole batches behind batch normalisation: rates of its gradients, per layer.

Behind the linear layer a batch of size B per neuron, normalised, is sqrt(B) times a direction that is uniform
on the sphere of centred batches, so that expectations over one and two examples are integrals over one and
two angles. Behind the activation they are means over stratified batches. G centres a batch throughout.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import gaussian
from biasjax._theory import quadrature
from biasjax._theory.compiling import compiled
from biasjax.activations import Activation

# Angles are cut into panels that end at kinks; beyond 10 standard deviations of the angle nothing is left
_PANELS, _NODES, _ANGLE_REACH = 12, 24, 10.0
# Integrals over whole batches: entries (points x batch size) of a Latin hypercube, and its replicates
_ENTRIES, _REPLICATES = 2**18, 16


@compiled(static=1)
def rate_before(act: Activation, size: jax.Array) -> jax.Array:
    """B / ((B - 3) mu) tr E[P D G D P] / (B - 1), with D = diag phi'(y) and P = G - y y^T / B.

    y is uniform of squared length B among centred batches, and mu = E[phi(y_1)^2] - E[phi(y_1) phi(y_2)].
    The batch variance of the linear layer is independent of y; E[1/chi^2_{B-1}] is 1/(B - 3).
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


def _two_examples(kinks: tuple[float, ...], size: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
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


def _angles(kinks: list[jax.Array], power: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Angles in [-pi/2, pi/2] with weights of the density ~ cos^power, cut where the sine is a kink."""
    reach = jnp.minimum(_ANGLE_REACH / jnp.sqrt(jnp.maximum(power, 1.0)), math.pi / 2)
    steps = np.linspace(-1, 1, _PANELS + 1)
    edges = reach[..., None] * jnp.asarray(steps, power.dtype)
    cuts = jnp.stack([jnp.arcsin(jnp.clip(k, -1, 1)) for k in kinks], axis=-1)
    cuts = jnp.clip(cuts, edges[..., :1], edges[..., -1:])
    edges = jnp.sort(jnp.concatenate([edges, cuts], axis=-1), axis=-1)
    t, weights = (jnp.asarray(x, power.dtype) for x in quadrature.legendre(_NODES))
    length = jnp.diff(edges, axis=-1)[..., None]
    shape = *power.shape, length.shape[-2] * t.size
    angles = (edges[..., :-1, None] + length * t).reshape(shape)
    # cos^power, without the rounding of a cosine near one
    squares = jnp.minimum(jnp.sin(angles) ** 2, 1 - jnp.finfo(power.dtype).eps)
    density = jnp.exp(power[..., None] / 2 * jnp.log1p(-squares))
    weights = (length * weights).reshape(shape) * density
    return angles, weights / jnp.sum(weights, axis=-1, keepdims=True)


@compiled(static=2)
def rate_after(act: Activation, size: int, sigma_w: jax.Array, sigma_b: jax.Array) -> jax.Array:
    """sigma_w^2 E[B tr(G D P D) / |G f|^2] / (B - 1), with f = phi(h) and D = diag phi'(h).

    P = G - G f f^T G / |G f|^2. Outputs of the norm below have the Gram matrix B/(B - 1) G exactly, so that
    h is Gaussian with covariance sigma_w^2 B/(B - 1) G + sigma_b^2.
    """
    slope = gaussian.derivative(act)
    points = min(max(_ENTRIES // size, 256), 16384)

    def replicate(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
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


def _latin_normals(key: jax.Array, points: int, dimensions: int, dtype: jnp.dtype) -> jax.Array:
    """Draw standard normals in a Latin hypercube: every coordinate has one point in each quantile."""
    for_order, for_place = jax.random.split(key)
    cells = jnp.broadcast_to(jnp.arange(points, dtype=dtype)[:, None], (points, dimensions))
    cells = jax.random.permutation(for_order, cells, axis=0, independent=True)
    place = jax.random.uniform(for_place, cells.shape, dtype, 1e-3, 1 - 1e-3)
    return jax.scipy.special.ndtri((cells + place) / points)
