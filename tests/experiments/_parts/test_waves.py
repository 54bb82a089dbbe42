import numpy as np

from experiments._parts import waves


def test_inputs_have_the_profile_and_positions_are_at_right_angles():
    x, y = waves.inputs(8, 32).astype(float) / 32**0.5
    np.testing.assert_allclose(x @ x.T, np.eye(8), atol=1e-6)
    np.testing.assert_allclose(y @ y.T, np.eye(8), atol=1e-6)
    np.testing.assert_allclose(x @ y.T, np.diag(waves.profile(8)), atol=1e-6)
