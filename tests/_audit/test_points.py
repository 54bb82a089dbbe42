"""Points of evaluation: what is given comes first, and what leads out of a domain stays close."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import linear
from biasjax._audit import points
from biasjax._audit.model import trace
from biasjax._audit.points import Draws
from biasjax.audit import audit_biases

ROWS = jax.random.normal(jax.random.key(8), (5, 6))
ALL = Draws(0, True, True)


def two_layers():
    keys = jax.random.split(jax.random.key(0), 2)
    return {"a": linear.dense_init(keys[0], 6, 8), "b": linear.dense_init(keys[1], 8, 3)}


def mlp(params, x):
    return linear.dense(params["b"], jnp.tanh(linear.dense(params["a"], x)))


@pytest.fixture(scope="module")
def model():
    return trace(mlp, two_layers(), ROWS)


def changed(model, leaves):
    return {path for path, a, b in zip(model.paths, model.leaves, leaves, strict=True) if (a != b).any()}


def test_the_first_draw_has_the_given_biases_and_inputs(model):
    assert changed(model, points.point(model, ALL, 0, 0)) == {"a/kernel", "b/kernel"}
    assert changed(model, points.point(model, ALL, 1, 0)) == set(model.paths)
    assert changed(model, points.point(model, ALL, 0, 1)) == {"a/kernel", "b/kernel", "args/0"}


def test_what_is_not_to_be_drawn_stays(model):
    given = Draws(0, False, False)
    assert changed(model, points.point(model, given, 0, 0)) == set()
    # Biases are moved all the same, so that no unit is dead at all draws
    assert changed(model, points.point(model, given, 1, 1)) == {"a/bias", "b/bias"}
    some = Draws(0, lambda path, leaf: path == "a/kernel", lambda path, leaf: path == "0")
    assert changed(model, points.point(model, some, 4, 1)) == {"a/kernel", "args/0"}


def test_draws_depend_on_their_numbers_alone(model):
    one, two = (points.point(model, ALL, 3, 2) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    for other in (points.point(model, ALL, 2, 2), points.point(model, ALL._replace(seed=1), 3, 2)):
        assert all((a != b).any() for a, b in zip(one, other, strict=True))


def test_only_what_leaves_the_domain_is_drawn_close():
    # A constant is drawn from N(constant, 1)
    model = trace(lambda p, x, t: mlp(p, x) * t[:, None], two_layers(), ROWS, jnp.full(len(ROWS), 0.5))
    last, weights = len(model.leaves) - 1, points.on_device(model, ALL)

    def within(leaves):
        return bool((leaves[last] > 0).all() and (leaves[last] < 1).all())

    close = points.within_domain(model, ALL, weights, within)
    assert close.close == {last}
    drawn = [points.point(model, close, draw, 1)[last] for draw in range(4)]
    assert all(0 < np.abs(t - 0.5).max() <= 0.05 for t in drawn)
    assert points.within_domain(model, ALL, weights, lambda leaves: True) == ALL


def test_sizes():
    assert points.rms(np.array([3.0, -3.0])) == 3.0
    assert points.rms(np.zeros(0)) == 0.0
    assert points.size_of(np.array([4.0, -np.inf])) == 4.0
    assert points.size_of(np.zeros(3)) == 0.5


def test_arguments_stay_within_the_domain():
    def fn(params, x, t):
        return mlp(params, jnp.sqrt(t)[:, None] * x + jnp.sqrt(1 - t)[:, None])

    audit = audit_biases(fn, two_layers(), ROWS, jnp.full(len(ROWS), 0.5))
    assert [finding.verdict for finding in audit.findings] == ["needed", "needed"]


def test_a_graph_keeps_its_edges():
    nodes = jnp.arange(12)
    senders, receivers = jnp.concatenate([nodes, (5 * nodes) % 12]), jnp.concatenate([nodes, nodes[::-1]])

    def fn(params, x, senders, receivers):
        def mean(h):
            total = jax.ops.segment_sum(h[senders], receivers, 12)
            return total / jax.ops.segment_sum(jnp.ones(24), receivers, 12)[:, None]

        return linear.dense(params["b"], mean(jnp.tanh(linear.dense(params["a"], mean(x)))))

    x = jax.random.normal(jax.random.key(0), (12, 6))
    audit = audit_biases(fn, two_layers(), x, senders, receivers)
    assert [finding.verdict for finding in audit.findings] == ["needed", "needed"]


def test_inputs_outside_the_domain_tell_nothing():
    x = jax.random.uniform(jax.random.key(0), (1, 30), minval=0.02, maxval=0.98)
    w, v = jax.random.normal(jax.random.key(1), (30, 4)) / 5, jax.random.normal(jax.random.key(2), (4, 3))
    params = {"w": w, "v": v, "bias": jnp.zeros(4), "c_bias": jnp.zeros(3)}

    def fn(p, x):
        return jnp.tanh(jnp.arctanh(x) @ p["w"] + p["bias"]) @ p["v"] + p["c_bias"]

    audit = audit_biases(fn, params, x)
    assert [(finding.verdict, finding.rank) for finding in audit.findings] == [("needed", 4), ("needed", 3)]
