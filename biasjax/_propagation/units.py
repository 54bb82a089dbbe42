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
    features
        What left the layer; None below the first layer, and where ``y`` is the same and nothing adds them.
    y
        What the next linear layer multiplies: features after the steps before it.
    unit
        Log of the unit of both; 0 but for networks carried in a unit of their own.
    """

    features: jax.Array | None
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


def rescale(signals: tuple[Any, ...], unit: jax.Array, bias) -> tuple[tuple[Any, ...], jax.Array, Any]:
    """Change signals, which may be None, to the unit in which the larger of them and the bias is 1."""
    tops = [jnp.max(jnp.abs(part)) for part in signals if part is not None]
    new = unit + jnp.log(functools.reduce(jnp.maximum, tops).astype(unit.dtype))
    if bias is not None:
        new = jnp.maximum(new, jnp.log(jnp.max(jnp.abs(bias)).astype(unit.dtype)))
    new = jnp.where(new == -jnp.inf, 0.0, new)  # nothing left
    # Where ReLU leaves nothing of signals far larger than the bias, an infinite factor would make 0 NaN
    factor = jnp.minimum(jnp.exp(unit - new), jnp.finfo(unit.dtype).max)
    signals = jax.tree.map(lambda part: part * factor.astype(part.dtype), signals)
    if bias is not None:
        # exp(-unit) may overflow where there is no bias to speak of
        bias = jnp.where(bias == 0, 0.0, bias * jnp.exp(-new).astype(bias.dtype))
    return signals, new, bias
