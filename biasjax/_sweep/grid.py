"""Product grids: nested vmaps over axes, and their division into regions of equal shape.

A region is a tuple of slices, one for each axis. A grid is cut along its outermost axes only, so that what a
region computes once for an outer coordinate still serves all of its inner ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import check

Region = tuple[slice, ...]


class Layout(NamedTuple):
    """How a grid is cut: one value of each axis before ``axis``, ``block`` values of it, all of the rest."""

    axis: int
    block: int


def axis_arrays(axes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Check axes by name and return them as arrays."""
    if not isinstance(axes, Mapping):
        fix = "E.g. {'sigma': [0.5, 1.0]}, or {} for a single point."
        check.fail("axes", "a dict of name -> values", type(axes).__name__, fix, TypeError)
    return {check_name("axes", name): axis_values(name, values) for name, values in axes.items()}


def check_name(what: str, name: Any) -> str:
    """Return a name that can be passed as a keyword, or raise."""
    if not isinstance(name, str) or not name:
        check.fail(what, "names", repr(name), "They are passed as keywords: use strings.", TypeError)
    return name


def axis_values(name: str, values: Any) -> np.ndarray:
    """Return an axis as an array in the dtype that JAX will use, or raise unless it is 1-D and not empty.

    Examples
    --------
    >>> axis_values("sigma_w", [1.0, 2.0]).dtype
    dtype('float32')
    """
    try:
        values = np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:  # ragged, a key, or traced
        got, fix = type(error).__name__, "Pass a list or an array of numbers."
        check.fail(f"axis {name!r}", "a 1-D array of numbers", got, fix, TypeError)
    if values.ndim != 1 or values.size == 0:
        check.fail(f"axis {name!r}", "a non-empty 1-D array", f"shape {values.shape}", "Use np.atleast_1d.")
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        check.fail(f"axis {name!r}", "numbers", values.dtype, "Pass names and objects as static.", TypeError)
    with np.errstate(over="ignore", under="ignore"):
        cast = values.astype(jax.dtypes.canonicalize_dtype(values.dtype))
    whole = np.issubdtype(values.dtype, np.integer)
    if whole and not np.array_equal(cast, values):
        check.fail(
            f"axis {name!r}", f"integers that fit into {cast.dtype}", values.max(), "Use smaller ones."
        )
    if not whole and (lost := values[_lost(values, cast)]).size:
        fix = "Scale it, or enable jax_enable_x64."
        check.fail(f"axis {name!r}", f"numbers that {cast.dtype} holds", lost[0], fix)
    if name == "seed" and not whole:
        check.fail("axis 'seed'", "integers", values.dtype, "They number the keys.", TypeError)
    return cast


def check_size(chunk_size: Any) -> None:
    """Raise unless it is a number of points or "auto"."""
    if not isinstance(chunk_size, str) or chunk_size != "auto":
        check.positive_int("chunk_size", chunk_size)


def _lost(values: np.ndarray, cast: np.ndarray) -> np.ndarray:
    """Where a cast overflows, or underflows: devices take what is below the normal numbers as 0."""
    least = np.finfo(cast.dtype).tiny if np.issubdtype(cast.dtype, np.inexact) else 0
    return (np.isfinite(values) & ~np.isfinite(cast)) | ((np.abs(cast) < least) & (values != 0))


