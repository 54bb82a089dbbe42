r"""What a shift of a program's inputs does to later values while it is the same for all data.

A bias adds the same to every row of a batch, every token, every place of an image. As long as only linear
equations with known parameters follow, what is added stays the same for all data: a *constant shift*. It is
held here in reduced form, an axis along which it is constant has length one: shifts of thousands of entries
cost as much as one row of data.

Values in this module are NumPy arrays in float64 with a first axis of shifts, (shifts, \*reduced shape).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax._jaxpr import layouts
from biasjax._jaxpr.interpret import bind

# A sum of shifts this much smaller than what is added has cancelled
_CANCELLED = 1e-12


class Known(NamedTuple):
    """What a rule may ask about an equation's other operands.

    Attributes
    ----------
    value
        ``value(atom)``: reduced array of one that does not depend on data, else None.
    row_sum
        ``row_sum(equation, operand)``: sum of a data-dependent operand of a dot product over the contracted
        axes, if it is one number for all data, else None.
    """

    value: Callable[[Any], np.ndarray | None]
    row_sum: Callable[[Any, int], float | None]


def shifts(eqn: Any, ins: Sequence[np.ndarray | None], known: Known) -> list[np.ndarray | None] | None:
    """Shifts of an equation's outputs by those of its inputs; None where these are not constant any more.

    Parameters
    ----------
    eqn
        Equation of a program in float64 without calls.
    ins
        For each operand its shifts, or None for one that is not shifted.
    known
        What is known of the others.
    """
    rule = _RULES.get(eqn.primitive.name)
    found = rule(eqn, ins, known) if rule else None
    return found and [None if x is None or not x.any() else x for x in found]


def reduced(x: np.ndarray, axes: Sequence[int] | None = None) -> np.ndarray:
    """Shrink axes along which all entries are equal, to rounding, to length one."""
    for axis in range(x.ndim) if axes is None else axes:
        if x.shape[axis] > 1:
            first = np.take(x, [0], axis)
            if np.abs(x - first).max() <= _CANCELLED * np.abs(first).max():
                x = first
    return x


def evaluate(eqn: Any, ins: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Evaluate an equation on reduced arrays (without an axis of shifts)."""
    name, shapes = eqn.primitive.name, [v.aval.shape for v in eqn.invars]
    if name in ("broadcast_in_dim", "reshape", "transpose", "squeeze"):
        shifted: Any = _RULES[name](eqn, [ins[0][None]], None)
        return [x[0] for x in shifted]
    if name in _ELEMENTWISE:
        ins = np.broadcast_arrays(*ins)
    else:
        ins = [np.broadcast_to(x, shape) for x, shape in zip(ins, shapes, strict=True)]
    return [np.asarray(out) for out in bind(eqn, ins)]


