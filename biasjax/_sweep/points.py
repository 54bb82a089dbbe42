"""Points without a grid: a table's columns, gathered by a point's number inside the traced function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from biasjax import check
from biasjax._sweep import grid
from biasjax._sweep.spec import Spec, check_names
from biasjax.stepwise import Stepwise

DIM = "point"


class Table(Protocol):
    """Columns by name: a mapping, a pandas table, an `xarray.Dataset`."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Names and columns."""
        ...


def columns(points: Table) -> dict[str, np.ndarray]:
    """Columns of a table, each in the dtype that JAX will use.

    ``points`` is a mapping of equal-length arrays, a pandas table (whose index is left out) or an
    `xarray.Dataset` along one dimension (coordinates are columns too, but for one that numbers the points).

    Examples
    --------
    >>> columns({"rate": [0.1, 0.2], "width": [3, 4]})["width"].dtype
    dtype('int32')
    """
    variables = getattr(points, "variables", None)
    if variables is not None:
        found = {str(name): value for name, value in variables.items() if name != DIM}
        wide = {name: value.dims for name, value in found.items() if value.ndim != 1}
        if wide:
            fix = "Select, e.g. by isel, or drop the others, by drop_vars."
            check.fail("points", "variables along one dimension", wide, fix)
    elif hasattr(points, "items"):
        found = {name: value for name, value in points.items() if name != DIM}
    else:
        fix = "Pass a dict of arrays, a pandas table or an xarray.Dataset."
        check.fail("points", "a table", type(points).__name__, fix, TypeError)
    table = {grid.check_name("points", name): grid.axis_values(name, value) for name, value in found.items()}
    lengths = {name: len(value) for name, value in table.items()}
    if len({*lengths.values()}) != 1:
        check.fail("points", "at least one column, all of one length", lengths, "Give each point all values.")
    gaps = [name for name, value in table.items() if np.isnan(value).any()]
    if gaps:
        check.fail("points", "a number in every place", f"NaN in {', '.join(gaps)}", "Drop these points.")
    return table


def _check_columns(table: Collection[str], axes: Collection[str], static: Collection[str]) -> None:
    """Raise where the name of a column, or of their dimension, stands for something else, too."""
    others = dict.fromkeys(("key", "status", "computed"), "a name of the engine itself")
    others |= dict.fromkeys(axes, "an axis") | dict.fromkeys(static, "a static name")
    for name in (DIM, *table):
        if name in others:
            expected = f"names of their own for columns and {DIM!r}"
            check.fail("points", expected, f"{name!r}, {others[name]}", "Rename it.")


def specify(
    fn: Callable[..., Any] | Stepwise,
    axes: Mapping[str, Any] | None,
    points: Table | None,
    static: Mapping[str, Sequence[Any]] | None,
    dims: Mapping[str, Sequence[str]] | None,
    root: int,
) -> Spec:
    """Say what is swept from the arguments of `sweep.run`, checked."""
    if axes is None and points is None:
        check.fail("sweep", "axes, points or both", None, "Pass e.g. {'seed': range(3)}.")
    _check_function(fn)
    arrays = grid.axis_arrays({} if axes is None else axes)
    chosen, own = _named("static", static, "values"), _named("dims", dims, "names")
    root = _root(root)
    table = {} if points is None else columns(points)
    if table:
        _check_columns(table, arrays, chosen)
        arrays[DIM] = grid.axis_values(DIM, np.arange(len(next(iter(table.values())))))
        fn = gather(fn, table)
    spec = Spec(fn, arrays, chosen, {name: tuple(names) for name, names in own.items()}, root, table)
    check_names(spec)
    return spec


def _check_function(fn: Any) -> None:
    if not isinstance(fn, Stepwise):
        check.function("fn", fn)
        return
    for name, stage in zip(("start", "advance", "finish"), fn[:3], strict=True):
        check.function(f"{name} of a Stepwise", stage)
    check.positive_int("steps of a Stepwise", fn.steps)


def _named(what: str, given: Any, kind: str) -> dict[str, list[Any]]:
    """Return a dict of name -> list, empty for None, or raise."""
    fix = f"E.g. {{'name': ['{kind}']}}."
    if not isinstance(given, Mapping | None):
        check.fail(what, f"a dict of name -> {kind}", type(given).__name__, fix, TypeError)
    found: dict[str, list[Any]] = {}
    for name, values in (given or {}).items():
        if isinstance(values, str | bytes) or not _is_list(values):
            check.fail(f"{what} {name!r}", f"a list of {kind}", repr(values), fix, TypeError)
        found[grid.check_name(what, name)] = [*values]
        if what == "dims":
            found[name] = [grid.check_name(f"dims {name!r}", one) for one in found[name]]
        elif not found[name]:
            check.fail(f"static {name!r}", "at least one value", "none", "Leave it out, or give it some.")
    return found


def _is_list(values: Any) -> bool:
    return isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0


def _root(root: Any) -> int:
    """Return a seed that makes a key, or raise, also where a key is not known until a program runs."""
    if isinstance(root, bool) or not isinstance(root, int | np.integer) or not -(2**63) <= root < 2**63:
        check.fail("root", "an integer of 64 bits", repr(root), "It is the seed of the root key.")
    if isinstance(jax.random.key(int(root)), jax.core.Tracer):
        fix = "Call it outside of jax.jit: it compiles programs of its own."
        check.fail("sweep", "values that are known", "a traced function around it", fix)
    return int(root)


def gather(fn: Any, table: Mapping[str, np.ndarray]) -> Any:
    """Make a function of a point's number, ``fn(..., point=3)``, out of one of its values.

    A column called "seed" becomes the key, as an axis of that name does.
    """
    if isinstance(fn, Stepwise):
        return Stepwise(*(_gather(stage, table) for stage in fn[:3]), steps=fn.steps)
    return _gather(fn, table)


def _gather(fn: Callable[..., Any], table: Mapping[str, np.ndarray]) -> Callable[..., Any]:
    @functools.wraps(getattr(fn, "func", fn))
    def at_point(*carry_and_key: Any, point: jax.Array, **others: Any) -> Any:
        *carry, key = carry_and_key
        values = {
            name: jnp.asarray(column).at[point].get(mode="promise_in_bounds")
            for name, column in table.items()
        }
        seed = values.pop("seed", None)
        key = key if seed is None else jax.random.fold_in(key, seed)
        return fn(*carry, key, **values, **others)

    return at_point
