"""The three faces of a convolution, and how each is computed fast.

A convolution is one trilinear form of input, kernel and output gradient, T(x, w, g) = <conv(x, w), g>. Its
derivatives by each, its faces, are the two gradients and the convolution itself.

XLA has a fast convolution on a CPU, for float32, windows that are not reversed and axes in their usual order.
The gradients that it derives are neither, and take 30 times as long. Here they are written as such
convolutions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from biasjax._varying import vary_like

INPUT, KERNEL, OUTPUT = "input", "kernel", "output"
OPERANDS = {OUTPUT: (INPUT, KERNEL), INPUT: (OUTPUT, KERNEL), KERNEL: (INPUT, OUTPUT)}
"""What each face is computed from."""

# Columns from which on a matrix product runs at its full rate; bytes that stay in a core's cache; examples
# from which on they can stand for channels
_COLUMNS, _CACHE, _EXAMPLES = 32, 2**20, 8


class Window(NamedTuple):
    """What is static of a convolution, channels last.

    Attributes
    ----------
    positions, window, out
        Sizes of input, kernel and output along the spatial axes.
    strides, pads, dilation
        As in `jax.lax.conv_general_dilated`, pads in numbers.
    channels
        Numbers of inputs, outputs and groups.
    """

    positions: tuple[int, ...]
    window: tuple[int, ...]
    out: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    channels: tuple[int, int, int]

    def shape(self, of: str, batch: int) -> tuple[int, ...]:
        """Shape of a face."""
        inputs, outputs, groups = self.channels
        if of == KERNEL:
            return (*self.window, inputs // groups, outputs)
        return (batch, *self.positions, inputs) if of == INPUT else (batch, *self.out, outputs)

    def widened(self, count: int, more: tuple[int, int]) -> Window:
        """As many times the inputs, or outputs, where ``more`` is 1 and not 0."""
        inputs, outputs, groups = self.channels
        return self._replace(channels=(inputs * count ** more[0], outputs * count ** more[1], groups))


def make_window(
    x: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: str | Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Window:
    """Make it of the shapes of input and kernel.

    Examples
    --------
    >>> make_window((1, 8, 5), (3, 5, 2), (2,), "SAME", (1,), 1).pads
    ((0, 1),)
    """
    positions, window = tuple(x[1:-1]), tuple(kernel[:-2])
    reach = _reach(window, dilation)
    if isinstance(pads, str):
        pads = jax.lax.padtype_to_pads(positions, reach, strides, pads)
    pads = tuple((low, high) for low, high in pads)
    padded = [n + low + high for n, (low, high) in zip(positions, pads, strict=True)]
    out = tuple(max(0, (n - r) // s + 1) for n, r, s in zip(padded, reach, strides, strict=True))
    return Window(positions, window, out, tuple(strides), pads, tuple(dilation), (x[-1], kernel[-1], groups))


def plain(of: str, window: Window, a: jax.Array, b: jax.Array) -> jax.Array:
    """Compute a face by XLA's convolution and its derivatives."""
    if of == OUTPUT:
        return _convolution(a, b, window.strides, window.pads, window.dilation, window.channels[2])
    x, kernel = (jax.ShapeDtypeStruct(window.shape(name, a.shape[0]), a.dtype) for name in (INPUT, KERNEL))
    if of == INPUT:
        return jax.linear_transpose(lambda x: plain(OUTPUT, window, x, b), x)(a)[0]
    return jax.linear_transpose(lambda kernel: plain(OUTPUT, window, a, kernel), kernel)(b)[0]


def products(of: str, window: Window, a: jax.Array, b: jax.Array) -> jax.Array:
    """Compute a face as one matrix product over what each window sees."""
    if not _is_simple(of, window, a, b):
        return plain(of, window, a, b)
    if of == INPUT:
        spread, kernel = _mirrored(window, a, b)
        seen = _seen(spread, window.window, window.dilation)
        return seen @ kernel.reshape(-1, kernel.shape[-1])
    seen = _seen(a, window.window, window.dilation, window.strides, window.pads)
    if of == OUTPUT:
        return seen @ b.reshape(-1, b.shape[-1])
    rows = math.prod(seen.shape[:-1])
    # The product the other way round takes twice the time
    y = b.reshape(rows, -1).T @ seen.reshape(rows, -1)
    return y.T.reshape(window.shape(KERNEL, 0))


def fast(of: str, window: Window, a: jax.Array, b: jax.Array) -> jax.Array:
    """Compute a face as a CPU does it fast."""
    if a.dtype != jnp.float32 or not _is_simple(of, window, a, b):
        return products(of, window, a, b)
    if of == OUTPUT:
        return _in_pairs(a, b, window.strides, window.pads, window.dilation)
    if of == INPUT:
        rank = len(window.window)
        return _in_pairs(*_mirrored(window, a, b), (1,) * rank, ((0, 0),) * rank, window.dilation)
    return _examples_as_channels(window, a, b)


