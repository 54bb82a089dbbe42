"""Signals in a unit of their own, which never leave the range of the dtype.

Features of positively homogeneous networks, phi(a x) = a phi(x) for a > 0, are carried as h = exp(unit) u
with max |u| about 1.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from biasjax import activations
from biasjax._network.architecture import Order


class Signal(NamedTuple):
    """What goes from one layer to the next.

    Attributes
    ----------
    skip
        Features, for the residual connection; None without one and below the first layer.
    y
        What the next linear layer multiplies: features after the steps before a linear layer.
    unit
        Log of the unit of both; 0 but for networks carried in a unit of their own.
    """

    skip: jax.Array | None
    y: jax.Array
    unit: jax.Array


def is_homogeneous(order: Order) -> bool:
    """Tell whether a bias-free network of this order is positively homogeneous.

    Examples
    --------
    >>> from biasjax._network.architecture import Network, parse_order
    >>> orders = ("dense", "dense-relu", "tanh-dense", "dense-bn-relu")
    >>> [is_homogeneous(parse_order(Network(1, 1, 1, order=order))) for order in orders]
    [True, True, False, False]
    """
    return all(callable(step) and _homogeneous(step) for step in (*order.before, *order.after))


@functools.lru_cache(maxsize=256)
def _homogeneous(act: activations.Activation) -> bool:
    # phi is homogeneous iff it is linear on either side of 0; powers of two keep that exact
    with jax.ensure_compile_time_eval():
        x = jnp.asarray([0.0, 1.0, -1.0])
        scaled = [jnp.array_equal(act(2.0**k * x), 2.0**k * act(x)) for k in (-60, -11, -3, -1, 1, 2, 7, 60)]
        return all(bool(same) for same in scaled) and bool(jnp.allclose(act(1.7 * x), 1.7 * act(x)))


def rescale(signal: Signal, bias) -> tuple[Signal, Any]:
    """Change to the unit in which the larger of signal and bias is 1."""
    tops = [jnp.max(jnp.abs(part)) for part in (signal.y, signal.skip) if part is not None]
    unit = signal.unit + jnp.log(functools.reduce(jnp.maximum, tops).astype(signal.unit.dtype))
    if bias is not None:
        unit = jnp.maximum(unit, jnp.log(jnp.max(jnp.abs(bias)).astype(unit.dtype)))
    unit = jnp.where(unit == -jnp.inf, 0.0, unit)  # nothing left
    factor = jnp.exp(signal.unit - unit).astype(signal.y.dtype)
    y, skip = jax.tree.map(lambda part: part * factor, (signal.y, signal.skip))
    if bias is not None:
        # exp(-unit) may overflow where there is no bias to speak of
        bias = jnp.where(bias == 0, 0.0, bias * jnp.exp(-unit).astype(bias.dtype))
    return Signal(skip, y, unit), bias
