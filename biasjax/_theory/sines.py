"""Gaussian expectations of sines and cosines, which no quadrature resolves at large variance."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from biasjax._theory.compiling import compiled

# Sign of cos(u + v) in 2 f(u) f(v)
SIGNS: dict[Callable[..., jax.Array], float] = {jnp.sin: -1.0, jnp.cos: 1.0}


@compiled(static=1)
def covariance(
    f: Callable[..., jax.Array], c: jax.Array, sigma_u: jax.Array, sigma_v: jax.Array
) -> jax.Array:
    """E[f(u) f(v)] for u ~ N(0, sigma_u^2), v ~ N(0, sigma_v^2) of correlation c."""
    # E[cos(u -+ v)] = exp(-(sigma_u - sigma_v)^2 / 2 - sigma_u sigma_v (1 -+ c))
    product, apart = sigma_u * sigma_v, (sigma_u - sigma_v) ** 2 / 2
    minus, plus = (jnp.exp(-apart - product * (1 + sign * c)) for sign in (-1, 1))
    small = product < 1
    # Where both are nearly one
    ratio = -jnp.expm1(-2 * jnp.where(small, product, 0) * c)
    difference = jnp.where(small, minus * ratio, minus - plus)
    return (difference if SIGNS[f] < 0 else minus + plus) / 2