def _is_simple(of: str, window: Window, a: jax.Array, b: jax.Array) -> bool:
    """Whether there are no groups, and numbers to compute."""
    return window.channels[2] == 1 and min(*a.shape, *b.shape, *window.shape(of, a.shape[0])) > 0


def _convolution(x: jax.Array, kernel: jax.Array, strides, pads, dilation, groups: int = 1) -> jax.Array:
    rank = len(strides)
    features = (0, rank + 1, *range(1, rank + 1))
    numbers = jax.lax.ConvDimensionNumbers(features, (rank + 1, rank, *range(rank)), features)
    options: dict[str, Any] = {"dimension_numbers": numbers, "feature_group_count": groups}
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, rhs_dilation=dilation, **options)


def _in_pairs(x: jax.Array, kernel: jax.Array, strides, pads, dilation) -> jax.Array:
    """Convolve; where there are few channels, for two neighbours at once, their outputs side by side.

    Of the kernel that sees both, a quarter is zero if it has three taps; but products with 16 columns run at
    half the rate of those with 32.
    """
    step, taps, channels = strides[-1], kernel.shape[-3], kernel.shape[-1]
    out = (x.shape[-2] + sum(pads[-1]) - (taps - 1) * dilation[-1] - 1) // step + 1
    if 2 * channels > _COLUMNS or taps == 1 or dilation[-1] > 1 or out % 2:
        return _convolution(x, kernel, strides, pads, dilation)
    ends = ((0, step), (step, 0))
    shifted = [jnp.pad(kernel, [*[(0, 0)] * len(strides[1:]), end, (0, 0), (0, 0)]) for end in ends]
    y = _convolution(x, jnp.concatenate(shifted, -1), (*strides[:-1], 2 * step), pads, dilation)
    return y.reshape(*y.shape[:-2], out, channels)


def _mirrored(window: Window, g: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Output gradient, spread and padded, and kernel, mirrored, whose convolution is the input gradient."""
    pads = []
    for size, out, (low, _), reach, step in zip(
        window.positions,
        window.out,
        window.pads,
        _reach(window.window, window.dilation),
        window.strides,
        strict=True,
    ):
        low = reach - 1 - low
        pads.append((low, size + reach - 1 - low - ((out - 1) * step + 1), step - 1))
    spread = jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    return spread, jnp.flip(kernel, range(len(pads))).swapaxes(-1, -2)


def _examples_as_channels(window: Window, x: jax.Array, g: jax.Array) -> jax.Array:
    """Gradient of the kernel: a convolution of x with g; as many examples at a time as fit into the cache."""
    batch, each = x.shape[0], x.size // x.shape[0] * x.dtype.itemsize
    some = next(n for n in range(batch, 0, -1) if batch % n == 0 and (n * each <= _CACHE or n == 1))
    pads = [
        (low, reach + (out - 1) * step - size - low)
        for (low, _), reach, out, step, size in zip(
            window.pads,
            _reach(window.window, window.dilation),
            window.out,
            window.strides,
            window.positions,
            strict=True,
        )
    ]

    def gradient(x: jax.Array, g: jax.Array) -> jax.Array:
        if some < min(batch, _EXAMPLES):
            return products(KERNEL, window, x, g)
        image, kernel = jnp.moveaxis(x, (0, -1), (-1, 0)), jnp.moveaxis(g, 0, -2)
        return jnp.moveaxis(_convolution(image, kernel, window.dilation, pads, window.strides), 0, -2)

    if some == batch:
        return gradient(x, g)
    parts = tuple(one.reshape(-1, some, *one.shape[1:]) for one in (x, g))
    return jax.lax.scan(
        lambda total, part: (total + gradient(*part), None),
        vary_like(jnp.zeros(window.shape(KERNEL, 0), x.dtype), parts),
        parts,
    )[0]


def _seen(
    x: jax.Array, window: Sequence[int], dilation: Sequence[int], strides: Sequence[int] = (), pads: Any = ()
) -> jax.Array:
    """What each window sees, ``(batch, *out, taps * channels)``."""
    rank = len(window)
    strides, pads = strides or (1,) * rank, pads or ((0, 0),) * rank
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])
    reach = _reach(window, dilation)
    last = [(n - r) // s * s for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    shifted = []
    for tap in itertools.product(*map(range, window)):
        first = [t * d for t, d in zip(tap, dilation, strict=True)]
        at = [slice(a, a + n + 1, s) for a, n, s in zip(first, last, strides, strict=True)]
        shifted.append(x[:, *at])
    return jnp.concatenate(shifted, -1)


def _reach(window: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Positions from the first to the last tap of a window."""
    return [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
