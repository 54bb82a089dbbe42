"""Sweeps: any pure function over a product grid, as nested vmaps in one compiled program.

A grid is nested vmaps, one for each axis, and not one vmap over a list of points: what depends on outer
axes alone (a seed's draws, its batch order) is computed once, and inner axes turn products with it into
larger ones.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from biasjax import check, tree

if TYPE_CHECKING:
    import xarray as xr


def run(
    fn: Callable[..., Any],
    axes: Mapping[str, Any],
    *,
    static: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    root: int = 0,
    progress: Callable[[str], None] | None = None,
) -> xr.Dataset:
    """Evaluate a function at every point of a product grid.

    Parameters
    ----------
    fn
        ``fn(key, **point) -> dict`` (or any pytree) of arrays, pure and traceable. It is called with one
        traced scalar for each axis and one plain value for each static name.
    axes
        Name -> 1-D array of numbers, outermost first. The axis called "seed" is not passed: it becomes the
        key, ``fold_in(root key, seed)``, so inner axes share its draws. Without it all points share one key.
    static
        Name -> values that change the program; each combination is compiled once.
    dims
        Names of the dimensions that an output has of itself, e.g. ``{"loss": ("step",)}``; others are called
        ``loss_dim_0`` and so on.
    root
        Seed of the root key.
    progress
        Called with a line of text before each compiled program.

    Returns
    -------
    xr.Dataset
        Dimensions: static names, then axes, then each output's own. Where a static combination lacks an
        output, it is NaN there.

    Raises
    ------
    ValueError, TypeError
        If an axis is not one-dimensional or empty, or a name is used twice.

    Examples
    --------
    >>> def experiment(key, *, sigma, power):
    ...     x = sigma * jax.random.normal(key, (1000,))
    ...     return {"moment": jax.numpy.mean(x**power), "sample": x[:3]}
    >>> axes = {"seed": [0, 1, 2, 3], "sigma": [0.5, 1.0]}
    >>> dataset = run(experiment, axes, static={"power": [2, 4]}, dims={"sample": ("example",)})
    >>> dict(dataset.sizes)
    {'power': 2, 'seed': 4, 'sigma': 2, 'example': 3}
    """
    import xarray as xr

    static, dims = dict(static or {}), dict(dims or {})
    grid = {name: _axis(name, values) for name, values in axes.items()}
    for name in static:
        if name in grid:
            check.fail("static", "names that are not axes", name, "Keep it in one of the two.")
    key = jax.random.key(root)
    points = [dict(zip(static, values, strict=True)) for values in itertools.product(*static.values())]
    pieces: dict[str, dict[int, np.ndarray]] = {}
    # XLA compiles one program on one core, so programs compile side by side while others trace and run
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        lowered = (jax.jit(_nest(fn, list(grid), chosen)).lower(key, *grid.values()) for chosen in points)
        programs = [pool.submit(program.compile) for program in lowered]
        for i, (chosen, program) in enumerate(zip(points, programs, strict=True)):
            if progress is not None:
                progress(", ".join(f"{name}={_label(value)}" for name, value in chosen.items()))
            outputs = program.result()(key, *grid.values())
            for name, value in tree.paths(outputs).items():
                pieces.setdefault(name, {})[i] = np.asarray(value)
    sizes = [len(values) for values in static.values()]
    variables = {}
    for name, found in pieces.items():
        value = _assemble(name, found, sizes)
        own = dims.get(name) or [f"{name}_dim_{i}" for i in range(value.ndim - len(sizes) - len(grid))]
        variables[name] = ((*static, *grid, *own), value)
    labels = {name: [_label(value) for value in values] for name, values in static.items()}
    return xr.Dataset(variables, coords={**labels, **grid})


def _assemble(name: str, pieces: dict[int, np.ndarray], sizes: list[int]) -> np.ndarray:
    """Stack the results of the static combinations, NaN where one lacks this output."""
    shapes = {piece.shape for piece in pieces.values()}
    if len(shapes) > 1:
        fix = "Pad it, or sweep these static values apart."
        check.fail(f"output {name!r}", "one shape for all static values", sorted(shapes), fix)
    first = next(iter(pieces.values()))
    if len(pieces) < math.prod(sizes):
        missing = np.full_like(first, np.nan, dtype=np.result_type(first.dtype, np.float16))
        pieces = {i: pieces.get(i, missing) for i in range(math.prod(sizes))}
    return np.stack([pieces[i] for i in range(len(pieces))]).reshape(*sizes, *first.shape)


def _axis(name: str, values: Any) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or values.size == 0:
        check.fail(f"axis {name!r}", "a non-empty 1-D array", f"shape {values.shape}", "Use np.atleast_1d.")
    return values.astype(jax.dtypes.canonicalize_dtype(values.dtype))


def _nest(fn: Callable, names: list[str], static: dict[str, Any]) -> Callable:
    """Nested vmaps over the axes in order, the first outermost; the seed becomes the key."""

    def point(key, *values):
        numbers = dict(zip(names, values, strict=True))
        seed = numbers.pop("seed", None)
        key = key if seed is None else jax.random.fold_in(key, seed)
        return fn(key, **numbers, **static)

    nested = point
    for i in reversed(range(len(names))):
        nested = jax.vmap(nested, in_axes=[0 if j == i + 1 else None for j in range(len(names) + 1)])
    return nested


def _label(value: Any) -> Any:
    """Coordinate of a static value: itself if a string, number or bool, else its name."""
    return value if isinstance(value, (str, int, float, bool)) else getattr(value, "__name__", repr(value))
