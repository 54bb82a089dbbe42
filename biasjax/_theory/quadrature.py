"""Gauss-Legendre panels under a unit Gaussian: they end at kinks and are graded away from them.

Gauss-Hermite rules resolve the scale of the Gaussian but not that of f: at standard deviation 4, 32 nodes
miss E[tanh'(u)^2] by half. Panels are as short as f needs near zero and its kinks and grow away from these.
Their number is fixed, so that everything vectorises, and their ends follow the kinks under differentiation.
What they do not resolve shows in the Legendre coefficients of highest degree.

Source: Davis & Rabinowitz, Methods of Numerical Integration.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

# Panels reach to |z| = _REACH, beyond which a unit Gaussian has mass 2e-19
_REACH = 9.0
# Each side of a kink (or of zero) has PANELS panels, in one dimension FINE, whose lengths are _FIRST on the
# scale of f at the kink to that and _GROWTH times the distance, up to _LONGEST on the scale of the Gaussian
PANELS, FINE = 8, 20
_FIRST = 2.0
_GROWTH = 0.6
_LONGEST = 1.2
# Shares of E|f| from which f is not resolved: in the two highest Legendre coefficients of the panels (the
# integral then misses 1e-4 of a smooth f, one hundredth of one that jumps), and in the outermost panels
_TAIL, _END = 0.05, 1e-3
# Where a kink seen through a Gaussian of width 1 bends
_BENDS = (-9.0, -5.0, -2.5, 0.0, 2.5, 5.0, 9.0)

Kinks = tuple[float, ...]


@functools.cache
def legendre(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre nodes and weights on [0, 1].

    Examples
    --------
    >>> nodes, weights = legendre(2)
    >>> bool(np.isclose(np.sum(weights * nodes**3), 1 / 4))
    True
    """
    t, weights = np.polynomial.legendre.leggauss(n)
    return (t + 1) / 2, weights / 2


