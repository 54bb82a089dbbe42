"""Two inputs whose correlation varies in waves over the positions of a convolutional network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._parts import curves, drawing
from experiments.claims import Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

MODES = (1, 2, 4)
"""Waves of the correlation, in periods over all positions, each of amplitude 1/4."""

LAYER = 4
"""Layer whose waves are held to theory, and the first for the shortest: later ones drown in its noise."""


def profile(positions: int) -> np.ndarray:
    """Correlation of the two inputs at each position."""
    angle = 2 * np.pi * np.arange(positions) / positions
    return np.sum([np.cos(mode * angle) for mode in MODES], axis=0) / 4


def inputs(positions: int, width: int) -> np.ndarray:
    """Two inputs of mean square 1, different positions at right angles: ``(2, positions, width)``."""
    draws = np.random.default_rng(0).standard_normal((width, 2 * positions))
    x, other = np.split(np.linalg.qr(draws)[0].T * math.sqrt(width), 2)
    c = profile(positions)[:, None]
    return np.stack([x, c * x + np.sqrt(1 - c**2) * other]).astype(np.float32)


def amplitudes(values: xr.DataArray) -> xr.DataArray:
    """Amplitudes of the waves of `MODES` along the dimension "position", which becomes "mode".

    Examples
    --------
    >>> import xarray as xr
    >>> amplitudes(xr.DataArray(profile(16), dims="position")).values.round(6)
    array([0.25, 0.25, 0.25])
    """
    import xarray as xr

    n = values.sizes["position"]
    modes = xr.DataArray(list(MODES), coords={"mode": list(MODES)}, dims="mode")
    angle = modes * xr.DataArray(2 * np.pi * np.arange(n) / n, dims="position")
    return 2 / n * (values * np.cos(angle)).sum("position")


def slope(correlation: xr.DataArray) -> xr.DataArray:
    """Slope of correlations over those of the inputs, along the dimension "position".

    Examples
    --------
    >>> import xarray as xr
    >>> float(slope(xr.DataArray(0.5 + 0.25 * profile(16), dims="position")).round(6))
    0.25
    """
    first = _first(correlation)
    return (correlation * first).sum("position") / (first**2).sum("position")


def _first(values: xr.DataArray) -> xr.DataArray:
    import xarray as xr

    return xr.DataArray(profile(values.sizes["position"]), dims="position")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold waves of the covariance in linear networks to the window's Fourier factor, layer by layer.

    Each kernel is the null twin of the other.
    """
    linear, made = dataset.covariance.sel(activation="linear", sigma_b=0.0), []
    seen = amplitudes(dataset.first_covariance)
    still = amplitudes(linear.sel(kernel="delta_orthogonal")).mean("seed")
    for mode in MODES:
        factor = (1 + 2 * math.cos(2 * math.pi * mode / dataset.sizes["position"])) / 3
        layer = 1 if mode == MODES[-1] else LAYER
        one = seen.isel(first_layer=layer - 1).sel(mode=mode)
        tolerance = curves.SINGLE * curves.standard_error(one, "many")
        pair = {"measured": one.mean(), "null": still.sel(mode=mode, layer=layer)}
        text = f"linear: wave {mode}, layer {layer}, {factor:.3f} each"
        made.append(equal(text, "Fourier", factor**layer / 4, **pair, tolerance=tolerance))
    change = abs(linear - _first(linear)).max(("seed", "layer", "position"))
    pair = {"measured": change.sel(kernel="delta_orthogonal"), "null": change.sel(kernel="gaussian")}
    return [*made, at_most("delta-orthogonal: waves change by", "isometry", 1e-5, **pair)]


def draw(ax: Any, dataset: xr.Dataset) -> None:
    """Draw amplitudes of the waves by layer, of two kernels."""

    def label(mode: int, kernel: str) -> str | None:
        if kernel == "gaussian":
            return f"{mode} period{'s' if mode > 1 else ''}, Gaussian"
        return "all, delta-orthogonal" if mode == MODES[-1] else None

    both = (amplitudes(values) for values in (dataset.covariance, dataset.covariance_theory))
    drawing.means(ax, "layer", *both, color="mode", marker="kernel", label=label)
    ax.set(xlabel="layer", ylabel="amplitude of the covariance", ylim=(-0.05, 0.4))
    ax.legend(fontsize=7, ncols=2, loc="upper right")
