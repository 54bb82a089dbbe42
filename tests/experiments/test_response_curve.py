import dataclasses

import numpy as np
import pytest

from experiments import response_curve
from experiments._parts import line_fits


@pytest.fixture(scope="module")
def dataset():
    config = dataclasses.replace(response_curve.SMOKE, hidden=8, steps=200, seeds=2)
    return response_curve.run(config)


def test_a_tiny_run_holds_what_no_size_matters_to(dataset):
    claims = {claim.name: claim for claim in response_curve.claims(dataset)}
    assert all(len(name) <= 38 for name in claims)
    for name, claim in claims.items():
        assert claim.holds or name.startswith("ReLU, "), claim  # these take more updates
    assert "1152" in response_curve.table(dataset) or "1151" in response_curve.table(dataset)
    assert len(response_curve.figure(dataset).axes) == 8


def test_sliders_hold_the_curves_that_numpy_computes(dataset):
    x = dataset.input.values
    curve = dataset.curve.sel(weight=-2.0, bias=0.5)
    np.testing.assert_allclose(curve.sel(activation="relu"), np.maximum(-2 * x + 0.5, 0), atol=1e-6)
    np.testing.assert_allclose(curve.sel(activation="sigmoid"), 1 / (1 + np.exp(2 * x - 0.5)), atol=1e-6)
    assert float(dataset.steepest.sel(activation="sigmoid", weight=2.0, bias=1.0)) == pytest.approx(0.5)


def test_least_errors_are_those_of_integrals_by_hand():
    # |x - 1| on [0, 3] by v x: 3 - (29/6)²/9; 1 + s on [0, 3] by u s: 21 - 13.5²/9; over the length 6
    expected = (3 - (29 / 6) ** 2 / 9 + 21 - 13.5**2 / 9) / 6
    assert line_fits.least_error("relu", "|x - 1|", False) == pytest.approx(expected, rel=2e-3)
    # Its even part is 1 up to |x| = 1, and |x| beyond: mean square (1 + 26/3)/3, mean (1 + 4)/3
    square, mean = (1 + 26 / 3) / 3, 5 / 3
    assert line_fits.least_error("tanh", "|x - 1|", False) == pytest.approx(square, rel=2e-3)
    assert line_fits.least_error("tanh", "|x - 1|", True) == pytest.approx(square - mean**2, rel=2e-3)
    # The tent's even part is half of it on either side: mean square (2/3)/2/6
    assert line_fits.least_error("tanh", "tent", False) == pytest.approx(1 / 18, rel=5e-3)


def test_the_tent_is_one_at_one_and_zero_from_a_distance_of_one():
    x = np.array([-1.0, 0.0, 0.5, 1.0, 1.75, 2.0, 3.0])
    np.testing.assert_allclose(line_fits.targets(x)[1], [0, 0, 0.5, 1, 0.25, 0, 0])
