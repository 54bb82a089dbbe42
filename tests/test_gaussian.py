"""Gaussian expectations against closed forms, independent quadrature and each other."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from biasjax import activations, gaussian
from biasjax.activations import Activation

NUMPY = {
    "linear": lambda x: x,
    "tanh": np.tanh,
    "erf": special.erf,
    "sigmoid": special.expit,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: (
        1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))
    ),
    "gelu": lambda x: x * special.ndtr(x),
    "silu": lambda x: x * special.expit(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "sin": np.sin,
}


def normal_density(z):
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def brute_force(f, kinks, sigma, reach=10.0):
    """E[f(sigma z)] by adaptive quadrature between many breakpoints."""
    places = np.concatenate([np.linspace(-reach, reach, 81), [k / sigma for k in kinks]])
    places = np.unique(places[np.abs(places) <= reach])
    return sum(
        integrate.quad(lambda z: f(sigma * z) * normal_density(z), a, b, epsabs=1e-14, epsrel=1e-12)[0]
        for a, b in itertools.pairwise(places)
    )


def composite(places, count):
    """Gauss-Legendre nodes and weights between places along the last axis, flat."""
    t, weights = np.polynomial.legendre.leggauss(count)
    low, half = places[..., :-1, None], np.diff(places)[..., None] / 2
    nodes, weights = low + half * (1 + t), half * weights
    return nodes.reshape(*places.shape[:-1], -1), weights.reshape(*places.shape[:-1], -1)


def brute_force_pair(f, kinks, sigma, c, reach=8.5):
    """E[f(u) f(v)] on the two independent coordinates, cut at the kinks of every line."""
    s = np.sqrt(1 - c**2)
    places = np.sort([*np.linspace(-reach, reach, 41), *[k / sigma for k in kinks]])
    z, weights = composite(np.clip(places, -reach, reach), 20)
    cuts = [np.full_like(z, -reach), *[(k / sigma - c * z) / s for k in kinks], -c * z / s, 0 * z + reach]
    y, inner = composite(np.sort(np.clip(cuts, -reach, reach), axis=0).T, 80)
    line = np.sum(inner * f(sigma * (c * z[:, None] + s * y)) * normal_density(y), axis=-1)
    return np.sum(weights * f(sigma * z) * normal_density(z) * line)


def relu_kernel(c):
    return (jnp.sqrt(1 - c**2) + c * (jnp.pi - jnp.arccos(c))) / (2 * jnp.pi)


@pytest.mark.parametrize("name", NUMPY)
def test_expectation_of_square_matches_adaptive_quadrature(name, x64):
    act = activations.get(name)
    square = Activation(lambda x: act(x) ** 2, act.kinks)
    sigmas = [0.01, 0.5, 2.0, 10.0]
    expected = [brute_force(lambda x: NUMPY[name](x) ** 2, act.kinks, s) for s in sigmas]
    chex.assert_trees_all_close(
        gaussian.expectation(square, jnp.array(sigmas)), np.array(expected), rtol=1e-10
    )


@pytest.mark.parametrize("name", NUMPY)
def test_float32_is_right_to_a_millionth_up_to_ten(name):
    act = activations.get(name)
    square = Activation(lambda x: act(x) ** 2, act.kinks)
    sigmas = np.array([0.1, 1.0, 4.0, 10.0])
    with jax.enable_x64(True):
        expected = gaussian.expectation(square, sigmas)
    got = gaussian.expectation(square, sigmas.astype(np.float32))
    assert got.dtype == jnp.float32
    chex.assert_trees_all_close(np.float64(got), np.float64(expected), rtol=1e-6)


@pytest.mark.parametrize("c", [-1.0, -0.7, 0.0, 0.3, 0.999, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_joint_expectation_matches_closed_forms(c, sigma, x64):
    kernel = gaussian.joint_expectation("relu", "relu", c, sigma)
    chex.assert_trees_all_close(kernel, sigma**2 * relu_kernel(c), rtol=1e-12, atol=1e-14 * sigma**2)
    # Arcsine kernel (Williams 1997)
    kernel = gaussian.joint_expectation("erf", "erf", c, sigma)
    arcsine = 2 / np.pi * np.arcsin(2 * sigma**2 * c / (1 + 2 * sigma**2))
    chex.assert_trees_all_close(kernel, arcsine, rtol=1e-12, atol=1e-15)
    sine = np.exp(-(sigma**2)) * np.sinh(sigma**2 * c)
    chex.assert_trees_all_close(gaussian.joint_expectation("sin", "sin", c, sigma), sine, atol=1e-10)
    linear = gaussian.joint_expectation("linear", "linear", c, sigma, 2.0)
    chex.assert_trees_all_close(linear, 2 * sigma * c, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["tanh", "elu", "gelu", "hard_tanh", "relu6", "softsign"])
@pytest.mark.parametrize("c", [0.97, -0.6])
def test_joint_expectation_matches_quadrature_on_two_axes(name, c, x64):
    for sigma in (0.7, 6.0):
        expected = brute_force_pair(NUMPY[name], activations.get(name).kinks, sigma, c)
        got = gaussian.joint_expectation(name, name, c, sigma)
        chex.assert_trees_all_close(got, expected, rtol=1e-7, atol=1e-9)


def test_slopes_are_resolved_at_every_scale():
    sigma = jnp.geomspace(1e-5, 1e5, 41)
    for name in set(NUMPY) - {"sin", "erf"}:
        assert jnp.isfinite(_mean_square(gaussian.derivative(name), sigma)).all(), name
    # E[erf'^2] = 4 / (pi sqrt(1 + 4 sigma^2))
    expected = 4 / np.pi / np.sqrt(1 + 4 * np.square(sigma, dtype=np.float64))
    chex.assert_trees_all_close(
        _mean_square(gaussian.derivative("erf"), sigma), np.float32(expected), rtol=2e-6
    )


def _mean_square(act, sigma):
    return gaussian.expectation(Activation(lambda x: act(x) ** 2, act.kinks), sigma)


def test_what_is_not_resolved_is_nan(x64):
    sigma = np.array([0.1, 1.0, 10.0, 14.0, 30.0, 1e3])
    got = gaussian.expectation(lambda x: jnp.sin(x) ** 2, sigma)
    chex.assert_trees_all_close(got[:4], -np.expm1(-2 * sigma[:4] ** 2) / 2, rtol=1e-9)
    assert jnp.isnan(got[4:]).all()
    # A jump that was not declared, an integral that is none, growth beyond the reach of the panels
    for fn, at in (
        (lambda x: jnp.where(x > 1, 1.0, 0.0), 0.5),
        (lambda x: 1 / jnp.abs(x), 1.0),
        (jnp.exp, 9.0),
    ):
        assert jnp.isnan(gaussian.expectation(fn, at))


def test_sine_has_a_closed_form(x64):
    c, sigma = np.array([-1.0, -0.3, 0.0, 1.0]), np.array([0.1, 1.0, 4.0])[:, None]
    for fn in (jnp.sin, jnp.cos):
        closed = gaussian.joint_expectation(fn, fn, c, sigma, 2 * sigma)
        quadrature = gaussian.joint_expectation(lambda x, fn=fn: fn(x), fn, c, sigma, 2 * sigma)
        chex.assert_trees_all_close(closed, quadrature, rtol=1e-8, atol=1e-12)
    slope = jax.vmap(jax.grad(lambda c: gaussian.joint_expectation("sin", "sin", c, 0.7)))(c)
    chex.assert_trees_all_close(slope, 0.49 * gaussian.joint_expectation(jnp.cos, jnp.cos, c, 0.7), rtol=1e-9)
    # Without cancellation where the variance is small, or overflow where it is large
    chex.assert_trees_all_close(gaussian.joint_expectation("sin", "sin", 0.5, 1e-6), 5e-13, rtol=1e-9)
    chex.assert_trees_all_close(
        gaussian.joint_expectation("sin", "sin", np.array([-1.0, -0.5, 0.5, 1.0]), 1e4),
        jnp.array([-0.5, 0.0, 0.0, 0.5]),
    )


@pytest.mark.parametrize("name", NUMPY)
def test_full_correlation_and_anticorrelation_reduce_to_one_dimension(name, x64):
    act = activations.get(name)
    sigma = jnp.array([0.3, 3.0, 9.0])
    mirrored = Activation(lambda x: act(x) * act(-x), (*act.kinks, *[-k for k in act.kinks]))
    square = Activation(lambda x: act(x) ** 2, act.kinks)
    for c, product in ((1.0, square), (-1.0, mirrored)):
        got = gaussian.joint_expectation(name, name, c, sigma)
        chex.assert_trees_all_close(got, gaussian.expectation(product, sigma), rtol=1e-9, atol=1e-9)
        close = gaussian.joint_expectation(name, name, c * (1 - 1e-10), sigma)
        chex.assert_trees_all_close(close, got, rtol=1e-7, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    c=st.floats(-1.0, 1.0),
    sigma_u=st.floats(0.0, 10.0),
    sigma_v=st.floats(0.0, 10.0),
    names=st.tuples(st.sampled_from(("tanh", "elu")), st.sampled_from(("gelu", "relu6"))),
)
def test_joint_expectation_is_symmetric_and_obeys_cauchy_schwarz(c, sigma_u, sigma_v, names):
    f, g = map(activations.get, names)
    with jax.enable_x64(True):
        there = _JOINT(f, g, c, sigma_u, sigma_v)
        back = _JOINT(g, f, c, sigma_v, sigma_u)
        norms = [gaussian.joint_expectation(h, h, 1.0, s) for h, s in ((f, sigma_u), (g, sigma_v))]
        chex.assert_trees_all_close(there, back, rtol=1e-9, atol=1e-10)
        assert there**2 <= norms[0] * norms[1] * (1 + 1e-9) + 1e-12


_JOINT = jax.jit(gaussian.joint_expectation, static_argnums=(0, 1))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_in_c_of_relu_count_the_kink(order, x64):
    def ours(c):
        return gaussian.joint_expectation("relu", "relu", c)

    exact = relu_kernel
    for _ in range(order):
        ours, exact = jax.grad(ours), jax.grad(exact)
    for c in (-0.8, 0.0, 0.6, 0.999):
        chex.assert_trees_all_close(ours(c), exact(c), rtol=1e-9, atol=1e-14)


def test_derivatives_in_c_at_full_correlation(x64):
    slope = jax.grad(lambda c: gaussian.joint_expectation("tanh", "tanh", c, 2.0))
    second = gaussian.derivative(gaussian.derivative("tanh"))

    def square(f):
        return lambda x: f(x) ** 2

    chex.assert_trees_all_close(
        slope(1.0), 4 * gaussian.expectation(square(gaussian.derivative("tanh")), 2.0), rtol=1e-11
    )
    chex.assert_trees_all_close(
        jax.grad(slope)(1.0), 16 * gaussian.expectation(square(second), 2.0), rtol=1e-11
    )
    relu = jax.grad(lambda c: gaussian.joint_expectation("relu", "relu", c, 3.0))
    chex.assert_trees_all_close(relu(jnp.array([1.0, -1.0])[0]), 4.5, rtol=1e-11)
    chex.assert_trees_all_close(relu(-1.0), 0.0, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_in_sigma_count_jumps(order, x64):
    # E[clip(u, -1, 1)^2] = s^2 (2 Phi(1/s) - 1 - 2 pdf(1/s) / s) + 2 (1 - Phi(1/s))
    cdf, pdf = jax.scipy.stats.norm.cdf, jax.scipy.stats.norm.pdf

    def exact(s):
        return s**2 * (2 * cdf(1 / s) - 1 - 2 * pdf(1 / s) / s) + 2 * (1 - cdf(1 / s))

    square = Activation(lambda x: jnp.clip(x, -1, 1) ** 2, (-1.0, 1.0))

    def ours(s):
        return gaussian.expectation(square, s)

    for _ in range(order):
        ours, exact = jax.grad(ours), jax.grad(exact)
    for s in (0.5, 1.3, 7.0):
        chex.assert_trees_all_close(ours(s), exact(s), rtol=1e-8)


def test_a_step_function_has_the_derivative_of_its_probability(x64):
    step = Activation(lambda x: jnp.where(x > 1, 1.0, 0.0), (1.0,))
    ours = jax.grad(lambda s: gaussian.expectation(step, s))
    exact = jax.grad(lambda s: 1 - jax.scipy.stats.norm.cdf(1 / s))
    chex.assert_trees_all_close(ours(1.3), exact(1.3), rtol=1e-12)


@pytest.mark.parametrize("pair", [("tanh", "gelu"), ("relu6", "hard_tanh")])
def test_gradients_agree_with_central_differences(pair, x64):
    fn = jax.jit(lambda x: gaussian.joint_expectation(*pair, *x))
    x, step = jnp.array([0.4, 1.5, 2.0]), 1e-4 * jnp.eye(3)
    differences = jnp.stack([(fn(x + d) - fn(x - d)) / 2e-4 for d in step])
    gradient = jax.jit(jax.grad(fn))
    chex.assert_trees_all_close(gradient(x), differences, rtol=1e-6)
    differences = jnp.stack([(gradient(x + d) - gradient(x - d)) / 2e-4 for d in step])
    chex.assert_trees_all_close(jax.jacfwd(gradient)(x), differences, rtol=1e-5, atol=1e-8)


def test_hermite_coefficients_sum_to_the_kernel(x64):
    sigma, c = 4.0, np.array([-0.9, 0.2, 0.99, 1.0])
    a = gaussian.hermite_coefficients("tanh", sigma)
    assert a.shape == (512,)
    series = np.sum(np.square(a) * c[:, None] ** np.arange(512), axis=-1)
    chex.assert_trees_all_close(series, gaussian.joint_expectation("tanh", "tanh", c, sigma), atol=2e-10)
    even = gaussian.hermite_coefficients("softplus", np.array([1.0, 2.0]), degree=7)
    z = np.polynomial.hermite_e.hermegauss(60)
    second = [
        np.sum(z[1] * NUMPY["softplus"](s * z[0]) * (z[0] ** 2 - 1)) / np.sqrt(4 * np.pi) for s in (1.0, 2.0)
    ]
    chex.assert_trees_all_close(even[:, 2], np.array(second), rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_results_keep_the_dtype(dtype):
    sigma = jnp.asarray([0.5, 2.0], dtype)
    assert gaussian.expectation("tanh", sigma).dtype == dtype
    assert gaussian.joint_expectation("tanh", "relu", jnp.asarray(0.5, dtype), sigma).dtype == dtype
    assert gaussian.hermite_coefficients("tanh", sigma, degree=5).dtype == dtype
    with jax.enable_x64(True):
        assert gaussian.expectation("tanh", jnp.asarray([0.5, 2.0], dtype)).dtype == dtype


def test_float32_joint_expectation(x64):
    c = np.array([-1.0, -0.999, 0.0, 0.5, 0.9999, 1.0])
    for name in ("tanh", "relu6"):
        expected = np.asarray(gaussian.joint_expectation(name, name, c, 10.0))
        got = gaussian.joint_expectation(name, name, c.astype(np.float32), np.float32(10.0))
        assert got.dtype == jnp.float32
        chex.assert_trees_all_close(np.float64(got), expected, rtol=1e-6, atol=1e-6 * abs(expected).max())


def test_jit_vmap_and_one_trace():
    kernel = chex.assert_max_traces(lambda c, s: gaussian.joint_expectation("relu", "relu", c, s), 1)
    traced = jax.jit(jax.vmap(kernel))
    c = jnp.linspace(-1.0, 1.0, 5)
    for s in (1.0, 2.0):
        got = traced(c, jnp.full(5, s))
        chex.assert_trees_all_close(got, s**2 * relu_kernel(c), atol=2e-6)
    chex.assert_shape(gaussian.joint_expectation("tanh", "tanh", c[:, None], jnp.ones(3)), (5, 3))


def test_zero_variance_is_the_value_at_zero():
    chex.assert_trees_all_close(gaussian.expectation("sigmoid", 0.0), 0.5, rtol=1e-6)
    for pair in (("tanh", "relu6"), ("softplus", "hard_tanh")):
        of_scale = functools.partial(gaussian.joint_expectation, *pair, 0.3)
        gradient = jax.grad(lambda s, of_scale=of_scale: of_scale(s, s))(0.0)
        chex.assert_trees_all_close(gradient, 0.0, atol=1e-6)


def test_bad_input_is_refused_before_compilation():
    with pytest.raises(ValueError, match=r"sigma: expected a number in .*got -1"):
        gaussian.expectation("tanh", -1.0)
    with pytest.raises(ValueError, match="c: expected a number in"):
        gaussian.joint_expectation("tanh", "tanh", 1.5)
    with pytest.raises(ValueError, match="Did you mean 'relu'"):
        gaussian.expectation("rleu")
    with pytest.raises(TypeError, match="a name or a callable"):
        gaussian.expectation(3.0)  # pyright: ignore[reportArgumentType]
    for bad in (np.inf, np.nan, 1e300):
        with pytest.raises(ValueError, match="sigma: expected a number in"):
            gaussian.expectation("relu", bad)
    with pytest.raises(ValueError, match="at most 1024"):
        gaussian.hermite_coefficients("tanh", degree=2000)
    assert jax.jit(lambda s: gaussian.expectation("tanh", s))(-1.0).shape == ()
