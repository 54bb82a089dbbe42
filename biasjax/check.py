"""Checks of callers' input: one wording for every error.

Every message says what was expected, what came and what to do. All checks look at shapes, dtypes and
Python values alone, so they run before anything is compiled; a traced number, not being known, passes.
"""

# jax and numpy leave parts of their signatures untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Sequence
from typing import Any, NoReturn, TypeVar, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

__all__ = [
    "accumulator",
    "choice",
    "dtype",
    "fail",
    "flags",
    "floating",
    "function",
    "in_range",
    "integers",
    "key",
    "names",
    "number",
    "positive_int",
    "real",
    "record",
    "sizes",
]


def __dir__() -> list[str]:
    return __all__


Kind = TypeVar("Kind")

_LARGEST = 2**31 - 1  # of a size: arrays are indexed by int32
_LONGEST = 80  # characters of a value in a message


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
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError, OverflowError):
        fail(what, "an array of floats", _shown(x), "Pass an array of jax or numpy.", TypeError)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        fail(what, "a floating dtype", x.dtype, "Cast it first, e.g. x.astype(jnp.float32).", TypeError)
    return x


def integers(what: str, x: Any) -> jax.Array:
    """Return labels or tokens as an array, or raise `TypeError`.

    Examples
    --------
    >>> integers("embed", jnp.array([0.5]))
    Traceback (most recent call last):
    TypeError: embed: expected an array of integers, got float32. Cast it with x.astype(jnp.int32).
    """
    fix = "Cast it with x.astype(jnp.int32)."
    if not isinstance(x, (jax.Array, np.ndarray)):
        fail(what, "an array of integers", _shown(x), fix, TypeError)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        fail(what, "an array of integers", x.dtype, fix, TypeError)
    return jnp.asarray(x)


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
    fail(what, f"one of {', '.join(sorted(choices))}", _shown(value), fix)


