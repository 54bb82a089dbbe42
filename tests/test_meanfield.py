"""Maps, phases and depth scales against the reference table, closed forms and plain iteration."""

import ast
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import biasjax
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
    sigma_b = np.sqrt(0.05)
    tanh, erf = (phases.critical_line(name, sigma_b) for name in ("tanh", "erf"))
    chex.assert_trees_all_close(tanh.sigma_w[0] ** 2, 1.760955, rtol=1e-6)
    chex.assert_trees_all_close(erf.sigma_w[0] ** 2, 1.375839, rtol=1e-6)
    line = phases.critical_line("erf", np.linspace(0.0, 2.0, 9))
    chex.assert_trees_all_close(
        line.sigma_w[:, 0] ** 2, np.pi / 4 * jnp.sqrt(1 + 4 * line.q[:, 0]), rtol=1e-9
    )
    assert line.stable[1:, 0].all()
    assert (line.count == 1).all()


def test_relu_is_critical_without_bias_alone(x64):
    line = phases.critical_line("relu", np.array([0.0, 0.1]))
    chex.assert_trees_all_close(line.sigma_w[0, 0] ** 2, 2.0, rtol=1e-12)
    assert line.neutral.tolist() == [True, False]
    assert line.count.tolist() == [1, 0]
    assert jnp.isinf(line.sigma_w[1]).all()


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gelu_and_silu_are_critical_at_an_unstable_fixed_point(name, x64):
    line = phases.critical_line(name, np.sqrt(0.05))
    assert line.count == 1
    assert not line.stable[0]
    assert line.slope[0] > 1
    sigma_w = line.sigma_w[0]
    chex.assert_trees_all_close(meanfield.chi(name, line.q[0], sigma_w), 1.0, rtol=1e-9)
    points = phases.fixed_points(name, sigma_w, np.sqrt(0.05))
    assert points.count == 2
    assert points.stable[:2].tolist() == [True, False]
    chex.assert_trees_all_close(points.q[1], line.q[0], rtol=1e-9)


NAMES = ["tanh", "erf", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "sin", "linear"]


@pytest.mark.parametrize("name", NAMES)
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
    deep = phases.order_parameters("relu", jnp.sqrt(jnp.array([1.0, 2.0, 3.0])), 0.0, q=3.0)
    names = [phases.STATUSES[s] for s in deep.status]
    assert names == ["vanishes", "neutral", "diverges"]
    assert deep.q[0] == 0
    assert deep.q[1] == 3
    assert jnp.isinf(deep.q[2])
    chex.assert_trees_all_close(deep.chi_1, jnp.array([0.5, 1.0, 1.5]), rtol=1e-6)
    assert (deep.c == 1).all()
    assert jnp.isinf(deep.xi_c[1:]).all()
    assert not any(jnp.isnan(x).any() for x in deep)


@pytest.mark.parametrize("name", ["relu", "gelu", lambda x: x**3, jnp.exp])
def test_nothing_is_nan_anywhere_on_the_plane(name):
    sigma_w, sigma_b = jnp.meshgrid(jnp.array([0.0, 0.5, 1.0, 2.0, 8.0]), jnp.array([0.0, 1e-4, 0.3, 8.0]))
    for result in (
        phases.order_parameters(name, sigma_w, sigma_b),
        phases.fixed_points(name, sigma_w, sigma_b),
        phases.critical_line(name, sigma_b[:, 0]),
    ):
        assert not any(jnp.isnan(x).any() for x in result)


@pytest.mark.parametrize(("name", "sigma_w"), [("tanh", 3.0), ("sin", 2.0), ("elu", 1.2)])
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


def test_relu_correlations_from_zero(x64):
    q, c = meanfield.trajectory("relu", 1.0, 0.0, np.sqrt(2.0), depth=10)
    chex.assert_trees_all_close(c[np.array([1, 2, 10])], np.array([0.318310, 0.493731, 0.871536]), rtol=3e-6)
    chex.assert_trees_all_close(q, np.ones(11), rtol=1e-12)


def test_the_notebook_plateau(x64):
    # Width 50 behind 784 inputs, weights divided by sqrt(784) throughout; see seed document 004
    sigma_w = np.sqrt(50 / 784)
    q, c = meanfield.trajectory("linear", 2.0, 0.0, sigma_w, 1.0, depth=60)
    chex.assert_trees_all_close(jnp.sqrt(q[:3]), np.array([1.41421, 1.06186, 1.03533]), rtol=5e-6)
    deep = phases.order_parameters("linear", sigma_w, 1.0)
    chex.assert_trees_all_close(jnp.sqrt(deep.q), np.sqrt(784 / 734), rtol=1e-12)
    chex.assert_trees_all_close(q[-1], deep.q, rtol=1e-12)
    # The plateau is the bias's own noise: inputs that start uncorrelated end up the same
    chex.assert_trees_all_close(c[-1], 1.0, atol=1e-12)
    assert deep.c == 1
    without, _ = meanfield.trajectory("linear", 1.0, 0.0, sigma_w, 0.0, depth=1)
    chex.assert_trees_all_close(jnp.sqrt(without[1]), 0.252538, rtol=2e-6)


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


