"""Mean-field theory of signal propagation in wide random networks.

Layers are h = W phi(h') + b with W ~ N(0, sigma_w^2 / fan_in) and b ~ N(0, sigma_b^2). In a wide network the
pre-activations are Gaussian; their variance q and the correlation c of two inputs follow

    q -> V(q) = sigma_w^2 E[phi(u)^2] + sigma_b^2,          u ~ N(0, q),
    c -> (sigma_w^2 E[phi(u) phi(v)] + sigma_b^2) / V(q),   corr(u, v) = c,

and squared gradient norms multiply per layer by chi_1 = sigma_w^2 E[phi'(u)^2]. Everything broadcasts over
arrays of scales, and may be wrapped in `jax.jit`, `jax.vmap` and `jax.grad`. `phases` iterates these maps to
the end, `normrates` has the rates with norms. Arguments mean the same everywhere:

activation
    Name, `Activation` or elementwise callable.
q, c
    Variance of the layer's pre-activations, and their correlation for two inputs, in [-1, 1].
sigma_w, sigma_b
    Scales of weights and bias.
depth
    Number of further layers.

References: Poole et al., arXiv 1606.05340; Schoenholz et al., arXiv 1611.01232;
Hayou et al., arXiv 1902.06853.
"""

from __future__ import annotations

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from biasjax import check, gaussian
from biasjax._theory import moments
from biasjax._theory.arguments import checked, floats, ranged, stacked

__all__ = [
    "backward",
    "chi",
    "conv_trajectory",
    "correlation_map",
    "fluctuations",
    "trajectory",
    "variance_map",
]


def __dir__() -> list[str]:
    return __all__


# Variance and correlation of one layer
_Layer = tuple[jax.Array, jax.Array]


def variance_map(
    activation: gaussian.Function, q: ArrayLike, sigma_w: ArrayLike, sigma_b: ArrayLike = 0.0
) -> jax.Array:
    """Variance one layer above q: sigma_w^2 E[phi(u)^2] + sigma_b^2.

    Examples
    --------
    He's initialisation keeps the variance of ReLU networks:

    >>> bool(jnp.isclose(variance_map("relu", 3.0, jnp.sqrt(2.0)), 3.0))
    True
    """
    act, (sigma_w, sigma_b, q), dtype = checked(activation, sigma_w=sigma_w, sigma_b=sigma_b, q=q)
    return (sigma_w**2 * moments.second_moment(act, q) + sigma_b**2).astype(dtype)


def correlation_map(
    activation: gaussian.Function,
    c: ArrayLike,
    q: ArrayLike,
    sigma_w: ArrayLike,
    sigma_b: ArrayLike = 0.0,
    *,
    q_other: ArrayLike | None = None,
) -> jax.Array:
    """Correlation one layer above c: cov(u', v') / sqrt(V(q) V(q_other)); 0 where a variance vanishes.

    ``q_other``, the variance of the second input, defaults to ``q``.

    Examples
    --------
    >>> bool(jnp.isclose(correlation_map("relu", 0.0, 1.0, jnp.sqrt(2.0)), 1 / jnp.pi))
    True
    """
    q_other = q if q_other is None else q_other
    scales = {"sigma_w": sigma_w, "sigma_b": sigma_b, "q": q, "q_other": q_other, "c": c}
    act, (sigma_w, sigma_b, q, q_other, c), dtype = checked(activation, **scales)
    covariance = gaussian.joint_expectation(act, act, c, jnp.sqrt(q), jnp.sqrt(q_other))
    above = [sigma_w**2 * moments.second_moment(act, x) + sigma_b**2 for x in (q, q_other)]
    norm = jnp.sqrt(above[0]) * jnp.sqrt(above[1])
    ratio = (sigma_w**2 * covariance + sigma_b**2) / jnp.where(norm > 0, norm, 1)
    ratio = jnp.where(norm > 0, ratio, 0)
    # Clip rounding errors alone: the derivative at c = 1 is chi_1
    return (ratio + jax.lax.stop_gradient(jnp.clip(ratio, -1, 1) - ratio)).astype(dtype)


