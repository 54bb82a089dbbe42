"""Histograms of the features of every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import jax
    import xarray as xr

EDGES = np.linspace(-2, 2, 82)
"""Edges of the bins; zero lies within the middle bin."""
CENTRES = (EDGES[1:] + EDGES[:-1]) / 2
DIMS = {"share": ("layer", "value")}
"""Dimensions of `shares`, called "share" in a sweep."""


def shares(features: jax.Array) -> jax.Array:
    """Share of the features of each layer in each bin: ``(depth, batch, width)`` to ``(depth, bins)``."""
    import jax.numpy as jnp

    below = jnp.stack([jnp.mean(features < edge, (1, 2)) for edge in EDGES], -1)
    return jnp.diff(below, axis=-1)


def draw(ax: Any, share: xr.DataArray) -> None:
    """Draw one column for each layer, on a scale of logs, for half of ReLU's features are one value."""
    logs = np.log10(share.transpose("value", "layer") + 1e-4)
    ax.pcolormesh(share.layer, share.value, logs, cmap="Blues", vmin=-4, vmax=0, rasterized=True)
    ax.grid(visible=False)
