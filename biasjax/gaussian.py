"""Gaussian expectations that stay right at large variance, at kinks and at full correlation.

Mean-field theory is made of E[f(u)] and E[f(u) g(v)] over Gaussian u and v. Here the line is cut into panels
that end at the kinks of f, also when sigma or c are differentiated, so that derivatives of any order count
the jumps of f, f', ... that they meet.

Functions are names, `Activation`s or elementwise callables (wrap them in `Activation` if they have kinks).
They may grow like a polynomial, and should vary on the scale of one, as activation functions do. Results
have the broadcast shape and the dtype of the arguments, and are computed in at least float32.
"""

from __future__ import annotations

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from biasjax import check
from biasjax._theory import quadrature, sines
from biasjax._theory.arguments import activation, ranged
from biasjax._theory.compiling import compiled
from biasjax._theory.quadrature import legendre
from biasjax.activations import Activation

__all__ = [
    "Function",
    "derivative",
    "expectation",
    "hermite_coefficients",
    "joint_expectation",
    "legendre",
]


def __dir__() -> list[str]:
    return __all__


Function = str | Activation | Callable[[jax.Array], jax.Array]

# Trapezoidal nodes of the Hermite transform: their step resolves tanh(10 z), their reach sqrt(density)
_HERMITE_STEP = 1 / 40
_HERMITE_REACH = 12.0


def derivative(f: Function) -> Activation:
    """Differentiate an elementwise function; its kinks stay.

    Examples
    --------
    >>> derivative("relu")(jnp.array([-2.0, 3.0]))
    Array([0., 1.], dtype=float32)
    """
    return _derivative(activation(f))


# One object per function, so that compiled expectations of derivatives are found again
@functools.lru_cache(maxsize=256)
def _derivative(f: Activation) -> Activation:
    if f.fn is jnp.sin:
        return Activation(jnp.cos, f.kinks)

    def slope(x: jax.Array) -> jax.Array:
        return jax.jvp(f.fn, (x,), (jnp.ones_like(x),))[1]

    return Activation(slope, f.kinks)


def expectation(f: Function, sigma: ArrayLike = 1.0) -> jax.Array:
    """E[f(u)] for u ~ N(0, sigma^2).

    Right to 1e-6 in float32 up to ``sigma`` of 10, and further for functions that do not oscillate. NaN where
    the quadrature does not resolve f: it oscillates (sin from ``sigma`` of 20 on), jumps where no kink was
    declared, has no integral, or grows too fast.

    Examples
    --------
    >>> bool(jnp.isclose(expectation("relu", 3.0), 3 / jnp.sqrt(2 * jnp.pi)))
    True

    References
    ----------
    Poole et al., arXiv 1606.05340.
    """
    (sigma,), dtype = ranged(sigma=sigma)
    return _expectation(activation(f, dtype), sigma).astype(dtype)


def joint_expectation(
    f: Function, g: Function, c: ArrayLike, sigma_u: ArrayLike = 1.0, sigma_v: ArrayLike | None = None
) -> jax.Array:
    """E[f(u) g(v)] for jointly Gaussian u and v of mean zero and correlation c.

    Differentiable in everything; in ``c`` by Price's theorem, dE[f(u) g(v)]/dc =
    sigma_u sigma_v E[f'(u) g'(v)], which holds at c = 1 too. Where f and g jump, derivatives at c = 1 and -1
    are those at 256 eps from there: large where they are infinite.

    Parameters
    ----------
    f, g
        Functions of u and v.
    c
        Correlation in [-1, 1]; both ends are exact.
    sigma_u, sigma_v
        Standard deviations; ``sigma_v`` defaults to ``sigma_u``.

    Examples
    --------
    The arc-cosine kernel of ReLU at c = 0 is 1/(2 pi):

    >>> bool(jnp.isclose(joint_expectation("relu", "relu", 0.0), 1 / (2 * jnp.pi)))
    True

    References
    ----------
    Price, IRE Trans. Inf. Theory 4 (1958) 69; Cho & Saul (2009).
    """
    sigma_v = sigma_u if sigma_v is None else sigma_v
    arrays, dtype = ranged(c=c, sigma_u=sigma_u, sigma_v=sigma_v)
    f, g = activation(f, dtype), activation(g, dtype)
    if f == g and f.fn in sines.SIGNS:
        return sines.covariance(f.fn, *arrays).astype(dtype)
    return _joint(f, g, *arrays).astype(dtype)


