"""Rows of the Jacobian against `jax.jacobian` in float64, and the round-off that is said of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax._audit import points, rows
from biasjax._audit.model import trace
from biasjax._audit.points import Draws, on_device

X = jax.random.normal(jax.random.key(8), (3, 4))
PARAMS = {"a_bias": jnp.full(4, 0.1), "b_bias": jnp.full((2, 2), -0.2), "w": jnp.eye(4)}
DRAWS = Draws(0, True, True)


def smooth(params, x):
    y = jnp.tanh(x @ params["w"] + params["a_bias"])
    return jnp.sin(y + params["b_bias"].ravel()) * y


def looped(params, x):
    """The same by a loop of unknown length, which has no reverse mode."""
    return jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, smooth(params, c[1])), (0, x))[1]


def called(params, x):
    """The same on the host, which has no derivative."""
    y = jnp.tanh(x @ params["w"] + params["a_bias"])
    like = jax.ShapeDtypeStruct(y.shape, y.dtype)
    z = jax.pure_callback(np.sin, like, y + params["b_bias"].ravel(), vmap_method="broadcast_all")
    return z * y


MODES = {"reverse": (smooth, 1e-13), "forward": (looped, 1e-13), "difference": (called, 1e-8)}


@pytest.fixture
def exact(x64):
    """Flat biases, leaves and the Jacobian of the (scaled) outputs at some point."""
    model = trace(smooth, PARAMS, X)
    leaves = points.point(model, DRAWS, 1, 1)
    flat = model.biases.gather(leaves)
    return flat, leaves, np.asarray(jax.jacobian(model.outputs)(jnp.asarray(flat), leaves))


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_those_of_the_jacobian(mode, exact):
    flat, leaves, jacobian = exact
    fn, tolerance = MODES[mode]
    u = np.random.default_rng(0).standard_normal((5, len(jacobian)))
    found = rows.jacobian_rows(trace(fn, PARAMS, X).outputs, mode)(flat, leaves, u)
    np.testing.assert_allclose(found, u @ jacobian, rtol=0, atol=tolerance * np.abs(u @ jacobian).max())


def test_weights_of_rows_are_moved_by_a_share(exact):
    flat, leaves, jacobian = exact
    u = np.random.default_rng(0).random((5, len(jacobian))).astype(np.float32)
    run = rows.jacobian_rows(trace(smooth, PARAMS, X).outputs, "reverse")
    moved = np.asarray(run(flat, leaves, u, 1e-3)) - np.asarray(run(flat, leaves, u))
    assert 1e-5 < np.abs(moved).max() / np.abs(u @ jacobian).max() < 1e-2


@pytest.mark.parametrize("mode", MODES)
def test_samples_span_the_jacobian(mode, x64):
    # Rows lie in the row space of the Jacobian at their inputs, of size one, and as many as are asked for
    fn, tolerance = MODES[mode]
    model = trace(fn, PARAMS, X)
    draws = DRAWS._replace(vary_inputs=False)
    sample = rows.sampler(model, draws, on_device(model, draws))(1, 16)
    leaves = points.point(model, draws, 1, 0)
    jacobian = jax.jacobian(trace(smooth, PARAMS, X).outputs)(
        jnp.asarray(model.biases.gather(leaves)), leaves
    )
    assert sample.rows.shape == (16, 8)
    basis = np.linalg.svd(jacobian, full_matrices=False)[2]
    outside = sample.rows - sample.rows @ basis.T @ basis
    assert np.abs(outside).max() < 10 * tolerance
    for block in np.split(sample.rows, 2):
        np.testing.assert_allclose(points.rms(block), 1.0)
    # Round-off as large as that, and no smaller than what float64 resolves
    eps = np.finfo(float).eps
    assert (sample.noises < 100 * tolerance).all()
    assert (sample.noises > (eps if mode != "difference" else 1e-12) / 100).all()


def test_round_off_of_a_difference_of_large_numbers(x64):
    # Derivatives by the second bias carry the round-off of a million, those by the first none
    def fn(params, x):
        return x * params["a_bias"] + jnp.sin(1e6 * x + params["b_bias"].ravel())

    model = trace(fn, PARAMS, X)
    sample = rows.sampler(model, DRAWS, on_device(model, DRAWS))(1, 16)
    plain, rough = sample.noise
    assert 1e-18 < plain < 1e-13
    assert 1e-12 < rough < 1e-8


def test_inputs_without_derivatives_are_left_out(x64):
    def fn(params, x):
        return jnp.sqrt(x[0, 0] + jnp.zeros(4)) * params["a_bias"], params["b_bias"] * 2.0

    model = trace(fn, PARAMS, jnp.abs(X))
    sample = rows.sampler(model, DRAWS, on_device(model, DRAWS))(0, 64)
    assert np.isfinite(sample.rows).all()
    assert np.isfinite(sample.noises).all()
    assert len(sample.rows) == 8 * len(sample.noises)


def test_a_sample_without_rows():
    sample = rows.Sample(np.zeros((0, 4)), np.zeros((0, 2)), 0.0)
    np.testing.assert_array_equal(sample.noise, np.inf)
    np.testing.assert_array_equal(sample.slopes, 0.0)
