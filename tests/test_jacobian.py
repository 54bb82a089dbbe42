"""Singular values of the Jacobian against `jax.jacobian` and where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import jacobian, network, propagation
from biasjax.network import Network, Scales

KEY = jax.random.key(0)
singular_values = jax.jit(jacobian.singular_values, static_argnums=1, static_argnames="steps")


def _net(order, **options):
    options = {"kernel_size": (3,), "padding": "CIRCULAR", "groups": 2} | options
    return Network(inputs=6, width=6, depth=4, order=order, **options)


def _inputs(net, batch=3):
    shape = (batch, 5, 6) if "conv" in net.order else (batch, 6)
    return jax.random.normal(jax.random.key(1), shape)


@pytest.mark.parametrize(
    ("order", "residual"),
    [
        ("bn-relu-dense", False),
        ("relu-in-conv", True),
        ("tanh-dense", False),
        ("relu-dense", True),
        ("ln-dense-gelu", False),
        ("dense-rms", True),
    ],
)
def test_jacobian(x64, order, residual):
    net, scales = _net(order, residual=residual), Scales(1.5, 0.4, 0.1)
    x = _inputs(net, batch=2 + 2 * ("bn" in order))
    whole = jax.jit(jax.jacobian(lambda x: propagation.features(KEY, net, scales, x)[-1]))(x)
    want = np.linalg.svd(whole.reshape(x.size, x.size), compute_uv=False)
    got = np.exp(singular_values(KEY, net, scales, x))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12 * want[0])
    extremes = np.exp(singular_values(KEY, net, scales, x, steps=x.size))
    np.testing.assert_allclose(extremes, want[[0, -1]], rtol=1e-9, atol=1e-9 * want[0])


@pytest.mark.parametrize("order", ["dense", "relu-dense", "ln-dense"])
def test_one_layer_has_the_singular_values_of_its_matrix(order):
    net = Network(8, 8, 1, order=order)
    kernel = network.init(KEY, net, Scales(1.4))[0].stem.linear.kernel
    logs = singular_values(KEY, net, Scales(1.4), jnp.ones((1, 8)))
    np.testing.assert_allclose(np.exp(logs), np.linalg.svd(kernel, compute_uv=False), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", ["dense", "conv"])
def test_orthogonal_networks_are_isometries(order):
    kernel = "delta_orthogonal" if order == "conv" else "orthogonal"
    net = _net(order, kernel_init=kernel)
    x = _inputs(net, batch=1)
    for steps in (None, 5):
        logs = singular_values(KEY, net, Scales(), x, steps=steps)
        np.testing.assert_allclose(logs, 0, atol=1e-5)


def test_jacobian_of_a_deep_net_leaves_float32():
    net = Network(inputs=8, width=8, depth=300, order="dense-leaky_relu", linear_bias=False)
    x, growth = jnp.ones((1, 8)), 10.0
    logs = [singular_values(KEY, net, Scales(s), x) for s in (1.5, growth * 1.5)]
    assert logs[1][0] > 600
    np.testing.assert_allclose(logs[1][0] - logs[0][0], 300 * np.log(growth), rtol=1e-5)
