"""Measured propagation against plain loops, against mean-field theory, and against the notebook's numbers."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from biasjax import jacobian, meanfield, network, normrates, phases, propagation
from biasjax._network import architecture
from biasjax._propagation import layerwise
from biasjax.network import Network, Scales
from biasjax.propagation import propagate

ORDERS = [
    "dense",
    "tanh-dense",
    "rms-dense",
    "dense-bn-relu",
    "dense-relu-bn",
    "bn-relu-dense",
    "ln-dense-gelu",
    "dense-rms-silu",
    "dense-gn-leaky_relu",
    "conv-bn-relu",
    "relu-conv",
    "relu-in-conv",
]
run: Any = jax.jit(propagate, static_argnums=1, static_argnames="backward")
features = jax.jit(propagation.features, static_argnums=1)
KEY = jax.random.key(0)


def _net(order, **options):
    options = {"kernel_size": (3,), "padding": "CIRCULAR", "groups": 2} | options
    return Network(inputs=6, width=6, depth=4, order=order, **options)


def _inputs(net, batch=3):
    shape = (batch, 5, 6) if "conv" in net.order else (batch, 6)
    return jax.random.normal(jax.random.key(1), shape)


class Loop:
    """The same network as a loop over layers, with scaled weights, differentiable in everything."""

    def __init__(self, net, scales, x):
        self.net, self.x, self.order = net, x, architecture.parse_order(net)
        params, _ = network.init(KEY, net, scales, dtype=x.dtype)
        rest = [jax.tree.map(lambda leaf, i=i: leaf[i], params.body.linear) for i in range(net.depth - 1)]
        self.params = [params.stem.linear, *rest]

    def steps(self, steps, h):
        for step in steps:
            h = step(h) if callable(step) else self.norm(step, h)
        return h

    def norm(self, name, h):
        axes = {"bn": (0, 1)[: h.ndim - 1], "ln": -1, "rms": -1, "in": 1}.get(name)
        if name == "gn":
            halves = h.reshape(*h.shape[:-1], 2, -1)
            axes = (*range(1, h.ndim - 1), h.ndim)
            return self.standardize(halves, axes).reshape(h.shape)
        return self.standardize(h, axes, centred=name != "rms")

    def standardize(self, h, axes, centred=True):
        h = h - h.mean(axes, keepdims=True) if centred else h
        mean_square = (h**2).mean(axes, keepdims=True) if centred else (h**2).mean(-1, keepdims=True)
        return h / jnp.sqrt(mean_square + 1e-5)

    def __call__(self, params, probes):
        """Last features; all features and pre-activations. ``probes`` are added to features."""
        h, seen, pres = self.x, [], []
        for layer, (one, probe) in enumerate(zip(params, probes, strict=True)):
            y = self.steps(self.order.before, h) if layer else h
            z = architecture.linear_layer(self.net).apply(self.net, one, y)
            new = self.steps(self.order.after, z)
            h = (h + new if self.net.residual and layer else new) + probe
            seen.append(h)
            pres.append(z if self.order.after else h)
        return h, (seen, pres)


def _square(x):
    return np.sum(np.square(np.asarray(x)))


RESIDUAL = ["relu-dense", "dense-bn-relu", "bn-relu-conv", "ln-dense-gelu"]


@pytest.mark.parametrize(
    ("order", "residual"), [(order, False) for order in ORDERS] + [(order, True) for order in RESIDUAL]
)
def test_agrees_with_a_loop(x64, order, residual):
    net, scales = _net(order, residual=residual), Scales(1.5, 0.4, 0.1)
    x = _inputs(net)
    loop = Loop(net, scales, x)
    probes = [jnp.zeros((*x.shape[:-1], net.width))] * net.depth

    @jax.jit
    def truth(params, probes):
        out, pull, kept = jax.vjp(loop, params, probes, has_aux=True)
        return kept, pull(layerwise.direction(KEY, out))

    (seen, pres), (grads, grad_features) = truth(loop.params, probes)
    got = run(KEY, net, scales, x)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9)
    close(got.mean, [h.mean() for h in seen], atol=1e-12)
    close(got.std, [h.std() for h in seen])
    close(got.log_std, np.log(got.std), atol=1e-12)
    close(got.q, [(z**2).mean() for z in pres])
    close(got.log_q, np.log(got.q), atol=1e-12)
    flat = [np.asarray(z.reshape(3, -1)) for z in pres]
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in flat]
    close(got.correlation, [(v @ v.T)[np.triu_indices(3, 1)].mean() for v in units], atol=1e-12)
    close(got.distance, 1 - got.correlation, atol=1e-12)
    close(np.exp(got.log_grad_features), [_square(g) for g in grad_features])
    close(np.exp(got.log_grad_kernels), [_square(g.kernel) for g in grads])
    # A bias before batch norm has no gradient but rounding
    close(np.exp(got.log_grad_biases), [_square(g.bias) for g in grads], atol=1e-20)
    assert int(got.status) == propagation.FINITE


def _notebook(depth=100, *, xavier):
    """Scales that give the notebook's weights: N(0, 1/784) in every layer, or N(0, 1)."""
    fan_in = np.r_[784.0, np.full(depth - 1, 50.0)]
    return jnp.asarray(np.sqrt(fan_in / 784 if xavier else fan_in))


