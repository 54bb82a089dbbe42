"""Constant shifts through equations that only lay out values anew; see `biasjax._jaxpr.constant`.

Each rule takes an equation and the shifts of its operands, (shifts, ...) with axes of length one where they
are constant, None for an operand that is not shifted. It gives the shifts of the outputs, or None for an
equation that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


def broadcast(eqn: Any, ins: Sequence, known: Any) -> list | None:
    """Shifts of `jax.lax.broadcast_in_dim`: new axes are constant."""
    x, shape = ins[0], [1] * len(eqn.params["shape"])
    for axis, size in zip(eqn.params["broadcast_dimensions"], x.shape[1:], strict=True):
        shape[axis] = size
    return [x.reshape(len(x), *shape)]


def transpose(eqn: Any, ins: Sequence, known: Any) -> list | None:
    """Shifts of `jax.lax.transpose`."""
    return [ins[0].transpose(0, *(axis + 1 for axis in eqn.params["permutation"]))]


def reshape(eqn: Any, ins: Sequence, known: Any) -> list | None:
    """Shifts of `jax.lax.reshape`."""
    if eqn.params.get("dimensions") is not None:
        return None
    return [_reshaped(ins[0], eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape)]


def _reshaped(x: np.ndarray, old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Reshape from and to these full shapes; axes that are merged or split together stay reduced together."""
    sizes, whole, i, j = [], list(x.shape), 0, 0
    while i < len(old) or j < len(new):
        first, start, p, q = i, j, 1, 1
        while (i == first and j == start) or p != q:
            if j == len(new) or (p <= q and i < len(old)):
                p, i = p * old[i], i + 1
            else:
                q, j = q * new[j], j + 1
        constant = all(n == 1 for n in x.shape[1 + first : 1 + i])
        sizes += [1] * (j - start) if constant else new[start:j]
        if not constant:
            whole[1 + first : 1 + i] = old[first:i]
    return np.broadcast_to(x, whole).reshape(len(x), *sizes)


def squeeze(eqn: Any, ins: Sequence, known: Any) -> list | None:
    """Shifts of `jax.lax.squeeze`."""
    return [ins[0].squeeze(tuple(axis + 1 for axis in eqn.params["dimensions"]))]


def reverse(eqn: Any, ins: Sequence, known: Any) -> list | None:
    """Shifts of `jax.lax.rev`."""
    return [np.flip(ins[0], tuple(axis + 1 for axis in eqn.params["dimensions"]))]


def cut(eqn: Any, ins: Sequence, known: Any) -> list | None:
    """Shifts of `jax.lax.slice`."""
    p, x = eqn.params, ins[0]
    steps = p["strides"] or [1] * (x.ndim - 1)
    cuts = [
        slice(None) if n == 1 else slice(*cut)
        for n, *cut in zip(x.shape[1:], p["start_indices"], p["limit_indices"], steps, strict=True)
    ]
    return [x[(slice(None), *cuts)]]


def split(eqn: Any, ins: Sequence, known: Any) -> list | None:
    """Shifts of `jax.lax.split`."""
    axis, x = eqn.params["axis"] + 1, ins[0]
    if x.shape[axis] == 1:
        return [x] * len(eqn.outvars)
    return np.split(x, np.cumsum(eqn.params["sizes"])[:-1], axis)


def pad(eqn: Any, ins: Sequence, known: Any) -> list | None:
    """Shifts of `jax.lax.pad` with a value that is not shifted."""
    if ins[0] is None or ins[1] is not None:
        return None
    shape, config = eqn.invars[0].aval.shape, eqn.params["padding_config"]
    padded = [any(one) for one in config]
    x = whole(ins[0], shape, [axis for axis, some in enumerate(padded) if some])
    # Axes that are padded are whole, others may be reduced
    return [np.asarray(jax.lax.pad(x, np.float64(0), [(0, 0, 0), *config]))]


def whole(x: np.ndarray, shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Give some axes their full length."""
    full = list(x.shape)
    for axis in axes:
        full[axis + 1] = shape[axis]
    return np.broadcast_to(x, full)


def concatenate(eqn: Any, ins: Sequence, known: Any) -> list | None:
    """Shifts of `jax.lax.concatenate`."""
    axis = eqn.params["dimension"]
    count = next(len(x) for x in ins if x is not None)
    parts = [
        np.zeros((count, *(1 for _ in v.aval.shape))) if x is None else x
        for x, v in zip(ins, eqn.invars, strict=True)
    ]
    parts = [whole(x, v.aval.shape, [axis]) for x, v in zip(parts, eqn.invars, strict=True)]
    common = [max(x.shape[d] for x in parts) for d in range(parts[0].ndim)]
    for d in range(len(common)):
        if d != axis + 1:
            parts = [np.broadcast_to(x, [*x.shape[:d], common[d], *x.shape[d + 1 :]]) for x in parts]
    return [np.concatenate(parts, axis + 1)]
