"""Fixed points, phases and depth scales of wide random networks, and the edge of chaos.

`meanfield` has the maps of variance and correlation from layer to layer; here they are followed to the end.
Arguments mean the same as there. Everything broadcasts, works under `jax.jit` and `jax.vmap`, and shares the
Gaussian moments of a whole phase diagram. Where there is no fixed point a status says so, and another one
where there is no answer: what is not known is NaN there, and nowhere else.

Results have derivatives of every order, forwards and in reverse, by the equations that they solve. What is
infinite, or reported where every q is a fixed point, has derivative 0 in the scales. Truly infinite are those
of xi_q and xi_c at the edge of chaos, of fixed points where two of them meet, and of tanh's critical line
without bias (0 here). At the edge itself c and chi_c have the derivatives of the ordered phase. Near it
those of the chaotic side lose precision as 1 / (chi_1 - 1)^2: in float32 tanh's are 1e-3 off at chi_1 = 1.01.

References: Poole et al., arXiv 1606.05340; Schoenholz et al., arXiv 1611.01232;
Hayou et al., arXiv 1902.06853.
"""

from __future__ import annotations

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
import functools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax.typing import ArrayLike

from biasjax import _text, check, gaussian
from biasjax._theory import correlation, implicit, labelling, moments, roots, variance
from biasjax._theory.arguments import checked, floats
from biasjax._theory.compiling import compiled
from biasjax._theory.variance import CriticalLine, FixedPoints
from biasjax.activations import Activation

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "CONVERGES",
    "DIVERGES",
    "NEUTRAL",
    "STATUSES",
    "UNRESOLVED",
    "VANISHES",
    "CriticalLine",
    "FixedPoints",
    "OrderParameters",
    "critical_line",
    "depth_scale",
    "diagram",
    "fixed_points",
    "order_parameters",
]


def __dir__() -> list[str]:
    return __all__


# What the variance does when the map is iterated; results hold positions in this tuple
STATUSES = ("converges", "vanishes", "diverges", "neutral", "unresolved")
CONVERGES, VANISHES, DIVERGES, NEUTRAL, UNRESOLVED = range(5)

# Variance that stands for the limit infinity; its cube stays finite in float32
_Q_INFINITY = 1e10

_Results = TypeVar("_Results")


class OrderParameters(NamedTuple):
    """Where a deep network ends up, and how fast.

    Attributes
    ----------
    q
        Variance that is approached: a fixed point, 0, or infinity (see ``status``).
    slope
        V'(q), of which ``xi_q = -1 / ln |V'(q)|``.
    chi_1
        Factor of the squared gradient norm per layer, sigma_w^2 E[phi'^2].
    c
        Stable fixed point of the correlation of two inputs; 1 in the ordered phase.
    chi_c
        sigma_w^2 E[phi'(u) phi'(v)] at ``c``, of which ``xi_c = -1 / ln chi_c``.
    xi_q, xi_c
        Depth scales in layers, infinite where the approach is no longer exponential.
    status
        Position in `STATUSES`. Where q diverges, all else is the limit q -> infinity. "unresolved" where the
        quadrature of `gaussian.expectation` does not resolve the activation at q (which may need its kinks
        declared) or a traced argument is no finite number from 0 on.
    """

    q: jax.Array
    slope: jax.Array
    chi_1: jax.Array
    c: jax.Array
    chi_c: jax.Array
    xi_q: jax.Array
    xi_c: jax.Array
    status: jax.Array

    def __repr__(self) -> str:
        return _text.brief(self)


def fixed_points(
    activation: gaussian.Function, sigma_w: ArrayLike, sigma_b: ArrayLike = 0.0, *, slots: int = 4
) -> FixedPoints:
    """Find all fixed points of the variance map with their slopes.

    These are q = 0 (without bias, if phi(0) = 0) and those between 1e-10 and 1e10, at most ``slots``;
    ``count`` tells if there are more.

    Examples
    --------
    GELU has an unstable fixed point beside the stable one at zero (Hayou et al.):

    >>> points = fixed_points("gelu", 1.6)
    >>> print(points.q, points.stable)
    [0. ... inf inf] [ True False False False]
    """
    check.positive_int("slots", slots)
    act, (sigma_w, sigma_b), dtype = checked(activation, sigma_w=sigma_w, sigma_b=sigma_b)
    return _cast(variance.fixed_points(act, slots, sigma_w, sigma_b), dtype)


