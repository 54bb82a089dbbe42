"""How figures lay what was measured over theory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import biasjax as bj

if TYPE_CHECKING:
    import xarray as xr

LEGEND = "dots: measured, mean of seeds; lines: mean-field theory"
MEDIANS = "dots: measured, median of seeds; bands: its 95% interval; lines: mean-field theory"
MARKERS = "os^x"


def dots(ax: Any, x: str, measured: xr.DataArray, *, color: str, label: str | None = None, marker: str = "o"):
    """Draw what was measured."""
    bj.plot.line(ax, measured, x, color=color, label=label, linestyle="", marker=marker, markersize=3.5)


def family(
    ax: Any,
    x: str,
    measured: xr.DataArray,
    theory: xr.DataArray,
    *,
    color: str,
    marker: str | None = None,
    label: Callable[..., str | None] = str,
    linestyles: Sequence[str] = ("-",) * len(MARKERS),
    band: tuple[xr.DataArray, xr.DataArray] | None = None,
) -> None:
    """Draw curves, theory as lines and what was measured as dots.

    Parameters
    ----------
    ax
        Axes.
    x
        Dimension along the curves.
    measured, theory
        Over ``x``, ``color`` and ``marker``.
    color, marker
        Dimensions told apart by colour, and by marker and line style; a single one by colour and marker.
    label
        Of the dots, from their coordinates along ``color`` and ``marker``.
    linestyles
        Along ``marker``.
    band
        Ends of the interval to shade around what was measured.
    """
    for i, hue in zip(range(measured.sizes[color]), bj.plot.COLORS, strict=False):
        for j in range(measured.sizes.get(marker, 1)):
            at = {color: i} | ({marker: j} if marker else {})
            text = label(*(measured[name].values[k] for name, k in at.items()))
            sign = MARKERS[(j if marker else i) % len(MARKERS)]
            bj.plot.line(ax, theory.isel(at), x, color=hue, linestyle=linestyles[j], linewidth=1)
            if band:
                low, high = (end.isel(at) for end in band)
                ax.fill_between(low[x].values, low.values, high.values, color=hue, alpha=0.2, linewidth=0)
            dots(ax, x, measured.isel(at), color=hue, marker=sign, label=text)


def means(ax: Any, x: str, each: xr.DataArray, theory: xr.DataArray, **style: Any) -> None:
    """Draw a `family` of means over the dimension "seed", with bands of their 95% intervals."""
    mean, half = each.mean("seed"), bj.plot.confidence(each, "seed")
    family(ax, x, mean, theory, band=(mean - half, mean + half), **style)
