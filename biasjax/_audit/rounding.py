"""From which size shifts of a leaf change what a model gives in float32, bfloat16 or float16.

The model runs in that dtype on the backend of the session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from biasjax import check
from biasjax._audit import compiling
from biasjax._audit.model import Model
from biasjax._jaxpr.double import lift
from biasjax._jaxpr.kinks import MASKED

# Sizes tried, by tens up to the largest number of the dtype, and how often the last ten is halved (to 4%)
_SMALLEST, _STEP, _HALVINGS = 1e-3, 10.0, 6
# A change by so many times the error of the start may come of rounding otherwise, which any shift leads to
_ROUNDING = 2.0
# Copies of the model evaluated at once, one of which is not shifted
_BATCH = 8


class Line(NamedTuple):
    """Shifts of one leaf: ``start + size * direction``; the direction has a root mean square of 1."""

    leaf: int
    start: np.ndarray
    direction: np.ndarray


class Machine(NamedTuple):
    """How outputs are computed, and what change of them is tolerated; see `biasjax.audit.tolerance`."""

    dtypes: tuple[str, ...]
    within: float
    excess_precision: bool

    @property
    def compile(self) -> Callable[..., Callable]:
        """Turn a function into a compiled one."""
        return jax.jit if self.excess_precision else compiling.rounding_jit


def machine(dtypes: Any, within: Any, excess_precision: Any) -> Machine:
    """Return what the arguments say, or raise."""
    if isinstance(dtypes, str) or not isinstance(dtypes, Sequence):
        fix = 'Write one as a tuple, e.g. ("bfloat16",).'
        check.fail("dtypes", "a sequence of dtypes", repr(dtypes), fix, TypeError)
    check.number("within", within, 0.0)
    check.flags(excess_precision=excess_precision)
    return Machine(tuple(check.dtype(dtype).name for dtype in dtypes), float(within), excess_precision)


def leaving(
    how: Machine, fn: Callable, params: Any, args: Any, model: Model, lines: Sequence[Line]
) -> tuple[np.ndarray, np.ndarray]:
    """For each line and dtype the size from which outputs leave those at its start; and the latter's error.

    Parameters
    ----------
    fn, params, args
        The function; of the others their structure.
    model
        Its trace, which has their leaves.
    lines
        At most one of a leaf; all start at once, and one is shifted at a time.

    Returns
    -------
    array
        Sizes (lines, dtypes): 0 where the smallest shift is beyond what is tolerated, nan where outputs are
        not finite at the start.
    array
        Relative error (dtypes,) against float64.
    """
    structure, leaves = jax.tree.structure((params, args)), list(model.leaves)
    for line in lines:
        leaves[line.leaf] = line.start
    exact = _exact(fn, structure, leaves)
    run = how.compile(_program(fn, structure, model, lines))
    found = []
    for name in how.dtypes:
        kind = jnp.dtype(name)
        with np.errstate(over="ignore"):  # of the model's own constants
            _check_runs(fn, structure, [_cast(leaf, kind) for leaf in leaves], name)
            found.append(_leaving(run, leaves, lines, exact, kind, how.within))
    sizes, errors = zip(*found, strict=True)
    return np.stack(sizes, 1), np.array(errors)


def _leaving(
    run: Callable, leaves: Sequence, lines: Sequence[Line], exact: Sequence, kind: np.dtype, within: float
) -> tuple[np.ndarray, float]:
    """`leaving` of one dtype, in one program."""
    cast, start = [_cast(leaf, kind) for leaf in leaves], np.concatenate([one.start.ravel() for one in lines])
    wanted = [_cast(out, check.accumulator(kind)) for out in exact]

    def at(sizes: np.ndarray) -> tuple[np.ndarray, float]:
        change, error = run(cast, _cast(start, kind), _cast(_rows(start, lines, sizes), kind), wanted)
        return np.asarray(change).reshape(-1)[: sizes.size].reshape(sizes.shape), float(np.max(error))

    # Along a line and against it, until its farthest entry is the largest number of this dtype
    largest = np.array([[float(jnp.finfo(kind).max) / np.abs(line.direction).max() for line in lines]] * 2)
    error = at(np.zeros_like(largest))[1]
    if not np.isfinite(error):
        return np.full(len(lines), np.nan), error
    return _search(lambda sizes: at(sizes)[0], largest, max(within, _ROUNDING * error)).min(0), error


def _exact(fn: Callable, structure: Any, leaves: Sequence) -> list[np.ndarray]:
    """Floating outputs by the operations of float32 in float64, which draw the same random numbers."""
    single = [_cast(leaf, np.dtype(np.float32)) for leaf in leaves]
    with np.errstate(over="ignore"):
        _check_runs(fn, structure, single, "float32")
        traced = jax.make_jaxpr(lambda *some: fn(*_unflatten(structure, some)))(*single)
    with jax.enable_x64(True):
        lifted = lift(traced)
        outs = compiling.quick_jit(lambda *some: jex.jaxpr_as_fun(lifted)(*some))(*leaves)
    return [np.asarray(out) for out in outs if jnp.issubdtype(out.dtype, jnp.inexact)]


def _unflatten(structure: Any, leaves: Sequence) -> list:
    params, args = structure.unflatten(leaves)
    return [params, *args]


def _check_runs(fn: Callable, structure: Any, leaves: Sequence, dtype: str) -> None:
    try:
        jax.eval_shape(fn, *_unflatten(structure, leaves))
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).rstrip('.')}"
        fix = "Cast what it closes over, or leave this dtype out."
        check.fail("dtypes", f"a function that runs in {dtype}", said, fix)


def _cast(leaf: Any, kind: np.dtype) -> Any:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return leaf.astype(np.complex64)
    with np.errstate(over="ignore"):
        return leaf.astype(kind) if leaf.dtype == np.float64 else leaf


def _rows(start: np.ndarray, lines: Sequence[Line], sizes: np.ndarray) -> np.ndarray:
    """Flat shifted leaves, one at a time, (chunks, _BATCH - 1, entries), for sizes (2 signs, lines)."""
    count = sizes.size
    rows = np.tile(start, (count + -count % (_BATCH - 1), 1))
    ends = np.cumsum([line.start.size for line in lines])
    for row, (sign, i) in zip(rows, np.ndindex(*sizes.shape), strict=False):
        shift = (1 - 2 * sign) * sizes[sign, i] * lines[i].direction.ravel()
        row[ends[i] - shift.size : ends[i]] += shift
    return rows.reshape(-1, _BATCH - 1, start.size)


def _program(fn: Callable, structure: Any, model: Model, lines: Sequence[Line]) -> Callable:
    """``run(leaves, start, rows, exact) -> (change of each row, error of the start)``, relative."""
    ends = np.cumsum([line.start.size for line in lines]).tolist()

    def run(leaves, start, rows, exact):
        def outputs(flat):
            moved = list(leaves)
            for end, line in zip(ends, lines, strict=True):
                moved[line.leaf] = flat[end - line.start.size : end].reshape(line.start.shape)
            return jax.tree.leaves(fn(*_unflatten(structure, moved)))

        def chunk(some):
            # The start is a copy among the others, for a batch is summed in another order than one alone
            outs = jax.vmap(outputs)(jnp.concatenate([start[None], some]))
            kept = [out for out, keep in zip(outs, model.program.floating, strict=True) if keep]
            pairs = [(out, true[None]) for out, true in zip(kept, exact, strict=True) if out.size]
            change = [_distance(out[1:], out[:1]) for out, _ in pairs]
            error = [_distance(out[:1], true) for out, true in pairs]
            return jnp.stack(change).max(0), jnp.stack(error).max()

        return jax.lax.map(chunk, rows)

    return run


def _distance(out: jax.Array, base: jax.Array) -> jax.Array:
    """Root mean square of each row's distance from ``base``, relative to the latter's where it is no mask."""
    if not jnp.iscomplexobj(out):
        out, base = (x.astype(check.accumulator(out.dtype)) for x in (out, base))
    out, base = (x.reshape(x.shape[0], -1) for x in (out, base))
    size = jnp.abs(base)
    keep = jnp.isfinite(base) & (size < MASKED)
    keep = jnp.where(keep.any(), keep, jnp.isfinite(base))
    most = jnp.where(keep, size, 0).max(initial=0)
    most = jnp.where(most > 0, most, 1)
    far = jnp.where(keep, jnp.abs(out - base) / most, 0)
    whole = jnp.sum(jnp.where(keep, size / most, 0) ** 2)
    return jnp.sqrt(jnp.sum(far**2, 1) / jnp.where(whole > 0, whole, 1))


def _search(changes: Callable, largest: np.ndarray, within: float) -> np.ndarray:
    """Smallest size at which ``changes(sizes)`` is beyond ``within`` or no number, by tens and by halving."""
    low, high, size = np.zeros_like(largest), np.full_like(largest, np.inf), _SMALLEST
    while True:
        sizes = np.minimum(size, largest)
        out = ~(changes(sizes) <= within)
        high = np.where(out & np.isinf(high), sizes, high)
        low = np.where(np.isinf(high), sizes, low)
        if np.isfinite(high).all() or size > largest.max():
            break
        size *= _STEP
    searched = (low > 0) & np.isfinite(high)
    for _ in range(_HALVINGS):
        middle = np.where(searched, np.sqrt(low * np.where(searched, high, 1)), low)
        out = ~(changes(middle) <= within)
        low, high = np.where(searched & ~out, middle, low), np.where(searched & out, middle, high)
    return np.where((low == 0) & np.isfinite(high), 0.0, high)
