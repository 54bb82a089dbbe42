"""Finite shifts bring to life what derivatives do not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import linear, norms
from biasjax._audit import shifts
from biasjax._audit.model import trace
from biasjax._audit.points import Draws
from biasjax.audit import audit_biases

ROWS = jax.random.normal(jax.random.key(8), (5, 6))
C = 8


def two_layers():
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "a": linear.dense_init(keys[0], 6, C),
        "norm": norms.norm_init(C),
        "b": linear.dense_init(keys[1], C, 3),
    }


def mlp(params, x):
    y = jax.nn.relu(linear.dense(params["a"], x))
    return linear.dense(params["b"], norms.rms_norm(params["norm"], y))


@pytest.fixture(scope="module")
def shifter():
    """One bias that is centred away, one that is not, one that only shifts of 10 and more bring to life."""

    def fn(p, x):
        y = x + p["a_bias"]
        return y - y.mean(0), jnp.tanh(x + p["b_bias"]), jax.nn.relu(p["c_bias"] - 10)

    params = {f"{name}_bias": jnp.zeros(6) for name in "abc"}
    with jax.enable_x64(True):
        yield shifts.prepare(trace(fn, params, ROWS), Draws(0, False, True))


def test_shifts_against_round_off(shifter):
    whole = [np.eye(6)] * 3
    with jax.enable_x64(True):
        centred, plain, dead = shifts.each(shifter, whole, 0)
    assert not centred.alive
    assert centred.change < 1e-12
    assert plain.alive
    assert plain.change > 1e-3
    assert dead.alive  # by a large shift: the bias's own size is half


def test_shifts_go_both_ways(x64):
    # Each of the two biases is one number that shifts of one sign bring to life
    params = {"a_bias": jnp.zeros(1), "b_bias": jnp.zeros(1)}
    model = trace(lambda p: jax.nn.relu(jnp.stack([p["a_bias"], -p["b_bias"]]) - 10), params)
    both = shifts.prepare(model, Draws(0, False, True))
    assert [one.alive for one in shifts.each(both, [np.eye(1)] * 2, 0)] == [True, True]


def test_shifts_stay_within_the_basis(shifter):
    # Of the last bias nothing, of the second one a direction
    bases = [np.eye(6), np.eye(6)[:, 2:3], np.zeros((6, 0))]
    with jax.enable_x64(True):
        first, second, third = shifts.each(shifter, bases, 0)
        assert shifts.together(shifter, bases, 0, np.zeros(3)).alive
        assert not shifts.together(shifter, [bases[0], *[np.zeros((6, 0))] * 2], 0, np.zeros(3)).alive
    assert (first.alive, second.alive, third) == (False, True, (0.0, np.finfo(float).eps))


def test_slopes_let_changes_through(shifter):
    with jax.enable_x64(True):
        _, plain, _ = shifts.each(shifter, [np.eye(6)] * 3, 0, np.array([0.0, 1.0, 0.0]))
    assert not plain.alive


def test_survivors_are_the_directions_that_no_shift_moves(shifter):
    # The second bias reaches every entry of its output, the first none
    with jax.enable_x64(True):
        assert shifts.survivors(shifter, 0, np.eye(6)[:, :4], 0.0).shape == (6, 4)
        assert shifts.survivors(shifter, 1, np.eye(6)[:, :4], 0.0).shape == (6, 0)


@pytest.mark.parametrize("randomize", [True, False])
def test_dead_units_are_not_dead_biases(randomize):
    params = two_layers()
    params["a"] = params["a"]._replace(bias=jnp.full(C, -20.0))
    assert audit_biases(mlp, params, ROWS[:1], randomize=randomize, joint=False)["a/bias"].rank == C


@pytest.mark.parametrize("seed", [0, 3])
def test_units_that_only_one_sign_of_shift_revives_are_alive(seed):
    # On non-negative features a unit may be off at every draw
    params = two_layers()
    params["a"] = params["a"]._replace(kernel=params["a"].kernel.at[:, 0].set(-4.0))
    audit = audit_biases(mlp, params, jnp.abs(ROWS) + 0.5, randomize=False, joint=False, seed=seed)
    assert audit["a/bias"].rank == C


def test_dead_units_without_any_draw_come_alive_under_finite_shifts():
    params = {"bias": jnp.full(4, -100.0), "w": jnp.ones((6, 4))}
    audit = audit_biases(
        lambda p, x: jax.nn.relu(jnp.tanh(x) @ p["w"] + 300 * jnp.tanh(p["bias"]) + 299.9999),
        params,
        ROWS,
        randomize=False,
    )
    assert audit["bias"].rank == 4


def test_many_entries_without_derivatives_before_a_scalar_loss():
    def fn(params, x, y):
        return jnp.mean((jnp.sign(x @ params["w"] + params["bias"]) @ params["v"] - y) ** 2)

    keys = iter(jax.random.split(jax.random.key(0), 3))
    params = {"w": jax.random.normal(next(keys), (6, 10)), "bias": jnp.zeros(10)}
    params["v"] = jax.random.normal(next(keys), (10, 2))
    assert audit_biases(fn, params, ROWS, ROWS[:, :2])["bias"].rank == 10


def test_claimed_derivatives_are_not_believed():
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))

    def fn(params, x):
        y = x @ params["w"]
        return jax.lax.stop_gradient(y + params["stop_bias"]), rounded(y + params["round_bias"])

    params = {"w": jnp.ones((6, 4)), "stop_bias": jnp.zeros(4), "round_bias": jnp.zeros(4)}
    audit = audit_biases(fn, params, ROWS)
    assert [f.rank for f in audit.findings] == [4, 4]


def test_a_tiny_effect_is_an_effect():
    params = {"w": jnp.ones((6, C)), "bias": jnp.zeros(C)}
    audit = audit_biases(lambda p, x: x @ p["w"] + 1e-9 * jnp.sin(p["bias"]), params, ROWS)
    assert audit["bias"].verdict == "needed"
