import math

import numpy as np
import pytest
import xarray as xr

plot = pytest.importorskip("biasjax.plot")


def _figure():
    figure, axes = plot.panels(["one", "two", "three"])
    y = xr.DataArray([[1.0, 2.0], [3.0, 6.0]], dims=("seed", "step"), coords={"step": [0, 10]})
    plot.line(axes[0], y, "step", over="seed", label="mean")
    plot.line(axes[1], y[0], "step", color="black")
    return figure, axes


def test_lines_show_the_data():
    _, axes = _figure()
    (line,) = axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), [[0, 2.0], [10, 4.0]])
    (band,) = axes[0].collections
    # Of two seeds d apart, t = 12.706 and the standard error is d/2
    top = 4 + 12.7062 * 2
    np.testing.assert_allclose(band.get_paths()[0].get_extents().extents, [0, 8 - top, 10, top], rtol=1e-5)
    assert [ax.get_title(loc="left") for ax in axes] == ["one", "two", "three"]


def test_the_same_data_give_the_same_bytes(tmp_path):
    files = [plot.save(_figure()[0], tmp_path / name / "figure") for name in ("first", "second")]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert [file.suffix for file in files[0]] == [".png", ".svg"]


def test_a_dimension_without_coordinates_counts_its_places():
    _, axes = plot.panels(["one"])
    plot.line(axes[0], xr.DataArray([1.0, 2.0], dims="position"), "position")
    np.testing.assert_array_equal(axes[0].lines[0].get_xydata(), [[0, 1.0], [1, 2.0]])


def test_confidence_is_that_of_scipy_and_holds_the_mean():
    values = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5, 2))
    draws = xr.DataArray(values, dims=("trial", "seed", "fold"))
    stats = pytest.importorskip("scipy.stats")
    for over, axes in (("seed", 1), (("seed", "fold"), (1, 2))):
        half, n = plot.confidence(draws, over), math.prod(draws.sizes[dim] for dim in np.atleast_1d(over))
        error = values.std(axes, ddof=1) / math.sqrt(n)
        np.testing.assert_allclose(half, -stats.t.interval(0.95, n - 1)[0] * error, rtol=1e-9)
        held = (abs(draws.mean(over) - 3.0) < half).mean()
        assert abs(held - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 4000)


def test_confidence_of_few_values_and_of_diverged_ones():
    draws = xr.DataArray([[1.0, 3.0, np.nan], [1.0, np.nan, np.nan], [1.0, 3.0, np.inf]], dims=("x", "seed"))
    np.testing.assert_allclose(plot.confidence(draws, "seed"), [12.7062, np.nan, np.nan], rtol=1e-5)
    _, (ax,) = plot.panels(["one"])
    plot.line(ax, draws[1:2], "x", over="seed")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 1.0]])


PLANE = xr.DataArray(
    [[0.1, np.nan, 0.9], [0.2, 0.4, 0.5]],
    dims=("depth", "sigma_w"),
    coords={"depth": [4, 40], "sigma_w": [3.0, 1.0, 2.0]},
    name="accuracy",
    attrs={"units": "share"},
)
PLANE.sigma_w.attrs = {"long_name": "weight scale", "units": "1/sqrt(fan-in)"}


def test_heatmap_places_cells_and_labels_everything():
    _, (ax,) = plot.panels(["one"])
    ax.set_yscale("log")
    bar = plot.heatmap(ax, PLANE, "sigma_w", "depth", vmin=0, vmax=1)
    mesh = bar.mappable
    np.testing.assert_allclose(mesh.get_array().filled(-1), [[-1, 0.9, 0.1], [0.4, 0.5, 0.2]])
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [0.5, 1.5, 2.5, 3.5])
    edge = math.sqrt(4 * 40)
    np.testing.assert_allclose(mesh.get_coordinates()[:, 0, 1], [16 / edge, edge, 1600 / edge])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("weight scale [1/sqrt(fan-in)]", "depth")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["4", "40"]
    assert bar.ax.get_ylabel() == "accuracy [share] (grey: no value)"
    assert mesh.get_clim() == (0, 1)
    assert mesh.get_rasterized()
    grey = mesh.to_rgba(mesh.get_array())[0, 0, :3]
    assert np.ptp(grey) == 0
    assert 0.3 < grey[0] < 0.7


