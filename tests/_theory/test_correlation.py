"""Fixed points of the correlation map: fixed, stable, and the same by series and by quadrature."""

import chex
import jax.numpy as jnp
import numpy as np

from biasjax import activations, gaussian, phases
from biasjax._theory import correlation
from biasjax.activations import Activation

TANH = activations.get("tanh")


def test_the_fixed_point_is_fixed_and_the_slope_that_of_the_map(x64):
    # b = 1 - a f(1) makes the map end at f(1) = 1
    q, a = jnp.array([1.0, 4.0, 12.0]), jnp.array([2.5, 1.2, 1.3])
    b = 1 - a * gaussian.expectation(Activation(lambda x: jnp.tanh(x) ** 2), jnp.sqrt(q))
    known = jnp.array([False, False, True])
    c, slope = correlation.fixed_point(TANH, q, a, b, known)
    assert c[2] == 0
    assert ((c[:2] > 0) & (c[:2] < 1)).all()
    above = a * gaussian.joint_expectation("tanh", "tanh", c, jnp.sqrt(q)) + b
    chex.assert_trees_all_close(above[:2], c[:2], rtol=1e-11)
    step = 1e-5
    sides = [gaussian.joint_expectation("tanh", "tanh", c + d, jnp.sqrt(q)) for d in (step, -step)]
    chex.assert_trees_all_close(slope[:2], (a * (sides[0] - sides[1]) / (2 * step))[:2], rtol=1e-8)
    assert (slope[:2] < 1).all()
    # A kink, where there is none, forbids the series
    kinked = correlation.fixed_point(Activation(jnp.tanh, (0.0,)), q, a, b, known)
    chex.assert_trees_all_close([x[:2] for x in kinked], [c[:2], slope[:2]], rtol=1e-9)


def test_quadrature_takes_over_where_the_series_is_short(x64):
    # sigma ~ 10 near the edge of chaos: 512 Hermite coefficients do not suffice
    sigma_b = 9.0
    sigma_w = phases.critical_line("tanh", sigma_b).sigma_w[0] * 1.02
    deep = phases.order_parameters("tanh", sigma_w, sigma_b)
    assert 0.9 < deep.c < 1
    coefficients = gaussian.hermite_coefficients("tanh", jnp.sqrt(deep.q))
    series = sigma_w**2 * jnp.sum(coefficients**2 * deep.c ** np.arange(512.0)) + sigma_b**2
    assert abs(series / deep.q - deep.c) > 1e-7
    kinked = phases.order_parameters(Activation(jnp.tanh, (0.0,)), sigma_w, sigma_b)
    chex.assert_trees_all_close(kinked, deep, rtol=1e-7)
