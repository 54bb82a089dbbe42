import functools

import numpy as np
import pytest

from biasjax import normrates, phases, plot
from biasjax._theory import labelling

BEHIND_RELU = functools.partial(normrates.layer_norm, "relu", place="after")


def test_a_plane_of_phases_is_that_of_its_points_and_can_be_drawn():
    plane = phases.diagram("tanh", sigma_w=[0.5, 2.0], sigma_b=[0.1, 0.3, 0.5])
    assert set(plane.data_vars) == set(phases.OrderParameters._fields)
    point = phases.order_parameters("tanh", 2.0, 0.3)
    for name, value in point._asdict().items():
        np.testing.assert_allclose(plane[name].sel(sigma_w=2.0, sigma_b=0.3), value, rtol=1e-4)
    _, (ax,) = plot.panels(["phases"])
    assert plot.heatmap(ax, plane.xi_c, "sigma_w", "sigma_b").ax.get_ylabel().count("layers") == 1


def test_rates_keep_the_order_of_their_axes():
    rates = normrates.diagram(BEHIND_RELU, sigma_b=[0.0, 1.0], sigma_w=[1.0, 2.0, 3.0])
    assert rates.rate.dims == ("sigma_b", "sigma_w")
    expected = np.pi / (np.pi - 1) / (1 + rates.sigma_b**2 / rates.sigma_w**2)
    np.testing.assert_allclose(rates.rate, expected, rtol=1e-5)
    both = normrates.diagram(functools.partial(normrates.residual, "relu", 1.0), sigma_w=[1.0, 2.0])
    assert set(both.data_vars) == {"q", "rate"}


def test_what_is_no_axis_is_refused():
    with pytest.raises(ValueError, match="sigma_b: expected numbers along one axis, got shape"):
        normrates.diagram(BEHIND_RELU, sigma_b=0.5)
    with pytest.raises(TypeError, match="axes: expected at least one"):
        normrates.diagram(BEHIND_RELU)


def test_all_that_order_parameters_hold_has_a_name():
    assert set(phases.OrderParameters._fields) - {"status"} <= set(labelling.NAMES)
