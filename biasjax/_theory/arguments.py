"""Arguments of theory's functions: checked, of one shape, and of one dtype to compute in."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from biasjax import activations, check
from biasjax.activations import Activation

Numbers = ArrayLike | Sequence[float]

_LARGEST_KINK = 1e30


def floats(**values: Numbers) -> tuple[list[jax.Array], np.dtype]:
    """Convert to arrays of one dtype to compute in, and tell the dtype that results are to have.

    Examples
    --------
    >>> arrays, dtype = floats(q=1, sigma_w=jnp.ones(3, jnp.bfloat16))
    >>> arrays[1].dtype, dtype
    (dtype('float32'), dtype(bfloat16))
    """
    known = [check.real(name, value) for name, value in values.items()]
    # Arrays of jax stay on their devices
    pairs = zip(values.values(), known, strict=True)
    known = [value if isinstance(value, jax.Array) else array for value, array in pairs]
    # Python numbers, and integers, follow the dtype of the arrays beside them
    typed = [
        jax.dtypes.canonicalize_dtype(x.dtype)
        for x, value in zip(known, values.values(), strict=True)
        if jnp.issubdtype(x.dtype, jnp.floating)
        and not getattr(value, "weak_type", type(value) in (bool, int, float))
    ]
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*typed or [float])
    with np.errstate(over="ignore"):
        return [jnp.asarray(x.astype(check.accumulator(dtype))) for x in known], dtype


def ranged(**values: Numbers) -> tuple[list[jax.Array], np.dtype]:
    """As `floats`, of one shape: correlations (``c``) in [-1, 1], and others from 0 to the greatest number.

    Examples
    --------
    >>> arrays, dtype = ranged(sigma_w=1.0, sigma_b=jnp.zeros(3))
    >>> [x.shape for x in arrays]
    [(3,), (3,)]
    """
    arrays, dtype = floats(**values)
    greatest = float(jnp.finfo(arrays[0].dtype).max)
    for name, value in values.items():
        low, high = (-1.0, 1.0) if name == "c" else (0.0, greatest)
        check.in_range(name, value, low=low, high=high)
    shapes = [x.shape for x in arrays]
    try:
        jnp.broadcast_shapes(*shapes)
    except ValueError:
        check.fail(", ".join(values), "shapes that broadcast", shapes, "Give each scale an axis of its own.")
    return list(jnp.broadcast_arrays(*arrays)), dtype


def checked(value: Any, **numbers: Numbers) -> tuple[Activation, list[jax.Array], np.dtype]:
    """Check an activation and numbers, as `activation` and `ranged` do.

    Examples
    --------
    >>> act, (q,), dtype = checked("relu", q=2.0)
    >>> act.kinks, q.shape, dtype
    ((0.0,), (), dtype('float32'))
    """
    arrays, dtype = ranged(**numbers)
    return activation(value, dtype), arrays, dtype


def stacked(name: str, array: jax.Array, shape: str) -> None:
    """Raise when an array of ``shape`` has no axis.

    Examples
    --------
    >>> stacked("q", jnp.float32(1.0), "(depth, ...)")
    Traceback (most recent call last):
    ValueError: q: expected an array (depth, ...), got one number. Stack those of all.
    """
    if array.ndim == 0:
        check.fail(name, f"an array {shape}", "one number", "Stack those of all.")


def activation(value: Any, dtype: Any = None) -> Activation:
    """Look an activation up as `activations.get`, and see that it is elementwise in ``dtype``.

    Examples
    --------
    >>> activation(lambda x: 1.0)
    Traceback (most recent call last):
    TypeError: activation: expected float32[2,3] of float32[2,3], got float32[]. ...
    """
    act = activations.get(value)
    try:
        hash(act)
    except TypeError:
        check.fail("activation", "what can be hashed", value, "Give kinks as a tuple.", TypeError)
    return _elementwise(act, check.accumulator(jnp.result_type(float) if dtype is None else dtype))


# Traced once for each function and dtype
@functools.lru_cache(maxsize=1024)
def _elementwise(act: Activation, dtype: np.dtype) -> Activation:
    check.function("activation", act.fn)
    for kink in act.kinks:
        check.number("kinks", kink, -_LARGEST_KINK, _LARGEST_KINK)
    shape, fix = f"{dtype}[2,3]", "Write it elementwise, with jax.numpy alone."
    try:
        y = jax.eval_shape(lambda x: act.fn(x), jax.ShapeDtypeStruct((2, 3), dtype))
    except Exception as error:
        shown = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        check.fail("activation", f"{shape} of {shape}", shown, fix, TypeError)
    if not isinstance(y, jax.ShapeDtypeStruct) or (y.shape, y.dtype) != ((2, 3), dtype):
        got = f"{y.dtype}[{','.join(map(str, y.shape))}]" if isinstance(y, jax.ShapeDtypeStruct) else y
        check.fail("activation", f"{shape} of {shape}", got, fix, TypeError)
    return act
