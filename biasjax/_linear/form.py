"""The convolution as a primitive with a batching rule of its own, so that a vmap over networks is fast.

XLA has no convolution with a batch of kernels: `jax.vmap` makes a grouped one of it, which a CPU computes
several times slower than one network after the other. Here axes of networks stay apart until the program is
lowered. Then networks that only one of the two operands has lie side by side in its batch or channels; those
that both have are a loop on a CPU, as one network fits into a core's cache, and a batched product elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jax.interpreters import ad, batching, mlir

from biasjax._linear.faces import INPUT, KERNEL, OPERANDS, OUTPUT, Window, fast, make_window, plain, products
from biasjax._varying import vary_like

Compute = Callable[[str, Window, jax.Array, jax.Array], jax.Array]

conv_p = jex.Primitive("conv")


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    pads: str | Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int = 1,
) -> jax.Array:
    """Convolve ``(batch, *positions, inputs)`` with ``(*window, inputs // groups, outputs)``.

    Arguments are those of `jax.lax.conv_general_dilated`, in numbers or pads by name.
    """
    window = make_window(x.shape, kernel.shape, strides, pads, dilation, groups)
    return _bind(vary_like(x, kernel), vary_like(kernel, x), OUTPUT, window, 0)


def _bind(a: jax.Array, b: jax.Array, of: str, window: Window, models: int) -> jax.Array:
    """Bind the primitive: a face of a convolution, of operands with so many axes of networks in front.

    An axis that an operand lacks has size 1 there. Like a call, the equation holds a program that computes
    the same, by what XLA has, for whoever walks through it.
    """
    config: Any = jax.config
    precision = str(config.jax_default_matmul_precision)  # which the program holds, too
    program = _program(of, window, models, precision, *((x.shape, jnp.dtype(x.dtype)) for x in (a, b)))
    return conv_p.bind(a, b, of=of, window=window, models=models, jaxpr=program)


@functools.cache
def _program(
    of: str, window: Window, models: int, precision: str, *operands: tuple[Any, Any]
) -> jex.ClosedJaxpr:
    fn = functools.partial(_many, plain, jax.vmap, of=of, window=window, models=models)
    return jax.make_jaxpr(fn)(*(jax.ShapeDtypeStruct(*one) for one in operands))


@conv_p.def_impl
def _run(a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
    return _jitted(**params)(a, b)


@functools.cache
def _jitted(**params: Any) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(conv_p.bind, **params))


@conv_p.def_abstract_eval
def _abstract(a: Any, b: Any, *, of: str, window: Window, models: int, jaxpr: Any) -> Any:
    networks = tuple(m if n == 1 else n for n, m in zip(a.shape[:models], b.shape[:models], strict=True))
    return a.update(shape=(*networks, *window.shape(of, a.shape[models])))


def _batch(
    operands: Sequence[jax.Array],
    axes: Sequence[int | None],
    *,
    of: str,
    window: Window,
    models: int,
    jaxpr: Any,
) -> tuple[jax.Array, int]:
    """Put one more axis of networks in front."""
    a, b = (
        x[None] if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True)
    )
    return _bind(a, b, of, window, models + 1), 0


def _transpose(
    place: int, ct: Any, a: Any, b: Any, *, of: str, window: Window, models: int, jaxpr: Any
) -> Any:
    """Derive by an operand: the face of its name, of the cotangent and the other operand."""
    wanted, kept = OPERANDS[of][place], OPERANDS[of][1 - place]
    known = {of: ct, kept: (a, b)[1 - place]}
    first, second = (known[name] for name in OPERANDS[wanted])
    found = _bind(first, second, wanted, window, models)
    size = (a, b)[place].aval.shape
    shared = tuple(i for i in range(models) if size[i] != found.shape[i])
    return jnp.sum(found, shared, keepdims=True) if shared else found


batching.primitive_batchers[conv_p] = _batch
ad.defbilinear(conv_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))

# Axes, from the end, along which networks of the first and of the second operand alone lie side by side: in
# the operand and in the result (_BATCH is the first of inputs and outputs), and whether there are as many
# times more inputs and outputs of the window
_BATCH = 0
_FOLDS = {
    OUTPUT: ((_BATCH, _BATCH, (0, 0)), (-1, -1, (0, 1))),
    INPUT: ((_BATCH, _BATCH, (0, 0)), (-2, -1, (1, 0))),
    KERNEL: ((-1, -2, (1, 0)), (-1, -1, (0, 1))),
}


def _many(
    one: Compute,
    over: Callable[..., Any],
    a: jax.Array,
    b: jax.Array,
    *,
    of: str,
    window: Window,
    models: int,
) -> jax.Array:
    """Compute a face for all networks, by ``one`` for each, and ``over`` those that share nothing."""
    if models == 0:
        return one(of, window, a, b)
    rest = functools.partial(_many, one, over, of=of, models=models - 1)
    counts = a.shape[0], b.shape[0]
    if counts == (1, 1):
        return rest(a[0], b[0], window=window)[None]
    if counts[0] == counts[1]:
        return over(functools.partial(rest, window=window))(a, b)
    place = 0 if counts[1] == 1 else 1
    count, (own, result, more) = counts[place], _FOLDS[of][place]
    if count == 0 or (window.channels[2] > 1 and own != _BATCH):
        shared = [jnp.broadcast_to(x, (count, *x.shape[1:])) for x in (a, b)]
        return _many(one, over, *shared, of=of, window=window, models=models)
    first = -2 - len(window.window)
    folded = [_fold(x, own or first) if i == place else x[0] for i, x in enumerate((a, b))]
    return _unfold(rest(*folded, window=window.widened(count, more)), count, result or first)


def _fold(x: jax.Array, axis: int) -> jax.Array:
    """Merge the first axis into another, counted from the end."""
    x = jnp.moveaxis(x, 0, axis - 1)
    return x.reshape(*x.shape[: axis - 1], -1, *x.shape[x.ndim + axis + 1 :])


def _unfold(x: jax.Array, count: int, axis: int) -> jax.Array:
    x = x.reshape(*x.shape[:axis], count, x.shape[axis] // count, *x.shape[x.ndim + axis + 1 :])
    return jnp.moveaxis(x, axis - 1, 0)


def _looped(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: jax.lax.map(lambda both: fn(*both), (a, b))


def _lower(platform: str | None, alone: Compute, one: Compute, over: Callable[..., Any]) -> None:
    def compute(a: jax.Array, b: jax.Array, *, models: int, jaxpr: Any, **face: Any) -> jax.Array:
        return _many(one if models else alone, over, a, b, models=models, **face)

    mlir.register_lowering(conv_p, mlir.lower_fun(compute, multiple_results=False), platform=platform)


_lower(None, plain, products, jax.vmap)
_lower("cpu", fast, fast, _looped)
