"""The panels of the regime map's figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import regimes

if TYPE_CHECKING:
    import xarray as xr

LAG = "lag of the running mean / std"
_WHITE = {"color": "black", "markerfacecolor": "white", "markersize": 5}
_MARKERS = {
    0.0: {"marker": "v", "label": "people's defaults", **_WHITE},
    10.0: {"marker": "^", "label": "defaults, bias of 10", **_WHITE},
}
_HEADLINE = {"decay": 1e-3, "bn_momentum": 0.99, "bias_value": 10.0}


def collapse(ax: Any, dataset: xr.Dataset, lost: xr.DataArray, curve: regimes.Curve, label: str) -> None:
    """Draw all runs, means over seeds, over their predicted lag, with the one curve."""
    for color, name in zip(bj.plot.COLORS, dataset.optimizer.values, strict=False):
        means = (values.sel(optimizer=name).mean("seed") for values in (dataset.lag_formula, lost))
        x, y = (values.values.ravel() for values in _alike(*means))
        ax.plot(x, y, ".", color=color, markersize=3, alpha=0.6, label=f"with a bias, {name}")
    ax.plot(curve.shift, curve.lost, color="black", linewidth=1.2, label="without, mean moved")
    ax.set_xscale("symlog", linthresh=0.3, linscale=0.6)
    ticks = [-30, -10, -3, -1, -0.3, 0, 0.3, 1, 3, 10, 30]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set(xlabel=f"{LAG}, by the formula", ylabel=label, xlim=(-60, 60))


def marks(ax: Any, dataset: xr.Dataset) -> None:
    """Mark where people's defaults lie at the end: as they are, and with a bias of 10."""
    end = dataset.isel(report=-1).mean("seed")
    for value, style in _MARKERS.items():
        at = end.sel(default_bias=value)
        ax.plot(at.default_shift.values.ravel(), at.default_lost.values.ravel(), linestyle="", **style)


def formula(ax: Any, dataset: xr.Dataset) -> None:
    """Draw the measured lag over the predicted one."""
    for color, name in zip(bj.plot.COLORS, dataset.optimizer.values, strict=False):
        one = dataset.sel(optimizer=name).mean("seed")
        x, y = (abs(values.values.ravel()) for values in (one.lag_formula, one.lag_measured))
        ax.plot(x, y, ".", color=color, markersize=3, alpha=0.6, label=f"{name}, all reports")
    ax.plot([1e-4, 100], [1e-4, 100], color="black", linewidth=0.8, label="equal")
    ax.set(xscale="log", yscale="log", xlim=(1e-4, 100), ylim=(1e-4, 100))
    ax.set(xlabel=f"|{LAG}|, by the formula", ylabel="the same, measured")
    ax.legend(loc="lower right")


def plane(ax: Any, dataset: xr.Dataset) -> Any:
    """Draw accuracy lost at the end over what makes the lag: decay and memory, and the bias left."""
    one = dataset.isel(report=-1, schedule=0, optimizer=0).mean("seed")
    one = one.sel(decay=one.decay > 0)
    speed = one.decay / (1 - one.bn_momentum)
    left = one.bias_value * (1 - one.decay) ** dataset.report.values[-1] / one.batch_std
    x, y, lost = (values.values.ravel() for values in _alike(speed, left, one.accuracy_lost))
    drawn = ax.scatter(x, y, c=lost, s=26, vmin=0, vmax=0.85, edgecolors="grey", linewidths=0.3)
    ends = np.array([2e-4, 0.6])
    for at, style in ((1.0, ":"), (2.0, "--")):
        ax.plot(ends, at / ends, "k", linestyle=style, linewidth=1, label=f"|lag|/std = {at:g}")
    if "default_lost" in dataset:
        std = dataset.default_std.mean()
        for setting in regimes.DEFAULTS:
            at = setting.decay / (1 - setting.bn_momentum)
            for value, style in _MARKERS.items():
                # PyTorch's biases have a standard deviation of 1/sqrt(3 fan_in), of 64 features
                bias = value or setting.sigma_b / np.sqrt(3 * 64)
                ax.plot(at, bias / std, **style | {"label": None})
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=(0.02, 1e3))
    ax.set(xlabel="decay per update / (1 - momentum of BN)", ylabel="bias left / std")
    ax.legend(loc="lower center", ncols=2)
    return drawn


def _alike(*arrays: xr.DataArray) -> tuple:
    import xarray as xr

    first, *others = xr.broadcast(*arrays)
    return first, *(one.transpose(*first.dims) for one in others)


def headline(dataset: xr.Dataset) -> xr.DataArray:
    """Accuracy lost in the setting of `norm_order`, or in what is nearest to it."""
    return dataset.accuracy_lost.isel(optimizer=0, schedule=0).sel(_HEADLINE, method="nearest")


def transients(ax: Any, dataset: xr.Dataset) -> None:
    """Draw what is lost over time, in the headline's setting and by defaults with a bias of 10."""
    first = headline(dataset)
    text = f"{first.optimizer.values!s}, decay {float(first.decay):.0e}"
    lines = {f"{text}, momentum {float(first.bn_momentum):.2g}": first}
    if "default_lost" in dataset:
        large = dataset.default_lost.sel(default_bias=10.0, default_schedule="constant")
        lines |= {name: large.sel(setting=name) for name in ("Keras AdamW", "PyTorch AdamW", "PyTorch CIFAR")}
    for color, (name, lost) in zip(bj.plot.COLORS[2:], lines.items(), strict=False):
        bj.plot.line(ax, lost, "report", over="seed", marker="o", markersize=3, color=color, label=name)
    ax.set(xlabel="update", ylabel="accuracy lost at inference", ylim=(-0.05, 1.45))
    ax.legend(loc="upper center", title="initial bias of 10")


def precision(ax: Any, dataset: xr.Dataset) -> None:
    """Draw the training loss over the initial bias in each dtype."""
    for color, name in zip(bj.plot.COLORS, dataset.dtype.values, strict=False):
        bj.plot.line(
            ax,
            dataset.precision_loss.sel(dtype=name),
            "precision_bias",
            over="seed",
            marker="o",
            markersize=3,
            color=color,
            label=str(name),
        )
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xlabel="initial bias", ylabel="training loss, last tenth (nats)")
    ax.legend(loc="upper left")
