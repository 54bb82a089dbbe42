"""Derivatives of fixed points, phases and critical lines against finite differences, in every mode."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import meanfield, phases

# Directions in which sigma_w, sigma_b and the start move
DIRECTION = np.array([0.8, -0.6, 0.3])


def _moved(fn, step=2e-5):
    """Values, derivatives and central differences of fourth order, of one program over a column of steps."""
    steps = step * jnp.arange(-2.0, 3.0)
    values, moved = jax.jvp(fn, (steps,), (jnp.ones_like(steps),))
    for value, slope in zip(values, moved, strict=True):
        difference = (8 * (value[3] - value[1]) - (value[4] - value[0])) / (12 * step)
        # What is infinite does not move
        yield slope[2], jnp.where(jnp.isinf(value[2]), 0.0, difference)


def _along(name, sigma_w):
    """Order parameters, but for the status, as a function of a number or column of steps."""

    def at(step):
        step = jnp.asarray(step)[..., None]
        moved = (x + step * d for x, d in zip((sigma_w, 0.3), DIRECTION[:2], strict=True))
        return phases.order_parameters(name, *moved, q=1.0 + step * DIRECTION[2])[:-1]

    return at


@pytest.mark.parametrize("name", ["tanh", "erf", "sin", "hard_tanh", "relu", "gelu"])
def test_order_parameters_move_as_their_differences_do(name, x64):
    # Both phases and 1e-3 off the line between them; for ReLU and GELU those that diverge, too
    line = {"tanh": 1.39558397515, "erf": 1.23367250583, "sin": 1.26266460466}.get(name, 1.3)
    at = _along(name, jnp.array([0.1, 0.9, line - 1e-3, line + 1e-3, 1.9]))
    for got, expected in _moved(at):
        # xi_c has a pole at the line: the difference itself is right to (step / 1e-3)^4 only
        chex.assert_trees_all_close(got, expected, rtol=3e-6, atol=1e-8)


def test_the_headline_derivative(x64):
    _, slope = jax.jvp(lambda s: phases.order_parameters("tanh", s, 0.3).c, (1.9,), (1.0,))
    chex.assert_trees_all_close(slope, -0.610951, rtol=1e-6)


def test_every_mode_agrees(x64):
    def measured(scales):
        deep = phases.order_parameters("tanh", *scales)
        return deep.q + deep.c + jnp.log(deep.xi_c) + deep.xi_q * deep.chi_1

    scales = jnp.array([[1.9, 0.3], [0.9, 0.2]])
    backwards, forwards = (jax.jit(jax.vmap(mode(measured)))(scales) for mode in (jax.grad, jax.jacfwd))
    chex.assert_trees_all_close(backwards, forwards, rtol=1e-12)
    along = jax.jvp(measured, (scales[0],), (jnp.array([1.0, 2.0]),))[1]
    chex.assert_trees_all_close(along, backwards[0] @ np.array([1.0, 2.0]), rtol=1e-12)


def test_second_derivatives_are_those_of_the_first(x64):
    def variance(scales):
        return phases.fixed_points("tanh", *scales, slots=1).q[0]

    scales, slope = jnp.array([1.9, 0.3]), jax.jit(jax.grad(variance))
    second = jax.jacfwd(jax.grad(variance))(scales)
    ends = (slope(scales + np.array([step, 0.0])) for step in (1e-5, -1e-5))
    chex.assert_trees_all_close(second[0], jnp.subtract(*ends) / 2e-5, rtol=1e-6)


def test_all_fixed_points_and_their_slopes_move(x64):
    # Two of GELU's beside zero's, one of them unstable
    def at(step):
        return phases.fixed_points("gelu", 1.5 + step, 0.2 - step)

    assert at(0.0).stable.tolist() == [True, False, False, False]
    assert at(0.0).count == 2
    for got, expected in _moved(lambda step: at(step)[:2]):
        chex.assert_trees_all_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["tanh", "silu"])
def test_critical_lines_move(name, x64):
    sigma_b = jnp.array([0.05, 0.3, 1.0])

    def at(step):
        return phases.critical_line(name, sigma_b + jnp.asarray(step)[..., None], slots=2)[:3]

    moved = list(_moved(at))
    for got, expected in moved:
        chex.assert_trees_all_close(got, expected, rtol=1e-7)
    back = jax.grad(lambda b: phases.critical_line(name, b, slots=2).sigma_w[:, 0].sum())(sigma_b)
    chex.assert_trees_all_close(back, moved[0][0][:, 0], rtol=1e-12)


def test_on_the_line_what_is_finite_is_that_of_the_ordered_phase(x64):
    sigma_b = 0.3
    sigma_w = phases.critical_line("tanh", sigma_b).sigma_w[0]
    slopes = jax.jacfwd(lambda w: phases.order_parameters("tanh", w, sigma_b)[:-1])(sigma_w - 1e-13)
    below = jax.jacfwd(lambda w: phases.order_parameters("tanh", w, sigma_b)[:-1])(sigma_w - 1e-6)
    q, slope, chi_1, c, chi_c, xi_q, _ = slopes
    chex.assert_trees_all_close((q, slope, chi_1, xi_q), (*below[:3], below[5]), rtol=1e-5)
    assert c == 0
    assert chi_c == chi_1


@pytest.mark.parametrize("name", ["gelu", lambda x: x**3, jnp.exp])
def test_no_derivative_is_nan_anywhere_on_the_plane(name):
    sigma_w, sigma_b = jnp.meshgrid(jnp.array([0.0, 0.5, 1.0, 2.0, 8.0]), jnp.array([0.0, 1e-4, 0.3, 8.0]))

    def total(sigma_w, sigma_b):
        results = phases.order_parameters(name, sigma_w, sigma_b)[:-1]
        return sum(jnp.where(jnp.isfinite(x), x, 0.0).sum() for x in results)

    for slope in jax.grad(total, argnums=(0, 1))(sigma_w, sigma_b):
        assert not jnp.isnan(slope).any()


def test_float32_is_right_to_a_thousandth_off_the_line():
    sigma_w = np.array([0.6, 1.2, 1.45, 1.9, 3.0], np.float32)
    single = jax.jvp(_along("tanh", jnp.asarray(sigma_w)), (np.float32(0),), (np.float32(1),))[1]
    with jax.enable_x64(True):
        double = jax.jvp(_along("tanh", jnp.asarray(sigma_w, jnp.float64)), (0.0,), (1.0,))[1]
    assert single[0].dtype == jnp.float32
    for got, expected in zip(single, double, strict=True):
        chex.assert_trees_all_close(np.asarray(got, np.float64), np.asarray(expected), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("double", [False, True])
def test_slopes_that_jump_count_in_derivatives_of_chi(double):
    # E[step step] = 1/4 + arcsin(c) / (2 pi), P(|u| < 1)' = -exp(-1/2) / sqrt(2 pi) at q = 1
    with jax.enable_x64(double):
        c = jnp.array([-0.99, 0.0, 0.7, 0.9999])
        got = jax.vmap(jax.grad(lambda c: meanfield.chi("relu", 2.0, 1.0, c)))(c)
        chex.assert_trees_all_close(got, 1 / (2 * np.pi * jnp.sqrt((1 - c) * (1 + c))), rtol=1e-5)
        ends = jax.vmap(jax.grad(lambda c: meanfield.chi("relu", 2.0, 1.0, c)))(jnp.array([-1.0, 1.0]))
        assert (ends > 10).all()
        assert jnp.isfinite(ends).all()
        for end in (-1.0, 1.0):
            by_q = jax.grad(lambda q, end=end: meanfield.chi("hard_tanh", q, 1.0, jnp.asarray(end)))(1.0)
            chex.assert_trees_all_close(
                by_q, -np.exp(-0.5) / np.sqrt(2 * np.pi), rtol=1e-5 if double else 1e-2
            )
