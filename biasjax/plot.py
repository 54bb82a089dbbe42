"""Figures of labelled results: DataArray -> Axes. Nothing here computes.

Figures are made without pyplot, so they need no display and leak no state, and saved files are the same
bytes for the same data.
"""

# matplotlib's own types are partly unknown
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from biasjax import _files, check

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "line", "panels", "save"]


def __dir__() -> list[str]:
    return __all__


# Okabe & Ito's colours, told apart by colour-blind readers too
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "biasjax",
}


def panels(
    titles: Sequence[str], *, columns: int = 2, size: tuple[float, float] = (4.6, 3.2)
) -> tuple[Figure, list[Axes]]:
    """Make a figure with a panel for each title, ``columns`` in a row; ``size`` is a panel's in inches.

    Examples
    --------
    >>> figure, axes = panels(["loss", "accuracy"])
    >>> len(axes)
    2
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if isinstance(titles, str) or not isinstance(cast(object, titles), Sequence) or not titles:
        check.fail("panels", "a list of titles", repr(titles), "One for each panel.", TypeError)
    check.positive_int("columns", columns)
    if np.shape(check.in_range("size", size, 0.1, 100.0)) != (2,):
        check.fail("size", "width and height of a panel in inches", size, "E.g. (4.6, 3.2).")
    rows = -(-len(titles) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        grid: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for ax, title in zip(grid, titles, strict=False):
        ax.set_title(title, loc="left")
    for ax in grid[len(titles) :]:
        ax.remove()
    return figure, grid[: len(titles)]


def line(ax: Axes, y: xr.DataArray, x: str, *, over: str | None = None, **style: Any) -> None:
    """Draw one line over a coordinate, with a band from least to greatest over another dimension.

    Parameters
    ----------
    ax
        Axes to draw on.
    y
        One-dimensional, or two-dimensional with ``over``.
    x
        Name of the coordinate along the line.
    over
        Dimension to draw as a band around its mean, e.g. "seed".
    **style
        Passed to ``ax.plot``.
    """
    if not hasattr(ax, "plot"):
        check.fail("line", "Axes of matplotlib", type(ax).__name__, "Make them with panels.", TypeError)
    if not hasattr(y, "coords"):
        check.fail("line", "a DataArray", type(y).__name__, "Select one of the Dataset's.", TypeError)
    check.choice("x", x, [str(name) for name in (*y.coords, *y.dims)])
    if over is not None:
        check.choice("over", over, [str(name) for name in y.dims])
    mean = y if over is None else y.mean(over)
    (drawn,) = ax.plot(mean[x].values, mean.values, **style)
    if over is not None:
        band = (y.min(over).values, y.max(over).values)
        ax.fill_between(mean[x].values, *band, color=drawn.get_color(), alpha=0.15, linewidth=0)


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PNG and SVG, without dates, so that the same data give the same bytes.

    Parameters
    ----------
    figure
        The figure.
    path
        File name without ending.

    Returns
    -------
    list of Path
        The two files, each written whole.
    """
    import matplotlib as mpl

    if not isinstance(cast(object, path), (str, Path)):
        check.fail("save", "a path", repr(path), "A file name without ending.", TypeError)
    if not hasattr(figure, "savefig"):
        check.fail("save", "a Figure", type(figure).__name__, "Make it with panels.", TypeError)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = io.BytesIO(), io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(png, format="png", dpi=150)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    both = ((".png", png), (".svg", svg))
    return [_files.write(path.with_suffix(ending), file.getvalue()) for ending, file in both]
