"""Where the cells of a plane lie on its axes, what they are called, and which values the colours span."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from biasjax import check

if TYPE_CHECKING:
    import xarray as xr

_TICKED = 8  # cells along an axis that all have a tick


def place(axis: Any, values: xr.DataArray, dim: str) -> np.ndarray:
    """Label an axis, with a tick for each of a few cells, and return the edges of its cells."""
    at, names = values[dim].values, [str(one) for one in values[dim].values]
    if is_number(at):
        names = [f"{one:.3g}" for one in at]
    else:
        at = np.arange(len(at))
    axis.set_label_text(label(values[dim], dim))
    if len(at) <= _TICKED or not is_number(values[dim]):
        axis.set_ticks(at, names)
        axis.set_ticks([], minor=True)
    scale = axis.get_transform()
    inner = scale.transform(at.astype(float))
    middle = (inner[1:] + inner[:-1]) / 2
    ends = 2 * inner[[0, -1]] - middle[[0, -1]] if len(at) > 1 else inner[0] + np.array([-0.5, 0.5])
    return scale.inverted().transform(np.concatenate([ends[:1], middle, ends[1:]]))


def limits(shown: Any, vmin: float | None, vmax: float | None, center: float | None) -> tuple[Any, Any]:
    """Values of the first and last colour, as far from ``center`` if there is one."""
    for name, value in {"vmin": vmin, "vmax": vmax, "center": center}.items():
        if value is not None:
            check.number(name, value)
    finite = shown.compressed()
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    low, high = low if vmin is None else vmin, high if vmax is None else vmax
    if center is None:
        return low, high
    reach = max(abs(high - center), abs(low - center)) or 1.0
    return center - reach, center + reach


def label(values: xr.DataArray, name: Hashable) -> str:
    """Name and unit of what an axis or a colour bar shows; empty if nothing is known."""
    text, units = str(values.attrs.get("long_name", name or "")), values.attrs.get("units")
    return f"{text} [{units}]" if text and units else text


def is_number(values: Any) -> bool:
    """Whether an array holds numbers."""
    return getattr(getattr(values, "dtype", None), "kind", "") in "biufV"  # V: bfloat16
