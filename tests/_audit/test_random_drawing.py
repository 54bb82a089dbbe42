"""What is drawn of arguments and parameters, and what is kept."""

import jax
import numpy as np
import pytest

from biasjax._audit import drawing


def drawn(fn, leaf, times=8):
    rng = np.random.default_rng(0)
    return [fn(rng, leaf) for _ in range(times)]


KEPT = {
    "mask": np.array([0.0, 1.0, 1.0]),
    "additive mask": np.array([0.0, -1e4, -1e4]),
    "huge": np.array([1e30, 2e30]),
    "booleans": np.array([True, False]),
    "two classes": np.array([3, 7, 3]),
    "not finite": np.array([0.5, -np.inf]),
    "empty": np.zeros((0, 3)),
}


@pytest.mark.parametrize("name", KEPT)
def test_arguments_that_stay(name):
    for found in drawn(drawing.argument, KEPT[name]):
        np.testing.assert_array_equal(found, KEPT[name])


def test_entries_that_stay():
    for found in drawn(drawing.argument, np.array([0.3, 0.2, -1e9])):
        assert found[2] == -1e9
        assert abs(found[:2]).max() < 100
    labels = np.array([-100, 3, 9, -100, 0])
    found = np.array(drawn(drawing.argument, labels, 50))
    assert (found[:, [0, 3]] == -100).all()
    assert (found[:, 1].min(), found[:, 1].max()) == (0, 9)
    # All negative: ordinary numbers
    assert len(set(np.ravel(drawn(drawing.argument, np.array([-5, -3, -1]), 50)))) == 5


VARIED = {
    "normal": np.random.default_rng(1).standard_normal(5),
    "constant": np.full(3, 0.5),
    "signs": np.array([1.0, -1.0, 1.0]),
    "two numbers": np.array([0.0, 1.3]),
    "complex": np.zeros(3, complex),
    "scalar": np.float64(0.5),
}


@pytest.mark.parametrize("name", VARIED)
def test_arguments_that_vary(name):
    found = np.array(drawn(drawing.argument, VARIED[name]))
    assert len(np.unique(found[:, ...].reshape(8, -1), axis=0)) == 8
    assert found.dtype == VARIED[name].dtype


def test_keys_become_other_keys():
    key = jax.random.key(0)
    assert len({int(jax.random.randint(k, (), 0, 10**6)) for k in drawn(drawing.argument, key)}) == 8


@pytest.mark.parametrize("leaf", [np.zeros((400, 50)), np.zeros((400, 50), complex)], ids=["real", "complex"])
def test_zeros_become_noise_of_variance_one_over_fan_in(leaf):
    found = drawing.parameter(np.random.default_rng(0), leaf)
    assert found.dtype == leaf.dtype
    np.testing.assert_allclose(np.mean(np.abs(found) ** 2) * 400, 1, rtol=0.03)


def test_parameters_without_entries_are_of_float64_too():
    """A network of one layer has none of the others, stacked for a scan."""
    assert drawing.parameter(np.random.default_rng(0), np.zeros((0, 3), np.float32)).dtype == np.float64


def test_parameters_keep_their_kind():
    rng = np.random.default_rng(0)
    leaf = 2 + 3 * rng.standard_normal(10000)
    found = drawing.parameter(rng, leaf)
    np.testing.assert_allclose(np.mean(found**2), np.mean(leaf**2), rtol=0.05)
    assert (drawing.parameter(rng, np.abs(leaf)) > 0).all()
    close = drawing.close(rng, leaf)
    assert 0 < np.abs(close / leaf - 1).max() <= 0.1
    assert (close.min(), close.max()) == (leaf.min(), leaf.max())
    assert drawing.close(rng, np.full(3, 0.5)).std() > 0