def cut(sizes: Sequence[int], points: int) -> Layout:
    """Choose the regions: at most ``points`` points each, of nearly equal size, as few as possible.

    Examples
    --------
    >>> cut((3, 10, 10), 1000), cut((3, 10, 10), 45), cut((3, 10, 10), 1)
    (Layout(axis=0, block=3), Layout(axis=1, block=4), Layout(axis=2, block=1))
    """
    inner = 1
    for axis in reversed(range(len(sizes))):
        if inner * sizes[axis] > points or axis == 0:
            blocks = math.ceil(sizes[axis] / max(1, points // inner))
            return Layout(axis, math.ceil(sizes[axis] / blocks))
        inner *= sizes[axis]
    return Layout(0, 1)


def regions(sizes: Sequence[int], layout: Layout) -> list[Region]:
    """List the regions of a grid in order; the last along the cut axis may be smaller.

    Examples
    --------
    >>> regions((2, 3), Layout(1, 2))[:2]
    [(slice(0, 1, None), slice(0, 2, None)), (slice(0, 1, None), slice(2, 3, None))]
    """
    if not sizes:
        return [()]
    steps = [1] * layout.axis + [layout.block] + list(sizes[layout.axis + 1 :])
    starts = [range(0, size, step) for size, step in zip(sizes, steps, strict=True)]
    return [
        tuple(slice(at, min(at + step, size)) for at, step, size in zip(corner, steps, sizes, strict=True))
        for corner in itertools.product(*starts)
    ]


def lengths(sizes: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """Shape of the largest region.

    Examples
    --------
    >>> lengths((3, 10, 10), Layout(1, 4))
    (1, 4, 10)
    """
    return tuple(
        1 if axis < layout.axis else min(layout.block, size) if axis == layout.axis else size
        for axis, size in enumerate(sizes)
    )


def halves(region: Region) -> tuple[int, Region, Region]:
    """Cut a region in two along its outermost axis with more than one value; return that axis too.

    Examples
    --------
    >>> halves((slice(2, 3), slice(0, 5)))
    (1, (slice(2, 3, None), slice(0, 2, None)), (slice(2, 3, None), slice(2, 5, None)))
    """
    for axis, part in enumerate(region):
        length = part.stop - part.start
        if length > 1:
            middle = part.start + length // 2
            before, after = region[:axis], region[axis + 1 :]
            first, second = slice(part.start, middle), slice(middle, part.stop)
            return axis, (*before, first, *after), (*before, second, *after)
    return check.fail("memory", "room for a single point", region, "Make it smaller or use a larger device.")


def shape(region: Region) -> tuple[int, ...]:
    """Numbers of values of a region along each axis."""
    return tuple(part.stop - part.start for part in region)


def take(axes: Sequence[np.ndarray], region: Region, lengths: Sequence[int]) -> list[np.ndarray]:
    """Values of a region, each axis padded to a length by repeating its last value.

    Examples
    --------
    >>> take([np.arange(5)], (slice(3, 5),), (4,))
    [array([3, 4, 4, 4])]
    """
    return [
        np.pad(values[part], (0, length - (part.stop - part.start)), mode="edge")
        for values, part, length in zip(axes, region, lengths, strict=True)
    ]


def nest(
    fn: Callable[..., Any],
    names: Sequence[str],
    static: Mapping[str, Any],
    *,
    lengths: Sequence[int] | None = None,
    carries: bool = False,
    blocks: Layout | None = None,
) -> Callable[..., Any]:
    """Nested vmaps of a point function, the first axis outermost; the axis "seed" becomes the key.

    ``fn(key, **point, **static)``, or with ``carries`` ``fn(carry, key, ...)``, becomes a function of the
    root key's data and a 1-D array for each axis, ``(bits, *values)`` or ``(carry, bits, *values)``; carry
    and outputs have the grid's axes in front. With ``blocks`` one region of that layout is vmapped, and they
    come one after another. Axes of one value, by ``lengths``, are not vmapped: each level costs tracing.
    """

    def point(*arguments: Any) -> Any:
        carry, (bits, *values) = arguments[:carries], arguments[carries:]
        numbers = dict(zip(names, values, strict=True))
        seed = numbers.pop("seed", None)
        key = jax.random.wrap_key_data(bits)
        key = key if seed is None else jax.random.fold_in(key, seed)
        return fn(*carry, key, **numbers, **static)

    nested = point
    for i in reversed(range(len(names))):
        if lengths is not None and lengths[i] == 1:
            nested = _alone(nested, carries, i)
        elif blocks is None or i > blocks.axis:
            mapped = [0 if j == i else None for j in range(len(names))]
            nested = jax.vmap(nested, in_axes=(*[0] * carries, None, *mapped))
        else:
            nested = _in_turn(nested, carries, i, blocks.block if i == blocks.axis else 1)
    return nested


def _alone(fn: Callable[..., Any], carries: int, axis: int) -> Callable[..., Any]:
    """Call a nested function with the only value of one axis."""

    def called(*arguments: Any) -> Any:
        own = carries + 1 + axis
        carry, value = jax.tree.map(lambda x: x[0], (arguments[:carries], arguments[own]))
        found = fn(*carry, *arguments[carries:own], value, *arguments[own + 1 :])
        return jax.tree.map(lambda y: jnp.asarray(y)[None], found)

    return called


def _in_turn(fn: Callable[..., Any], carries: int, axis: int, block: int) -> Callable[..., Any]:
    """Map a nested function over one axis, vmapping so many values, which divide it, at a time."""

    def mapped(*arguments: Any) -> Any:
        own = carries + 1 + axis

        def one(varying: tuple[Any, ...]) -> Any:
            *carry, value = varying
            return fn(*carry, *arguments[carries:own], value, *arguments[own + 1 :])

        varying = (*arguments[:carries], arguments[own])
        if block == 1:
            return jax.lax.map(one, varying)
        split = jax.tree.map(lambda x: x.reshape(x.shape[0] // block, block, *x.shape[1:]), varying)
        found = jax.lax.map(jax.vmap(one), split)
        return jax.tree.map(lambda y: y.reshape(y.shape[0] * block, *y.shape[2:]), found)

    return mapped