def hermite_coefficients(f: Function, sigma: ArrayLike = 1.0, *, degree: int = 512) -> jax.Array:
    """Coefficients a_k = E[f(sigma z) h_k(z)] in the orthonormal Hermite polynomials h_k.

    By Mehler's formula E[f(u) f(v)] = sum_k a_k^2 c^k. One matrix product makes them all, so a whole grid
    of ``sigma`` is cheap; they decay exponentially for a smooth f and like a power of k for a kinked one,
    whose kinks are not resolved: use `joint_expectation` there.

    Parameters
    ----------
    f
        Function of sigma z.
    sigma
        Standard deviation, any shape; accurate up to 10 (for tanh, to 30).
    degree
        Number of coefficients, at most 1024: the result is ``(*sigma.shape, degree)``.

    Examples
    --------
    >>> print(hermite_coefficients("linear", 2.0, degree=4).round(5) + 0.0)
    [0. 2. 0. 0.]

    References
    ----------
    Daniely et al., arXiv 1602.05897 (dual activations).
    """
    (sigma,), dtype = ranged(sigma=sigma)
    f = activation(f, dtype)
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
    pairs = jnp.stack(parts, axis=-1)
    return pairs.reshape(*sigma.shape, degree + degree % 2)[..., :degree].astype(dtype)


@functools.cache
def _hermite_table(degree: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


@compiled(static=1)
def _expectation(f: Activation, sigma: jax.Array) -> jax.Array:
    edges = quadrature.edges(f.kinks, jnp.zeros_like(sigma), sigma, panels=quadrature.FINE)
    z, weights = quadrature.nodes(edges)
    terms = weights * f(sigma[..., None, None] * z)
    return jnp.sum(terms, axis=(-2, -1)) * jnp.where(quadrature.resolved(terms), 1.0, jnp.nan)


@compiled(static=2)
def _joint_quadrature(
    f: Activation, g: Activation, c: jax.Array, sigma_u: jax.Array, sigma_v: jax.Array
) -> jax.Array:
    # u = sigma_u z and, given z, v = sigma_v (c z + s y): the kinks of g lie at known y on every line
    s = jnp.sqrt(jnp.maximum((1 - c) * (1 + c), 1e-24))
    outer = quadrature.nodes(quadrature.smoothed_edges(f.kinks, g.kinks, c, s, sigma_u, sigma_v))
    scale = (sigma_v * s)[..., None]

    def add_panel(total: jax.Array, panel: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        z, weights = panel
        mean = (sigma_v * c)[..., None] * z
        y, inner_weights = quadrature.line(g.kinks, mean, jnp.broadcast_to(scale, mean.shape))
        smoothed = jnp.sum(inner_weights * g(mean[..., None] + scale[..., None] * y), axis=-1)
        return total + jnp.sum(weights * f(sigma_u[..., None] * z) * smoothed, axis=-1), None

    # One outer panel at a time keeps the memory of a large grid at panel x nodes per point
    z, weights = (jnp.moveaxis(x, -2, 0) for x in outer)
    return jax.lax.scan(add_panel, jnp.zeros_like(c), (z, weights))[0]


_joint = jax.custom_jvp(_joint_quadrature, nondiff_argnums=(0, 1))


@functools.partial(_joint.defjvp, symbolic_zeros=True)
def _joint_jvp(
    f: Activation, g: Activation, primals: tuple[jax.Array, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    c, sigma_u, sigma_v = primals
    dc, du, dv = (None if isinstance(t, jax.custom_derivatives.SymbolicZero) else t for t in tangents)
    value = _joint_quadrature(f, g, c, sigma_u, sigma_v)
    zero = tangent = jnp.zeros_like(value)
    if _jumps(f) or _jumps(g):
        # Price's theorem would have delta functions: differentiate the quadrature, whose panels move with the
        # kinks, short of full correlation, where two jumps at one place have an infinite derivative
        inside = 1 - 256 * cast(float, jnp.finfo(c.dtype).eps)
        moved = tuple(zero if t is None else t for t in (dc, du, dv))
        of_all = functools.partial(_joint_quadrature, f, g)
        return value, jax.jvp(of_all, (jnp.clip(c, -inside, inside), sigma_u, sigma_v), moved)[1]
    if du is not None or dv is not None:

        def of_scales(sigma_u: jax.Array, sigma_v: jax.Array) -> jax.Array:
            return _joint_quadrature(f, g, c, sigma_u, sigma_v)

        moved = zero if du is None else du, zero if dv is None else dv
        _, tangent = jax.jvp(of_scales, (sigma_u, sigma_v), moved)
    if dc is not None:
        tangent += dc * sigma_u * sigma_v * _joint(derivative(f), derivative(g), c, sigma_u, sigma_v)
    return value, tangent


@functools.lru_cache(maxsize=256)
def _jumps(f: Activation) -> bool:
    """Whether f itself jumps at a kink: its change across it does not shrink with the step."""
    with jax.ensure_compile_time_eval():
        kinks = jnp.asarray(f.kinks)
        wide, narrow = (jnp.abs(f(kinks + step) - f(kinks - step)) for step in (1e-2, 1e-3))
        return bool(jnp.any(narrow > wide / 2))
