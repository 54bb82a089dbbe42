"""Gaussian expectations that stay right at large variance, at kinks and at full correlation.

Mean-field theory is made of E[f(u)] and E[f(u) g(v)] over Gaussian u and v. Gauss-Hermite rules resolve the
scale of the Gaussian but not that of f: at standard deviation 4, 32 nodes miss E[tanh'(u)^2] by half. Here
the line is cut into panels that end at the kinks of f, are as short as f needs near zero, grow away from it,
and carry Gauss-Legendre nodes. Their number is fixed, so that everything vectorises, and the ends of panels
follow the kinks when sigma or c are differentiated, so that derivatives of any order count the jumps of
f, f', ... that they meet.

f may grow like a polynomial, and should vary on the scale of one, as activation functions do.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from biasjax import activations, check
from biasjax.activations import Activation

Function = str | Activation | Callable

# Panels reach to |z| = _REACH, beyond which a unit Gaussian has mass 2e-19
_REACH = 9.0
# Each side of a kink (or of zero) has _PANELS panels; the first is at most _FIRST long on the scale of f,
# the others are longer by _GROWTH times their distance, up to _LONGEST on the scale of the Gaussian
_PANELS = 8
_FIRST = 2.0
_GROWTH = 0.6
_LONGEST = 1.2
# Trapezoidal nodes of the Hermite transform: their step resolves tanh(10 z), their reach sqrt(density)
_HERMITE_STEP = 1 / 40
_HERMITE_REACH = 12.0


def derivative(f: Function) -> Activation:
    """Differentiate an elementwise function; its kinks stay.

    Parameters
    ----------
    f
        Name, `Activation` or elementwise callable.

    Returns
    -------
    Activation

    Examples
    --------
    >>> derivative("relu")(jnp.array([-2.0, 3.0]))
    Array([0., 1.], dtype=float32)
    """
    return _derivative(activations.get(f))


# One object per function, so that compiled expectations of derivatives are found again
@functools.lru_cache(maxsize=256)
def _derivative(f: Activation) -> Activation:
    return Activation(lambda x: jax.jvp(f.fn, (x,), (jnp.ones_like(x),))[1], f.kinks)


def expectation(f: Function, sigma: ArrayLike = 1.0) -> jax.Array:
    """E[f(u)] for u ~ N(0, sigma^2).

    Parameters
    ----------
    f
        Name, `Activation` or elementwise callable (wrap it in `Activation` if it has kinks).
    sigma
        Standard deviation, any shape. Right to 1e-6 up to 10, and further for functions that do not
        oscillate.

    Returns
    -------
    jax.Array
        Shape and dtype of ``sigma`` (computed in at least float32). Differentiable in ``sigma``.

    Raises
    ------
    ValueError
        If ``sigma`` is negative or ``f`` an unknown name.

    Examples
    --------
    >>> bool(jnp.isclose(expectation("relu", 3.0), 3 / jnp.sqrt(2 * jnp.pi)))
    True

    References
    ----------
    Poole et al., arXiv 1606.05340 (the expectations); Davis & Rabinowitz, Methods of Numerical Integration.
    """
    f = activations.get(f)
    (sigma,), dtype = floats(check.in_range("sigma", sigma, low=0.0))
    return _quadrature(f, sigma).astype(dtype)


def joint_expectation(
    f: Function,
    g: Function,
    c: ArrayLike,
    sigma_u: ArrayLike = 1.0,
    sigma_v: ArrayLike | None = None,
) -> jax.Array:
    """E[f(u) g(v)] for jointly Gaussian u and v of mean zero and correlation c.

    Parameters
    ----------
    f, g
        Names, `Activation`s or elementwise callables.
    c
        Correlation in [-1, 1]; both ends are exact.
    sigma_u, sigma_v
        Standard deviations; ``sigma_v`` defaults to ``sigma_u``. Shapes broadcast.

    Returns
    -------
    jax.Array
        Broadcast shape, common dtype. Differentiable in everything; in ``c`` by Price's theorem,
        dE[f(u) g(v)]/dc = sigma_u sigma_v E[f'(u) g'(v)], which holds at c = 1 too.

    Raises
    ------
    ValueError
        If a sigma is negative, ``c`` outside [-1, 1] or a name unknown.

    Examples
    --------
    The arc-cosine kernel of ReLU at c = 0 is 1/(2 pi):

    >>> bool(jnp.isclose(joint_expectation("relu", "relu", 0.0), 1 / (2 * jnp.pi)))
    True

    References
    ----------
    Price, IRE Trans. Inf. Theory 4 (1958) 69; Cho & Saul (2009).
    """
    f, g = activations.get(f), activations.get(g)
    sigma_v = sigma_u if sigma_v is None else sigma_v
    check.in_range("c", c, low=-1.0, high=1.0)
    check.in_range("sigma_u", sigma_u, low=0.0)
    check.in_range("sigma_v", sigma_v, low=0.0)
    (c, sigma_u, sigma_v), dtype = floats(c, sigma_u, sigma_v)
    return _joint(f, g, *jnp.broadcast_arrays(c, sigma_u, sigma_v)).astype(dtype)


def hermite_coefficients(f: Function, sigma: ArrayLike = 1.0, *, degree: int = 512) -> jax.Array:
    """Coefficients a_k = E[f(sigma z) h_k(z)] in the orthonormal Hermite polynomials h_k.

    By Mehler's formula E[f(u) f(v)] = sum_k a_k^2 c^k. The coefficients come from one matrix product, so a
    whole grid of ``sigma`` is cheap; they decay exponentially for a smooth f and like a power of k for a
    kinked one.

    Parameters
    ----------
    f
        Name, `Activation` or elementwise callable. Kinks are not resolved: use `joint_expectation` there.
    sigma
        Standard deviation, any shape; accurate up to 10 (for tanh, to 30).
    degree
        Number of coefficients, at most 1024.

    Returns
    -------
    jax.Array
        Shape ``(*sigma.shape, degree)``, dtype of ``sigma``.

    Raises
    ------
    ValueError
        If ``sigma`` is negative or ``degree`` above 1024.

    Examples
    --------
    >>> print(hermite_coefficients("linear", 2.0, degree=4).round(5) + 0.0)
    [0. 2. 0. 0.]

    References
    ----------
    Daniely et al., arXiv 1602.05897 (dual activations).
    """
    f = activations.get(f)
    (sigma,), dtype = floats(check.in_range("sigma", sigma, low=0.0))
    if check.positive_int("degree", degree) > 1024:
        check.fail(
            "degree", "at most 1024 coefficients", degree, "Use joint_expectation for kinked functions."
        )
    z, table = _hermite_table(degree)
    x = sigma[..., None] * z.astype(sigma.dtype)
    right, left = f(x), f(-x)
    # h_k has the parity of k, so that even and odd parts need half of the nodes and degrees each
    parts = [
        jnp.matmul(part, table[parity::2].T.astype(sigma.dtype), precision="highest")
        for parity, part in enumerate((right + left, right - left))
    ]
    parts[1] = jnp.pad(parts[1], [(0, 0)] * sigma.ndim + [(0, degree % 2)])
    return jnp.stack(parts, axis=-1).reshape(*sigma.shape, -1)[..., :degree].astype(dtype)


@functools.cache
def _hermite_table(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z >= 0, shape (n,), and h_k(z) times trapezoidal weight and density, shape (degree, n)."""
    z = np.arange(0.0, _HERMITE_REACH, _HERMITE_STEP)
    root_density = np.exp(-(z**2) / 4) / (2 * np.pi) ** 0.25
    # sqrt(k + 1) h_{k+1} = z h_k - sqrt(k) h_{k-1}, times the root of the density so that nothing overflows
    rows = [root_density, z * root_density]
    for k in range(1, degree - 1):
        rows.append((z * rows[-1] - np.sqrt(k) * rows[-2]) / np.sqrt(k + 1))
    weights = np.full_like(z, _HERMITE_STEP)
    weights[0] /= 2
    return z, np.stack(rows[:degree]) * root_density * weights


