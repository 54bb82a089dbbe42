"""Tables and panels of networks from chosen initial biases, at the rate of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import initial_biases as parts

if TYPE_CHECKING:
    import xarray as xr


def root_mean_square(biases: xr.DataArray) -> xr.DataArray:
    """Root mean square over layers and units, ``(..., seed)``."""
    return (biases**2).mean(("layer", "unit")) ** 0.5


def tables(best: xr.Dataset) -> str:
    """Each initial bias at its rate: first losses, accuracy, units and biases; the rare class likewise."""
    from biasjax import _text

    heading: tuple[str, ...] = (
        "activation",
        "bias",
        "loss",
        "updates 10-30",
        "accuracy",
        "dead",
        "linear",
        "std",
        "after",
        "moved",
    )
    rows: list[tuple[str, ...]] = [heading]
    half = bj.plot.confidence(best.test, "seed")
    for activation in best.activation.values:
        for init in best.init.values:
            one = best.sel(activation=activation, init=init)
            before, after = (one.biases.sel(when=when) for when in parts.WHEN)
            numbers = (
                one.loss[:, 0].mean(),
                one.loss[:, 10:30].mean(),
            )
            cells = [f"{float(x):.2f}" for x in numbers]
            cells.append(
                f"{float(one.test.mean()):.3f} ± {float(half.sel(activation=activation, init=init)):.3f}"
            )
            cells += [f"{float(one[name].sel(when='before').mean()):.2f}" for name in ("dead", "always_on")]
            cells += [
                f"{float(x):.3f}"
                for x in (before.std(), after.std(), root_mean_square(after - before).mean())
            ]
            rows.append((str(activation), str(init), *cells))
    return f"{_text.table(rows, right=range(2, len(heading)))}\n\n{_rare_table(best)}"


def _rare_table(best: xr.Dataset) -> str:
    from biasjax import _text

    reports = [int(report) for report in best.report]
    rows = [("output kernel", "output bias", "rate", *(f"loss at {n}" for n in reports), "area under ROC")]
    for scale in best.head_scale.values:
        for start in best.start.values:
            one = best.sel(head_scale=scale, start=start)
            half = float(bj.plot.confidence(one.test_area, "seed"))
            losses = (f"{float(x):.3f}" for x in one.rare_loss.mean("seed"))
            area = f"{float(one.test_area.mean()):.3f} ± {half:.3f}"
            rows.append((f"{scale:.3g}", start, f"{float(one.rare_rate):.2g}", *losses, area))
    return _text.table(rows, right=range(2, len(rows[0])))


def draw_losses(ax: Any, one: xr.Dataset) -> None:
    """Losses of the first batches by initial bias."""
    loss = one.loss.isel(step=slice(60)).rolling(step=5, min_periods=1).mean()
    for init, color in zip(parts.INITS, [*bj.plot.COLORS, "0.6"], strict=True):
        bj.plot.line(ax, loss.sel(init=init).mean("seed"), "step", color=color, label=init, linewidth=1.2)
    ax.set(xlabel="update", ylabel="loss of a batch, mean of 5", ylim=(0, 6.5))
    ax.legend(fontsize=7, ncols=2)


def draw_lost(ax: Any, best: xr.Dataset) -> None:
    """Accuracy that each initial bias loses, by activation."""
    names = [name for name in parts.INITS if name not in ("zeros", "-1")]
    lost = (best.test.sel(init="zeros") - best.test).sel(init=names)
    half = bj.plot.confidence(lost, "seed")
    for i, (activation, color) in enumerate(zip(best.activation.values, bj.plot.COLORS, strict=False)):
        mean = lost.sel(activation=activation).mean("seed")
        at = np.arange(len(names)) + 0.2 * (i - 1)
        ax.errorbar(
            at,
            mean,
            half.sel(activation=activation),
            color=color,
            marker="o",
            markersize=4,
            linestyle="",
            label=activation,
        )
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.set_ylabel("test accuracy, zeros minus own")
    ax.legend()


def draw_biases(ax: Any, one: xr.Dataset) -> None:
    """Where hidden biases lie before and after training."""
    for i, init in enumerate(parts.INITS):
        for when, color, side in zip(parts.WHEN, ("0.6", bj.plot.COLORS[0]), (-0.17, 0.17), strict=True):
            values = one.biases.sel(init=init, when=when).values.ravel()
            low, high = np.percentile(values, [5, 95])
            ax.plot([i + side] * 2, [low, high], color=color, linewidth=3, label=when if not i else None)
            ax.plot(i + side, np.median(values), "o", color=color, markersize=4)
    ax.set_xticks(range(len(parts.INITS)), list(parts.INITS), rotation=30, ha="right")
    ax.set_ylabel("median, 5% to 95%")
    ax.legend(title="training", loc="lower right")
