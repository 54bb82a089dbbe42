"""One update on a loss of one's own, against optax by hand, and what is composed of it."""

import functools
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from biasjax import data, linear, training
from biasjax.network import Network, Scales, apply, init

X = jax.random.normal(jax.random.key(0), (32, 3))
Y = X @ jnp.array([[1.0], [-2.0], [0.5]]) + 3.0


def loss(params, state, rows):
    return training.squared_error(linear.dense(params, X[rows]), Y[rows]), state


def test_agrees_with_optax_by_hand(standard_promotion):
    adam = optax.adam(0.1)
    params: Any = linear.dense_init(jax.random.key(1), 3, 1)
    rows = training.batch_order(jax.random.key(2), 32, 10, 8)
    fit, losses = jax.lax.scan(
        functools.partial(training.descend, adam, loss), training.begin(adam, params), rows
    )
    state = adam.init(params)
    for step, batch in enumerate(rows):
        value, gradient = jax.value_and_grad(lambda p, batch=batch: loss(p, None, batch)[0])(params)
        updates, state = adam.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(losses[step], value, rtol=1e-5)
    chex.assert_trees_all_close(fit.params, params, rtol=1e-5)


def test_is_the_update_of_a_training_run():
    clusters = data.clusters(jax.random.key(0), classes=3, features=4)
    network = Network(inputs=4, width=8, depth=1, outputs=3, order="dense-bn-relu")
    key, hyperparams = jax.random.key(1), training.Hyperparams(0.1, weight_decay=0.01)
    train = training.make_train(network, "sgd", clusters, steps=12, batch_size=16)
    truth, history = train(key, Scales(), hyperparams)
    sgd = training.OPTIMIZERS["sgd"](hyperparams, None)

    def own(params, state, rows):
        logits, state = apply(network, params, state, clusters.train_x[rows], train=True)
        return training.cross_entropy(logits, clusters.train_y[rows]), state

    first = training.begin(sgd, *init(jax.random.split(key)[0], network))
    rows = training.batch_order(key, len(clusters.train_x), 12, 16)
    fit, losses = jax.lax.scan(functools.partial(training.descend, sgd, own), first, rows)
    np.testing.assert_allclose(losses, history.loss, rtol=1e-5)
    chex.assert_trees_all_close((fit.params, fit.state), (truth.params, truth.state), rtol=1e-4, atol=1e-6)


def test_what_is_frozen_is_a_matter_of_the_optimiser():
    params = linear.dense_init(jax.random.key(1), 3, 1)
    parts = {"tuned": optax.adam(0.1), "frozen": optax.set_to_zero()}
    bias_alone = optax.partition(parts, linear.Linear("frozen", "tuned"))  # pyright: ignore
    fit, _ = training.descend(bias_alone, loss, training.begin(bias_alone, params), jnp.arange(8))
    np.testing.assert_array_equal(fit.params.kernel, params.kernel)
    assert (fit.params.bias != params.bias).all()


def test_two_players_take_a_step_each():
    """Alternating descent and ascent on x y turns around zero, as Euler's symplectic method does."""
    sgd = optax.sgd(0.1)

    def turn(players, _):
        x, y = players
        x, _ = training.descend(sgd, lambda p, s, y: (p * y, s), x, y.params)
        y, _ = training.descend(sgd, lambda p, s, x: (-p * x, s), y, x.params)
        return (x, y), x.params**2 + y.params**2

    first = tuple(training.begin(sgd, jnp.array(value)) for value in (1.0, 0.0))
    _, radius = jax.jit(lambda first: jax.lax.scan(turn, first, length=1000))(first)
    assert 0.9 < radius.min() < radius.max() < 1.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masked_losses_see_only_what_counts(dtype):
    outputs = jax.random.normal(jax.random.key(0), (4, 5), dtype)
    targets, labels = jnp.zeros_like(outputs), jnp.array([0, 1, 2, 3])
    where = jnp.array([True, False, True, False])
    kept = outputs[::2].astype(jnp.float32)
    whole = training.squared_error(outputs, targets, jnp.broadcast_to(where[:, None], (4, 5)))
    np.testing.assert_allclose(whole, jnp.mean(kept**2), rtol=1e-6)
    truth = -jax.nn.log_softmax(kept)[jnp.arange(2), labels[::2]].mean()
    np.testing.assert_allclose(training.cross_entropy(outputs, labels, where), truth, rtol=1e-6)
    assert whole.dtype == jnp.float32


def test_runs_of_many_networks_compile_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def final(rate, key):
        sgd = optax.sgd(rate)
        first = training.begin(sgd, linear.dense_init(key, 3, 1))
        rows = training.batch_order(key, 32, 50, 8)
        return jax.lax.scan(functools.partial(training.descend, sgd, loss), first, rows)[1][-1]

    keys = jax.random.split(jax.random.key(0), 3)
    grid = jax.vmap(jax.vmap(final, (None, 0)), (0, None))(jnp.array([0.01, 0.1]), keys)
    assert grid.shape == (2, 3)
    assert (grid[1] < grid[0]).all()


def test_bad_input():
    sgd, wild = optax.sgd(0.1), cast(Any, "sgd")
    wrong = [
        (
            lambda: training.begin(wild, {}),
            TypeError,
            "optimizer: expected an optax transfo.*got str",
        ),
        (lambda: training.descend(sgd, loss, wild, X), TypeError, "fit: expected Fit, got str"),
        (
            lambda: training.descend(sgd, wild, training.begin(sgd, X), X),
            TypeError,
            "loss: expected a func",
        ),
        (lambda: training.squared_error(X, Y), ValueError, r"targets of shape \(32, 3\), got \(32, 1\)"),
        (lambda: training.squared_error(X, X, X), ValueError, "a boolean mask of shape"),
        (lambda: training.cross_entropy(X, Y), TypeError, "cross_entropy: expected an array of integers"),
        (
            lambda: training.cross_entropy(X, jnp.arange(3)),
            ValueError,
            r"labels of shape \(32,\), got",
        ),
        (lambda: training.batch_order(jax.random.key(0), 4, 3, 8), ValueError, "at most the 4 examples"),
    ]
    for call, error, message in wrong:
        with pytest.raises(error, match=message):
            call()
