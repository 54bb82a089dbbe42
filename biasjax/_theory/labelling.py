"""Results of theory over named axes, labelled for figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from biasjax import check

if TYPE_CHECKING:
    import xarray as xr

NAMES = {
    "sigma_w": ("weight scale", ""),
    "sigma_b": ("bias scale", ""),
    "batch_size": ("batch size", "examples"),
    "q": ("variance of pre-activations", ""),
    "c": ("correlation of two inputs", ""),
    "slope": ("slope of the variance map", ""),
    "chi_1": ("growth of squared gradients", "per layer"),
    "chi_c": ("slope of the correlation map", ""),
    "xi_q": ("depth scale of the variance", "layers"),
    "xi_c": ("depth scale of the correlation", "layers"),
    "rate": ("growth of squared gradients", "per layer"),
}
"""Long names and units, as `plot.heatmap` writes them at its colour bar."""


def grid(fn: Callable[..., Any], axes: Mapping[str, npt.ArrayLike], name: str = "rate") -> xr.Dataset:
    """Evaluate a function that broadcasts on a product of axes; its fields, or ``name``, become variables."""
    import xarray as xr

    if not axes:
        check.fail("axes", "at least one", "none", "Pass e.g. sigma_b=[0.0, 0.5].", TypeError)
    values = {axis: np.asarray(check.real(axis, points)) for axis, points in axes.items()}
    for axis, points in values.items():
        if points.ndim != 1:
            check.fail(
                axis, "numbers along one axis", f"shape {points.shape}", "Pass a list, or fix it in fn."
            )
    found = fn(**dict(zip(values, np.meshgrid(*values.values(), indexing="ij"), strict=True)))
    fields = found._asdict() if hasattr(found, "_asdict") else {name: found}
    arrays = {field: (tuple(values), np.asarray(array)) for field, array in fields.items()}
    dataset = xr.Dataset(arrays, values)
    for variable in dataset.variables:
        long_name, units = NAMES.get(str(variable), (str(variable), ""))
        dataset[variable].attrs = {"long_name": long_name} | ({"units": units} if units else {})
    return dataset
