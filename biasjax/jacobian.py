"""Singular values of the input-output Jacobian of a random network.

The Jacobian is a product over layers that no dtype may be able to hold: its entries grow or shrink by a
factor per layer. So it is taken in a unit of its own, the growth of one random cotangent, and what comes out
are logs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from biasjax import _layerwise, check, propagation
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
    epsilon: jax.typing.ArrayLike = 1e-5,
) -> jax.Array:
    """Logs of the singular values of the Jacobian from ``x`` to the features after the last layer.

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

    Raises
    ------
    ValueError, TypeError
        As `propagation.propagate`; if ``steps`` is not positive.

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
    x = propagation.check_input(network, x)
    pull, shape, unit = _linearize(key, network, scales, x, epsilon)
    outputs, inputs = math.prod(shape), x.size
    if steps is None:
        basis = jnp.eye(outputs, dtype=x.dtype).reshape(outputs, *shape)
        matrix = jax.vmap(pull)(basis).reshape(outputs, inputs)
        wide = matrix.astype(check.accumulator(x.dtype))
        return jnp.log(jnp.linalg.svd(wide, compute_uv=False)) + unit
    steps = min(check.positive_int("steps", steps), outputs, inputs)
    push = jax.linear_transpose(pull, jax.ShapeDtypeStruct(shape, x.dtype))
    start_key = jax.random.fold_in(key, 2**31 + 1)
    bidiagonal = _bidiagonalize(start_key, pull, lambda v: push(v)[0], x, steps)
    return jnp.log(jnp.linalg.svd(bidiagonal, compute_uv=False))[jnp.array([0, -1])] + unit


def _linearize(key, net: Network, scales: Scales, x: jax.Array, epsilon) -> tuple[Callable, tuple, jax.Array]:
    """Return the linear map from cotangents of the output to those of the input, and the log of its unit."""
    settings = _layerwise.setting(net, epsilon)
    first, rest = _layerwise.prepare(key, net, scales, x.dtype)
    _, signal, kept = _layerwise.forward(settings, first, rest, x, lambda seen: (), keep=True)
    run = functools.partial(
        _layerwise.backward, settings, first, rest, kept, report=lambda kept, pulled, layer: ()
    )
    direction = propagation.direction(key, signal.y)
    _, last, units = run(direction)
    # The input's cotangent is not rescaled by the pass; take its size into the first layer's unit
    top = jnp.max(jnp.abs(last)).astype(units.dtype)
    units = units.at[0].add(jnp.where(top > 0, jnp.log(jnp.where(top > 0, top, 1.0)), 0.0))
    return lambda ct: run(ct, units=units)[1], signal.y.shape, jnp.sum(units)


def _bidiagonalize(key, pull: Callable, push: Callable, like: jax.Array, steps: int) -> jax.Array:
    """Upper bidiagonal matrix whose singular values approach the map's extremes; fully reorthogonalised.

    With J = ``push``: alpha_k u_k = J v_k - beta_{k-1} u_{k-1} and beta_k v_{k+1} = J^T u_k - alpha_k v_k.
    Where nothing is left of one (J is an isometry, or has a kernel), a random new direction goes on.
    """
    wide = check.accumulator(like.dtype)
    out = jax.eval_shape(push, like).shape
    keys = jax.random.split(key, (steps + 1, 2))

    def extend(v, basis, key, top):
        v, other = v - basis.T @ (basis @ v), jax.random.normal(key, v.shape, wide)
        v, other = (w - basis.T @ (basis @ w) for w in (v, other))  # once is not enough
        norm = jnp.linalg.norm(v)
        top = jnp.maximum(top, norm)
        gone = norm <= 100 * jnp.finfo(like.dtype).eps * top
        v = jnp.where(gone, other - basis.T @ (basis @ other), v)
        return v / jnp.linalg.norm(v), jnp.where(gone, 0.0, norm), top

    def step(carry, inputs):
        vs, us, v, top = carry
        k, (u_key, v_key) = inputs
        image = push(v.reshape(like.shape).astype(like.dtype)).astype(wide)
        u, alpha, top = extend(image.ravel(), us, u_key, top)
        vs, us = vs.at[k].set(v), us.at[k].set(u)
        image = pull(u.reshape(out).astype(like.dtype)).astype(wide)
        v, beta, top = extend(image.ravel(), vs, v_key, top)
        return (vs, us, v, top), (alpha, beta)

    vs, us = jnp.zeros((steps, like.size), wide), jnp.zeros((steps, math.prod(out)), wide)
    zero = jnp.zeros((), wide)
    first, _, _ = extend(jnp.zeros(like.size, wide), vs, keys[-1, 0], zero)
    _, (alphas, betas) = jax.lax.scan(step, (vs, us, first, zero), (jnp.arange(steps), keys[:-1]))
    return jnp.diag(alphas) + jnp.diag(betas[:-1], 1)