def order_parameters(
    activation: gaussian.Function, sigma_w: ArrayLike, sigma_b: ArrayLike = 0.0, *, q: ArrayLike = 1.0
) -> OrderParameters:
    """Follow variance and correlation to their fixed points, with the depth scales of the approach.

    Where there are several fixed points, the variance ``q`` of the first layer decides between them. V is
    taken to increase with q, as it does for every named activation.

    Examples
    --------
    >>> deep = order_parameters("tanh", jnp.sqrt(2.0), jnp.sqrt(0.05))
    >>> print(f"{deep.q:.4f} {deep.chi_1:.4f} {deep.c:.3f} {deep.xi_c:.1f} {STATUSES[deep.status]}")
    0.7218 1.0477 0.744 25.2 converges
    """
    act, (sigma_w, sigma_b, q), dtype = checked(activation, sigma_w=sigma_w, sigma_b=sigma_b, q=q)
    return _cast(_order_parameters(act, sigma_w, sigma_b, q), dtype)


def critical_line(activation: gaussian.Function, sigma_b: ArrayLike = 0.0, *, slots: int = 4) -> CriticalLine:
    """Weight scales at which chi_1 = 1, the edge of chaos: at most ``slots`` for each bias scale.

    Plot ``sigma_w[..., 0]``, and dashed ``sigma_w[..., 1]``: the first slot is empty, that is infinite, where
    no such point is stable. ``count`` is 0 where there is none at all (ReLU with a bias).

    Examples
    --------
    >>> print(critical_line("tanh", jnp.sqrt(0.05)).sigma_w[:2] ** 2)
    [1.7609... inf]

    GELU has one from which the variance runs away:

    >>> line = critical_line("gelu", 0.3)
    >>> print(line.sigma_w[:2], line.stable[:2])
    [ inf 1.45...] [False False]
    """
    check.positive_int("slots", slots)
    act, (sigma_b,), dtype = checked(activation, sigma_b=sigma_b)
    return _cast(variance.critical_line(act, slots, sigma_b), dtype)


def diagram(activation: gaussian.Function, *, sigma_w: npt.ArrayLike, sigma_b: npt.ArrayLike) -> xr.Dataset:
    """Evaluate `order_parameters` on the plane of two lists of scales, labelled for figures.

    Returns
    -------
    xr.Dataset
        Fields of `OrderParameters` over ``sigma_w`` and ``sigma_b``, with long names and units.

    Examples
    --------
    >>> plane = diagram("tanh", sigma_w=[0.5, 1.0, 2.0], sigma_b=[0.1, 0.5])
    >>> plane.xi_c.dims, plane.xi_c.attrs["units"]
    (('sigma_w', 'sigma_b'), 'layers')
    >>> print(plane.c.sel(sigma_b=0.1).values.round(3))
    [1.    1.    0.038]
    """
    return labelling.grid(
        functools.partial(order_parameters, activation), {"sigma_w": sigma_w, "sigma_b": sigma_b}
    )


def depth_scale(factor: ArrayLike) -> jax.Array:
    """Layers over which ``factor ** depth`` decays by e: -1 / ln |factor|, infinite from 1 on, NaN of NaN.

    Examples
    --------
    >>> print(depth_scale(jnp.array([0.0, 0.5, 1.0, 2.0])))
    [0.        1.442695       inf       inf]
    """
    (factor,), dtype = floats(factor=factor)
    factor = jnp.abs(factor)
    decays = (factor > 0) & (factor < 1)
    scale = -1 / jnp.log(jnp.where(decays, factor, 0.5))
    limit = jnp.where(factor >= 1, jnp.inf, factor)
    return jnp.where(decays, scale, limit).astype(dtype)


def _cast(results: _Results, dtype: Any) -> _Results:
    """Give numbers the dtype of the input; statuses and counts stay."""

    def one(x: jax.Array) -> jax.Array:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, results)


