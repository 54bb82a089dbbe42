"""Checks of callers' input: one wording for every error.

Every message says what was expected, what came and what to do. All checks look at shapes, dtypes and
Python values alone, so they run before anything is compiled; a traced number passes, its value being
unknown.
"""

# jax and numpy leave parts of their signatures untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any, NoReturn

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

__all__ = ["accumulator", "choice", "fail", "floating", "in_range", "positive_int"]


def __dir__() -> list[str]:
    return __all__


def fail(what: str, expected: str, got: Any, fix: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raise ``error`` in the one wording of this library.

    Examples
    --------
    >>> fail("conv", "3 input channels", 4, "Slice the alpha channel off.")
    Traceback (most recent call last):
    ValueError: conv: expected 3 input channels, got 4. Slice the alpha channel off.
    """
    raise error(f"{what}: expected {expected}, got {got}. {fix}")


def floating(what: str, x: Any) -> jax.Array:
    """Return ``x`` as an array, or raise `TypeError` when its dtype is not a real floating one.

    Examples
    --------
    >>> floating("dense", jnp.arange(3))
    Traceback (most recent call last):
    TypeError: dense: expected a floating dtype, got int32. Cast it first, e.g. x.astype(jnp.float32).
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        fail(what, "a floating dtype", x.dtype, "Cast it first, e.g. x.astype(jnp.float32).", TypeError)
    return x


def choice(what: str, value: Any, choices: Collection[str]) -> str:
    """Return ``value`` if it is one of ``choices``, else raise with the nearest names.

    Examples
    --------
    >>> choice("order", "desne", ("dense", "conv"))
    Traceback (most recent call last):
    ValueError: order: expected one of conv, dense, got 'desne'. Did you mean 'dense'?
    """
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1)
    fix = f"Did you mean {near[0]!r}?" if near else "Choose one of these."
    fail(what, f"one of {', '.join(sorted(choices))}", repr(value), fix)


def positive_int(what: str, value: Any) -> int:
    """Return ``value`` as an `int` of at least one, or raise.

    Examples
    --------
    >>> positive_int("width", 0)
    Traceback (most recent call last):
    ValueError: width: expected an integer of at least 1, got 0. Give a positive size.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        fail(what, "an integer of at least 1", repr(value), "Sizes are static Python integers.", TypeError)
    if value < 1:
        fail(what, "an integer of at least 1", value, "Give a positive size.")
    return int(value)  # pyright: ignore[reportUnknownArgumentType]


def in_range(what: str, value: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    """Return ``value`` unchanged, or raise when a known entry is NaN or outside [``low``, ``high``].

    A traced value passes: it is known only when the compiled program runs.

    Examples
    --------
    >>> in_range("epsilon", -1e-5, low=0.0)
    Traceback (most recent call last):
    ValueError: epsilon: expected a number in [0.0, inf], got -1e-05. Give a value in that range.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    known = np.asarray(value, dtype=np.float64)
    if not np.all((known >= low) & (known <= high)):
        fail(what, f"a number in [{low}, {high}]", value, "Give a value in that range.")
    return value


def accumulator(dtype: DTypeLike) -> np.dtype[Any]:
    """Dtype to accumulate statistics of ``dtype`` in: at least float32.

    Examples
    --------
    >>> accumulator(jnp.bfloat16)
    dtype('float32')
    """
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)
