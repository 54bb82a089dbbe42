"""Histograms of the features of every layer of drawn networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj

if TYPE_CHECKING:
    import xarray as xr

EDGES = np.linspace(-2, 2, 82)
"""Edges of the bins; zero lies within the middle bin."""


def sweep(networks: Mapping[str, bj.network.Network], sigma_b: Sequence[float]) -> xr.DataArray:
    """Shares of features in each bin, over 16 inputs: ``(activation, sigma_b, layer, value)``."""
    import jax
    import jax.numpy as jnp

    def measure(key, *, activation: str, sigma_b):
        net_key, x_key = jax.random.split(key)
        net = networks[activation]
        x = jax.random.normal(x_key, (16, net.inputs))
        features = bj.propagation.features(net_key, net, bj.network.Scales(sigma_b=sigma_b), x)
        below = jnp.stack([jnp.mean(features < edge, (1, 2)) for edge in EDGES], -1)
        return {"share": jnp.diff(below, axis=-1)}

    static, dims = {"activation": tuple(networks)}, {"share": ("layer", "value")}
    found = bj.sweep.run(measure, {"sigma_b": sigma_b}, static=static, dims=dims)
    return found.share.assign_coords(value=(EDGES[1:] + EDGES[:-1]) / 2)


def draw(ax: Any, share: xr.DataArray) -> None:
    """Draw one column for each layer, on a scale of logs, for half of ReLU's features are one value."""
    logs = np.log10(share.transpose("value", "layer") + 1e-4)
    ax.pcolormesh(share.layer, share.value, logs, cmap="Blues", vmin=-4, vmax=0, rasterized=True)
    ax.grid(visible=False)
