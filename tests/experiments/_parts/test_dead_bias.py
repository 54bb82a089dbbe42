import numpy as np
import pytest

from experiments._parts import dead_bias


def test_lag_formula_is_the_recursion_of_the_running_mean():
    b, share, lags = 7.0, 0.0, []
    for _ in range(50):
        lags.append(b - share)
        share, b = 0.9 * share + 0.1 * b, 0.98 * b
    np.testing.assert_allclose(dead_bias.lag_formula(7.0, 0.9, 0.98, np.arange(50)), lags, rtol=1e-12)
    np.testing.assert_allclose(dead_bias.lag_formula(7.0, 0.9, 1.0, 9), 7.0 * 0.9**9)


def test_a_lag_has_a_limit_where_both_fall_alike():
    near = [dead_bias.lag_formula(3.0, 0.9, r, 20) for r in (0.9 - 1e-6, 0.9 + 1e-6)]
    assert dead_bias.lag_formula(3.0, 0.9, 1 - 0.1, 20) == pytest.approx(np.mean(near), rel=1e-6)
