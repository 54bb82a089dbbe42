"""Derivatives that take kinks both ways: which shares they mix, and what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex

from biasjax._jaxpr.double import program
from biasjax._jaxpr.kinks import both_ways

X = np.linspace(0.5, 3.0, 400)  # on one side of zero


def slopes(fn, x=X, seed=0):
    """Values and derivatives, entry by entry, of an elementwise function."""
    with jax.enable_x64(True):
        run = jex.jaxpr_as_fun(both_ways(program(lambda p, x: fn(x), (), x).jaxpr))
        values, pullback = jax.vjp(lambda x: run(x, np.int32(seed))[0], x)
        np.testing.assert_allclose(values, fn(x), rtol=1e-14)
        return np.asarray(pullback(np.ones_like(x))[0])


# The derivatives of the pieces at a positive x
KINKS = {
    "relu": (jax.nn.relu, (0, 1)),
    "relu of a negative": (lambda x: jax.nn.relu(-x), (-1, 0)),
    "relu6": (jax.nn.relu6, (0, 1)),
    "leaky": (jax.nn.leaky_relu, (0.01, 1)),
    "where": (lambda x: jnp.where(x > 0, x, 0.0), (0, 1)),
    "where not": (lambda x: jnp.where(x <= 0, 0.5 * x, x), (0.5, 1)),
    "abs by max": (lambda x: jnp.maximum(x, -x), (-1, 1)),
}


@pytest.mark.parametrize("name", KINKS)
def test_both_pieces(name):
    fn, pieces = KINKS[name]
    found = slopes(fn)
    assert set(found) == set(pieces)
    assert 0.15 < np.mean(found == pieces[1]) < 0.65
    assert (found != slopes(fn, seed=1)).any()


# Choices that are no kinks, and kinks out of reach
OTHERS = {
    "mask": (
        lambda x: jnp.where(jnp.arange(x.size) < 10, x, 2 * x),
        lambda x: np.where(np.arange(400) < 10, 1, 2),
    ),
    "largest": (lambda x: jnp.where(x >= jnp.sort(x)[-3], x, 2 * x), lambda x: np.where(x >= x[-3], 1, 2)),
    "far clip": (lambda x: jnp.clip(x, -1e6, 1e6), np.ones_like),
    "floor": (lambda x: jnp.maximum(x, -jnp.inf), np.ones_like),
    "halves": (lambda x: jnp.maximum(x, 0) + jnp.minimum(x, 0), np.ones_like),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_choices_stay(name):
    fn, expected = OTHERS[name]
    np.testing.assert_allclose(slopes(fn), expected(X), atol=1e-12)


def test_a_shift_of_both_operands_goes_through():
    x = np.random.default_rng(0).standard_normal((30, 8))
    for fn in (jax.nn.softmax, lambda x: jnp.maximum(x, jnp.roll(x, 1, -1)) - x.mean(-1, keepdims=True)):
        with jax.enable_x64(True):
            run = jex.jaxpr_as_fun(both_ways(program(lambda p, x, fn=fn: fn(x), (), x).jaxpr))
            _, moved = jax.jvp(lambda x, run=run: run(x, np.int32(0))[0], (x,), (np.ones_like(x),))
        np.testing.assert_allclose(moved, 0, atol=1e-12)


def test_complex_numbers_are_no_trouble():
    assert np.isfinite(slopes(lambda x: jnp.abs(jax.lax.complex(x, x) - (1 + 2j)))).all()


def test_within_scan_and_cond():
    def scanned(x):
        return jax.lax.scan(lambda c, _: (jax.nn.relu(c), None), x, None, length=3)[0]

    # Each step draws anew: an eighth of the entries stay on
    assert 0.05 < slopes(scanned).mean() < 0.22
    assert 0.3 < slopes(lambda x: jax.lax.cond(x.sum() > 0, jax.nn.relu, jnp.tanh, x)).mean() < 0.7