SEEDS = 100
NOTEBOOK = Network(inputs=784, width=50, depth=100, order="dense")


@functools.partial(jax.jit, static_argnames="dtype")
def _notebook_networks(scales, dtype):
    def one(seed):
        key, x_key = jax.random.split(jax.random.key(seed))
        return propagate(key, NOTEBOOK, scales, jax.random.normal(x_key, (2, 784), dtype))

    return jax.lax.map(one, jnp.arange(SEEDS), batch_size=20)


@functools.cache
def _notebook_runs(xavier, sigma_b, dtype) -> Any:
    """All of them are one compiled program for each dtype."""
    scales = Scales(_notebook(xavier=xavier), jnp.asarray(sigma_b, dtype))
    return jax.tree.map(np.asarray, _notebook_networks(scales, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_notebook_plateau(dtype):
    with jax.enable_x64(dtype == "float64"):
        deep = _notebook_runs(True, 1.0, dtype)
    # A sum of 50 squares scatters by sqrt(2/50) and there are 100 seeds: 2 % in q, 1 % in its root
    error = np.sqrt(2 / 50 / SEEDS) / 2
    std = np.sqrt(deep.q.mean(0))
    np.testing.assert_allclose(std[:3], [1.41421, 1.06186, 1.03533], rtol=4 * error)
    np.testing.assert_allclose(std[10:], 1.033499, rtol=5 * error)  # the worst of 90 layers
    np.testing.assert_allclose(std[10:].mean(), np.sqrt(784 / 734), rtol=1.5 * error)
    # One draw of 50 units scatters by 1/sqrt(100)
    np.testing.assert_allclose(np.sqrt(deep.q[:, 50]).std(), 0.10, rtol=0.2)
    # The plateau is the bias's own noise: what is left of two inputs' difference falls by 50/784 per layer
    fall = np.exp(np.diff(np.log(deep.distance[:, 1:5]), axis=1).mean())
    assert abs(fall / (50 / 784) - 1) < 0.1
    assert deep.distance[:, 20].max() < 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_notebook_without_bias(dtype):
    with jax.enable_x64(dtype == "float64"):
        deep = _notebook_runs(True, 0.0, dtype)
    # log q falls by ln(50/784) + E ln(chi²_50/50) per layer; the mean of q falls by 50/784 itself
    per_layer = np.diff(deep.log_q, axis=1)
    error = np.sqrt(2 / 50 / SEEDS / 99)
    np.testing.assert_allclose(per_layer.mean(), 2 * np.log(0.252538) - 0.0201, atol=4 * error)
    first = np.sqrt(np.exp(deep.log_q[:, :4]).mean(0))
    np.testing.assert_allclose(first, 0.252538 ** np.arange(4), rtol=4 * np.sqrt(2 * 4 / 50 / SEEDS) / 2)
    if dtype == "float32":  # .2525^64 = 6e-39, below what is left of float32 with denormals flushed
        # log std scatters by sqrt(64 · 2/50)/2 = 0.8 over seeds, 0.6 layers
        assert np.median(deep.underflow_layer) in (64, 65)
        assert (abs(deep.underflow_layer - 64.5) <= 4 * 0.6 + 0.5).all()
        assert set(deep.status) == {propagation.UNDERFLOW}
        assert (deep.std[:, 70:] == 0).all()
        assert np.isfinite(deep.log_std).all()
    else:
        assert set(deep.status) == {propagation.FINITE}


@pytest.mark.parametrize("sigma_b", [0.0, 1.0])
def test_notebook_overflow(sigma_b):
    deep = _notebook_runs(False, sigma_b, "float32")
    # log std scatters by sqrt(44 · 2/50)/2 = 0.66 over seeds, 0.34 layers: a few in a hundred fall outside
    assert np.isin(deep.overflow_layer, (44, 45)).mean() > 0.9
    assert (abs(deep.overflow_layer - 44.5) <= 4 * 0.34 + 0.5).all()
    assert set(deep.status) == {propagation.OVERFLOW}
    assert np.isfinite(deep.log_std).all()
    finite = np.isfinite(deep.std)
    assert (finite.sum(1) >= deep.overflow_layer - 1).all()
    # sqrt(50) per layer, far beyond float32
    np.testing.assert_allclose(deep.log_q[:, -1].mean(), np.log(784) + 99 * (np.log(50) - 0.0201), atol=1)


def test_notebook_naive_std_overflows_twenty_layers_early():
    for seed in range(5):
        x = jax.random.normal(jax.random.key(seed + 100), (1, 784))
        values = features(jax.random.key(seed), NOTEBOOK, Scales(_notebook(xavier=False)), x)
        naive = jnp.sqrt(jnp.mean(jnp.square(values - values.mean((1, 2), keepdims=True)), (1, 2)))
        assert 20 <= int(jnp.argmax(jnp.isinf(naive))) + 1 <= 22
        assert 44 <= int(jnp.argmax(jnp.isinf(values).any((1, 2)))) + 1 <= 45


def test_notebook_fits_into_float64(x64):
    deep = _notebook_runs(False, 0.0, "float64")
    assert set(deep.status) == {propagation.FINITE}
    np.testing.assert_allclose(deep.log_std, np.log(deep.std), rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("order", ["dense-relu", "bn-relu-dense"])
def test_shallow_networks(order, depth):
    net = Network(inputs=4, width=8, depth=depth, order=order)
    got = run(KEY, net, Scales(), jax.random.normal(KEY, (5, 4)))
    assert got.q.shape == got.log_grad_kernels.shape == (depth,)
    assert np.isfinite(got.log_grad_features).all()


def test_one_example_has_no_correlation_and_no_bias_no_gradient():
    net = Network(inputs=4, width=8, depth=3, order="dense-tanh", linear_bias=False)
    got = run(KEY, net, Scales(), jnp.ones((1, 4)))
    assert got.correlation is None
    assert got.distance is None
    assert got.log_grad_biases is None
    assert run(KEY, net, Scales(), jnp.ones((1, 4)), backward=False).log_grad_kernels is None


def test_dead_units():
    dead = lambda *args: run(*args, backward=False).dead  # noqa: E731
    net = Network(inputs=64, width=64, depth=3, order="dense-relu")
    x = jax.random.normal(KEY, (1, 64))
    half = dead(KEY, net, Scales(), x)
    assert (abs(half - 0.5) < 4 * 0.5 / 8).all()
    assert (dead(KEY, net, Scales(bias_mean=-50.0), x) == 1).all()
    assert dead(KEY, net, Scales(bias_mean=50.0), x)[0] == 0
    values = features(KEY, net, Scales(1.0, 0.5), x)
    np.testing.assert_allclose(dead(KEY, net, Scales(1.0, 0.5), x), (values == 0).mean((1, 2)), atol=1e-6)


def test_features_are_those_of_the_network():
    net = _net("dense-relu-bn")
    x, scales = _inputs(net, 5), Scales(1.3, 0.2)
    params, state = network.init(KEY, net, scales)
    out, _ = network.apply(net, params, state, x, train=True)
    np.testing.assert_allclose(features(KEY, net, scales, x)[-1], out, atol=1e-5)


def test_correlation_of_zero_vectors_is_zero():
    net = Network(inputs=4, width=8, depth=3, order="dense-tanh", linear_bias=False)
    x = jnp.eye(3, 4).at[0].set(0.0)
    some = run(KEY, net, Scales(), x)
    only = run(KEY, net, Scales(), x[1:])
    np.testing.assert_allclose(some.correlation, only.correlation / 3, rtol=1e-5)
    none = run(KEY, net, Scales(), jnp.zeros((3, 4)))
    np.testing.assert_array_equal(none.correlation, 0)
    assert int(none.underflow_layer) == 1
    assert (none.log_std == -np.inf).all()


def test_users_own_activation_is_as_good_as_a_named_one():
    scales, x = Scales(1.5, 0.3), jax.random.normal(KEY, (2, 6))
    named = run(KEY, _net("dense-ln-tanh"), scales, x)
    own = run(KEY, _net("dense-ln-act", activation=lambda x: jnp.tanh(x)), scales, x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), own, named)


def test_activation_with_a_custom_vjp():
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))
    x = jax.random.normal(KEY, (2, 6))
    own = run(KEY, _net("dense-act", activation=cube), Scales(0.5), x)
    plain = run(KEY, _net("dense-act", activation=lambda x: x**3), Scales(0.5), x)
    np.testing.assert_allclose(own.log_grad_features, plain.log_grad_features, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtypes(dtype):
    for order in ("dense-relu",) if dtype == jnp.float16 else ("dense-ln-gelu",):
        x = jax.random.normal(KEY, (2, 6)).astype(dtype)
        got = run(KEY, _net(order), Scales(1.2, 0.1), x)
        assert features(KEY, _net(order), Scales(), x).dtype == dtype
        floating = [leaf for leaf in got if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert {leaf.dtype for leaf in floating} == {jnp.dtype(jnp.float32)}
        assert all(np.isfinite(leaf).all() for leaf in floating)


def test_a_signal_that_relu_ends_leaves_the_bias():
    net = Network(2, 2, 100, order="dense-relu")
    got = run(KEY, net, Scales(300.0, 1e-3), jnp.ones((1, 2)), backward=False)
    assert got.log_q.max() > 2 * 88  # beyond float32; layer 79 has no feature left
    assert got.std[78] == 0
    assert np.isfinite(got.log_q).all()
    assert got.log_q[79] < -10


def test_diverging_is_data():
    net = Network(inputs=8, width=8, depth=60, order="dense-gelu", linear_bias=False)
    got = run(KEY, net, Scales(1e3), jnp.ones((2, 8)))
    assert int(got.status) == propagation.OVERFLOW
    assert 10 < int(got.overflow_layer) < 20
    invalid = run(KEY, net, Scales(1.0), jnp.full((2, 8), jnp.nan))
    assert int(invalid.status) == propagation.NAN


# Theory


WIDTH, NETWORKS = 256, 16


@functools.partial(jax.jit, static_argnames=("net", "batch"))
def _networks(net, scales, batch, options):
    def one(seed):
        key, x_key = jax.random.split(jax.random.key(seed))
        x = jax.random.normal(x_key, (batch, net.inputs))
        x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
        return propagate(key, net, scales, x, **options)

    return jax.lax.map(one, jnp.arange(NETWORKS))


def _measure(net, scales, batch=2, **options) -> Any:
    """Measures of several networks; the first layer's q is sigma_w² + sigma_b²."""
    return jax.tree.map(np.asarray, _networks(net, scales, batch, options))


@pytest.mark.parametrize(
    ("act", "sw2", "sb2"), [("tanh", 1.0, 0.05), ("tanh", 4.0, 0.05), ("erf", 2.0, 0.05), ("relu", 2.0, 0.1)]
)
def test_meanfield(act, sw2, sb2):
    net = Network(inputs=WIDTH, width=WIDTH, depth=20, order=f"dense-{act}")
    scales = Scales(np.sqrt(sw2), np.sqrt(sb2))
    got = _measure(net, scales)
    c = got.correlation[:, 0].mean()
    q, cs = meanfield.trajectory(act, sw2 + sb2, c, *scales[:2], depth=19)
    # One layer's q scatters by sqrt(2/width) at most; errors of earlier layers add up where V' is near 1
    slope = abs(float(phases.order_parameters(act, *scales[:2]).slope))
    error = math.sqrt(2 / WIDTH / NETWORKS * (20 if slope > 0.99 else 1 / (1 - slope**2)))
    np.testing.assert_allclose(got.q.mean(0), q, rtol=4 * error)
    scatter = got.correlation.std(0).max() / np.sqrt(NETWORKS)
    np.testing.assert_allclose(got.correlation.mean(0), cs, atol=4 * scatter + 1 / WIDTH)
    # Gradients: chi_1 at the layers' own q; each factor scatters like q
    chi = np.log(meanfield.chi(act, q[5:], scales.sigma_w))[1:]
    growth = -np.diff(got.log_grad_features, axis=1).mean(0)[5:]
    np.testing.assert_allclose(growth.mean(), chi.mean(), atol=4 * np.sqrt(4 / WIDTH / NETWORKS / 14))


@pytest.mark.parametrize("kernel", ["orthogonal", "gaussian"])
def test_orthogonal_networks_follow_the_same_map(kernel):
    net = Network(inputs=64, width=64, depth=6, order="dense-tanh", kernel_init=kernel)
    got = _measure(net, Scales(1.5, 0.3))
    q, _ = meanfield.trajectory("tanh", 1.5**2 + 0.3**2, 0.0, 1.5, 0.3, depth=5)
    error = meanfield.fluctuations("tanh", q, 1.5, width=64) / q / np.sqrt(NETWORKS)
    assert (abs(got.q.mean(0) / q - 1) < 4 * error + 1 / 64).all()


@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME"])
@pytest.mark.parametrize("kernel", ["gaussian", "delta_orthogonal"])
def test_convolutions_follow_their_theory(kernel, padding):
    width, positions, seeds = 32, 8, 24
    options = {"kernel_size": (3,), "padding": padding, "kernel_init": kernel}
    net = Network(inputs=width, width=width, depth=4, order="tanh-conv", **options)
    # All positions of two inputs at right angles, but the same inputs at the last position
    draws = np.linalg.qr(np.random.default_rng(0).standard_normal((width, 2 * positions)))[0].T
    x = jnp.asarray(draws.reshape(2, positions, width) * np.sqrt(width), jnp.float32)
    x = x.at[1, -1].set(x[0, -1])

    def one(seed):
        z = propagation.features(jax.random.key(seed), net, Scales(1.4, 0.3), x)
        return jnp.mean(z**2, (1, 3)), jnp.mean(z[:, 0] * z[:, 1], -1)

    q, covariance = map(np.asarray, jax.jit(lambda: jax.lax.map(one, jnp.arange(seeds)))())
    window = np.full(3, 1 / 3) if kernel == "gaussian" else np.array([0.0, 1.0, 0.0])
    step = functools.partial(meanfield.conv_trajectory, window=window, padding=padding)
    start = step("linear", jnp.ones(positions), jnp.eye(positions)[-1], 1.4, 0.3, depth=1)
    qs, cs = step("tanh", start[0][1], start[1][1], 1.4, 0.3, depth=3)
    for values, expected in ((q, qs), (covariance, qs * cs)):
        scatter = values.std(0).max(1, keepdims=True) / np.sqrt(seeds)
        assert (abs(values.mean(0) - expected) < 4 * scatter + expected.max() / width).all()


@pytest.mark.parametrize(("order", "batch", "rate"), [("dense-bn", 16, 14 / 13), ("dense-bn-relu", 16, None)])
def test_batch_norm_explosion(order, batch, rate):
    rate = float(normrates.batch_norm_relu(16.0)) if rate is None else rate
    net = Network(inputs=WIDTH, width=WIDTH, depth=20, order=order)
    got = _measure(net, Scales(), batch, epsilon=1e-8)
    growth = -np.diff(got.log_grad_features, axis=1).mean(0)[4:]
    # The mean of a log is below the log of the mean by half its variance, about 1/width per layer
    np.testing.assert_allclose(np.exp(growth.mean()), rate, rtol=3e-2)


def test_growth_leaves_out_both_ends():
    logs = xr.DataArray(np.log(2.0) * np.array([[20, 9, 7, 4, 0]]), dims=("seed", "layer"))
    logs = logs.assign_coords(layer=np.arange(1, 6))
    np.testing.assert_allclose(propagation.growth(logs), [[2048, 4, 8, 16]])
    inner = propagation.growth(logs, ends=1)
    np.testing.assert_allclose(inner, [[4, 8]])
    np.testing.assert_array_equal(inner.layer, [3, 4])


def test_every_array_has_named_dimensions():
    found = run(KEY, _net("dense-relu"), Scales(), jnp.ones((2, 6)))._asdict()
    found["features"] = propagation.features(KEY, _net("dense-relu"), Scales(), jnp.ones((2, 6)))
    assert {name: len(propagation.DIMS.get(name, ())) for name in found} == {
        name: value.ndim for name, value in found.items()
    }


def test_residual_growth():
    net = Network(inputs=WIDTH, width=WIDTH, depth=20, order="relu-dense", residual=True)
    got = _measure(net, Scales(1.0, 0.5))
    q = 1.25
    for layer in range(20):
        error = np.sqrt(2 / WIDTH / NETWORKS * (layer + 1))
        np.testing.assert_allclose(got.q[:, layer].mean(), q, rtol=4 * error)
        q, rate = normrates.residual("relu", q, 1.0, 0.5)
    growth = np.exp(-np.diff(got.log_grad_features, axis=1).mean())
    np.testing.assert_allclose(growth, rate, rtol=4 * np.sqrt(4 / WIDTH / NETWORKS / 19))


# Grids of scales


def test_scale_axes_share_the_base_kernel():
    """The products over a grid multiply one (n, n) kernel: no array holds a kernel for each point."""
    net = Network(inputs=24, width=24, depth=3, order="dense-tanh")

    def point(sigma_w, sigma_b):
        return propagate(KEY, net, Scales(sigma_w, sigma_b), jnp.ones((2, 24)))

    grid = jax.vmap(jax.vmap(point, (None, 0)), (0, None))
    args = jnp.linspace(0.5, 2, 5), jnp.linspace(0, 1, 7)
    program = jax.jit(grid).lower(*args).compile()
    compiled = program.as_text() or ""
    jaxpr = str(jax.make_jaxpr(grid)(*args))
    for text, several in ((jaxpr, "5,7,24,24"), (compiled, "[5,7,24,24]"), (compiled, "[35,24,24]")):
        assert several not in text
    assert "[7,5,24,24]" not in compiled
    assert jaxpr.count("dot_general") > 2
    # Forward: all points in one product, (points x batch, n) by (n, n)
    assert any(f"[{shape},24]" in compiled for shape in ("70", "5,7,2", "7,5,2", "5,2,7"))
    one = run(KEY, net, Scales(args[0][3], args[1][2]), jnp.ones((2, 24)))
    many = jax.tree.map(lambda leaf: leaf[3, 2], program(*args))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), many, one)


