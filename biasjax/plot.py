"""Figures of labelled results: DataArray -> Axes. Nothing here computes but `confidence`.

Figures are made without pyplot, so they need no display and leak no state, and saved files are the same
bytes for the same data.
"""

# matplotlib's own types are partly unknown
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from biasjax import _files, check
from biasjax._plot import planes

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

__all__ = ["COLORS", "confidence", "heatmap", "line", "panels", "save"]


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
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "biasjax",
}
# matplotlib reads a legend's style when it is made, which is after `panels` has returned
_LEGEND: dict[str, Any] = {"fontsize": 8, "frameon": False}
_MISSING = "#8c8c8c"  # neither in viridis nor in the middle of RdBu


def panels(
    titles: Sequence[str], *, columns: int = 2, size: tuple[float, float] = (4.6, 3.2)
) -> tuple[Figure, list[Axes]]:
    """Make a figure with a panel for each title, ``columns`` in a row; ``size`` is a panel's in inches.

    Legends have no frame, unless ``ax.legend(frameon=True)``.

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
    for artist in (figure, *grid):
        cast(Any, artist).legend = functools.partial(artist.legend, **_LEGEND)
    for ax, title in zip(grid, titles, strict=False):
        ax.set_title(title, loc="left")
    for ax in grid[len(titles) :]:
        ax.remove()
    return figure, grid[: len(titles)]


def line(ax: Axes, y: xr.DataArray, x: str, *, over: str | None = None, **style: Any) -> None:
    """Draw one line over a coordinate: with ``over``, a mean and the band of its 95% confidence interval.

    Parameters
    ----------
    ax
        Axes to draw on.
    y
        One-dimensional, or two-dimensional with ``over``.
    x
        Name of the coordinate along the line.
    over
        Dimension to take the mean over, e.g. "seed". The band is mean ± `confidence`: where the mean of many
        such draws lies, not how far the draws are apart. There is none for a single one.
    **style
        Passed to ``ax.plot``.
    """
    _check("line", ax, y)
    check.choice("x", x, [str(name) for name in (*y.coords, *y.dims)])
    if over is not None:
        check.choice("over", over, [str(name) for name in y.dims])
    mean = y if over is None else y.mean(over)
    (drawn,) = ax.plot(mean[x].values, mean.values, **style)
    if over is not None:
        half = confidence(y, over)
        band = ((mean - half).values, (mean + half).values)
        ax.fill_between(mean[x].values, *band, color=drawn.get_color(), alpha=0.15, linewidth=0)


def confidence(values: xr.DataArray, over: str | Sequence[str], *, level: float = 0.95) -> xr.DataArray:
    """Half-width of the confidence interval of a mean, by Student's t: t · std / sqrt(n), n - 1 degrees.

    Parameters
    ----------
    values
        Independent draws along ``over``, about normal; NaN ones are left out, as in ``values.mean``.
    over
        Dimension, or dimensions, that the mean is taken over.
    level
        Probability that the interval holds the mean.

    Returns
    -------
    xr.DataArray
        Without ``over``; NaN where fewer than two values are left or one is infinite.

    Examples
    --------
    >>> import xarray as xr
    >>> seeds = xr.DataArray([1.0, 2.0, 3.0, 4.0], dims="seed")
    >>> print(f"{seeds.mean():.2f} ± {confidence(seeds, 'seed'):.2f}")
    2.50 ± 2.05
    """
    from scipy.special import stdtrit  # pyright: ignore

    _check_array("confidence", values)
    if not isinstance(cast(object, over), (str, Sequence)):
        check.fail("over", "names of dimensions", repr(over), 'E.g. "seed".', TypeError)
    dims = [over] if isinstance(over, str) else list(over)
    for dim in dims:
        check.choice("over", dim, [str(name) for name in values.dims])
    check.number("level", level, 0.0, 1.0)
    count, mean = values.count(dims), values.mean(dims)
    free = (count - 1).where((count > 1) & np.isfinite(mean))
    with np.errstate(invalid="ignore"):
        squares = ((values - mean) ** 2).sum(dims)
    return stdtrit(free, 0.5 + level / 2) * np.sqrt(squares / free / count)


def heatmap(
    ax: Axes,
    values: xr.DataArray,
    x: str,
    y: str,
    *,
    label: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    center: float | None = None,
    cmap: str | None = None,
    missing: str = "no value",
) -> Colorbar:
    """Draw a plane of cells, with a colour bar that says what they are.

    Cells lie about their coordinates, with edges halfway on the scale that the axes have, so set a log scale
    first. Coordinates that are no numbers are counted, and up to eight cells have a tick each.

    Parameters
    ----------
    ax
        Axes to draw on. Their labels become those of the coordinates.
    values
        Two-dimensional.
    x, y
        Names of the dimensions to the right and upwards.
    label
        Of the colour bar. Default: ``long_name`` (else the name) and ``units`` of ``values``.
    vmin, vmax
        Values of the first and last colour; default the least and greatest.
    center
        Value in the middle of a diverging scale, as far down as up.
    cmap
        Name of a colour map; default "viridis", "RdBu_r" with ``center``.
    missing
        What the label says of grey cells, those that are NaN or infinite, if there are any.

    Returns
    -------
    Colorbar
        Its ``mappable`` is the mesh, rasterized in an SVG.

    Examples
    --------
    >>> import xarray as xr
    >>> accuracy = xr.DataArray([[0.9, 0.1], [np.nan, 0.8]], dims=("sigma_b", "sigma_w"), name="accuracy")
    >>> _, axes = panels(["where it learns"])
    >>> heatmap(axes[0], accuracy, "sigma_w", "sigma_b", vmin=0, vmax=1).ax.get_ylabel()
    'accuracy (grey: no value)'
    """
    import matplotlib as mpl

    _check("heatmap", ax, values)
    for name, dim in {"x": x, "y": y}.items():
        check.choice(name, dim, [str(one) for one in values.dims])
        values = values.sortby(dim) if planes.is_number(values[dim]) else values
    if values.ndim != 2 or x == y:
        fix = "Select along the others, e.g. values.isel(seed=0)."
        check.fail("heatmap", f"a plane over {x!r} and {y!r}", f"dimensions {values.dims}", fix)
    label = planes.label(values, values.name) if label is None else label
    if not label:
        check.fail("heatmap", "a label", repr(label), 'Say label="accuracy", or name the values.')
    cmap = ("viridis" if center is None else "RdBu_r") if cmap is None else cmap
    if not isinstance(cast(object, cmap), str) or cmap not in mpl.colormaps:
        check.fail("cmap", "the name of a colour map", repr(cmap), 'E.g. "viridis".')
    shown = np.ma.masked_invalid(values.transpose(y, x).values.astype(float))
    low, high = planes.limits(shown, vmin, vmax, center)
    colors = mpl.colormaps[cmap].with_extremes(bad=_MISSING)
    edges = (planes.place(axis, values, name) for axis, name in ((ax.xaxis, x), (ax.yaxis, y)))
    mesh = ax.pcolormesh(*edges, shown, vmin=low, vmax=high, cmap=colors, rasterized=True)
    ax.grid(visible=False)
    if np.ma.is_masked(shown):
        label = f"{label} (grey: {missing})"
    with mpl.rc_context({"font.size": _STYLE["font.size"]}):
        return ax.figure.colorbar(mesh, ax=ax, label=label)


def _check(what: str, ax: Axes, values: xr.DataArray) -> None:
    if not hasattr(ax, "plot"):
        check.fail(what, "Axes of matplotlib", type(ax).__name__, "Make them with panels.", TypeError)
    _check_array(what, values)


def _check_array(what: str, values: xr.DataArray) -> None:
    if not hasattr(values, "coords") or not planes.is_number(values):
        got = getattr(values, "dtype", type(values).__name__)
        check.fail(what, "a DataArray of numbers", got, "Select one of the Dataset's.", TypeError)


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PNG and SVG, without dates, so that the same data give the same bytes.

    Parameters
    ----------
    figure
        The figure.
    path
        File name without ending; ".png" and ".svg" are taken off.

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
    path = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = io.BytesIO(), io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(png, format="png", dpi=150)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    both = ((".png", png), (".svg", svg))
    return [_files.write(path.with_name(path.name + ending), file.getvalue()) for ending, file in both]
