"""Maps of variance, correlation and gradients against closed forms and simulated networks."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import meanfield


def test_relu_correlations_from_zero(x64):
    q, c = meanfield.trajectory("relu", 1.0, 0.0, np.sqrt(2.0), depth=10)
    chex.assert_trees_all_close(c[np.array([1, 2, 10])], np.array([0.318310, 0.493731, 0.871536]), rtol=3e-6)
    chex.assert_trees_all_close(q, np.ones(11), rtol=1e-12)


def test_the_notebook_plateau(x64):
    # Width 50 behind 784 inputs, weights divided by sqrt(784) throughout; see the notebook on Xavier and the
    # bias
    sigma_w = np.sqrt(50 / 784)
    q, c = meanfield.trajectory("linear", 2.0, 0.0, sigma_w, 1.0, depth=60)
    chex.assert_trees_all_close(jnp.sqrt(q[:3]), np.array([1.41421, 1.06186, 1.03533]), rtol=5e-6)
    chex.assert_trees_all_close(q[-1], 784 / 734, rtol=1e-12)
    # The plateau is the bias's own noise: inputs that start uncorrelated end up the same
    chex.assert_trees_all_close(c[-1], 1.0, atol=1e-12)
    without = meanfield.variance_map("linear", 1.0, sigma_w, 0.0)
    chex.assert_trees_all_close(jnp.sqrt(without), 0.252538, rtol=2e-6)


def test_convolutions_average_arc_cosine_kernels_over_the_window(x64):
    # Cho & Saul: E[relu relu] = q (sin t + (pi - t) cos t) / (2 pi), cos t = c
    q, c = np.linspace(0.5, 2.0, 7), np.linspace(-0.9, 0.9, 7)
    window, sigma_w, sigma_b = np.array([0.2, 0.5, 0.3]), 1.3, 0.4
    for padding in ("CIRCULAR", "SAME"):
        got = meanfield.conv_trajectory(
            "relu", q, c, sigma_w, sigma_b, window=window, padding=padding, depth=1
        )
        angle = np.arccos(c)
        moments = q / 2, q * (np.sin(angle) + (np.pi - angle) * c) / (2 * np.pi)
        mode = "wrap" if padding == "CIRCULAR" else "constant"
        q_above, covariance = (
            sigma_w**2 * np.correlate(np.pad(moment, 1, mode), window, "valid") + sigma_b**2
            for moment in moments
        )
        chex.assert_trees_all_close(got[0][1], q_above, rtol=1e-9)
        chex.assert_trees_all_close(got[1][1], covariance / q_above, rtol=1e-7)
    with pytest.raises(ValueError, match="an odd number of weights"):
        meanfield.conv_trajectory("relu", q, c, 1.0, window=[0.5, 0.5], depth=1)


def test_uniform_positions_follow_the_dense_maps_and_waves_the_window(x64):
    wave = np.cos(2 * np.pi * 3 * np.arange(16) / 16)
    q, c = meanfield.trajectory("tanh", 1.0, 0.3, 1.5, 0.2, depth=4)
    window = np.full(5, 0.2)
    got = meanfield.conv_trajectory("tanh", np.ones(16), 0.3 + 1e-6 * wave, 1.5, 0.2, window=window, depth=4)
    chex.assert_trees_all_close(got[0], jnp.broadcast_to(q[:, None], (5, 16)), rtol=1e-12)
    chex.assert_trees_all_close(got[1].mean(1), c, rtol=1e-9)
    chi = meanfield.chi("tanh", q[:-1], 1.5, c[:-1]) * q[:-1] / q[1:]
    factor = np.cos(2 * np.pi * 3 / 16 * np.arange(-2, 3)).mean()
    heights = got[1] @ wave / 8e-6
    chex.assert_trees_all_close(heights[1:] / heights[:-1], chi * factor, rtol=1e-4)


@pytest.mark.parametrize(("name", "sigma_w", "sigma_b"), [("relu", 2**0.5, 0.3), ("tanh", 1.3, 0.0)])
def test_fluctuations_are_those_of_networks(name, sigma_w, sigma_b):
    rng, width, networks, depth = np.random.default_rng(0), 100, 1000, 5
    act = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}[name]
    z, found = np.sqrt(sigma_w**2 + sigma_b**2) * rng.standard_normal((networks, width)), []
    for _ in range(depth):
        found.append(np.mean(z**2, 1).std())
        # Given the layer below, pre-activations are independent Gaussians
        above = sigma_w**2 * np.mean(act(z) ** 2, 1, keepdims=True) + sigma_b**2
        z = np.sqrt(above) * rng.standard_normal((networks, width))
    q, _ = meanfield.trajectory(name, sigma_w**2 + sigma_b**2, 0.0, sigma_w, sigma_b, depth=depth - 1)
    expected = meanfield.fluctuations(name, q, sigma_w, width=width)
    # A standard deviation of 1000 draws with kurtosis up to 4 scatters by 3 %; beyond first order: 5 / width
    chex.assert_trees_all_close(jnp.asarray(found), expected, rtol=4 * 0.03 + 0.05)


def test_backward_multiplies_the_jacobians_of_a_chain(x64):
    # Networks of width one: the gradient of layer l is the product of the slopes above it
    slopes = np.array([[0.5, 2.0], [3.0, 0.1], [1.5, 1.0]])
    expected = np.array([np.prod(slopes[layer:] ** 2, axis=0) for layer in range(4)])
    chex.assert_trees_all_close(jnp.exp(meanfield.backward(np.log(slopes**2))), expected, rtol=1e-12)
    assert meanfield.backward(jnp.zeros((0, 2))).tolist() == [[0.0, 0.0]]


def test_two_inputs_of_different_norm(x64):
    c = meanfield.correlation_map("linear", 0.3, 1.0, 1.2, 0.5, q_other=4.0)
    expected = (1.44 * 0.3 * 2 + 0.25) / np.sqrt((1.44 + 0.25) * (1.44 * 4 + 0.25))
    chex.assert_trees_all_close(c, expected, rtol=1e-12)
    assert meanfield.correlation_map("tanh", 0.3, 0.0, 1.0) == 0


def test_gradients_of_the_maps(x64):
    slope = jax.grad(lambda q: meanfield.variance_map("tanh", q, 1.5, 0.2))(0.7)
    step = 1e-5
    difference = (
        meanfield.variance_map("tanh", 0.7 + step, 1.5, 0.2)
        - meanfield.variance_map("tanh", 0.7 - step, 1.5, 0.2)
    ) / (2 * step)
    chex.assert_trees_all_close(slope, difference, rtol=1e-8)
    chi = jax.grad(lambda c: meanfield.correlation_map("relu", c, 1.0, np.sqrt(2.0)))(1.0)
    chex.assert_trees_all_close(chi, 1.0, rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_results_keep_the_dtype(dtype):
    q = jnp.asarray([1.5, 2.0], dtype)
    assert meanfield.variance_map("relu", q, 1.0).dtype == dtype
    assert meanfield.chi("relu", q, 1.0).dtype == dtype
    for layers in meanfield.trajectory("relu", q, 0.5, 1.0, depth=1):
        assert layers.dtype == dtype
    assert meanfield.backward(q).dtype == dtype


def test_bad_input_is_refused_before_compilation():
    for name in ("q", "sigma_w", "sigma_b"):
        with pytest.raises(ValueError, match=f"{name}: expected a number in"):
            meanfield.variance_map("tanh", **{"q": 1.0, "sigma_w": 1.0, name: -1.0})
    with pytest.raises(ValueError, match="q_other: expected a number in"):
        meanfield.correlation_map("tanh", 0.0, 1.0, 1.0, q_other=-1.0)
    for fn in (
        lambda c: meanfield.correlation_map("tanh", c, 1.0, 1.0),
        lambda c: meanfield.chi("tanh", 1.0, 1.0, c),
        lambda c: meanfield.trajectory("tanh", 1.0, c, 1.0, depth=1),
        lambda c: meanfield.conv_trajectory("tanh", jnp.ones(3), c, 1.0, window=[1.0], depth=1),
    ):
        with pytest.raises(ValueError, match="c: expected a number in"):
            fn(2.0)
    for bad in (np.inf, np.nan):
        with pytest.raises(ValueError, match="sigma_w: expected a number in"):
            meanfield.variance_map("relu", 1.0, bad)
    for fn in (
        lambda: meanfield.backward(1.0),
        lambda: meanfield.fluctuations("relu", 1.0, 1.0, width=3),
        lambda: meanfield.conv_trajectory("relu", 1.0, 0.0, 1.0, window=[1.0], depth=1),
    ):
        with pytest.raises(ValueError, match="got one number"):
            fn()
    with pytest.raises(ValueError, match="width: expected a number in"):
        meanfield.fluctuations("relu", jnp.ones(2), 1.0, width=0)
    with pytest.raises(ValueError, match="depth: expected"):
        meanfield.trajectory("tanh", 1.0, 0.0, 1.0, depth=0)
    with pytest.raises(ValueError, match="padding: expected one of"):
        meanfield.conv_trajectory("tanh", jnp.ones(3), 0.0, 1.0, window=[1.0], padding="VALID", depth=1)
    assert jax.jit(lambda s: meanfield.variance_map("tanh", 1.0, s))(-1.0) > 0