@pytest.mark.parametrize(("order", "residual"), [("dense-relu", False), ("bn-relu-dense", True)])
def test_grids_can_be_spread_over_devices(order, residual):
    net = _net(order, residual=residual)
    x, sigmas = _inputs(net), jnp.array([1.0, 1.5])
    mesh = jax.make_mesh((2,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    # The key is the same on all devices, as on an axis of scales
    point = jax.vmap(lambda sigma: propagate(KEY, net, Scales(sigma, 0.1), x))
    spread = jax.shard_map(point, mesh=mesh, in_specs=jax.P("device"), out_specs=jax.P("device"))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, jax.jit(spread)(sigmas), jax.jit(point)(sigmas))


def test_many_networks_are_shown_in_short():
    one = run(KEY, _net("dense-ln-tanh"), Scales(), jnp.ones((2, 6)), backward=False)
    many = jax.tree.map(lambda leaf: jnp.zeros((9, *leaf.shape), leaf.dtype), one)
    assert repr(many).startswith("Propagation(mean=float32[9,4], std=float32[9,4], ")
    assert len(repr(many)) < 400


# Bad input


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (Scales(-1.0), r"sigma_w: expected a number in \[0.0, inf\], got -1.0"),
        (Scales(1.0, -0.1), "sigma_b: expected a number"),
        (Scales(jnp.ones(3)), r"sigma_w: expected a scalar or shape \(4,\), got \(3,\)"),
    ],
)
def test_bad_scales(scales, message):
    with pytest.raises(ValueError, match=message):
        propagate(KEY, _net("dense"), scales, jnp.ones((2, 6)))


