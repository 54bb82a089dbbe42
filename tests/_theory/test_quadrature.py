"""Panels: where they end, and what they integrate."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax._theory import quadrature

KINKS = (-1.0, 0.5, 6.0)
MEAN = np.array([0.0, 0.3, -2.0])
SCALE = np.array([1e-3, 1.0, 30.0])[:, None]


@pytest.fixture(scope="module")
def batch():
    with jax.enable_x64(True):
        yield jnp.broadcast_arrays(jnp.asarray(MEAN), jnp.asarray(SCALE))


def test_edges_ascend_and_hold_every_kink_in_reach(batch, x64):
    edges = quadrature.edges(KINKS, *batch)
    assert (jnp.diff(edges[1:], axis=-1) >= 0).all()
    chex.assert_trees_all_equal(edges[..., (0, -1)], jnp.broadcast_to(jnp.array([-9.0, 9.0]), (3, 3, 2)))
    for kink in (*KINKS, 0.0):
        place = ((kink - MEAN) / SCALE)[..., None]
        assert (jnp.abs(edges - place).min(-1)[np.abs(place[..., 0]) <= 9] < 1e-12).all()


def test_panels_shrink_with_the_scale_of_the_function(x64):
    widths = [jnp.diff(quadrature.edges((), jnp.zeros(()), jnp.array(s))) for s in (0.1, 1.0, 10.0, 100.0)]
    assert len({w.size for w in widths}) == 1
    smallest = np.array([w.min() for w in widths])
    assert (np.diff(smallest) <= 0).all()
    assert smallest[2] * 10 < 4
    assert max(w.max() for w in widths) <= 2.2


def test_line_integrates_moments_and_steps(batch, x64):
    z, weights = quadrature.line(KINKS, *batch)
    for power, moment in ((0, 1.0), (2, 1.0), (4, 3.0), (8, 105.0)):
        chex.assert_trees_all_close((weights * z**power).sum(-1), jnp.full((3, 3), moment), rtol=1e-11)
    mean, scale = (x[..., None] for x in batch)
    for kink in KINKS:
        above = jnp.where(mean + scale * z > kink, weights, 0.0).sum(-1)
        expected = jax.scipy.stats.norm.sf((kink - batch[0]) / batch[1])
        chex.assert_trees_all_close(above, expected, rtol=1e-11, atol=1e-17)


@pytest.mark.parametrize("c", [0.0, 0.3, -0.999, 1.0])
def test_smoothed_edges_crowd_where_a_kink_is_seen_blurred(c, x64):
    c, one = jnp.array(c), jnp.array(1.0)
    s = jnp.sqrt(jnp.maximum(1 - c**2, 1e-24))
    plain = quadrature.smoothed_edges((0.0,), (), c, s, one, one)
    edges = quadrature.smoothed_edges((0.0,), (2.0,), c, s, one, one)
    assert (jnp.diff(edges) >= 0).all()
    assert set(plain.tolist()) <= set(edges.tolist())
    if abs(c) > 0.5:
        assert jnp.abs(edges - 2 / c).min() < 1e-12
