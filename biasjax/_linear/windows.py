"""How the window of a convolution goes over positions: layout, strides, padding, and all windows at once."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from biasjax import check

Padding = str | int | Sequence[int | tuple[int, int]]


def check_conv(
    what: str, kernel: jax.Array, x: ArrayLike, groups: int, channels_first: bool
) -> tuple[jax.Array, int, jax.lax.ConvDimensionNumbers]:
    """Check an input against a kernel; return it as an array, its spatial rank and dimension numbers."""
    x = check.floating(what, x)
    check.positive_int("groups", groups)
    check.flags(channels_first=channels_first)
    rank = kernel.ndim - 2
    if not 1 <= rank <= 3:
        check.fail(what, "a kernel of 3 to 5 axes", kernel.shape, "Draw it with conv_init.")
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


def check_fit(
    what: str,
    positions: Sequence[int],
    pads: str | Sequence[tuple[int, int]],
    window: Sequence[int],
    dilation: Sequence[int],
) -> None:
    """Raise where the window does not fit into the padded positions."""
    if pads == "SAME":
        return
    widths = [(0, 0)] * len(positions) if isinstance(pads, str) else pads
    padded = [n + low + high for n, (low, high) in zip(positions, widths, strict=True)]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=False)]
    if any(r > n for r, n in zip(reach, padded, strict=True)):
        fix = "Pad more or use a smaller kernel."
        got = f"{tuple(reach)} for {tuple(padded)}"
        check.fail(what, "a window that fits into the input", got, fix)


def wrap(x: jax.Array, reach: Sequence[int]) -> jax.Array:
    """Pad the positions periodically so that a window that reaches this far keeps their number."""
    wrap = [(r // 2, r - r // 2) for r in reach]
    return jnp.pad(x, [(0, 0), *wrap, (0, 0)], mode="wrap")


def per_axis(rank: int, **values: int | Sequence[int]) -> list[tuple[int, ...]]:
    """One positive number for each spatial axis, of each of ``values``."""
    found = []
    for what, value in values.items():
        several = tuple(value) if isinstance(value, (list, tuple)) else (value,) * rank
        if len(several) != rank:
            check.fail(what, f"one number or {rank}", several, "Give one for each spatial axis.")
        found.append(check.sizes(what, several))
    return found


def pad_widths(padding: Padding, rank: int) -> str | list[tuple[int, int]]:
    """Name of a padding, or what it adds at both ends of each spatial axis."""
    if isinstance(padding, str):
        return check.choice("padding", padding.upper(), ("SAME", "VALID", "CIRCULAR"))
    entries = list(padding) if isinstance(padding, (list, tuple)) else [padding] * rank
    pairs = [entry if isinstance(entry, (list, tuple)) else (entry, entry) for entry in entries]
    if len(pairs) != rank or any(len(pair) != 2 for pair in pairs):
        expected = f"a name, one number or {rank} entries, each a number or (low, high)"
        check.fail("padding", expected, padding, "Give one per spatial axis.")
    low = -(2**31)  # padding below 0 crops
    return [(check.positive_int("padding", a, low), check.positive_int("padding", b, low)) for a, b in pairs]


def add_bias(y: jax.Array, bias: jax.Array | None, channels_first: bool = False) -> jax.Array:
    """Add a bias of shape (features,) or, untied, (*positions, features)."""
    if bias is None:
        return y
    positions, features = (y.shape[2:], y.shape[1]) if channels_first else (y.shape[1:-1], y.shape[-1])
    if bias.shape[-1:] != (features,):
        check.fail("bias", f"{features} entries, as the kernel has outputs", bias.shape, "Make them agree.")
    if bias.ndim > 1 and bias.shape[:-1] != positions:
        fix = "Untied biases fit one input size; pass it as output_size to conv_init."
        check.fail("bias", f"untied biases for {positions} positions", bias.shape[:-1], fix)
    # All axes, for rank promotion may be forbidden
    bias = bias.astype(y.dtype).reshape(*[1] * (y.ndim - bias.ndim), *bias.shape)
    return y + (jnp.moveaxis(bias, -1, 1) if channels_first else bias)
