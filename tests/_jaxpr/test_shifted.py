"""Programs whose inner values may be shifted, and sums of what their products weigh with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex

from biasjax._jaxpr import shifted
from biasjax._jaxpr.double import program

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
W, BIAS, X = RNG.standard_normal((4, 3)), RNG.standard_normal(3), RNG.standard_normal((5, 4))


def network(params, x):
    w, b = params
    return jnp.sin(jnp.tanh(x @ w) + b)


def named(closed, primitive):
    return next(eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == primitive)


@pytest.fixture
def closed():
    return program(network, (W, BIAS), X).jaxpr


@pytest.mark.parametrize("shape", [(5, 3), (1, 3), (5, 1), (1, 1)])
def test_inner_values_and_inputs_are_shifted_before_their_use(closed, shape):
    inner = named(closed, "tanh").outvars[0]
    moved = shifted.shifted(closed, {inner: shape, closed.jaxpr.invars[1]: (3,)}, 2)
    step, own = RNG.standard_normal(shape), RNG.standard_normal(3)
    assert [v.aval.shape for v in moved.jaxpr.invars] == [(4, 3), (3,), shape, (3,), (5, 4)]
    [found] = jex.jaxpr_as_fun(moved)(W, BIAS, step, own, X)
    np.testing.assert_allclose(found, np.sin(np.tanh(X @ W) + step + BIAS + own), rtol=1e-12)


def test_what_is_not_shifted_is_the_program(closed):
    outputs = {v: v.aval.shape for v in closed.jaxpr.outvars}
    moved = jex.jaxpr_as_fun(shifted.shifted(closed, outputs, 0))
    [plain] = jex.jaxpr_as_fun(closed)(W, BIAS, X)
    np.testing.assert_array_equal(moved(np.zeros((5, 3)), W, BIAS, X)[0], plain)
    np.testing.assert_allclose(moved(np.ones((5, 3)), W, BIAS, X)[0], plain + 1, rtol=1e-14)


def test_sums_over_what_a_product_contracts():
    def attention(params, x):
        return jax.nn.softmax(x @ params) @ x[:3], x.T @ x

    closed = program(attention, W, X).jaxpr
    first, weighed, square = [eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "dot_general"]
    wanted = [(weighed.outvars[0], 0), (first.outvars[0], 1), (square.outvars[0], 0), (square.outvars[0], 1)]
    found = shifted.row_sums(closed, wanted)(W, X)
    assert len(found) == len(wanted)
    for (low, high), sums in zip(found, [np.ones(5), W.sum(0), X.sum(0), X.sum(0)], strict=True):
        np.testing.assert_allclose([low, high], [sums.min(), sums.max()], rtol=1e-12)
