"""Signals in a unit of their own are those of plain arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax._propagation import layerwise, statistics
from biasjax.network import Network, Scales

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("order", "sigma_b"), [("dense-relu", 0.0), ("leaky_relu-dense", 1e-30), ("dense-act", 1.0)]
)
def test_own_unit_agrees_with_plain_arithmetic(x64, order, sigma_b):
    activation = jnp.abs if order == "dense-act" else None
    for residual in (False, True):
        net = Network(inputs=8, width=8, depth=30, order=order, activation=activation, residual=residual)
        scales, x = Scales(jnp.linspace(0.01, 3.0, 30), sigma_b), jax.random.normal(KEY, (2, 8))
        assert layerwise.setting(net, 1e-5).own_unit
        found = []
        for own in (True, False):
            settings = layerwise.setting(net, 1e-5, own_unit=own)
            first, rest, x = layerwise.prepare(settings, KEY, scales, x)
            (moments, _), _, kept = layerwise.forward(
                settings, first, rest, x, statistics.statistics, keep=True
            )
            report = functools.partial(statistics.gradients, settings)
            found.append(
                (moments, layerwise.backward(settings, first, rest, kept, jnp.ones((2, 8)), report)[0])
            )
        (moments, grads), (plain, plain_grads) = found
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8), grads, plain_grads)
        for name in ("log_std", "log_q", "q", "mean", "correlation", "dead"):
            np.testing.assert_allclose(moments[name], plain[name], rtol=1e-8, atol=1e-300)
