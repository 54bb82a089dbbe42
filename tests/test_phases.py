"""Phases, fixed points and depth scales against the reference table, closed forms and plain iteration."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from biasjax import gaussian, meanfield, phases
from biasjax.activations import Activation

# sigma_w^2, sigma_b^2, q*, chi_1, c*, xi_c of tanh: scipy quadrature, made independently of this library
TANH = np.array(
    [
        [1, 0.05, 0.193593, 0.759032, 1, 3.62698],
        [2, 0.05, 0.721762, 1.047666, 0.744082, 25.2134],
        [4, 0.05, 2.195494, 1.342402, 0.165065, 6.98027],
        [16, 0.09, 12.604149, 2.367261, 0.029696, 3.63935],
    ]
)


@pytest.mark.parametrize("double", [False, True])
def test_tanh_order_parameters_match_the_reference(double):
    with jax.enable_x64(double):
        table = jnp.asarray(TANH, jnp.float64 if double else jnp.float32).T
        deep = phases.order_parameters("tanh", jnp.sqrt(table[0]), jnp.sqrt(table[1]))
        assert deep.q.dtype == table.dtype
        # The reference has six or seven digits; c* = .029696 has five
        chex.assert_trees_all_close(deep.q, table[2], rtol=1e-5)
        chex.assert_trees_all_close(deep.chi_1, table[3], rtol=1e-5)
        chex.assert_trees_all_close(deep.c, table[4], rtol=2e-5)
        chex.assert_trees_all_close(deep.xi_c, table[5], rtol=1e-5 if double else 5e-5)
        assert (deep.status == phases.CONVERGES).all()
        assert repr(deep).startswith("OrderParameters(q=[ 0.1936,  0.7218,  2.1955, 12.604")


def test_slope_of_the_variance_map_is_chi_1_plus_curvature(x64):
    # xi_q = -1 / ln(chi_1 + sigma_w^2 E[phi'' phi])
    sigma_w, sigma_b = np.sqrt(TANH.T[:2])
    deep = phases.order_parameters("tanh", sigma_w, sigma_b)

    def curvature(x):
        return jnp.tanh(x) * -2 * jnp.tanh(x) * (1 - jnp.tanh(x) ** 2)

    expected = deep.chi_1 + sigma_w**2 * gaussian.expectation(curvature, jnp.sqrt(deep.q))
    chex.assert_trees_all_close(deep.slope, expected, rtol=1e-10)
    chex.assert_trees_all_close(deep.xi_q, -1 / np.log(expected), rtol=1e-9)


def test_critical_lines_match_the_reference(x64):
    tanh = phases.critical_line("tanh", np.sqrt(0.05))
    chex.assert_trees_all_close(tanh.sigma_w[0] ** 2, 1.760955, rtol=1e-6)
    line = phases.critical_line("erf", np.array([0.0, 0.1, np.sqrt(0.05), 1.0, 2.0]))
    chex.assert_trees_all_close(line.sigma_w[2, 0] ** 2, 1.375839, rtol=1e-6)
    chex.assert_trees_all_close(
        line.sigma_w[:, 0] ** 2, np.pi / 4 * jnp.sqrt(1 + 4 * line.q[:, 0]), rtol=1e-9
    )
    # Also without bias, where the slope is 1 at q = 0
    assert line.stable[:, 0].all()
    assert line.resolved.all()
    assert (line.count == 1).all()


def test_relu_is_critical_without_bias_alone(x64):
    line = phases.critical_line("relu", np.array([0.0, 0.1]))
    chex.assert_trees_all_close(line.sigma_w[0, 0] ** 2, 2.0, rtol=1e-12)
    assert line.neutral.tolist() == [True, False]
    assert not line.stable.any()
    assert line.count.tolist() == [1, 0]
    assert jnp.isinf(line.sigma_w[1]).all()
    assert "count=[1, 0], neutral=[ True, False], resolved=[ True,  True])" in repr(line)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gelu_and_silu_are_critical_at_an_unstable_fixed_point(name, x64):
    # Without bias the slope is 1 at q = 0, and the variance runs away, too
    lines = phases.critical_line(name, np.sqrt(np.array([0.0, 0.05])))
    assert lines.resolved.all()
    assert lines.q[0, :2].tolist() == [np.inf, 0]
    line = jax.tree.map(lambda x: x[1], lines)
    assert line.count == 1
    assert not lines.stable.any()
    # The first slot, which users plot, is for what networks approach
    assert jnp.isinf(line.sigma_w[0])
    assert line.slope[1] > 1
    sigma_w = line.sigma_w[1]
    chex.assert_trees_all_close(meanfield.chi(name, line.q[1], sigma_w), 1.0, rtol=1e-9)
    points = phases.fixed_points(name, sigma_w, np.sqrt(0.05))
    assert points.count == 2
    assert points.stable[:2].tolist() == [True, False]
    chex.assert_trees_all_close(points.q[1], line.q[1], rtol=1e-9)
    assert "stable=[ True, False, False, False], count=2, neutral=False, resolved=True)" in repr(points)


def wavy(x):
    return x * jax.nn.sigmoid(1.7 * x) + 0.1 * jnp.sin(x)


def test_critical_points_are_critical_and_what_is_not_resolved_is_said():
    # At large q the quadrature does not see every wave, and chi_1 strays by a percent: 82 crossings are none
    line = phases.critical_line(wavy, 0.3, slots=100)
    used = jnp.isfinite(line.q)
    assert line.count == used.sum() == 1
    assert not line.resolved
    z, step = np.linspace(-9, 9, 20001, retstep=True)
    density = step * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    for q, sigma_w in zip(line.q[used], line.sigma_w[used], strict=True):
        x = jnp.asarray(np.sqrt(q) * z, jnp.float32)
        value, slope = jax.jvp(wavy, (x,), (jnp.ones_like(x),))
        chex.assert_trees_all_close(sigma_w**2 * np.sum(density * np.square(slope)), 1.0, rtol=1e-5)
        chex.assert_trees_all_close(sigma_w**2 * np.sum(density * np.square(value)) + 0.09, q, rtol=1e-5)


def test_sine_is_exact_at_every_scale_and_a_callable_unresolved():
    sigma_w = np.array([2.0, 30.0, 3000.0])
    deep = phases.order_parameters("sin", sigma_w, 0.3)
    chex.assert_trees_all_close(deep.q[1:], np.float32(sigma_w[1:] ** 2 / 2 + 0.09), rtol=1e-6)
    chex.assert_trees_all_close(deep.c[1:], 0.09 / deep.q[1:], rtol=1e-5)
    mine = phases.order_parameters(lambda x: jnp.sin(x), sigma_w, 0.3)
    chex.assert_trees_all_close([x[0] for x in mine], [x[0] for x in deep], rtol=2e-5)
    assert mine.status[1:].tolist() == [phases.UNRESOLVED] * 2
    assert all(jnp.isnan(x[1:]).all() for x in mine[:-1])


def test_a_slope_without_mean_square_is_unresolved():
    # E[1 / (4 |u|)] is infinite, but V(q) = sigma_w^2 E|u| + sigma_b^2 has a fixed point
    def root(x):
        return jnp.sqrt(jnp.abs(x))

    deep = phases.order_parameters(root, 1.0, 0.3)
    half = np.float32(np.sqrt(1 / (2 * np.pi)))
    chex.assert_trees_all_close(deep.q, jnp.square(half + jnp.sqrt(half**2 + 0.09)), rtol=1e-5)
    chex.assert_trees_all_close(deep.slope, half / jnp.sqrt(deep.q), rtol=1e-5)
    assert deep.status == phases.UNRESOLVED
    assert jnp.isnan(jnp.stack([deep.chi_1, deep.c, deep.chi_c, deep.xi_c])).all()


def test_traced_scales_that_are_no_numbers_are_unresolved():
    bad = jnp.array([jnp.nan, jnp.inf, -1.0, 1e30, 1.5])
    deep = jax.jit(lambda w: phases.order_parameters("tanh", w, 0.3))(bad)
    assert deep.status.tolist() == [phases.UNRESOLVED] * 4 + [phases.CONVERGES]
    assert all(jnp.isnan(x).tolist() == [True] * 4 + [False] for x in deep[:-1])
    points = jax.jit(lambda w: phases.fixed_points("tanh", w, 0.3))(bad)
    line = jax.jit(lambda b: phases.critical_line("tanh", b))(bad)
    for found in (points, line):
        assert found.resolved.tolist() == [False] * 4 + [True]
        assert found.count.tolist() == [0] * 4 + [1]
        assert jnp.isinf(found.q[:4]).all()
        assert not any(jnp.isnan(x).any() for x in found)


def test_depth_scale_of_what_diverged():
    scale = phases.depth_scale(np.array([0.5, 0.0, 3.0, np.inf, np.nan]))
    expected = jnp.array([1 / np.log(2), 0, np.inf, np.inf, np.nan])
    chex.assert_trees_all_close(scale, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["tanh", "relu", "selu", "gelu", "softplus", "sin", "linear"])
def test_fixed_points_are_fixed_and_complete(name, x64):
    sigma_w, sigma_b = jnp.meshgrid(jnp.array([0.4, 1.0, 1.41, 1.6, 2.5]), jnp.array([0.0, 0.2, 1.0]))
    points = phases.fixed_points(name, sigma_w, sigma_b)
    assert not any(jnp.isnan(x).any() for x in points)
    used = jnp.isfinite(points.q)
    assert (used.sum(-1, dtype=jnp.int32) == points.count).all()
    q = jnp.where(used, points.q, 1.0)
    image, slope = jax.jvp(
        lambda q: meanfield.variance_map(name, q, sigma_w[..., None], sigma_b[..., None]),
        (jnp.maximum(q, 1e-20),),
        (jnp.ones_like(q),),
    )
    chex.assert_trees_all_close(jnp.where(used, image, q), q, rtol=1e-9, atol=1e-18)
    chex.assert_trees_all_close(jnp.where(used, slope, 0.0), points.slope, rtol=1e-7, atol=1e-9)
    # Independent count: sign changes on a grid of other points
    grid = jnp.exp(jnp.linspace(-18.0, 16.0, 2001))
    gap = meanfield.variance_map(name, grid, sigma_w[..., None], sigma_b[..., None]) - grid
    signs = jnp.where(jnp.abs(gap) < 1e-13 * grid, 0.0, jnp.sign(gap))  # lines keep q up to rounding
    changes = (jnp.abs(jnp.diff(signs)) == 2).sum(-1, dtype=jnp.int32)
    at_zero = (points.q[..., 0] == 0).astype(changes.dtype)
    chex.assert_trees_all_equal(changes + at_zero, points.count)


def test_close_pairs_of_fixed_points_are_seen(x64):
    # GELU without bias just below and above the fold where two fixed points are born, q apart by 1 %
    sigma = np.linspace(1.414, 2.0, 300)
    points = phases.fixed_points("gelu", sigma, 0.15)
    fold = int(jnp.argmin(jnp.where(points.count >= 2, points.q[..., 1] / points.q[..., 0], jnp.inf)))
    low, high = sigma[fold], sigma[fold + 1]
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if phases.fixed_points("gelu", middle, 0.15).count >= 2 else (low, middle)
    points = phases.fixed_points("gelu", low - 1e-7, 0.15)
    assert points.count == 2
    assert points.q[1] / points.q[0] < 1.01
    assert points.stable[:2].tolist() == [True, False]


def test_relu_without_fixed_point_has_a_status():
    sigma_w, sigma_b = jnp.sqrt(jnp.array([1.0, 2.0, 3.0, 0.0, 64.0])), jnp.array([0.0, 1e-4, 8.0])
    plane = phases.order_parameters("relu", sigma_w, sigma_b[:, None], q=3.0)
    assert not any(jnp.isnan(x).any() for x in plane)
    deep = jax.tree.map(lambda x: x[0, :3], plane)
    names = [phases.STATUSES[s] for s in deep.status]
    assert names == ["vanishes", "neutral", "diverges"]
    assert deep.q[0] == 0
    assert deep.q[1] == 3
    assert jnp.isinf(deep.q[2])
    chex.assert_trees_all_close(deep.chi_1, jnp.array([0.5, 1.0, 1.5]), rtol=1e-6)
    assert (deep.c == 1).all()
    assert jnp.isinf(deep.xi_c[1:]).all()


@pytest.mark.parametrize("name", ["gelu", lambda x: x**3, jnp.exp])
def test_nothing_is_nan_anywhere_on_the_plane(name):
    sigma_w, sigma_b = jnp.meshgrid(jnp.array([0.0, 0.5, 1.0, 2.0, 8.0]), jnp.array([0.0, 1e-4, 0.3, 8.0]))
    for result in (
        phases.order_parameters(name, sigma_w, sigma_b),
        phases.fixed_points(name, sigma_w, sigma_b),
        phases.critical_line(name, sigma_b[:, 0]),
    ):
        assert not any(jnp.isnan(x).any() for x in result)


@pytest.mark.parametrize(("name", "sigma_w"), [("sin", 2.0), ("elu", 1.2)])
def test_iteration_approaches_the_fixed_points_at_the_predicted_rate(name, sigma_w, x64):
    sigma_b = 0.3
    deep = phases.order_parameters(name, sigma_w, sigma_b)
    run = jax.jit(lambda q, c: meanfield.trajectory(name, q, c, sigma_w, sigma_b, depth=25))
    q, _ = run(deep.q * (1 + 1e-4), 0.5)
    chex.assert_trees_all_close((q[3] - deep.q) / (q[2] - deep.q), deep.slope, rtol=1e-3)
    q, c = run(deep.q, jnp.minimum(deep.c + 1e-4, 1 - 1e-4))
    chex.assert_trees_all_close(q, jnp.full_like(q, deep.q), rtol=1e-9)
    rate = (c[2] - deep.c) / (c[1] - deep.c)
    kinked_at_one = deep.c == 1 and name == "elu"
    chex.assert_trees_all_close(rate, deep.chi_c, rtol=3e-2 if kinked_at_one else 2e-3)


@settings(max_examples=20, deadline=None)
@given(sigma_w=st.floats(0.1, 6.0), sigma_b=st.floats(0.0, 4.0))
def test_correlation_fixed_point_is_fixed_and_stable(sigma_w, sigma_b):
    with jax.enable_x64(True):
        deep = phases.order_parameters("tanh", np.float64(sigma_w), np.float64(sigma_b))
        assume(deep.status == phases.CONVERGES)
        image = meanfield.correlation_map("tanh", deep.c, deep.q, sigma_w, sigma_b)
        chex.assert_trees_all_close(image, deep.c, atol=1e-9)
        assert 0 <= deep.c <= 1
        assert deep.chi_c <= 1 + 1e-9
        assert (deep.c < 1) == (deep.chi_1 > 1 + 1e-12)
        chex.assert_trees_all_close(meanfield.chi("tanh", deep.q, sigma_w, deep.c), deep.chi_c, rtol=1e-6)


def test_a_users_callable_is_as_good_as_a_name(x64):
    def mine(x):
        return jnp.log1p(jnp.exp(-jnp.abs(x))) + jnp.maximum(x, 0)

    sigma_w = np.array([0.6, 1.2])
    line, named = (phases.critical_line(act, sigma_w) for act in (mine, "softplus"))
    chex.assert_trees_all_close(line, named, rtol=1e-8)
    kinked = Activation(lambda x: jnp.where(x > 0, x, 0.01 * x), (0.0,))
    found, named = (phases.order_parameters(act, sigma_w, 0.3) for act in (kinked, "leaky_relu"))
    chex.assert_trees_all_close(found, named, rtol=1e-8)


def test_the_plateau_of_the_notebook_is_the_biass_own_noise(x64):
    deep = phases.order_parameters("linear", np.sqrt(50 / 784), 1.0)
    chex.assert_trees_all_close(jnp.sqrt(deep.q), np.sqrt(784 / 734), rtol=1e-12)
    assert deep.c == 1


def test_vmap_agrees_with_broadcasting_and_compiles_once():
    traced = chex.assert_max_traces(lambda w, b: phases.order_parameters("tanh", w, b), 1)
    compiled = jax.jit(jax.vmap(jax.vmap(traced, (None, 0)), (0, None)))
    for top in (3.0, 4.0):
        sigma_w, sigma_b = jnp.linspace(0.5, top, 4), jnp.linspace(0.0, 1.0, 3)
        grid = compiled(sigma_w, sigma_b)
        direct = phases.order_parameters("tanh", sigma_w[:, None], sigma_b)
        chex.assert_trees_all_close(grid, direct, rtol=2e-5)
        chex.assert_shape(grid.q, (4, 3))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_results_keep_the_dtype(dtype):
    sigma = jnp.asarray([1.5, 2.0], dtype)
    deep = phases.order_parameters("tanh", sigma, 0.25)
    assert {x.dtype for x in deep[:-1]} == {jnp.dtype(dtype)}
    assert phases.critical_line("tanh", sigma).sigma_w.dtype == dtype


def test_bad_input_is_refused_before_compilation():
    with pytest.raises(ValueError, match="sigma_w: expected a number in"):
        phases.order_parameters("tanh", -1.0)
    with pytest.raises(ValueError, match="q: expected a number in"):
        phases.order_parameters("tanh", 1.0, q=-1.0)
    with pytest.raises(ValueError, match="sigma_b: expected a number in"):
        phases.critical_line("tanh", jnp.array([0.1, -0.1]))
    with pytest.raises(ValueError, match="Did you mean 'tanh'"):
        phases.fixed_points("tahn", 1.0)
    for bad in (np.inf, np.nan, 1e300):
        for fn in (phases.order_parameters, phases.fixed_points):
            with pytest.raises(ValueError, match="sigma_w: expected a number in"):
                fn("tanh", bad)
        with pytest.raises(ValueError, match="sigma_b: expected a number in"):
            phases.critical_line("tanh", bad)
    with pytest.raises(ValueError, match="sigma_w, sigma_b, q: expected shapes that broadcast"):
        phases.order_parameters("tanh", np.ones(2), np.ones(3))
    with pytest.raises(TypeError, match="factor: expected a real number"):
        phases.depth_scale("0.5")  # pyright: ignore[reportArgumentType]
    for fn in (phases.fixed_points, phases.critical_line):
        with pytest.raises(ValueError, match="slots: expected"):
            fn("tanh", 1.0, slots=0)
