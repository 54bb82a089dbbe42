"""Panels of the experiment on biases of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import bias_tuning
from experiments._parts.transformers import KINDS

if TYPE_CHECKING:
    import xarray as xr

LAYOUTS = {"pre": "pre-norm", "post": "post-norm", "rotary": "rotary"}
_FATES = {
    "cancelled": "#D55E00",
    "others can do it all": "#E69F00",
    "in part its own": "#B5DDF5",
    "needed": "#56B4E9",
}


def audits(ax: Any, dataset: xr.Dataset) -> None:
    """A square for each kind of bias in each block."""
    size = float(dataset.effective.max())
    none, own = dataset.effective == 0, dataset.unique
    fate = np.where(none, 0, np.where(own == 0, 1, np.where(own < size, 2, 3)))
    seen = dataset.effective.notnull().values
    for i, (word, color) in enumerate(_FATES.items()):
        y, x = np.nonzero((fate == i) & seen)
        ax.scatter(x, y, s=150, marker="s", color=color, label=word)
    for y, x in zip(*np.nonzero(seen), strict=True):
        ax.text(x, y, f"{float(own[y, x]):.0f}", ha="center", va="center", fontsize=7, color="#111111")
    ax.set_xticks(range(len(KINDS)), KINDS)
    ax.set_yticks(range(dataset.sizes["audited"]), dataset.audited.values)
    ax.set(ylim=(dataset.sizes["audited"] - 0.5, -0.5), xlim=(-0.6, len(KINDS) - 0.4))
    ax.set_xlabel(f"kind of bias (number: of {size:.0f} directions, those no other bias has)")
    ax.grid(False)
    place = {"loc": "upper center", "bbox_to_anchor": (0.45, -0.2), "ncols": 4}
    ax.legend(**place, fontsize=7, columnspacing=0.8, handletextpad=0.1)


def effects(ax: Any, dataset: xr.Dataset) -> None:
    """What becomes of the logits when one trained bias is set to zero, a dot for each seed."""
    full = dataset.sel(arm="all", norm="LN").isel(learning_rate=0)
    names = dataset.layout.values
    for i, (kind, color) in enumerate(zip(bias_tuning.PROJECTIONS, bj.plot.COLORS, strict=False)):
        for j, layout in enumerate(names):
            effect = full[f"effect_{kind}"].sel(layout=layout).values
            label = f"{kind} bias" if j == 0 else None
            ax.scatter(np.full(len(effect), j + 0.2 * (i - 1)), effect, s=12, color=color, label=label)
    ax.set_xticks(range(len(names)), [LAYOUTS[name] for name in names])
    ax.set(yscale="log", ylabel="largest change of a logit / their std", xlim=(-0.6, len(names) - 0.4))
    ax.legend(loc="center right")


def accuracies(ax: Any, gain: xr.DataArray) -> None:
    """Accuracy of networks trained without a kind of bias, less that with all."""
    gain = gain.sel(arm=[arm for arm in gain.arm.values if arm != "all"])
    cells = [(layout, norm) for layout in gain.layout.values for norm in gain.norm.values]
    for i, ((layout, norm), color) in enumerate(zip(cells, bj.plot.COLORS, strict=False)):
        one = gain.sel(layout=layout, norm=norm)
        _points(ax, one, i, len(cells), f"{LAYOUTS[layout]}, {norm}", color)
    ax.set_xticks(range(gain.sizes["arm"]), gain.arm.values, rotation=20)
    ax.set_ylabel("test accuracy - that with all biases")
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=7)


def tuned(ax: Any, gain: xr.DataArray) -> None:
    """Accuracy of networks tuned by a kind of bias, less that of the head alone."""
    gain = gain.sel(tuned=[arm for arm in gain.tuned.values if arm not in ("frozen", "everything")])
    for i, (name, color) in enumerate(zip(gain.variant.values, bj.plot.COLORS, strict=False)):
        _points(ax, gain.sel(variant=name), i, gain.sizes["variant"], name, color)
    ax.set_xticks(range(gain.sizes["tuned"]), gain.tuned.values, rotation=20)
    ax.set_ylabel("test accuracy - that of the head alone")
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=7)


def _points(ax: Any, values: xr.DataArray, index: int, count: int, label: str, color: str) -> None:
    """Mean and interval over seeds, side by side with other series."""
    mean, half = values.mean("seed"), bj.plot.confidence(values, "seed")
    at = np.arange(len(mean)) + 0.6 * ((index + 0.5) / count - 0.5)
    ax.errorbar(at, mean, half, fmt="o", markersize=3, elinewidth=1, color=color, label=label)
