import matplotlib.colors
import numpy as np
import xarray as xr

from biasjax import plot
from experiments._parts import drawing


def _pair():
    coords = {"order": ["a", "b"], "sigma_b": [0.0, 1.0, 2.0], "layer": [1, 2, 3, 4]}
    theory = xr.DataArray(np.arange(24.0).reshape(2, 3, 4), coords)
    return theory + 0.5, theory


def test_a_family_has_a_line_and_dots_for_each_curve():
    _, (ax,) = plot.panels(["family"])
    styles = {"marker": "sigma_b", "linestyles": ("-", "--", ":")}
    drawing.family(ax, "layer", *_pair(), color="order", label="{} {:g}".format, **styles)
    lines, dots = ax.lines[::2], ax.lines[1::2]
    assert [line.get_linestyle() for line in lines] == ["-", "--", ":"] * 2
    assert [line.get_marker() for line in dots] == list("os^") * 2
    assert [line.get_color() for line in dots] == [color for color in plot.COLORS[:2] for _ in range(3)]
    assert ax.get_legend_handles_labels()[1] == ["a 0", "a 1", "a 2", "b 0", "b 1", "b 2"]
    drawn = np.stack([np.asarray(line.get_ydata()) for line in dots])
    np.testing.assert_allclose(drawn, np.arange(24.0).reshape(6, 4) + 0.5)


def test_one_dimension_is_told_apart_by_colour_and_marker():
    _, (ax,) = plot.panels(["family"])
    drawing.family(ax, "layer", *(values.isel(sigma_b=0) for values in _pair()), color="order")
    assert [(line.get_color(), line.get_marker()) for line in ax.lines[1::2]] == [
        (plot.COLORS[0], "o"),
        (plot.COLORS[1], "s"),
    ]


def test_bands_have_the_colour_of_their_dots():
    _, (ax,) = plot.panels(["family"])
    measured, theory = (values.isel(sigma_b=0) for values in _pair())
    drawing.family(ax, "layer", measured, theory, color="order", band=(measured - 1, measured + 1))
    drawn = [matplotlib.colors.to_rgb(np.asarray(band.get_facecolor())[0]) for band in ax.collections]
    assert drawn == [matplotlib.colors.to_rgb(color) for color in plot.COLORS[:2]]


def test_means_have_bands_of_their_interval():
    _, (ax,) = plot.panels(["means"])
    _, theory = (values.isel(sigma_b=0) for values in _pair())
    seeds = xr.DataArray([1.0, 2.0, 3.0, 4.0], dims="seed")
    drawing.means(ax, "layer", theory + seeds, theory, color="order")
    np.testing.assert_allclose(np.asarray(ax.lines[1].get_ydata()), theory[0] + 2.5)
    heights = np.asarray(ax.collections[0].get_paths()[0].vertices)[:, 1]
    expected = np.ptp(theory[0].values) + 2 * plot.confidence(seeds, "seed")
    np.testing.assert_allclose(np.ptp(heights), expected)