def trajectory(
    activation: gaussian.Function,
    q: ArrayLike,
    c: ArrayLike,
    sigma_w: ArrayLike,
    sigma_b: ArrayLike = 0.0,
    *,
    depth: int,
) -> tuple[jax.Array, jax.Array]:
    """Variance and correlation of two inputs of equal norm, layer by layer.

    Returns q and c, each ``(depth + 1, ...)``, the given values first.

    Examples
    --------
    The bias of the notebook on Xavier initialisation and the bias sets the plateau of the standard deviation:

    >>> q, _ = trajectory("linear", 2.0, 0.0, jnp.sqrt(50 / 784), 1.0, depth=50)
    >>> print(jnp.sqrt(q[jnp.array([0, 1, 2, 50])]))
    [1.41421... 1.0618... 1.035... 1.0334...]
    """
    act, (sigma_w, sigma_b, q, c), dtype = checked(activation, sigma_w=sigma_w, sigma_b=sigma_b, q=q, c=c)

    def above(q: jax.Array, c: jax.Array) -> _Layer:
        return variance_map(act, q, sigma_w, sigma_b), correlation_map(act, c, q, sigma_w, sigma_b)

    return _iterate(above, q, c, depth, dtype)


def conv_trajectory(
    activation: gaussian.Function,
    q: ArrayLike,
    c: ArrayLike,
    sigma_w: ArrayLike,
    sigma_b: ArrayLike = 0.0,
    *,
    window: ArrayLike | Sequence[float],
    padding: str = "CIRCULAR",
    depth: int,
) -> tuple[jax.Array, jax.Array]:
    """Variance and correlation of two inputs at each position of a convolutional network, layer by layer.

    A position sees the mean of its window, K'(a) = sigma_w^2 sum_j w_j E[phi phi](a + j) + sigma_b^2. What
    does not depend on the position follows the dense maps; a small deviation of wave number theta shrinks by
    chi times sum_j w_j cos(theta j) per layer, and not at all more than chi if the window is one point.
    Returns what `trajectory` does.

    Parameters
    ----------
    q, c
        As everywhere, ``(..., positions)``; both inputs have the same variances.
    window
        Shares of the weights' variance in the window, ``(k,)`` with odd k, sum 1: [1/3, 1/3, 1/3] for a
        Gaussian or orthogonal kernel of size 3, [0, 1, 0] for a delta-orthogonal one.
    padding
        "CIRCULAR" or "SAME" (zeros).

    Examples
    --------
    Zero padding takes a third of the variance from the border, and a bias gives it back in part:

    >>> q, _ = conv_trajectory(
    ...     "linear", jnp.ones(5), 0.0, 1.0, 0.5, window=[1 / 3] * 3, padding="SAME", depth=1
    ... )
    >>> print(", ".join(f"{one:.3f}" for one in q[1]))
    0.917, 1.250, 1.250, 1.250, 0.917

    References
    ----------
    Xiao et al., arXiv 1806.05393.
    """
    check.choice("padding", padding, ("CIRCULAR", "SAME"))
    act, (sigma_w, sigma_b, q, c), dtype = checked(activation, sigma_w=sigma_w, sigma_b=sigma_b, q=q, c=c)
    shares = ranged(window=window)[0][0].astype(q.dtype)
    if shares.ndim != 1 or shares.size % 2 == 0:
        check.fail("window", "an odd number of weights", shares.shape, "E.g. [1 / 3, 1 / 3, 1 / 3].")
    stacked("q", q, "(..., positions)")

    def above(q: jax.Array, c: jax.Array) -> _Layer:
        both = moments.second_moment(act, q), gaussian.joint_expectation(act, act, c, jnp.sqrt(q))
        q, covariance = (sigma_w**2 * _mean_of_window(x, shares, padding) + sigma_b**2 for x in both)
        return q, jnp.clip(jnp.where(q > 0, covariance / jnp.where(q > 0, q, 1), 0), -1, 1)

    return _iterate(above, q, c, depth, dtype)