def test_heatmap_about_a_centre_reaches_as_far_down_as_up():
    _, axes = plot.panels(["one", "two", "three"])
    plane = PLANE.fillna(0.0) - 0.2
    bars = [plot.heatmap(axes[0], plane, "sigma_w", "depth", label="log10 chi", center=0.0)]
    bars += [plot.heatmap(axes[1], plane, "sigma_w", "depth", label="q", vmin=-2, vmax=1, center=0.0)]
    none = {"label": "q", "missing": "diverged"}
    bars += [plot.heatmap(axes[2], plane * np.nan, "sigma_w", "depth", center=1.0, **none)]
    for bar, limits in zip(bars, [(-0.7, 0.7), (-2, 2), (0, 2)], strict=True):
        np.testing.assert_allclose(bar.mappable.get_clim(), limits)
        assert bar.mappable.cmap.name == "RdBu_r"
    assert [bar.ax.get_ylabel() for bar in bars] == ["log10 chi", "q", "q (grey: diverged)"]


def test_heatmap_counts_names_and_places(tmp_path):
    figure, (ax,) = plot.panels(["one"])
    values = xr.DataArray(np.ones((9, 1)), dims=("kernel", "place"), coords={"kernel": list("abcdefghi")})
    plot.heatmap(ax, values, "place", "kernel", label="q")
    assert [text.get_text() for text in ax.get_yticklabels()] == list("abcdefghi")
    assert ax.get_xlim() == (-0.5, 0.5)
    many = xr.DataArray(np.random.default_rng(0).random((200, 200)), dims=("a", "b"), name="q")
    figure, (ax,) = plot.panels(["one"])
    plot.heatmap(ax, many, "a", "b")
    assert plot.save(figure, tmp_path / "plane")[1].stat().st_size < 300_000


@pytest.mark.parametrize(
    ("values", "x", "options", "message"),
    [
        (PLANE.values, "sigma_w", {}, "heatmap: expected a DataArray of numbers, got float64"),
        (PLANE.astype(str), "sigma_w", {}, "heatmap: expected a DataArray of numbers"),
        (PLANE.expand_dims("seed"), "sigma_w", {}, r"heatmap: expected a plane .* values.isel\(seed=0\)"),
        (PLANE, "depth", {}, "heatmap: expected a plane over 'depth' and 'depth'"),
        (PLANE, "sigma_m", {}, "Did you mean 'sigma_w'"),
        (PLANE.rename(None), "sigma_w", {}, "heatmap: expected a label"),
        (PLANE, "sigma_w", {"cmap": "virid"}, "cmap: expected the name of a colour map"),
        (PLANE, "sigma_w", {"center": "0"}, "center: expected a number"),
    ],
)
def test_heatmap_refuses(values, x, options, message):
    _, (ax,) = plot.panels(["one"])
    with pytest.raises((ValueError, TypeError), match=message):
        plot.heatmap(ax, values, x, "depth", **options)


def test_legends_have_no_frame_whenever_they_are_made():
    figure, (ax, other) = plot.panels(["one", "two"])
    for each in (ax, other):
        each.plot([1, 2], label="line")
    assert not ax.legend().get_frame_on()
    assert ax.get_legend().get_texts()[0].get_fontsize() == 8
    assert not figure.legend().get_frame_on()
    assert other.legend(loc="lower left", frameon=True, fontsize=7).get_frame_on()
    assert other.get_legend().get_texts()[0].get_fontsize() == 7


@pytest.mark.parametrize("name", ["run-0.5", "run-0.5.png", "run-0.5.svg"])
def test_names_with_a_point_stay_whole(tmp_path, name):
    figure, _ = plot.panels(["one"])
    assert [file.name for file in plot.save(figure, tmp_path / name)] == ["run-0.5.png", "run-0.5.svg"]
