"""Linear layers with an optional bias: dense, convolution, transposed convolution.

One NamedTuple serves the three: ``Linear(kernel, bias)``. An absent bias is None, decided once in
``*_init`` and branched on in apply. Layouts follow Flax (NHWC inputs, HWIO kernels); with
``channels_first=True`` inputs and outputs are NCHW and kernels stay HWIO, as in Keras. Results have the
input's dtype: parameters are cast to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from biasjax import check, initializers
from biasjax._linear import form, windows
from biasjax._linear.windows import Padding

__all__ = ["Linear", "Padding", "conv", "conv_init", "conv_transpose", "dense", "dense_init"]


def __dir__() -> list[str]:
    return __all__


class Linear(NamedTuple):
    """Parameters of a linear layer.

    Attributes
    ----------
    kernel
        ``(inputs, outputs)``, or ``(*window, inputs // groups, outputs)`` for a convolution.
    bias
        ``(outputs,)``; ``(*positions, outputs)`` if untied; None if absent.
    """

    kernel: jax.Array
    bias: jax.Array | None = None


def dense_init(
    key: jax.Array,
    inputs: int,
    outputs: int,
    *,
    use_bias: bool = True,
    kernel_init: str | initializers.Initializer = "lecun_normal",
    bias_init: str | float | initializers.Initializer = "zeros",
    dtype: DTypeLike = jnp.float32,
) -> Linear:
    """Draw the parameters of a dense layer.

    Parameters
    ----------
    inputs, outputs
        Numbers of features.
    use_bias
        Whether there is a bias; None if not.
    kernel_init, bias_init
        Name from `initializers.NAMES`, number, or callable ``(key, shape, dtype)``.

    Examples
    --------
    >>> params = dense_init(jax.random.key(0), 3, 2, bias_init=1.0)
    >>> dense(params, jnp.zeros((1, 3)))
    Array([[1., 1.]], dtype=float32)
    >>> dense_init(jax.random.key(0), 3, 2, use_bias=False).bias is None
    True
    """
    shape = (check.positive_int("inputs", inputs), check.positive_int("outputs", outputs))
    check.flags(use_bias=use_bias)
    return _init(key, shape, shape[1:] if use_bias else None, kernel_init, bias_init, dtype)


def dense(params: Linear, x: jax.Array) -> jax.Array:
    """Apply a dense layer, y = x W + b.

    Parameters
    ----------
    params
        From `dense_init`.
    x
        ``(..., inputs)``, floating; the result is ``(..., outputs)`` in its dtype.
    """
    check.record("dense", params, Linear, "Draw it with dense_init.")
    x = check.floating("dense", x)
    if params.kernel.ndim != 2:
        check.fail("dense", "a 2-D kernel", params.kernel.shape, "Use conv for a convolution's parameters.")
    inputs = params.kernel.shape[0]
    if x.ndim == 0 or x.shape[-1] != inputs:
        fix = "Flatten or slice the features to fit."
        check.fail("dense", f"inputs of shape (..., {inputs})", x.shape, fix)
    return windows.add_bias(x @ params.kernel.astype(x.dtype), params.bias)


def conv_init(
    key: jax.Array,
    inputs: int,
    outputs: int,
    kernel_size: Sequence[int],
    *,
    groups: int = 1,
    use_bias: bool = True,
    untie_biases: bool = False,
    output_size: Sequence[int] | None = None,
    kernel_init: str | initializers.Initializer = "lecun_normal",
    bias_init: str | float | initializers.Initializer = "zeros",
    dtype: DTypeLike = jnp.float32,
) -> Linear:
    """Draw the parameters of a convolution or a transposed one.

    Parameters
    ----------
    inputs, outputs
        Numbers of channels.
    kernel_size
        Window, one to three entries, e.g. ``(3, 3)``.
    groups
        Number of channel groups; it divides ``inputs`` and ``outputs``.
    untie_biases
        One bias for each output position and channel instead of one per channel.
    output_size
        Spatial size of the output, needed with ``untie_biases`` alone.
    use_bias, kernel_init, bias_init
        As in `dense_init`.

    Returns
    -------
    Linear
        Kernel ``(*kernel_size, inputs // groups, outputs)``; bias ``(outputs,)``,
        ``(*output_size, outputs)`` or None.

    Examples
    --------
    The first layer of VGG16, 3·3·3·64 + 64 = 1792 parameters, and 64·224·224 biases when they are untied:

    >>> from biasjax import tree
    >>> tree.count(conv_init(jax.random.key(0), 3, 64, (3, 3)))
    Count(total=1792, biases=64)
    >>> draw = lambda key: conv_init(key, 3, 64, (3, 3), untie_biases=True, output_size=(224, 224))
    >>> tree.count(jax.eval_shape(draw, jax.random.key(0))).biases
    3211264
    """
    check.positive_int("inputs", inputs)
    check.positive_int("outputs", outputs)
    check.positive_int("groups", groups)
    check.flags(use_bias=use_bias, untie_biases=untie_biases)
    window = check.sizes("kernel_size", kernel_size)
    if not 1 <= len(window) <= 3:
        check.fail("kernel_size", "one to three entries", window, "Reshape the input to 1-D, 2-D or 3-D.")
    if inputs % groups or outputs % groups:
        fix = "Choose groups that divide both."
        check.fail("groups", f"a divisor of {inputs} inputs and {outputs} outputs", groups, fix)
    bias_shape: tuple[int, ...] = (outputs,)
    if untie_biases:
        positions = () if output_size is None else check.sizes("output_size", output_size)
        if len(positions) != len(window):
            check.fail("output_size", f"{len(window)} entries for untied biases", output_size, "Pass them.")
        bias_shape = (*positions, outputs)
    shape = (*window, inputs // groups, outputs)
    return _init(key, shape, bias_shape if use_bias else None, kernel_init, bias_init, dtype)


def conv(
    params: Linear,
    x: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    channels_first: bool = False,
) -> jax.Array:
    """Apply a convolution over one, two or three spatial axes.

    Under a `jax.vmap` over kernels XLA computes a grouped convolution, and on a CPU gradients at a thirtieth
    of the rate of convolutions. So this one has a batching rule and gradients of its own.

    Parameters
    ----------
    x
        ``(batch, *positions, inputs)``, or ``(batch, inputs, *positions)`` with ``channels_first``.
    strides, dilation
        One number, or one for each spatial axis.
    padding
        "SAME", "VALID", "CIRCULAR", one number, or a number or ``(low, high)`` for each spatial axis.
    groups
        Number of channel groups.
    channels_first
        Layout of ``x`` and of the result.

    Returns
    -------
    jax.Array
        In the layout and dtype of ``x``, with ``outputs`` channels.

    Examples
    --------
    >>> params = conv_init(jax.random.key(0), 3, 8, (3, 3))
    >>> conv(params, jnp.ones((1, 32, 32, 3)), strides=2).shape
    (1, 16, 16, 8)
    """
    check.record("conv", params, Linear, "Draw it with conv_init.")
    x, rank, _ = windows.check_conv("conv", params.kernel, x, groups, channels_first)
    x = jnp.moveaxis(x, 1, -1) if channels_first else x
    kernel = params.kernel.astype(x.dtype)
    window = kernel.shape[:rank]
    strides, dilation = windows.per_axis(rank, strides=strides, dilation=dilation)
    pads = windows.pad_widths(padding, rank)
    if pads == "CIRCULAR":
        reach = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
        x, pads = windows.wrap(x, reach), "VALID"
    windows.check_fit("conv", x.shape[1:-1], pads, window, dilation)
    y = form.convolve(x, kernel, strides, pads, dilation, groups)
    y = jnp.moveaxis(y, -1, 1) if channels_first else y
    return windows.add_bias(y, params.bias, channels_first)


def conv_transpose(
    params: Linear,
    x: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    channels_first: bool = False,
) -> jax.Array:
    """Apply a transposed (fractionally strided) convolution, as `flax.linen.ConvTranspose` does.

    Parameters
    ----------
    params
        From `conv_init` with one group. PyTorch's and Keras' kernels are the spatial mirror image.
    x, strides, dilation, channels_first
        As in `conv`.
    padding
        "SAME" (output = input · stride), "VALID", or explicit padding of the strided input;
        PyTorch's ``padding=p`` is ``kernel_size - 1 - p`` here.

    Examples
    --------
    >>> params = conv_init(jax.random.key(0), 3, 8, (4, 4))
    >>> conv_transpose(params, jnp.ones((1, 16, 16, 3)), strides=2).shape
    (1, 32, 32, 8)
    """
    check.record("conv_transpose", params, Linear, "Draw it with conv_init.")
    x, rank, dimensions = windows.check_conv("conv_transpose", params.kernel, x, 1, channels_first)
    pads = windows.pad_widths(padding, rank)
    if pads == "CIRCULAR":
        check.fail("conv_transpose", "SAME, VALID or explicit padding", pads, "Wrap the input with jnp.pad.")
    strides, dilation = windows.per_axis(rank, strides=strides, dilation=dilation)
    if not isinstance(pads, str):
        positions = x.shape[2:] if channels_first else x.shape[1:-1]
        spread = [s * (n - 1) + 1 for s, n in zip(strides, positions, strict=True)]
        windows.check_fit("conv_transpose", spread, pads, params.kernel.shape, dilation)
    y = jax.lax.conv_transpose(
        x,
        params.kernel.astype(x.dtype),
        strides,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=dimensions,
    )
    return windows.add_bias(y, params.bias, channels_first)


def _init(
    key: jax.Array,
    kernel_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None,
    kernel_init: str | initializers.Initializer,
    bias_init: str | float | initializers.Initializer,
    dtype: DTypeLike,
) -> Linear:
    dtype = check.dtype(dtype)
    kernel_key, bias_key = jax.random.split(check.key(key))
    kernel = initializers.draw(kernel_init, kernel_key, kernel_shape, dtype)
    if bias_shape is None:
        return Linear(kernel)
    fan_in, _ = initializers.fans(kernel_shape)
    return Linear(kernel, initializers.draw(bias_init, bias_key, bias_shape, dtype, fan_in=fan_in))