@settings(max_examples=20, deadline=None)
@given(sigma_w=st.floats(0.1, 6.0), sigma_b=st.floats(0.0, 4.0))
def test_correlation_fixed_point_is_fixed_and_stable(sigma_w, sigma_b):
    with jax.enable_x64(True):
        deep = phases.order_parameters("tanh", np.float64(sigma_w), np.float64(sigma_b))
        if deep.status != phases.CONVERGES:
            return
        image = meanfield.correlation_map("tanh", deep.c, deep.q, sigma_w, sigma_b)
        chex.assert_trees_all_close(image, deep.c, atol=1e-9)
        assert 0 <= deep.c <= 1
        assert deep.chi_c <= 1 + 1e-9
        assert (deep.c < 1) == (deep.chi_1 > 1 + 1e-12)
        chex.assert_trees_all_close(meanfield.chi("tanh", deep.q, sigma_w, deep.c), deep.chi_c, rtol=1e-6)


def test_series_and_quadrature_agree_where_the_series_is_short(x64):
    # sigma ~ 10 near the edge of chaos: 512 Hermite coefficients do not suffice
    sigma_b = 9.0
    sigma_w = phases.critical_line("tanh", sigma_b).sigma_w[0] * 1.02
    deep = phases.order_parameters("tanh", sigma_w, sigma_b)
    assert 0.9 < deep.c < 1
    kinked = phases.order_parameters(Activation(jnp.tanh, (0.0,)), sigma_w, sigma_b)
    chex.assert_trees_all_close(kinked, deep, rtol=1e-7)


def test_a_users_callable_is_as_good_as_a_name(x64):
    named = phases.order_parameters("softplus", np.array([0.6, 1.2]), 0.3)
    mine = phases.order_parameters(
        lambda x: jnp.log1p(jnp.exp(-jnp.abs(x))) + jnp.maximum(x, 0), np.array([0.6, 1.2]), 0.3
    )
    chex.assert_trees_all_close(mine, named, rtol=1e-8)
    kinked = Activation(lambda x: jnp.where(x > 0, x, 0.01 * x), (0.0,))
    for fn in (phases.critical_line, phases.fixed_points):
        args = (np.array([0.0, 0.3]),) if fn is phases.critical_line else (np.array([0.5, 1.1]), 0.3)
        chex.assert_trees_all_close(fn(kinked, *args), fn("leaky_relu", *args), rtol=1e-8)


def test_vmap_agrees_with_broadcasting_and_compiles_once():
    traced = chex.assert_max_traces(lambda w, b: phases.order_parameters("tanh", w, b), 1)
    compiled = jax.jit(jax.vmap(jax.vmap(traced, (None, 0)), (0, None)))
    for top in (3.0, 4.0):
        sigma_w, sigma_b = jnp.linspace(0.5, top, 4), jnp.linspace(0.0, 1.0, 3)
        grid = compiled(sigma_w, sigma_b)
        direct = phases.order_parameters("tanh", sigma_w[:, None], sigma_b)
        chex.assert_trees_all_close(grid, direct, rtol=2e-5)
        chex.assert_shape(grid.q, (4, 3))


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
    sigma_w = jnp.asarray([1.5, 2.0], dtype)
    deep = phases.order_parameters("tanh", sigma_w, 0.25)
    assert {x.dtype for x in deep[:-1]} == {jnp.dtype(dtype)}
    assert phases.critical_line("tanh", sigma_w).sigma_w.dtype == dtype
    assert meanfield.variance_map("tanh", sigma_w, 1.0).dtype == dtype


def test_bad_input_is_refused_before_compilation():
    with pytest.raises(ValueError, match="sigma_w: expected a number in"):
        phases.order_parameters("tanh", -1.0)
    with pytest.raises(ValueError, match="sigma_b: expected a number in"):
        phases.critical_line("tanh", jnp.array([0.1, -0.1]))
    with pytest.raises(ValueError, match="q: expected a number in"):
        meanfield.variance_map("tanh", -1.0, 1.0)
    with pytest.raises(ValueError, match="c: expected a number in"):
        meanfield.correlation_map("tanh", 2.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="Did you mean 'tanh'"):
        phases.fixed_points("tahn", 1.0)
    with pytest.raises(ValueError, match="depth: expected"):
        meanfield.trajectory("tanh", 1.0, 0.0, 1.0, depth=0)
    with pytest.raises(ValueError, match="slots: expected"):
        phases.fixed_points("tanh", 1.0, slots=0)
    assert jax.jit(lambda s: meanfield.variance_map("tanh", 1.0, s))(-1.0) > 0


@pytest.mark.parametrize("module", ["gaussian", "meanfield", "roots", "phases", "normrates"])
def test_theory_stays_independent_of_the_networks(module):
    source = pathlib.Path(biasjax.__file__).parent / f"{module}.py"
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("biasjax"):
            names |= {alias.name for alias in node.names} if node.module == "biasjax" else {node.module[8:]}
    assert names - {"Activation"} <= {"activations", "check", "gaussian", "meanfield", "roots"}
