"""The border of convolutional networks under zero padding: what it loses, and what a bias fills."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import biasjax as bj
from experiments._parts import curves, drawing
from experiments.claims import Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

LAYERS = (1, 4, 12)
"""Layers to draw."""


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold the border of the first layer to theory: a third of q is missing, which the bias fills.

    Null twins: circular padding, and no bias.
    """
    ratio = _over_middle(dataset.border_q)
    # Those of a layer share its weights, so that this is what positions scatter by if they did not
    share = 1 / 2 + 1 / (dataset.sizes["position"] - 2)
    error = math.sqrt(2 / dataset.attrs["width"] / dataset.sizes["many"] * share)
    plain = dataset.q.sel(activation="linear", kernel="gaussian", sigma_b=0.0).isel(layer=0).mean("seed")
    made = []
    for sigma_b, null in ((0.0, _over_middle(plain)), (0.5, ratio.sel(border_sigma_b=0.0).mean())):
        expected, seen = (2 / 3 + sigma_b**2) / (1 + sigma_b**2), ratio.sel(border_sigma_b=sigma_b)
        text = f"q of border / middle, sigma_b = {sigma_b:g}"
        held = {"tolerance": curves.SINGLE * error * expected, "interval": bj.plot.confidence(seen, "many")}
        made.append(equal(text, "2 of 3 inputs", expected, seen.mean(), null=null, **held))
    q = dataset.zeros_q.sel(zeros_activation="linear", sigma_b=0.0)
    change = abs(q - 1).max(("seed", "layer", "position"))
    pair = {"measured": change.sel(zeros_kernel="delta_orthogonal")}
    pair["null"] = change.sel(zeros_kernel="gaussian")
    return [*made, at_most("delta-orthogonal, padded: |q - 1|", "the border is not seen", 1e-5, **pair)]


def _over_middle(q: xr.DataArray) -> xr.DataArray:
    return q.isel(position=[0, -1]).mean("position") / q.isel(position=slice(1, -1)).mean("position")


def draw(ax: Any, dataset: xr.Dataset) -> None:
    """Draw q by position, with a bias and without."""
    where = {"zeros_activation": "linear", "zeros_kernel": "gaussian", "sigma_b": [0.0, 0.5]}
    where["layer"] = [layer for layer in LAYERS if layer <= dataset.sizes["layer"]]
    pair = (values.sel(where) for values in (dataset.zeros_q, dataset.zeros_q_theory))
    label = "layer {1}, $\\sigma_b$ = {0:g}".format
    drawing.means(ax, "position", *pair, color="sigma_b", marker="layer", label=label)
    ax.set(xlabel="position", ylabel="q", yscale="log", ylim=(0.2, 20))
    ax.legend(fontsize=7, ncols=2, loc="upper center")
