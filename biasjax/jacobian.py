"""Singular values of the input-output Jacobian of a random network.

The Jacobian is a product over layers that no dtype may be able to hold: its entries grow or shrink by a
factor per layer. So it is taken in a unit of its own, the growth of one random cotangent, and what comes out
are logs.
"""

from __future__ import annotations

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from biasjax import check
from biasjax._propagation import layerwise
from biasjax._propagation.bidiagonal import bidiagonalize
from biasjax._varying import vary_like
from biasjax.network import Network, Scales

__all__ = ["DIMS", "singular_values"]


def __dir__() -> list[str]:
    return __all__


DIMS = {"log_singular": ("value",)}
"""Named dimension of `singular_values`, called ``log_singular`` in a sweep."""


def singular_values(
    key: jax.Array,
    network: Network,
    scales: Scales,
    x: jax.Array,
    *,
    steps: int | None = None,
    epsilon: ArrayLike = 1e-5,
) -> jax.Array:
    """Logs of the singular values of the Jacobian from ``x`` to the features of the last layer.

    They are the last of `propagation.features`: what an order has before its linear layer ("relu-dense") does
    not follow them, as it does in `network.apply`.

    Parameters
    ----------
    key, network, scales, epsilon
        As in `propagation.propagate`.
    x
        ``(batch, ...)``. The Jacobian is that of the whole batch, for batch norm ties examples together; give
        one example where there is none.
    steps
        None for all singular values, from the whole matrix, ``outputs · inputs`` entries. A number for the
        largest and the smallest by that many steps of Golub-Kahan bidiagonalisation, which never makes the
        matrix and costs a pass forward and one back for each. The largest is right to rounding after some
        20-50 steps; the smallest is an upper bound, tight where singular values are spread little
        (orthogonal kernels), and exact when ``steps`` reaches the number of inputs or outputs.

    Returns
    -------
    jax.Array
        Natural logs, descending: ``(min(outputs, inputs),)``, or ``(2,)`` with ``steps``. -inf for zero.

    Examples
    --------
    Orthogonal kernels without an activation are isometries at any depth:

    >>> net = Network(inputs=16, width=16, depth=30, order="dense", kernel_init="orthogonal")
    >>> logs = singular_values(jax.random.key(0), net, Scales(), jnp.ones((1, 16)))
    >>> bool(jnp.all(jnp.abs(logs) < 1e-4))
    True

    References
    ----------
    Pennington et al., arXiv 1711.04735; Golub & Kahan (1965).
    """
    x = layerwise.check_input(network, x)
    pull, shape, unit = _linearize(key, network, scales, x, epsilon)
    x = vary_like(x, key, scales, epsilon)
    outputs, inputs = math.prod(shape), x.size
    if steps is None:
        basis = jnp.eye(outputs, dtype=x.dtype).reshape(outputs, *shape)
        matrix = jax.vmap(pull)(basis).reshape(outputs, inputs)
        wide = matrix.astype(check.accumulator(x.dtype))
        return jnp.log(jnp.linalg.svd(wide, compute_uv=False)) + unit
    steps = min(check.positive_int("steps", steps), outputs, inputs)
    like = vary_like(jnp.zeros(shape, x.dtype), x)
    transpose = cast(Callable[[jax.Array], list[jax.Array]], jax.linear_transpose(pull, like))

    def push(v: jax.Array) -> jax.Array:
        return transpose(v)[0]

    start_key = jax.random.fold_in(key, 2**31 + 1)
    bidiagonal = bidiagonalize(start_key, pull, push, x, steps)
    return jnp.log(jnp.linalg.svd(bidiagonal, compute_uv=False))[jnp.array([0, -1])] + unit


def _linearize(
    key: jax.Array, net: Network, scales: Scales, x: jax.Array, epsilon: ArrayLike
) -> tuple[Callable[[jax.Array], jax.Array], tuple[int, ...], jax.Array]:
    """Return the linear map from cotangents of the output to those of the input, and the log of its unit."""
    settings = layerwise.setting(net, epsilon)
    first, rest, x = layerwise.prepare(settings, key, scales, x)
    _, signal, kept = layerwise.forward(settings, first, rest, x, keep=True)

    def pull(cotangent: jax.Array, units: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        _, last, units = layerwise.backward(settings, first, rest, kept, cotangent, units=units)
        return last, units

    last, units = pull(layerwise.direction(key, signal.y))
    # The input's cotangent is not rescaled by the pass; take its size into the first layer's unit
    top = jnp.max(jnp.abs(last)).astype(units.dtype)
    units = units.at[0].add(jnp.where(top > 0, jnp.log(jnp.where(top > 0, top, 1.0)), 0.0))
    return lambda cotangent: pull(cotangent, units)[0], signal.y.shape, jnp.sum(units)
