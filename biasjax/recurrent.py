"""LSTM and GRU cells, with a bias for what comes in and one for the state, or either, or none.

The LSTM's two biases are added to each other, so that one of them is absorbed by the other. Of the GRU's this
holds for the gates; the state's bias of the candidate stands behind the reset gate and is needed.
"""

from __future__ import annotations

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
import functools
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp

from biasjax import check
from biasjax._text import brief
from biasjax.initializers import Initializer
from biasjax.linear import Linear, dense, dense_init

__all__ = ["LSTMState", "Recurrent", "gru_cell", "gru_init", "lstm_cell", "lstm_init"]

_SIDES = ("input", "hidden")


def __dir__() -> list[str]:
    return __all__


class Recurrent(NamedTuple):
    """Parameters of a recurrent cell.

    Attributes
    ----------
    input, hidden
        Dense layers of what comes in and of the state, (inputs, gates * features) and (features, gates *
        features); gates side by side in PyTorch's order.
    """

    input: Linear
    hidden: Linear

    def __repr__(self) -> str:
        return brief(self)


class LSTMState(NamedTuple):
    """State of an LSTM, (..., features) each."""

    hidden: jax.Array
    cell: jax.Array


def lstm_init(
    key: jax.Array,
    inputs: int,
    features: int,
    *,
    use_bias: bool | Collection[str] = True,
    bias_init: str | float | Initializer = "zeros",
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Recurrent:
    """Draw the parameters of an LSTM cell; gates are input, forget, candidate, output.

    Parameters
    ----------
    key
        Typed PRNG key.
    inputs, features
        Numbers of features of what comes in and of the state.
    use_bias
        For both layers, or the names of those that have one, of "input" and "hidden": PyTorch has both,
        Flax's LSTM that of the state alone, Keras one.
    bias_init
        Name, number or initialiser.
    dtype
        Dtype of the parameters.

    Returns
    -------
    Recurrent
        Kernels "lecun_normal" and, for each gate's part of the state's, "orthogonal".

    Examples
    --------
    A forget gate that starts open, as Keras has it (Jozefowicz et al., ICML 2015):

    >>> params = lstm_init(jax.random.key(0), 3, 2, use_bias=("hidden",))
    >>> hidden = params.hidden._replace(bias=params.hidden.bias.at[2:4].set(1.0))
    >>> params._replace(hidden=hidden).hidden.bias
    Array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32)
    """
    return _init(key, inputs, features, 4, use_bias, bias_init, dtype)


def lstm_cell(params: Recurrent, state: LSTMState, x: jax.Array) -> tuple[LSTMState, jax.Array]:
    """Take one step of an LSTM (Hochreiter & Schmidhuber 1997): the body of a `jax.lax.scan` over time.

    i, f, o = sigmoid(...) and g = tanh(...) of x W + b + h U + c; cell = f cell + i g; h = o tanh(cell).

    Parameters
    ----------
    params
        From `lstm_init`.
    state
        (..., features) each, in the dtype of ``x``.
    x
        (..., inputs), floating.

    Returns
    -------
    state : LSTMState
    output : jax.Array
        (..., features), the new hidden state.

    Examples
    --------
    >>> import functools
    >>> params = lstm_init(jax.random.key(0), 3, 2)
    >>> start = LSTMState(jnp.zeros((5, 2)), jnp.zeros((5, 2)))
    >>> _, outputs = jax.lax.scan(functools.partial(lstm_cell, params), start, jnp.ones((7, 5, 3)))
    >>> outputs.shape
    (7, 5, 2)
    """
    if not isinstance(state, LSTMState):  # pyright: ignore[reportUnnecessaryIsInstance]
        check.fail("lstm_cell", "LSTMState", type(state).__name__, "LSTMState(hidden, cell).", TypeError)
    own, of_state = _sides("lstm_cell", params, x, state.hidden, 4)
    _check_state("lstm_cell", state.cell, state.hidden)
    i, f, g, o = jnp.split(own + of_state, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
    return LSTMState(hidden, cell), hidden


def gru_init(
    key: jax.Array,
    inputs: int,
    features: int,
    *,
    use_bias: bool | Collection[str] = True,
    bias_init: str | float | Initializer = "zeros",
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Recurrent:
    """Draw the parameters of a GRU cell, as `lstm_init`; gates are reset, update, candidate."""
    return _init(key, inputs, features, 3, use_bias, bias_init, dtype)


def gru_cell(params: Recurrent, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Take one step of a GRU (Cho et al., arXiv 1406.1078): the body of a `jax.lax.scan` over time.

    r, z = sigmoid(...) of x W + b + h U + c; n = tanh(x W + b + r (h U + c)); h = (1 - z) n + z h. The reset
    gate acts behind the product with the state, as in PyTorch, Flax and Keras.

    Parameters
    ----------
    params
        From `gru_init`.
    state
        (..., features), in the dtype of ``x``.
    x
        (..., inputs), floating.

    Returns
    -------
    state, output : jax.Array
        (..., features), the same array.

    Examples
    --------
    >>> params = gru_init(jax.random.key(0), 3, 2)
    >>> gru_cell(params, jnp.zeros((5, 2)), jnp.ones((5, 3)))[1].shape
    (5, 2)
    """
    own, of_state = _sides("gru_cell", params, x, state, 3)
    (r, z, n), (of_r, of_z, of_n) = (jnp.split(part, 3, axis=-1) for part in (own, of_state))
    r, z = jax.nn.sigmoid(r + of_r), jax.nn.sigmoid(z + of_z)
    hidden = (1 - z) * jnp.tanh(n + r * of_n) + z * state
    return hidden, hidden


def _init(
    key: jax.Array,
    inputs: int,
    features: int,
    gates: int,
    use_bias: bool | Collection[str],
    bias_init: str | float | Initializer,
    dtype: jax.typing.DTypeLike,
) -> Recurrent:
    names = check.names("use_bias", use_bias, _SIDES)
    check.positive_int("features", features)
    first, *rest = jax.random.split(check.key(key), 1 + gates)
    draw = functools.partial(dense_init, bias_init=bias_init, dtype=dtype)
    own = draw(first, inputs, gates * features, use_bias="input" in names)
    square = functools.partial(draw, kernel_init="orthogonal", use_bias="hidden" in names)
    each = [square(k, features, features) for k in rest]
    return Recurrent(own, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *each))


def _sides(
    what: str, params: Recurrent, x: jax.Array, hidden: jax.Array, gates: int
) -> tuple[jax.Array, jax.Array]:
    """What comes in and the state, through their layers."""
    fix = f"Draw it with {what.removesuffix('_cell')}_init."
    if not isinstance(params, Recurrent):  # pyright: ignore[reportUnnecessaryIsInstance]
        check.fail(what, "Recurrent", type(params).__name__, fix, TypeError)
    for layer in params:
        check.record(what, layer, Linear, fix)
    x, hidden = check.floating(what, x), check.floating(what, hidden)
    kernel = params.hidden.kernel
    if kernel.ndim != 2 or kernel.shape[1] != gates * kernel.shape[0]:
        check.fail(what, f"a kernel (features, {gates} * features)", kernel.shape, fix)
    shape = (*x.shape[:-1], kernel.shape[0])
    if hidden.shape != shape or hidden.dtype != x.dtype:
        got, fix = f"{hidden.dtype} of shape {hidden.shape}", "Begin with zeros."
        check.fail(what, f"a state of {x.dtype} and shape {shape}", got, fix)
    return dense(params.input, x), dense(params.hidden, hidden)


def _check_state(what: str, cell: jax.Array, hidden: jax.Array) -> None:
    cell = check.floating(what, cell)
    if cell.shape != hidden.shape or cell.dtype != hidden.dtype:
        got, fix = f"{cell.dtype} of shape {cell.shape}", "Begin with zeros."
        check.fail(what, f"a cell of {hidden.dtype} and shape {hidden.shape}", got, fix)
