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
    assert band.get_paths()[0].get_extents().bounds == (0, 1, 10, 5)
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
