"""Golub-Kahan bidiagonalisation of a linear map that is given by its products alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from biasjax import check
from biasjax._varying import vary_like

Map = Callable[[jax.Array], jax.Array]


def bidiagonalize(key: jax.Array, pull: Map, push: Map, like: jax.Array, steps: int) -> jax.Array:
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
    start = vary_like((vs, us, first, zero), key, like)
    _, (alphas, betas) = jax.lax.scan(step, start, (jnp.arange(steps), keys[:-1]))
    return jnp.diag(alphas) + jnp.diag(betas[:-1], 1)
