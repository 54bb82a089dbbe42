"""Two inputs whose correlation varies in waves over the positions of a convolutional network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

MODES = (1, 2, 4)
"""Waves of the correlation, in periods over all positions, each of amplitude 1/4."""


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