@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 3, 6), (0, 6)])
def test_bad_inputs(shape):
    for function in (propagate, propagation.features, jacobian.singular_values):
        with pytest.raises(ValueError, match=r"propagate: expected \(batch, inputs\) with 6 inputs"):
            function(KEY, _net("dense"), Scales(), jnp.ones(shape))


def test_bad_options():
    with pytest.raises(TypeError, match="a floating dtype"):
        propagate(KEY, _net("dense"), Scales(), jnp.ones((2, 6), int))
    with pytest.raises(ValueError, match="epsilon"):
        propagate(KEY, _net("dense-ln"), Scales(), jnp.ones((2, 6)), epsilon=-1.0)
    with pytest.raises(TypeError, match=r"growth: expected a DataArray .*, got ndarray\. Select"):
        propagation.growth(np.ones(3))  # pyright: ignore
    with pytest.raises(TypeError, match="propagate: expected Scales, got float"):
        propagate(KEY, _net("dense"), 1.0, jnp.ones((2, 6)))  # pyright: ignore
    with pytest.raises(ValueError, match="steps"):
        jacobian.singular_values(KEY, _net("dense"), Scales(), jnp.ones((2, 6)), steps=0)
    with pytest.raises(ValueError, match="more than one value to normalise"):
        propagate(KEY, _net("dense-bn"), Scales(), jnp.ones((1, 6)))
    with pytest.raises(ValueError, match="Did you mean 'tanh'"):
        _net("dense-tahn")
    with pytest.raises(ValueError, match="width"):
        Network(inputs=3, width=0, depth=2)
