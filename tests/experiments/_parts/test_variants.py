import numpy as np
import pytest

import biasjax as bj
from experiments._parts import variants


@pytest.fixture(scope="module")
def digits():
    return bj.data.digits()


def test_pooled_are_means_over_squares(digits):
    found = variants.pooled(digits, 4)
    assert found.train_x.shape == (1437, 2, 2, 1)
    expected = np.asarray(digits.test_x)[3, 4:, :4, 0].mean()
    assert float(found.test_x[3, 1, 0, 0]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="expected a divisor of"):
        variants.pooled(digits, 3)


def test_shifted_moves_whole_test_images(digits):
    found = variants.shifted(digits, seed=3, pixels=2)
    assert found.train_x is digits.train_x
    assert found.test_y is digits.test_y
    down, right = np.random.default_rng(3).integers(-2, 3, (2, 360))
    assert {-2, 0, 2} <= set(down)
    for i in range(20):
        expected = np.zeros((8, 8, 1), np.float32)
        for row in range(8):
            for column in range(8):
                to = (row + down[i], column + right[i])
                if 0 <= to[0] < 8 and 0 <= to[1] < 8:
                    expected[to] = digits.test_x[i, row, column]
        np.testing.assert_array_equal(found.test_x[i], expected)
    assert bool((variants.shifted(digits, seed=0, pixels=0).test_x == digits.test_x).all())


def test_imbalanced_thins_the_training_set_alone(digits):
    found = variants.imbalanced(digits, 8, 0.01)
    assert abs(float(found.train_y.mean()) - 0.01) < 5e-4
    assert int((found.train_y == 0).sum()) == int((digits.train_y != 8).sum())
    assert int(found.test_y.sum()) == int((digits.test_y == 8).sum())
    rows = {x.tobytes() for x in np.asarray(digits.train_x)[np.asarray(digits.train_y) == 8]}
    kept = np.asarray(found.train_x)[np.asarray(found.train_y) == 1]
    assert all(x.tobytes() in rows for x in kept)
    other = variants.imbalanced(digits, 8, 0.01, seed=1)
    assert not bool((other.train_x == found.train_x).all())
    with pytest.raises(ValueError, match="Choose another"):
        variants.imbalanced(digits, 8, 0.5)