def names(what: str, value: Any, choices: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``choices`` that are meant: all for True, none for False, or a collection of names.

    Examples
    --------
    >>> names("use_bias", True, ("query", "key"))
    ('query', 'key')
    >>> names("use_bias", "query", ("query", "key"))
    Traceback (most recent call last):
    TypeError: use_bias: expected True, False or names, got 'query'. E.g. ('query',).
    """
    if isinstance(value, (bool, np.bool_)):
        return tuple(choices) if value else ()
    if isinstance(value, (str, jax.Array, np.ndarray)) or not isinstance(value, Collection):
        fail(what, "True, False or names", _shown(value), f"E.g. {tuple(choices[:1])}.", TypeError)
    return tuple(choice(what, name, choices) for name in cast(Collection[Any], value))


def positive_int(what: str, value: Any, low: int = 1) -> int:
    """Return ``value`` as an `int` of at least ``low``, or raise; so beyond int32, which indexes arrays.

    Examples
    --------
    >>> positive_int("width", 0)
    Traceback (most recent call last):
    ValueError: width: expected an integer of at least 1, got 0. Give a positive size.
    """
    expected = f"an integer of at least {low}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        fail(what, expected, _shown(value), "Sizes are static Python integers.", TypeError)
    if value < low:
        fail(what, expected, _shown(value), "Give a positive size.")
    if value > _LARGEST:
        fail(what, f"an integer of at most {_LARGEST}", _shown(value), "Give a size that fits in memory.")
    return int(value)


def sizes(what: str, values: Any, low: int = 1) -> tuple[int, ...]:
    """Return a sequence of sizes, each at least ``low``, as a tuple, or raise.

    Examples
    --------
    >>> sizes("kernel_size", 3)
    Traceback (most recent call last):
    TypeError: kernel_size: expected a sequence of sizes, got 3. Write it as a tuple, e.g. (3, 3).
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        fix = "Write it as a tuple, e.g. (3, 3)."
        fail(what, "a sequence of sizes", _shown(values), fix, TypeError)
    return tuple(positive_int(what, value, low) for value in values)


def real(what: str, value: Any, expected: str = "a real number, or an array of them") -> Any:
    """Return ``value`` as an array of numpy, or traced as it is, if it is of real numbers, else raise.

    Examples
    --------
    >>> real("factor", "0.5")
    Traceback (most recent call last):
    TypeError: factor: expected a real number, or an array of them, got '0.5'. Convert it first.
    """
    known = value
    if not isinstance(value, jax.core.Tracer):
        known = None
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            known = np.asarray(value)
    if known is None or not _is_real(known.dtype):
        fail(what, expected, _shown(value), "Convert it first.", TypeError)
    return known


def in_range(what: str, value: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    """Return ``value`` unchanged, or raise when a known entry is NaN or outside [``low``, ``high``].

    A traced value passes: it is known only when the compiled program runs.

    Examples
    --------
    >>> in_range("epsilon", -1e-5, low=0.0)
    Traceback (most recent call last):
    ValueError: epsilon: expected a number in [0.0, inf], got -1e-05. Give a value in that range.
    """
    expected = f"a number in [{low}, {high}]"
    known = real(what, value, expected)
    if isinstance(known, jax.core.Tracer):
        return value
    known = known.astype(np.float64)
    if not np.all((known >= low) & (known <= high)):
        fail(what, expected, _shown(value), "Give a value in that range.")
    return value


def number(what: str, value: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    """Return ``value`` if it is a scalar that passes `in_range`, else raise.

    Examples
    --------
    >>> number("momentum", [0.9, 0.99])
    Traceback (most recent call last):
    ValueError: momentum: expected one number, got shape (2,). Map over several with jax.vmap.
    """
    in_range(what, value, low, high)
    if np.shape(value):
        fail(what, "one number", f"shape {np.shape(value)}", "Map over several with jax.vmap.")
    return value


def flags(**values: Any) -> None:
    """Raise when a value is no `bool`.

    Examples
    --------
    >>> flags(use_bias=None)
    Traceback (most recent call last):
    TypeError: use_bias: expected True or False, got None. What changes a program is static.
    """
    for name, value in values.items():
        if not isinstance(value, (bool, np.bool_)):
            fail(name, "True or False", _shown(value), "What changes a program is static.", TypeError)


def function(what: str, value: Any) -> Any:
    """Return ``value`` if it can be called, else raise `TypeError`.

    Examples
    --------
    >>> function("fn", 3)
    Traceback (most recent call last):
    TypeError: fn: expected a function, got 3. Pass the function itself.
    """
    if not callable(value):
        fail(what, "a function", _shown(value), "Pass the function itself.", TypeError)
    return value


def key(value: Any) -> jax.Array:
    """Return ``value`` if it is one PRNG key, else raise.

    Examples
    --------
    >>> key(0)
    Traceback (most recent call last):
    TypeError: key: expected one PRNG key, got 0. Make it with jax.random.key(0).
    """
    typed = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    raw = isinstance(value, jax.Array) and value.dtype == jnp.uint32
    if not (typed and value.ndim == 0) and not (raw and value.shape == (2,)):
        fix = "Make it with jax.random.key(0)."
        fail("key", "one PRNG key", _shown(value), fix, TypeError)
    return value


def dtype(value: Any) -> np.dtype[Any]:
    """Return ``value`` as a floating dtype that this session has, else raise.

    Examples
    --------
    >>> dtype("int32")
    Traceback (most recent call last):
    TypeError: dtype: expected a floating dtype, got 'int32'. Use e.g. jnp.float32 or "bfloat16".
    """
    return _dtype(value)


def record(what: str, value: Any, kind: type[Kind], fix: str) -> Kind:
    """Return ``value`` if it is a ``kind``, a NamedTuple of arrays, and whole; else raise `TypeError`.

    Fields of a default None may be absent.

    Examples
    --------
    >>> from biasjax.norms import BatchStats
    >>> record("batch_norm", None, BatchStats, "Make it with batch_stats_init.")
    Traceback (most recent call last):
    TypeError: batch_norm: expected BatchStats, got None. Make it with batch_stats_init.
    """
    if not isinstance(value, kind):
        fail(what, kind.__name__, _shown(value), fix, TypeError)
    optional = cast(Any, kind)._field_defaults
    for name, leaf in cast(Any, value)._asdict().items():
        missing = leaf is None and name not in optional
        wrong = not isinstance(leaf, (jax.Array, np.ndarray)) or not _is_real(leaf.dtype)
        if missing or (wrong and leaf is not None):
            fail(what, f"{kind.__name__} with an array of numbers as {name}", _shown(leaf), fix, TypeError)
    return value


def accumulator(dtype: DTypeLike) -> np.dtype[Any]:
    """Dtype to accumulate statistics of ``dtype`` in: at least float32.

    Examples
    --------
    >>> accumulator(jnp.bfloat16)
    dtype('float32')
    """
    found = _dtype(dtype)
    return jnp.dtype(found if jnp.finfo(found).bits >= 32 else jnp.float32)


def _dtype(value: Any) -> np.dtype[Any]:
    value = jax.dtypes.canonicalize_dtype(float) if value is float else value  # that of the session
    found = None
    if isinstance(value, (str, type, np.dtype)):
        with contextlib.suppress(TypeError):
            found = jnp.dtype(value)
    if found is None or not jnp.issubdtype(found, jnp.floating):
        fail("dtype", "a floating dtype", _shown(value), 'Use e.g. jnp.float32 or "bfloat16".', TypeError)
    if found == np.float64 and not jax.config.read("jax_enable_x64"):
        fail("dtype", "at most 32 bits", found, "Allow more with jax.enable_x64(True).", TypeError)
    return found


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def _shown(value: Any) -> str:
    """Value in a message, short; of arrays that are not, dtype and shape."""
    if hasattr(value, "dtype") and getattr(value, "ndim", 0):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