def fluctuations(
    activation: gaussian.Function, q: ArrayLike, sigma_w: ArrayLike, *, width: ArrayLike
) -> jax.Array:
    """Standard deviation, over networks of finite width, of each layer's mean square of pre-activations.

    Given the layer below, pre-activations are Gaussian of variance K = sigma_w^2 mean(phi^2) + sigma_b^2.
    K strays from V by the scatter of that mean, and passes on what it strayed with slope V':
    var K' = V'(q)^2 var K + sigma_w^4 Var[phi(u)^2] / width. The measured mean square adds 2 q^2 / width.
    All this for one input and independent weights, to first order in 1 / width: several inputs or positions
    average it down, orthogonal kernels too.

    Parameters
    ----------
    q
        Variances of the layers, ``(depth, ...)``, as from `trajectory`; the first is that of given inputs.
    width
        Number of features of every layer.

    Examples
    --------
    In a linear network relative variances of 2 / width per layer add up:

    >>> print((fluctuations("linear", jnp.ones(3), 1.0, width=100) ** 2).round(4))
    [0.02 0.04 0.06]

    References
    ----------
    Roberts, Yaida & Hanin, arXiv 2106.10165, chapter 4.
    """
    check.in_range("width", width, low=1.0)
    act, (sigma_w, q, width), dtype = checked(activation, sigma_w=sigma_w, q=q, width=width)
    square = moments.square(act)
    stacked("q", q, "(depth, ...)")

    def layer(variance: jax.Array, at: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, sigma_w, width = at
        moment, slope = jax.jvp(functools.partial(moments.second_moment, act), (q,), (jnp.ones_like(q),))
        scatter = gaussian.expectation(moments.square(square), jnp.sqrt(q)) - moment**2
        above = sigma_w**4 * (slope**2 * variance + scatter / width)
        return above, variance + 2 * q**2 / width

    _, variances = jax.lax.scan(layer, jnp.zeros(q.shape[1:], q.dtype), (q, sigma_w, width))
    return jnp.sqrt(variances).astype(dtype)


def chi(activation: gaussian.Function, q: ArrayLike, sigma_w: ArrayLike, c: ArrayLike = 1.0) -> jax.Array:
    """sigma_w^2 E[phi'(u) phi'(v)]: growth of the squared gradient norm per layer at c = 1 (chi_1).

    Examples
    --------
    >>> bool(jnp.isclose(chi("relu", 5.0, jnp.sqrt(2.0)), 1.0))
    True
    """
    whole = isinstance(c, (int, float)) and c == 1
    act, (sigma_w, q, c), dtype = checked(activation, sigma_w=sigma_w, q=q, c=c)
    moment = moments.slope_moment(act, q) if whole else moments.slope_covariance(act, c, q)
    return (sigma_w**2 * moment).astype(dtype)


def backward(log_growth: ArrayLike) -> jax.Array:
    """Log of the squared gradient norm at every layer, relative to the last: ``(depth, ...)``, at last 0.

    Parameters
    ----------
    log_growth
        Log factors by which it grows from each layer to the one below, first layer first,
        ``(depth - 1, ...)``. With log chi_1 of all layers these are ``[:-1]`` for gradients of
        pre-activations, which pass the slopes of their own layer but not of the last, and ``[1:]`` for
        gradients of activations, which pass those of the layer above. Whatever adds up along the same
        way, as variances do, can take their place.

    Examples
    --------
    >>> print(backward(jnp.array([0.5, 1.0, 2.0])))
    [3.5 3. 2. 0. ]
    """
    (growth,), dtype = floats(log_growth=log_growth)
    stacked("log_growth", growth, "(depth - 1, ...)")
    above = jax.lax.cumsum(growth, reverse=True)
    return jnp.pad(above, [(0, 1)] + [(0, 0)] * (above.ndim - 1)).astype(dtype)


def _iterate(
    above: Callable[[jax.Array, jax.Array], _Layer],
    q: jax.Array,
    c: jax.Array,
    depth: int,
    dtype: np.dtype[Any],
) -> _Layer:
    """Go up ``depth`` layers: q and c of all, the given first."""
    check.positive_int("depth", depth)

    def layer(below: _Layer, _: None) -> tuple[_Layer, _Layer]:
        here = above(*below)
        return here, here

    _, (qs, cs) = jax.lax.scan(layer, (q, c), length=depth)
    return jnp.concatenate([q[None], qs]).astype(dtype), jnp.concatenate([c[None], cs]).astype(dtype)


def _mean_of_window(values: jax.Array, window: jax.Array, padding: str) -> jax.Array:
    ends = [(0, 0)] * (values.ndim - 1) + [(window.size // 2,) * 2]
    padded = jnp.pad(values, ends, mode="wrap" if padding == "CIRCULAR" else "constant")
    shifted = (w * padded[..., j : j + values.shape[-1]] for j, w in enumerate(window))
    return functools.reduce(jnp.add, shifted)
