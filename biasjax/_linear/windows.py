"""How the window of a convolution goes over positions: layout, strides, padding, and all windows at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from biasjax import check

Padding = str | int | Sequence[int | tuple[int, int]]


def check_conv(
    what: str, kernel: jax.Array, x: ArrayLike, groups: int, channels_first: bool
) -> tuple[jax.Array, int, jax.lax.ConvDimensionNumbers]:
    """Check an input against a kernel; return it as an array, its spatial rank and dimension numbers."""
    x = check.floating(what, x)
    check.positive_int("groups", groups)
    rank = kernel.ndim - 2
    layout = "(batch, channels, *positions)" if channels_first else "(batch, *positions, channels)"
    if x.ndim != rank + 2:
        fix = "Add or drop axes (x[None] adds a batch axis)."
        check.fail(what, f"{rank + 2} axes, {layout}, for a {rank}-D kernel", x.shape, fix)
    channels = 1 if channels_first else rank + 1
    inputs = kernel.shape[-2] * groups
    if x.shape[channels] != inputs:
        fix = f"The layout is {layout}; see channels_first."
        check.fail(what, f"{inputs} input channels (groups={groups})", f"an input of shape {x.shape}", fix)
    if kernel.shape[-1] % groups:
        check.fail(what, f"groups that divide {kernel.shape[-1]} outputs", groups, "Choose a divisor.")
    spatial = tuple(range(2, rank + 2)) if channels_first else tuple(range(1, rank + 1))
    inout = (0, channels, *spatial)
    kernel_spec = (rank + 1, rank, *range(rank))
    return x, rank, jax.lax.ConvDimensionNumbers(inout, kernel_spec, inout)


def wrap(x: jax.Array, reach: Sequence[int], channels_first: bool) -> jax.Array:
    """Pad the positions periodically so that a window that reaches this far keeps their number."""
    wrap = [(r // 2, r - r // 2) for r in reach]
    widths = [(0, 0), (0, 0), *wrap] if channels_first else [(0, 0), *wrap, (0, 0)]
    return jnp.pad(x, widths, mode="wrap")


def im2col(
    kernel: jax.Array,
    x: jax.Array,
    strides: Sequence[int],
    pads: str | Sequence[tuple[int, int]],
    dilation: Sequence[int],
    channels_first: bool,
) -> jax.Array:
    """Convolve as one matrix product over the shifted copies of the input."""
    x = jnp.moveaxis(x, 1, -1) if channels_first else x
    positions, window = x.shape[1:-1], kernel.shape[:-2]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
    if isinstance(pads, str):
        pads = jax.lax.padtype_to_pads(positions, reach, strides, pads)
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    sizes = [max(0, (n - r) // s + 1) for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    shifted = []
    for tap in itertools.product(*map(range, window)):
        at = [
            slice(t * d, t * d + (size - 1) * s + 1 if size else 0, s)
            for t, d, s, size in zip(tap, dilation, strides, sizes, strict=True)
        ]
        shifted.append(x[:, *at])
    y = jnp.concatenate(shifted, -1) @ kernel.reshape(-1, kernel.shape[-1])
    return jnp.moveaxis(y, -1, 1) if channels_first else y


def per_axis(what: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """One positive number for each spatial axis."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(values) != rank:
        check.fail(what, f"one number or {rank}", values, "Give one for each spatial axis.")
    return tuple(check.positive_int(what, v) for v in values)


def pad_widths(padding: Padding, rank: int) -> str | list[tuple[int, int]]:
    """Name of a padding, or what it adds at both ends of each spatial axis."""
    if isinstance(padding, str):
        return check.choice("padding", padding.upper(), ("SAME", "VALID", "CIRCULAR"))
    entries = list(padding) if isinstance(padding, Sequence) else [padding] * rank
    if len(entries) != rank or any(np.shape(entry) not in ((), (2,)) for entry in entries):
        expected = f"a name, one number or {rank} entries, each a number or (low, high)"
        check.fail("padding", expected, padding, "Give one per spatial axis.")
    pairs = [np.broadcast_to(entry, 2) for entry in entries]
    return [(int(low), int(high)) for low, high in pairs]
