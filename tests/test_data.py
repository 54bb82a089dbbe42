import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import data


@pytest.mark.parametrize(
    ("load", "train", "test", "shape"),
    [(data.digits, 1437, 360, (8, 8, 1)), (data.mnist5k, 4000, 1000, (28, 28, 1))],
)
def test_real_sets_have_a_fixed_split(load, train, test, shape):
    first, second = load(), load()
    assert first.train_x.shape == (train, *shape)
    assert first.test_x.shape == (test, *shape)
    np.testing.assert_array_equal(first.test_x, second.test_x)
    assert first.train_x.min() == 0
    assert first.train_x.max() == 1
    for labels in (first.train_y, first.test_y):
        counts = np.bincount(labels, minlength=10)
        assert counts.min() > 0.05 * counts.sum()  # shuffled: every class on either side
    flat = data.flatten(first)
    assert flat.train_x.shape == (train, np.prod(shape))
    assert data.astype(flat, "bfloat16").test_x.dtype == "bfloat16"


def test_clusters_are_as_far_apart_as_said(key):
    near, far = (data.clusters(key, classes=2, features=8, separation=s) for s in (0.0, 30.0))

    def nearest_centre(sample):
        centres = np.stack(
            [np.asarray(sample.train_x)[np.asarray(sample.train_y) == c].mean(0) for c in (0, 1)]
        )
        distance = np.linalg.norm(np.asarray(sample.test_x)[:, None] - centres, axis=-1)
        return np.mean(distance.argmin(1) == np.asarray(sample.test_y))

    assert nearest_centre(far) == 1.0
    assert nearest_centre(near) < 0.7
    drawn = jax.vmap(lambda k: data.clusters(k).train_x)(jax.random.split(key, 3))
    assert drawn.shape == (3, 800, 16)
    with pytest.raises(ValueError, match="examples: expected at least 5, got 4"):
        data.clusters(key, examples=4)


def test_no_data_are_flattened_and_casts_checked(key):
    none = data.Data(*(x[:0] for x in data.clusters(key, examples=5)))
    images = none._replace(train_x=none.train_x.reshape(0, 4, 4, 1))
    assert data.flatten(images).train_x.shape == (0, 16)
    with pytest.raises(TypeError, match="data: expected Data, got None"):
        data.flatten(None)  # pyright: ignore
    with pytest.raises(TypeError, match="dtype: expected a floating dtype, got 'int32'"):
        data.astype(none, "int32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_clusters_are_of_the_dtype_asked_for(dtype, key):
    assert data.clusters(key, dtype=dtype).train_x.dtype == dtype


def test_photographs_are_grey_and_stay_apart():
    train, test = data.photographs()
    assert train.shape == test.shape == (427, 640, 1)
    assert 0 <= float(min(train.min(), test.min())) < float(max(train.max(), test.max())) <= 1
    assert not bool((train == test).all())
    assert data.photographs("bfloat16").test.dtype == "bfloat16"


@pytest.mark.parametrize(("size", "stride"), [(4, 4), (4, 3), (6, 1)])
def test_patches_are_squares_of_the_image_in_order(size, stride):
    image = jnp.arange(6.0 * 9).reshape(6, 9, 1)
    found = data.patches(image, size, stride)
    corners = [(top, left) for top in range(0, 7 - size, stride) for left in range(0, 10 - size, stride)]
    expected = np.stack([image[top : top + size, left : left + size] for top, left in corners])
    np.testing.assert_array_equal(found, expected)


def test_patches_larger_than_the_image_are_refused():
    with pytest.raises(ValueError, match="of at least 7, got"):
        data.patches(jnp.ones((6, 9, 1)), 7, 1)


@pytest.fixture(scope="module")
def digits():
    return data.digits()


def test_pooled_are_means_over_squares(digits):
    found = data.pooled(digits, 4)
    assert found.train_x.shape == (1437, 2, 2, 1)
    expected = np.asarray(digits.test_x)[3, 4:, :4, 0].mean()
    assert float(found.test_x[3, 1, 0, 0]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="a divisor of 8 and 8, got 3"):
        data.pooled(digits, 3)


def test_shifted_moves_whole_test_images(digits):
    found = data.shifted(digits, seed=3, pixels=2)
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
    assert bool((data.shifted(digits, seed=0, pixels=0).test_x == digits.test_x).all())


def test_imbalanced_thins_the_training_set_alone(digits):
    found = data.imbalanced(digits, 8, 0.01)
    assert abs(float(found.train_y.mean()) - 0.01) < 5e-4
    assert int((found.train_y == 0).sum()) == int((digits.train_y != 8).sum())
    assert int(found.test_y.sum()) == int((digits.test_y == 8).sum())
    rows = {x.tobytes() for x in np.asarray(digits.train_x)[np.asarray(digits.train_y) == 8]}
    kept = np.asarray(found.train_x)[np.asarray(found.train_y) == 1]
    assert all(x.tobytes() in rows for x in kept)
    other = data.imbalanced(digits, 8, 0.01, seed=1)
    assert not bool((other.train_x == found.train_x).all())
    with pytest.raises(ValueError, match="Choose another"):
        data.imbalanced(digits, 8, 0.5)