@compiled(static=1)
@implicit.elementwise(static=1)
def _order_parameters(
    act: Activation, sigma_w: jax.Array, sigma_b: jax.Array, q_start: jax.Array
) -> OrderParameters:
    numbers = variance.known(sigma_w, sigma_b) & (q_start >= 0) & jnp.isfinite(q_start)
    sigma_w, sigma_b, q_start = (jnp.where(numbers, x, 1.0) for x in (sigma_w, sigma_b, q_start))
    q, status = _approached(act, sigma_w, sigma_b, q_start)
    limit = status == DIVERGES
    at_end = limit | (status == VANISHES)
    inside = jnp.where(limit, _Q_INFINITY, jnp.maximum(q, variance.Q_ZERO))
    slope, gain, moment = (
        implicit.still(at_end, x)
        for x in (
            variance.slope_of(act, jnp.log(inside)),
            moments.slope_moment(act, inside),
            moments.second_moment(act, inside),
        )
    )
    slope, chi_1, above = (roots.times(sigma_w**2, x) for x in (slope, gain, moment))
    above = above + sigma_b**2
    # phi grows so fast that its moments overflow: correlations are lost at once
    wild = jnp.isinf(above) | jnp.isinf(slope) | jnp.isinf(chi_1)
    slope, chi_1 = (jnp.where(wild, jnp.inf, x) for x in (slope, chi_1))
    blind = jnp.isnan(slope) | jnp.isnan(chi_1) | jnp.isnan(above)

    # f(1) = 1, where f is the correlation map, is stable iff f'(1) <= 1. Where the variance vanishes or runs
    # away, f tends to the identity or to f'(1) = 1 (for ReLU-like phi)
    scale = jnp.where(above > 0, above, 1.0)
    eps = 64 * cast(float, jnp.finfo(q.dtype).eps)
    tolerance = jnp.where(at_end, variance.LIMIT_TOLERANCE, eps)
    ordered = jnp.where(wild, jnp.inf, chi_1 * inside / scale) <= 1 + tolerance
    # In the limit f depends on the scales no more
    a, b = (implicit.still(limit, x / scale) for x in (sigma_w**2, sigma_b**2))
    c, map_slope = correlation.fixed_point(act, inside, a, b, ordered | wild | blind)
    c = jnp.where(ordered, 1.0, c)
    chi_c = jnp.where(wild, jnp.inf, jnp.where(ordered, chi_1, map_slope * scale / inside))

    # Where q does not stand still, the correlation's rate is that of the covariance over the variance
    rate = jnp.where(wild, 0.0, jnp.where(limit, jax.lax.stop_gradient(chi_c * inside / above), chi_c))
    edge = 1 - jnp.where(limit, variance.LIMIT_TOLERANCE, eps)
    xi_q = depth_scale(jnp.where((jnp.abs(slope) >= edge) | limit, 1.0, slope))
    xi_c = depth_scale(jnp.where(rate < edge, rate, 1.0))
    return _answered(OrderParameters(q, slope, chi_1, c, chi_c, xi_q, xi_c, status), numbers, blind)


def _answered(found: OrderParameters, numbers: jax.Array, blind: jax.Array) -> OrderParameters:
    """Say what is not known: all of scales that are no numbers, and what rests on moments that are NaN."""
    unknown: dict[str, jax.Array] = {
        "q": ~numbers | (blind & (found.status == DIVERGES)),
        "xi_q": ~numbers | jnp.isnan(found.slope),
        **dict.fromkeys(("c", "chi_c", "xi_c"), ~numbers | blind),
    }
    fields = found._asdict()
    status = jnp.where(numbers & ~blind, fields.pop("status"), UNRESOLVED)
    known = {name: jnp.where(unknown.get(name, ~numbers), jnp.nan, x) for name, x in fields.items()}
    return OrderParameters(**known, status=status)


def _approached(
    act: Activation, sigma_w: jax.Array, sigma_b: jax.Array, q_start: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Variance that iteration from ``q_start`` approaches, and its status."""
    found = variance.fixed_points(act, 4, sigma_w, sigma_b)
    # V increases, so iteration walks from q_start to the next root in the direction of V(q) - q
    first = _above(act, q_start, sigma_w, sigma_b)
    start = q_start[..., None]
    above = jnp.min(jnp.where(found.q >= start, found.q, jnp.inf), axis=-1)
    below = jnp.max(jnp.where(found.q <= start, found.q, 0.0), axis=-1)
    q = jnp.where(found.neutral, q_start, jnp.where(first >= q_start, above, below))
    status = jnp.where(q == 0, VANISHES, jnp.where(jnp.isinf(q), DIVERGES, CONVERGES))
    q = jnp.where(jnp.isnan(first), jnp.nan, q)
    return q, jnp.where(found.neutral, NEUTRAL, status).astype(jnp.int32)


def _above(act: Activation, q: jax.Array, sigma_w: jax.Array, sigma_b: jax.Array) -> jax.Array:
    """V(q), also where phi^2 overflows but sigma_w is zero."""
    return roots.times(sigma_w**2, moments.second_moment(act, q)) + sigma_b**2