_ELEMENTWISE = frozenset(
    (
        *("add", "sub", "mul", "div", "neg", "abs", "sign", "square", "pow", "integer_pow", "max", "min"),
        *("exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "erf", "sqrt", "rsqrt", "cbrt"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "select_n", "floor", "round"),
        *("convert_element_type", "copy"),
    )
)


def _sum(sign: int) -> Callable:
    def rule(eqn: Any, ins: Sequence, known: Known) -> list | None:
        a, b = ins
        if a is None or b is None:
            return [a if b is None else sign * b]
        total, size = a + sign * b, max(np.abs(a).max(), np.abs(b).max())
        return [np.where(np.abs(total) <= _CANCELLED * size, 0.0, total)]

    return rule


def _same(eqn: Any, ins: Sequence, known: Known) -> list | None:
    return [ins[0]] if np.issubdtype(eqn.outvars[0].aval.dtype, np.floating) else None


def _negated(eqn: Any, ins: Sequence, known: Known) -> list | None:
    return [-ins[0]]


def _product(eqn: Any, ins: Sequence, known: Known) -> list | None:
    i = 0 if ins[1] is None else 1
    factor = known.value(eqn.invars[1 - i]) if ins[1 - i] is None else None
    return None if factor is None else [ins[i] * factor]


def _quotient(eqn: Any, ins: Sequence, known: Known) -> list | None:
    by = known.value(eqn.invars[1]) if ins[1] is None else None
    return None if by is None else [ins[0] / by]


def _selected(eqn: Any, ins: Sequence, known: Known) -> list | None:
    which = known.value(eqn.invars[0])
    if which is None:
        return None
    count = next(len(x) for x in ins if x is not None)
    cases = [np.zeros((count, *(1 for _ in which.shape))) if x is None else x for x in ins[1:]]
    return [np.choose(np.asarray(which, int)[None], cases)]


def _reduce_sum(eqn: Any, ins: Sequence, known: Known) -> list | None:
    return [_summed(ins[0], eqn.invars[0].aval.shape, eqn.params["axes"])]


def _summed(x: np.ndarray, shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    constant = math.prod(shape[axis] for axis in axes if x.shape[axis + 1] == 1)
    return constant * x.sum(tuple(axis + 1 for axis in axes))


def _psum(eqn: Any, ins: Sequence, known: Known) -> list | None:
    """Sums over the axis that a vmap has named, by its position."""
    axes = eqn.params["axes"]
    if eqn.params["axis_index_groups"] is not None or any(isinstance(axis, str) for axis in axes):
        return None
    return [
        None if x is None else _summed(x, v.aval.shape, axes) for x, v in zip(ins, eqn.invars, strict=True)
    ]


def _window_max(eqn: Any, ins: Sequence, known: Known) -> list | None:
    window = eqn.params["window_dimensions"]
    moves = any(n > 1 and size > 1 for n, size in zip(window, ins[0].shape[1:], strict=True))
    return None if moves else [ins[0]]


def _argmax(eqn: Any, ins: Sequence, known: Known) -> list | None:
    moves = any(ins[0].shape[axis + 1] > 1 for axis in eqn.params["axes"])
    return None if moves else [None]


def _dot(eqn: Any, ins: Sequence, known: Known) -> list | None:
    i = 0 if ins[1] is None else 1
    if ins[1 - i] is not None:
        return None
    (contracted, batch), shape = (
        [one if i == 0 else one[::-1] for one in eqn.params["dimension_numbers"]],
        eqn.invars[1 - i].aval.shape,
    )
    x, other = ins[i], known.value(eqn.invars[1 - i])
    if other is None:
        factor = None
        if all(x.shape[axis + 1] == 1 for axis in contracted[0]):
            factor = known.row_sum(eqn, 1 - i)
        if factor is None:
            return None
        other = np.full([1] * len(shape), factor / math.prod(shape[a] for a in contracted[1]))
    for mine, its in zip(*contracted, strict=True):
        if x.shape[mine + 1] == 1 or other.shape[its] == 1:
            n = shape[its] if x.shape[mine + 1] == other.shape[its] == 1 else 1
            x, other = x.sum(mine + 1, keepdims=True), n * other.sum(its, keepdims=True)
    return [_matmul(x, other, contracted, batch, first=i == 0)]


def _matmul(
    x: np.ndarray, other: np.ndarray, contracted: Sequence, batch: Sequence, first: bool
) -> np.ndarray:
    """Product over the contracted axes: batch axes, those of the first operand, those of the second."""
    mine = [a for a in range(x.ndim - 1) if a not in (*contracted[0], *batch[0])]
    its = [a for a in range(other.ndim) if a not in (*contracted[1], *batch[1])]
    a = x.transpose(*(b + 1 for b in batch[0]), 0, *(m + 1 for m in mine), *(c + 1 for c in contracted[0]))
    b = other.transpose(*batch[1], *contracted[1], *its)
    n, k = len(batch[0]), len(contracted[0])
    free, others = a.shape[n : a.ndim - k], b.shape[n + k :]
    a = a.reshape(*a.shape[:n], math.prod(free), math.prod(a.shape[a.ndim - k :]))
    b = b.reshape(*b.shape[:n], math.prod(b.shape[n : n + k]), math.prod(others))
    y = np.matmul(a, b)
    y = np.moveaxis(y.reshape(*y.shape[:n], *free, *others), n, 0)
    if first:
        return y
    order = [0, *range(1, n + 1), *range(n + len(free), y.ndim), *range(n + 1, n + len(free))]
    return y.transpose(order)


def _convolution(eqn: Any, ins: Sequence, known: Known) -> list | None:
    p, x = eqn.params, ins[0]
    kernel = known.value(eqn.invars[1]) if ins[1] is None else None
    if x is None or kernel is None or p["batch_group_count"] != 1:
        return None
    at, _, out = p["dimension_numbers"]
    shape, window = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape
    if x.shape[at[0] + 1] > 1:
        return None
    pointwise = all(window[d] == 1 for d in p["dimension_numbers"].rhs_spec[2:]) and not any(
        map(any, p["padding"])
    )
    x = layouts.whole(x, shape, at[1:2] if pointwise else at[1:])
    y = jax.lax.conv_general_dilated(
        jnp.asarray(np.moveaxis(x.squeeze(at[0] + 1), 0, at[0])),  # shifts are the batch
        jnp.asarray(np.broadcast_to(kernel, window)),
        **{name: value for name, value in p.items() if name not in ("precision", "preferred_element_type")},
    )
    y = np.expand_dims(np.moveaxis(np.asarray(y), out[0], 0), out[0] + 1)
    return [reduced(y, [axis + 1 for axis in out[2:]])]


def _linear(eqn: Any, ins: Sequence, known: Known) -> list | None:
    """Shifts of an equation that is linear in its first operand, its others known."""
    rest: list[Any] = [known.value(atom) for atom in eqn.invars[1:]]
    if ins[0] is None or any(x is not None for x in ins[1:]) or any(x is None for x in rest):
        return None
    shapes = [v.aval.shape for v in eqn.invars]
    rest = [np.broadcast_to(x, shape) for x, shape in zip(rest, shapes[1:], strict=True)]
    full = np.broadcast_to(ins[0], (len(ins[0]), *shapes[0]))
    found = jax.vmap(lambda x: bind(eqn, [x, *rest]))(full)
    return [reduced(np.asarray(y), range(1, y.ndim)) for y in found]


_RULES: dict[str, Callable[[Any, Sequence, Any], list | None]] = {
    "add": _sum(1),
    "add_any": _sum(1),
    "sub": _sum(-1),
    "neg": _negated,
    "mul": _product,
    "div": _quotient,
    "convert_element_type": _same,
    "copy": _same,
    "broadcast_in_dim": layouts.broadcast,
    "transpose": layouts.transpose,
    "reshape": layouts.reshape,
    "squeeze": layouts.squeeze,
    "rev": layouts.reverse,
    "slice": layouts.cut,
    "split": layouts.split,
    "pad": layouts.pad,
    "concatenate": layouts.concatenate,
    "select_n": _selected,
    "reduce_sum": _reduce_sum,
    "psum": _psum,
    "reduce_window_max": _window_max,
    "argmax": _argmax,
    "argmin": _argmax,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(("gather", "cumsum", "reduce_window_sum", "dynamic_slice"), _linear),
}
