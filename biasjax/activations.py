"""Activation functions by name, with the points where they are not smooth.

A quadrature over an activation is accurate only when its panels end at the kinks, so a name stands for
the function together with its kinks. Any callable works wherever a name does; wrap it as
``Activation(fn, kinks=(0.0,))`` if it has kinks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from biasjax import check

__all__ = ["NAMES", "Activation", "get"]


def __dir__() -> list[str]:
    return __all__


class Activation(NamedTuple):
    """An elementwise function and the points where it or its derivative jumps.

    Attributes
    ----------
    fn
        Elementwise function of one array.
    kinks
        Points where ``fn`` or one of its first two derivatives is discontinuous.
    """

    fn: Callable[[jax.Array], jax.Array]
    kinks: tuple[float, ...] = ()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the function elementwise."""
        return self.fn(x)


def _linear(x: jax.Array) -> jax.Array:
    return x


def _gelu(x: jax.Array) -> jax.Array:
    # x Phi(x), the definition (and PyTorch's and Keras' default); jax and Flax default to its tanh form
    return jax.nn.gelu(x, approximate=False)


_ACTIVATIONS = {
    "linear": Activation(_linear),
    "tanh": Activation(jnp.tanh),
    "erf": Activation(jax.lax.erf),
    "sigmoid": Activation(jax.nn.sigmoid),
    "relu": Activation(jax.nn.relu, (0.0,)),
    "relu6": Activation(jax.nn.relu6, (0.0, 6.0)),
    "leaky_relu": Activation(jax.nn.leaky_relu, (0.0,)),
    "elu": Activation(jax.nn.elu, (0.0,)),
    "selu": Activation(jax.nn.selu, (0.0,)),
    "gelu": Activation(_gelu),
    "gelu_tanh": Activation(jax.nn.gelu),
    "silu": Activation(jax.nn.silu),
    "softplus": Activation(jax.nn.softplus),
    "softsign": Activation(jax.nn.soft_sign, (0.0,)),
    "hard_tanh": Activation(jax.nn.hard_tanh, (-1.0, 1.0)),
    "sin": Activation(jnp.sin),
}
_ACTIVATIONS["swish"] = _ACTIVATIONS["silu"]

NAMES = tuple(_ACTIVATIONS)


def get(activation: str | Callable[[jax.Array], jax.Array]) -> Activation:
    """Look an activation up by name, or take a callable as it is.

    Parameters
    ----------
    activation
        A name from `NAMES`, an `Activation`, or any elementwise callable (taken to have no kinks).

    Examples
    --------
    >>> get("relu").kinks
    (0.0,)
    >>> get(lambda x: x**3)(2.0)
    8.0
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        return _ACTIVATIONS[check.choice("activation", activation, NAMES)]
    if not callable(activation):
        check.fail("activation", "a name or a callable", activation, "Names: activations.NAMES.", TypeError)
    return Activation(activation)
