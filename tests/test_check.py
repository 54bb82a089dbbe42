"""Checks of input: what passes, and what does not; the wording itself stands in the doctests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import check


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_floats_pass_as_arrays(dtype):
    x = check.floating("x", np.ones(2, dtype))
    assert isinstance(x, jax.Array)
    assert x.dtype == dtype
    assert check.accumulator(dtype) == np.float32


@pytest.mark.parametrize("value", [True, 2.0, "2", np.float32(2)])
def test_sizes_are_integers(value):
    assert check.positive_int("width", np.int64(2)) == 2
    with pytest.raises(TypeError, match="width: expected an integer of at least 1"):
        check.positive_int("width", value)


def test_ranges_hold_for_every_known_entry():
    for value in (0.0, np.array([0.0, 1.0]), [0.5, 1.0]):
        assert check.in_range("c", value, low=0.0, high=1.0) is value
    for value in (np.nan, [0.5, 1.5], -np.inf):
        with pytest.raises(ValueError, match=r"c: expected a number in \[0.0, 1.0\]"):
            check.in_range("c", value, low=0.0, high=1.0)
    assert jax.jit(lambda c: check.in_range("c", c, low=0.0))(-1.0) == -1.0  # known when it runs


@pytest.mark.parametrize(
    ("value", "fix"), [("relu", None), ("rleu", "Did you mean 'relu'"), (3, "Choose one")]
)
def test_choices_name_the_nearest(value, fix):
    if fix is None:
        assert check.choice("activation", value, ("relu", "tanh")) == value
        return
    with pytest.raises(ValueError, match=f"activation: expected one of relu, tanh, got .*{fix}"):
        check.choice("activation", value, ("relu", "tanh"))