@functools.partial(jax.jit, static_argnums=0)
def _quadrature(f: Activation, sigma: jax.Array) -> jax.Array:
    z, weights = _nodes(_edges(f.kinks, jnp.zeros_like(sigma), sigma))
    return jnp.sum(weights * f(sigma[..., None] * z), axis=-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _joint(f: Activation, g: Activation, c: jax.Array, sigma_u: jax.Array, sigma_v: jax.Array) -> jax.Array:
    return _joint_quadrature(f, g, c, sigma_u, sigma_v)


@functools.partial(_joint.defjvp, symbolic_zeros=True)
def _joint_jvp(f, g, primals, tangents):
    c, sigma_u, sigma_v = primals
    dc, du, dv = (None if isinstance(t, jax.custom_derivatives.SymbolicZero) else t for t in tangents)
    value = _joint_quadrature(f, g, c, sigma_u, sigma_v)
    tangent = jnp.zeros_like(value)
    if du is not None or dv is not None:
        zero = jnp.zeros_like(value)
        _, tangent = jax.jvp(
            lambda su, sv: _joint_quadrature(f, g, c, su, sv),
            (sigma_u, sigma_v),
            (zero if du is None else du, zero if dv is None else dv),
        )
    if dc is not None:
        # Derivatives jump at kinks, where Price's theorem for the next order has delta functions: from there
        # on differentiate the quadrature, whose panels move with the kinks
        slope = _joint_quadrature if f.kinks or g.kinks else _joint
        tangent += dc * sigma_u * sigma_v * slope(derivative(f), derivative(g), c, sigma_u, sigma_v)
    return value, tangent


@functools.partial(jax.jit, static_argnums=(0, 1))
def _joint_quadrature(f, g, c, sigma_u, sigma_v):
    # u = sigma_u z and, given z, v = sigma_v (c z + s y): the kinks of g lie at known y on every line
    s = jnp.sqrt(jnp.maximum((1 - c) * (1 + c), 1e-24))
    outer, outer_weights = _nodes(_outer_edges(f.kinks, g.kinks, c, s, sigma_u, sigma_v), flat=False)
    scale = (sigma_v * s)[..., None]

    def add_panel(total, panel):
        z, weights = panel
        mean = (sigma_v * c)[..., None] * z
        y, inner_weights = _nodes(_edges(g.kinks, mean, jnp.broadcast_to(scale, mean.shape)))
        smoothed = jnp.sum(inner_weights * g(mean[..., None] + scale[..., None] * y), axis=-1)
        return total + jnp.sum(weights * f(sigma_u[..., None] * z) * smoothed, axis=-1), None

    # One outer panel at a time keeps the memory of a large grid at panel x nodes per point
    panels = jax.tree.map(lambda a: jnp.moveaxis(a, -2, 0), (outer, outer_weights))
    return jax.lax.scan(add_panel, jnp.zeros_like(c), panels)[0]


def _outer_edges(f_kinks, g_kinks, c, s, sigma_u, sigma_v):
    """Edges in z for E[f(sigma_u z) G(z)], where G is g seen through a Gaussian of width s / |c|."""
    zero = jnp.zeros_like(c)
    edges = _edges(f_kinks, zero, sigma_u, jnp.maximum(sigma_u, sigma_v * jnp.abs(c)))
    if not g_kinks:
        return edges
    # Around a kink of g, G bends over |z - k / (sigma_v c)| < 9 s / |c|. At small |c| it is nearly constant.
    c = jnp.where(jnp.abs(c) < 0.01, 0.01, c)
    blur = jnp.asarray([-9.0, -5.0, -2.5, 0.0, 2.5, 5.0, 9.0], c.dtype) * (s / jnp.abs(c))[..., None]
    bends = [k / (jnp.maximum(sigma_v, 1e-18) * c)[..., None] + blur for k in g_kinks]
    bends = jax.lax.stop_gradient(jnp.clip(jnp.concatenate(bends, axis=-1), -_REACH, _REACH))
    return jnp.sort(jnp.concatenate([edges, bends], axis=-1), axis=-1)


def _edges(kinks, mean, scale, resolution=None):
    """Cut the line into panels for f(mean + scale z): ends, ascending, shape (*mean.shape, panels + 1).

    They include the place of every kink and of zero, and are graded away from these.
    """
    resolution = jax.lax.stop_gradient(scale if resolution is None else resolution)
    centres = sorted({0.0, *map(float, kinks)})
    # Farther away than this, grading no longer shows, and float32 would lose the differences
    places = [jnp.clip((k - mean) / jnp.maximum(scale, 1e-18), -2 * _REACH, 2 * _REACH) for k in centres]
    first = _FIRST / jnp.maximum(resolution, _FIRST / _LONGEST)
    reach = jnp.full_like(places[0], _REACH)
    ends = [-reach, *[(a + b) / 2 for a, b in itertools.pairwise(places)], reach]
    pieces = []
    for place, left, right in zip(places, ends, ends[1:], strict=False):
        kink = jnp.clip(place, -_REACH, _REACH)
        place = jax.lax.stop_gradient(place)
        for end, side in ((left, -1), (right, 1)):
            end = jax.lax.stop_gradient(jnp.clip(end, -_REACH, _REACH))
            inner = _graded(place, jax.lax.stop_gradient(kink), end, first)
            pieces.append(inner[..., ::-1] if side < 0 else inner)
            if side < 0:
                pieces.append(kink[..., None])
    return jnp.concatenate(pieces, axis=-1)


def _graded(centre, start, end, first):
    """Edges from ``start`` (left out) to ``end``, of panels of length min(longest, first + growth distance).

    J(d) = integral of dx / min(W, a + r x) counts panels up to distance d; edges are equidistant in J.
    """
    centre, start, end, first = (x[..., None] for x in (centre, start, end, first))
    bend = (_LONGEST - first) / _GROWTH
    count_bend = jnp.log(_LONGEST / first) / _GROWTH

    def count(d):
        near = jnp.log1p(_GROWTH * jnp.minimum(d, bend) / first) / _GROWTH
        return near + jnp.maximum(d - bend, 0) / _LONGEST

    def distance(j):
        near = jnp.expm1(_GROWTH * jnp.minimum(j, count_bend)) * first / _GROWTH
        return near + jnp.maximum(j - count_bend, 0) * _LONGEST

    low, high = count(jnp.abs(start - centre)), count(jnp.abs(end - centre))
    steps = jnp.asarray(np.arange(1, _PANELS + 1) / _PANELS, centre.dtype)
    edges = centre + jnp.sign(end - start) * distance(low + (high - low) * steps)
    return jnp.concatenate([edges[..., :-1], end], axis=-1)


@functools.cache
def legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1].

    Examples
    --------
    >>> nodes, weights = legendre(2)
    >>> bool(np.isclose(np.sum(weights * nodes**3), 1 / 4))
    True
    """
    t, weights = np.polynomial.legendre.leggauss(n)
    return (t + 1) / 2, weights / 2


def _nodes(edges: jax.Array, flat: bool = True) -> tuple[jax.Array, jax.Array]:
    """Nodes z and weights times unit Gaussian density, (*batch, panels * n) or (*batch, panels, n)."""
    t, weights = legendre(16 if edges.dtype == jnp.float64 else 14)
    low, length = edges[..., :-1, None], jnp.diff(edges, axis=-1)[..., None]
    z = low + length * t.astype(edges.dtype)
    density = jnp.exp(-(z**2) / 2) / np.sqrt(2 * np.pi).astype(edges.dtype)
    weights = length * weights.astype(edges.dtype) * density
    if flat:
        return z.reshape(*z.shape[:-2], -1), weights.reshape(*z.shape[:-2], -1)
    return z, weights


def floats(*values: ArrayLike) -> tuple[list[jax.Array], jnp.dtype]:
    """Convert to arrays of one dtype to compute in, and tell the dtype that results are to have.

    Examples
    --------
    >>> arrays, dtype = floats(1, jnp.ones(3, jnp.bfloat16))
    >>> arrays[1].dtype, dtype
    (dtype('float32'), dtype(bfloat16))
    """
    arrays = [jnp.asarray(value) for value in values]
    # Python numbers, and integers, follow the dtype of the arrays beside them
    typed = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating) and not x.weak_type]
    dtype = jnp.result_type(*typed) if typed else jnp.result_type(float)
    return [x.astype(check.accumulator(dtype)) for x in arrays], dtype
