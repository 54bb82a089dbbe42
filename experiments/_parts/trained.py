"""Accuracies of trained networks by cell: the rate's choice, the depth reached, and figures of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj

if TYPE_CHECKING:
    import xarray as xr

TRAINED = 0.5
"""Test accuracy from which a network counts as trained; ten classes, so guessing has a tenth."""


def best(validation: xr.DataArray, test: xr.DataArray) -> xr.DataArray:
    """Test accuracy at the rate with the best validation accuracy, mean of seeds, of each cell."""
    return test.isel(rate=validation.mean("seed").argmax("rate"))


def reach(accuracy: xr.DataArray) -> xr.DataArray:
    """Depth at which accuracy falls below one half, interpolated in log depth; NaN if it does not."""
    import xarray as xr

    logs = np.log(accuracy.depth.values)

    def one(values):
        low = np.flatnonzero(values < TRAINED)
        if not low.size or low[0] == 0:
            return np.nan
        at = low[0]
        share = (values[at - 1] - TRAINED) / (values[at - 1] - values[at])
        return np.exp(logs[at - 1] + share * (logs[at] - logs[at - 1]))

    return xr.apply_ufunc(one, accuracy, input_core_dims=[["depth"]], vectorize=True)


def draw_accuracy(ax: Any, accuracy: xr.DataArray, one: xr.Dataset) -> None:
    """Draw a map over weight scale and depth, with 6 xi_c and the critical line upon it."""
    ax.set_yscale("log")
    bj.plot.heatmap(ax, accuracy, "sigma_w", "depth", vmin=0, vmax=1, label="test accuracy, mean of seeds")
    limits = {"xlim": ax.get_xlim(), "ylim": ax.get_ylim()}
    ax.plot(one.sigma_w_line, 6 * one.xi_c_line, "w", linewidth=2.5)
    ax.plot(one.sigma_w_line, 6 * one.xi_c_line, color="#D55E00")
    ax.axvline(float(one.critical), color="w", linestyle="--", linewidth=1)
    ax.set(xlabel=r"$\sigma_w$", ylabel="depth / layers", **limits)


def draw_scaled(ax: Any, accuracy: xr.DataArray, dataset: xr.Dataset, bounds: Sequence[float]) -> None:
    """Draw all cells over depth / xi_c, phases apart, and the bounds of claims."""
    mean, halves = accuracy.mean("seed"), bj.plot.confidence(accuracy, "seed")
    scaled = (dataset.depth / dataset.xi_c).transpose(*mean.dims)
    for color, sigma_b in zip(bj.plot.COLORS, dataset.sigma_b.values, strict=False):
        chaotic = dataset.sigma_w > dataset.critical.sel(sigma_b=sigma_b)
        for phase, marker, chosen in (("ordered", "o", ~chaotic), ("chaotic", "^", chaotic)):
            cells = (one.sel(sigma_b=sigma_b, sigma_w=chosen) for one in (scaled, mean, halves))
            x, y, half = (one.values.ravel() for one in cells)
            label = f"$\\sigma_b$ = {sigma_b:.2g}, {phase}"
            ax.errorbar(x, y, half, color=color, marker=marker, markersize=4, linestyle="", label=label)
    for at in bounds:
        ax.axvline(at, color="grey", linewidth=0.8, linestyle=":")
    ax.set(xscale="log", xlabel=r"depth / $\xi_c$", ylabel="test accuracy", ylim=(0, 1))
    ax.legend(loc="lower left", fontsize=7)


def draw_rates(ax: Any, found: xr.Dataset) -> None:
    """Draw accuracy over the learning rate for the least and the greatest bias."""
    mean, halves = found.test.mean("seed"), bj.plot.confidence(found.test, "seed")
    rates = found.rate / found.depth
    for color, sigma_b in zip(bj.plot.COLORS[::2], found.sigma_b.values, strict=False):
        one, half = mean.sel(sigma_b=sigma_b), halves.sel(sigma_b=sigma_b)
        scaled = float(found.depth / found.xi_c.sel(sigma_b=sigma_b))
        label = f"$\\sigma_b$ = {sigma_b:.2g}: depth is {scaled:.2g} $\\xi_c$"
        ax.plot(rates, one, "o-", color=color, markersize=3.5, label=label)
        ax.fill_between(rates, one - half, one + half, color=color, alpha=0.15, linewidth=0)
    ax.axhline(0.1, color="grey", linewidth=0.8, linestyle=":", label="guessing")
    ax.set(xscale="log", xlabel="learning rate of SGD", ylabel="test accuracy", ylim=(0, 1))
    ax.legend()
