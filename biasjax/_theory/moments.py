"""Gaussian moments of an activation and of its slope, of which all maps of mean-field theory are made."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from biasjax import gaussian
from biasjax._theory import sines
from biasjax.activations import Activation


def second_moment(act: Activation, q: jax.Array) -> jax.Array:
    """E[phi(u)^2] for u ~ N(0, q)."""
    if act.fn in sines.SIGNS:
        return gaussian.joint_expectation(act, act, 1.0, jnp.sqrt(q))
    return gaussian.expectation(square(act), jnp.sqrt(q))


def slope_moment(act: Activation, q: jax.Array) -> jax.Array:
    """E[phi'(u)^2] for u ~ N(0, q)."""
    return second_moment(gaussian.derivative(act), q)


def slope_covariance(act: Activation, c: jax.Array, q: jax.Array) -> jax.Array:
    """E[phi'(u) phi'(v)] for u, v ~ N(0, q) of correlation c."""
    slope = gaussian.derivative(act)
    return gaussian.joint_expectation(slope, slope, c, jnp.sqrt(q))


# One object per function, so that compiled expectations of squares are found again
@functools.lru_cache(maxsize=256)
def square(act: Activation) -> Activation:
    """Square an activation, with its kinks."""

    def square(x: jax.Array) -> jax.Array:
        return act(x) ** 2

    return Activation(square, act.kinks)