def nodes(edges: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nodes z, and weights times unit Gaussian density: ``(*batch, panels, n)`` each."""
    t, weights = legendre(16 if edges.dtype == jnp.float64 else 14)
    low, length = edges[..., :-1, None], jnp.diff(edges, axis=-1)[..., None]
    z = low + length * t.astype(edges.dtype)
    density = jnp.exp(-(z**2) / 2) / np.sqrt(2 * np.pi).astype(edges.dtype)
    return z, length * weights.astype(edges.dtype) * density


def resolved(terms: jax.Array) -> jax.Array:
    """Whether sums of ``terms``, weights times values of f, ``(*batch, panels, n)``, are integrals of f."""
    terms = jax.lax.stop_gradient(terms)
    n = terms.shape[-1]
    # Coefficient k of what is integrated is (2 k + 1) sum_j w_j f_j P_k(t_j)
    degrees = np.arange(n - 2, n)
    top = np.polynomial.legendre.legvander(2 * legendre(n)[0] - 1, n - 1)[:, degrees] * (2 * degrees + 1)
    tails = jnp.matmul(terms, jnp.asarray(top, terms.dtype), precision="highest")
    total, tail, end = (
        jnp.sum(jnp.abs(part), axis=(-2, -1)) for part in (terms, tails, terms[..., np.array([0, -1]), :])
    )
    return ~((tail > _TAIL * total) | (end > _END * total))


def line(kinks: Kinks, mean: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nodes and weights for E[f(mean + scale z)], ``(*mean.shape, panels * n)`` each."""
    z, weights = nodes(edges(kinks, mean, scale))
    shape = *mean.shape, z.shape[-2] * z.shape[-1]
    return z.reshape(shape), weights.reshape(shape)


def edges(
    kinks: Kinks,
    mean: jax.Array,
    scale: jax.Array,
    resolution: jax.Array | None = None,
    *,
    panels: int = PANELS,
) -> jax.Array:
    """Cut the line into panels for f(mean + scale z): their ends, ``(*mean.shape, panels + 1)``.

    They include the place of every kink and of zero, and are graded away from these; they ascend but for
    neighbours out of reach, whose panels run there and back and cancel. ``resolution``, by default
    ``scale``, is the greatest factor of z in what is integrated; ``panels`` those on each side of a kink.
    """
    resolution = jax.lax.stop_gradient(scale if resolution is None else resolution)
    centres = sorted({0.0, *map(float, kinks)})
    # Farther away than this, grading no longer shows, and float32 would lose the differences
    places = [jnp.clip((k - mean) / jnp.maximum(scale, 1e-18), -2 * _REACH, 2 * _REACH) for k in centres]
    first = _FIRST / jnp.maximum(resolution, _FIRST / _LONGEST)
    reach = jnp.full_like(places[0], _REACH)
    ends = [-reach, *[(a + b) / 2 for a, b in itertools.pairwise(places)], reach]
    pieces = list[jax.Array]()
    for place, left, right in zip(places, ends, ends[1:], strict=False):
        kink = jnp.clip(place, -_REACH, _REACH)
        below, above = (
            _graded(panels, *map(jax.lax.stop_gradient, (place, kink, jnp.clip(end, -_REACH, _REACH), first)))
            for end in (left, right)
        )
        pieces += [below[..., ::-1], kink[..., None], above]
    return jnp.concatenate(pieces, axis=-1)


def smoothed_edges(
    f_kinks: Kinks, g_kinks: Kinks, c: jax.Array, s: jax.Array, sigma_u: jax.Array, sigma_v: jax.Array
) -> jax.Array:
    """Edges in z for E[f(sigma_u z) G(z)], where G is g seen through a Gaussian of width s / |c|."""
    own = edges(f_kinks, jnp.zeros_like(c), sigma_u, jnp.maximum(sigma_u, sigma_v * jnp.abs(c)))
    if not g_kinks:
        return own
    # Around a kink of g, G bends over |z - k / (sigma_v c)| < 9 s / |c|. At small |c| it is nearly constant.
    c = jnp.where(jnp.abs(c) < 0.01, 0.01, c)
    blur = jnp.asarray(_BENDS, c.dtype) * (s / jnp.abs(c))[..., None]
    bends = [k / (jnp.maximum(sigma_v, 1e-18) * c)[..., None] + blur for k in g_kinks]
    bends = jax.lax.stop_gradient(jnp.clip(jnp.concatenate(bends, axis=-1), -_REACH, _REACH))
    return jnp.sort(jnp.concatenate([own, bends], axis=-1), axis=-1)


def _graded(panels: int, centre: jax.Array, start: jax.Array, end: jax.Array, first: jax.Array) -> jax.Array:
    """Edges from ``start`` (left out) to ``end``, of panels of length min(longest, first + growth distance).

    J(d) = integral of dx / min(W, a + r x) counts panels up to distance d; edges are equidistant in J.
    """
    centre, start, end, first = (x[..., None] for x in (centre, start, end, first))
    bend = (_LONGEST - first) / _GROWTH
    count_bend = jnp.log(_LONGEST / first) / _GROWTH

    def count(d: jax.Array) -> jax.Array:
        near = jnp.log1p(_GROWTH * jnp.minimum(d, bend) / first) / _GROWTH
        return near + jnp.maximum(d - bend, 0) / _LONGEST

    def distance(j: jax.Array) -> jax.Array:
        near = jnp.expm1(_GROWTH * jnp.minimum(j, count_bend)) * first / _GROWTH
        return near + jnp.maximum(j - count_bend, 0) * _LONGEST

    low, high = count(jnp.abs(start - centre)), count(jnp.abs(end - centre))
    steps = jnp.asarray(np.arange(1, panels + 1) / panels, centre.dtype)
    inner = centre + jnp.sign(end - start) * distance(low + (high - low) * steps)
    return jnp.concatenate([inner[..., :-1], end], axis=-1)
