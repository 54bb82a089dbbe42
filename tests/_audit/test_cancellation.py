"""Dead directions, their names, and what they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import linear
from biasjax._audit import cancellation
from biasjax._audit.model import trace
from biasjax._audit.rows import Sample
from biasjax.audit import audit_biases

ROWS = jax.random.normal(jax.random.key(8), (5, 6))
X = jax.random.normal(jax.random.key(7), (2, 4, 4, 3))
C = 8


def keyed(n=4):
    return iter(jax.random.split(jax.random.key(0), n))


def narrow(width, bottleneck):
    keys = keyed(3)
    return {
        "a": linear.dense_init(next(keys), 6, width),
        "kernel": jax.random.normal(next(keys), (width, bottleneck)),
        "c": linear.dense_init(next(keys), bottleneck, 4),
    }


def subspace(*vectors):
    return np.linalg.qr(np.array(vectors, float).T)[0]


NAMED = {
    "uniform": subspace([1, 1, 1, 1]),
    "per group": subspace([1, 1, 0, 0], [0, 0, 1, 1]),
    "entries": subspace([0, 1, 0, 0], [0, 0, 0, 1]),
    "other": subspace([1, 0, 1, 0], [0, 1, 0, 1]),
}


@pytest.mark.parametrize("name", NAMED)
def test_names_do_not_depend_on_the_basis(name):
    basis = NAMED[name]
    turned = basis @ np.linalg.qr(np.random.default_rng(0).standard_normal(2 * (basis.shape[1],)))[0]
    assert cancellation.basis_name(basis) == cancellation.basis_name(turned) == name


def test_a_direction_is_dead_if_no_draw_moves_it():
    # Two draws show a direction each, a third has no rows
    model = trace(lambda p, x: x + p["bias"], {"bias": jnp.zeros(4), "spare_bias": jnp.zeros(2)}, ROWS[:, :4])
    rng = np.random.default_rng(0)

    def draw(i, count):
        rows = np.outer(rng.standard_normal(count), np.eye(6)[i]) + 1e-12 * rng.standard_normal((count, 6))
        return Sample(rows, np.full((1 if count else 0, 2), 1e-12), 1.0)

    bias, spare = cancellation.dead_directions(model, [draw(0, 90), draw(2, 90), draw(3, 0)])
    np.testing.assert_allclose(bias @ bias.T, np.diag([0, 1, 0, 1]), atol=1e-9)
    np.testing.assert_array_equal(spare, np.eye(2))


@pytest.mark.parametrize(("padding", "rank"), [("SAME", C), ("VALID", 0)])
def test_norm_behind_padding_and_another_convolution_leaves_the_borders(padding, rank):
    # conv -> zero padding -> conv -> norm: the shift is not uniform at the borders
    keys = keyed(2)
    params = {"a": linear.conv_init(next(keys), 3, C, (1, 1))}
    second = linear.conv_init(next(keys), C, C, (3, 3), use_bias=False)

    def fn(params, x):
        y = linear.conv(second, linear.conv(params["a"], x), padding=padding)
        return (y - y.mean((0, 1, 2))) / (y.std((0, 1, 2)) + 1e-3)

    assert audit_biases(fn, params, X, joint=False)["a/bias"].rank == rank


def test_pieces_that_nothing_reaches_are_dead():
    # The derivative takes the outer kink both ways, but no shift ever gets there
    def fn(params, x):
        return jax.nn.relu(-1 - jax.nn.relu(x + params["bias"])) + jnp.tanh(x + params["c_bias"])

    audit = audit_biases(fn, {"bias": jnp.zeros(6), "c_bias": jnp.zeros(6)}, ROWS)
    assert [f.verdict for f in audit.findings] == ["cancelled", "needed"]


def test_masked_logits_hide_no_others():
    def fn(params, x):
        return jnp.where(jnp.arange(C) < 6, x @ params["w"] + params["bias"], -1e30)

    found = audit_biases(fn, {"w": jnp.ones((6, C)), "bias": jnp.zeros(C)}, ROWS)["bias"]
    assert (found.rank, found.basis and found.basis.name) == (6, "entries")


def test_masked_entries_of_a_bias_stay_masked():
    bias = jnp.array([0.0, 0.0, 0.0, -jnp.inf])
    audit = audit_biases(lambda p, x: jax.nn.softmax(x[:, :4] + p["bias"]), {"bias": bias}, ROWS)
    assert audit["bias"].rank == 2


def test_a_large_offset_before_a_norm_is_no_effect():
    def fn(params, x):
        y = x @ params["w"] + 1e3 + params["bias"]
        variance = jnp.maximum((y**2).mean(0) - y.mean(0) ** 2, 0)
        return (y - y.mean(0)) * jax.lax.rsqrt(variance + 1e-5)

    params = {"w": jnp.ones((6, C)), "bias": jnp.zeros(C)}
    assert audit_biases(fn, params, ROWS)["bias"].verdict == "cancelled"


def test_narrow_layers_hide_directions_that_nobody_absorbs():
    params = {"bias": jnp.zeros(C), "w": jnp.ones((C, 2))}
    audit = audit_biases(lambda p, x: jnp.tanh((x @ jnp.ones((6, C)) + p["bias"]) @ p["w"]), params, ROWS)
    assert (audit["bias"].rank, audit["bias"].verdict) == (C, "needed")


@pytest.mark.parametrize(("width", "bottleneck"), [(40, 1), (60, 2)])
def test_a_bottleneck_shows_a_few_directions_at_each_draw(width, bottleneck):
    def fn(params, x):
        return linear.dense(params["c"], linear.dense(params["a"], x) @ params["kernel"])

    audit = audit_biases(fn, narrow(width, bottleneck), ROWS)
    assert (audit["a/bias"].rank, audit["a/bias"].verdict) == (width, "absorbable")
