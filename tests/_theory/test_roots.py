"""Roots where they are known: single, in pairs within one cell of the grid, touching, triple, many, none."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax._theory import roots

FIND = jax.jit(roots.find, static_argnums=(0, 3))


def find(m, a, b, slots=4):
    return FIND(m, *jnp.broadcast_arrays(jnp.asarray(a, float), jnp.asarray(b, float)), slots)


def test_brackets_hold_the_roots_of_a_quadratic(x64):
    # a q + b/q = 1 at q = (1 -+ sqrt(1 - 4 a b)) / (2 a); with b = 0 only 1/a, with a = 0 only b
    a, b = np.array([0.24, 1e-6, 2.0, 1.0, 0.0, 0.0]), np.array([1.0, 1e-3, 1e-5, 0.0, 3.0, 0.0])
    found = find(jnp.exp, a, b)
    assert found.count.tolist() == [2, 2, 2, 1, 1, 0]
    root = np.sqrt(1 - 4 * a * b)
    for i in range(3):
        expected = 2 * b[i] / (1 + root[i]), (1 + root[i]) / (2 * a[i])
        chex.assert_trees_all_close(jnp.exp(found.t[i, :2]), np.array(expected), rtol=1e-12)
        # dr/dt = a q - b/q
        chex.assert_trees_all_close(found.slope[i, :2], np.array([-1, 1]) * root[i], rtol=1e-9)
    chex.assert_trees_all_close(jnp.exp(found.t[3:5, 0]), np.array([1.0, 3.0]), rtol=1e-12)
    used = jnp.isfinite(found.t).sum(-1, dtype=jnp.int32)
    chex.assert_trees_all_equal(used, found.count)
    assert not found.neutral.any()


def square(t):
    return 1 + (t - 1) ** 2


def test_a_pair_within_a_cell_is_seen_and_a_touch_is_no_crossing(x64):
    # a (1 + (t - 1)^2) - 1 has roots 1 -+ sqrt(1/a - 1); cells are 0.14 long
    a = np.array([0.8, 1 - 1e-6, 1.0, 1 + 1e-6])
    found = find(square, a, 0.0)
    assert found.count.tolist() == [2, 2, 0, 0]
    distance = np.sqrt(1 / a[:2] - 1)[:, None]
    chex.assert_trees_all_close(found.t[:2, :2], 1 + distance * np.array([-1, 1]), rtol=1e-10)
    assert jnp.isinf(found.t[2:]).all()


def cube(t):
    return 1 + (t - 1) ** 3


def test_a_triple_root_counts_once(x64):
    found = find(cube, 1.0, 0.0)
    assert found.count == 1
    # Rounding of r, 1e-16, is a cube
    chex.assert_trees_all_close(found.t[0], 1.0, atol=1e-4)


def sine(t):
    return 1 + 0.5 * jnp.sin(t)


@pytest.mark.parametrize("double", [False, True])
def test_more_roots_than_slots_are_counted(double):
    with jax.enable_x64(double):
        found, few = find(sine, 1.0, 0.0, 16), find(sine, 1.0, 0.0, 3)
        # ln 1e10 = 7.3 pi on both sides of zero
        assert found.count == few.count == 15
        expected = jnp.pi * jnp.arange(-7.0, 8.0)
        chex.assert_trees_all_close(found.t[:15], expected, atol=1e-12 if double else 1e-5)
        assert jnp.isinf(found.t[15])
        chex.assert_trees_all_equal(few.t, found.t[:3])
        slope = jnp.array([0.5, -0.5, 0.5]) * -1
        chex.assert_trees_all_close(few.slope, slope, rtol=1e-9 if double else 1e-5)


def test_none_and_everywhere(x64):
    found = find(jnp.ones_like, np.array([0.5, 1.0, 2.0]), 0.0)
    assert found.count.tolist() == [0, 0, 0]
    assert found.neutral.tolist() == [False, True, False]
    assert jnp.isinf(found.t).all()


def marginal(t):
    return 1 - jnp.exp(t)


def test_approaching_zero_at_the_end_of_the_range_is_no_crossing(x64):
    # Networks that are marginal at q = 0: r = -q is within rounding there, and nowhere above zero
    found = find(marginal, 1.0, 0.0)
    assert found.count == 0
    assert not found.neutral


def wild(t):
    return jnp.where(t < -5, jnp.nan, jnp.exp(20 * t))


def test_overflow_grows_and_the_unknown_crosses_nothing():
    # exp(20 t) leaves float32 at t = 4.4
    found = find(wild, np.array([1.0, 0.0]), np.array([0.0, 0.01]))
    assert found.count.tolist() == [1, 1]
    chex.assert_trees_all_close(found.t[:, 0], jnp.array([0.0, np.log(0.01)]), atol=1e-5)
    assert not jnp.isnan(found.slope).any()


def test_vmap_agrees_with_broadcasting(x64):
    a, b = jnp.array([0.24, 0.01]), jnp.array([0.5, 1.0, 9.0])
    one = jax.vmap(jax.vmap(lambda a, b: roots.find(jnp.exp, a, b, 2), (None, 0)), (0, None))
    chex.assert_trees_all_close(jax.jit(one)(a, b), find(jnp.exp, a[:, None], b, 2), rtol=1e-12)
