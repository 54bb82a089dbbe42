"""Who can stand in for whom."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from biasjax import linear
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


def test_stacked_linear_layers():
    keys = keyed(2)
    params = {"a": linear.dense_init(next(keys), 6, C), "b": linear.dense_init(next(keys), C, 3)}
    audit = audit_biases(lambda p, x: linear.dense(p["b"], linear.dense(p["a"], x)), params, ROWS)
    assert audit["a/bias"].verdict == audit["b/bias"].verdict == "absorbable"
    assert audit["a/bias"].absorbed_by == ("b/bias",)


def test_partly_absorbable():
    # The next bias reaches only two of the entries
    params = {"a_bias": jnp.zeros(4), "b_bias": jnp.zeros(2)}
    audit = audit_biases(lambda p, x: x[:, :4] + p["a_bias"] + jnp.pad(p["b_bias"], (0, 2)), params, ROWS)
    assert (audit["a_bias"].unique, audit["a_bias"].verdict) == (2, "partly absorbable")
    assert audit["b_bias"].verdict == "absorbable"


def test_biases_far_apart_stand_in_for_each_other():
    # In the order of use a..f; b and c do the same, and so do a and f
    params = {f"{name}_bias": jnp.zeros(4) for name in "abcdef"}

    def fn(p, x):
        y = x + p["a_bias"]
        others = jnp.tanh(x + p["b_bias"] + p["c_bias"]), jnp.sin(x + p["d_bias"]), jnp.cos(x + p["e_bias"])
        return *others, y + p["f_bias"]

    for limit in (2048, 16):
        audit = audit_biases(fn, params, ROWS[:, :4], joint_limit=limit)
        assert (audit.exact, [f.unique for f in audit.findings]) == (limit == 2048, [0, 0, 0, 4, 4, 0])
        assert audit["a_bias"].absorbed_by == ("f_bias",)
        assert audit["b_bias"].absorbed_by == ("c_bias",)


def test_biases_beside_many_dead_ones_are_compared_with_enough_rows():
    # Up to the limit without the dead ones, beyond it with them
    half = 130
    dead = {f"dead_{i}": {"bias": jnp.zeros(half)} for i in range(2)}
    params = dead | {"gate": {"bias": jnp.zeros(half)}, "out": {"bias": jnp.zeros(half)}}
    kernel = jax.random.normal(jax.random.key(0), (6, 2 * half))

    def fn(params, x):
        y = x @ kernel + jnp.concatenate([params[name]["bias"] for name in dead])
        y = y - y.mean(0)
        return jnp.tanh(jnp.tanh(y[:, :half] + params["gate"]["bias"]) * y[:, half:] + params["out"]["bias"])

    audit = audit_biases(fn, params, ROWS, joint_limit=2 * half)
    assert [f.verdict for f in audit.findings] == ["cancelled", "cancelled", "needed", "needed"]


def test_a_bottleneck_hides_what_others_cannot_reproduce():
    width = 60

    def fn(params, x):
        y = linear.dense(params["a"], x) + jnp.pad(params["one_bias"], (0, width - 1))
        return linear.dense(params["c"], jnp.tanh(y @ params["kernel"]))

    audit = audit_biases(fn, narrow(width, 3) | {"one_bias": jnp.zeros(1)}, ROWS)
    assert (audit["a/bias"].unique, audit["a/bias"].verdict) == (width - 1, "partly absorbable")
    assert audit["one_bias"].absorbed_by == ("a/bias",)


def test_max_pooling_and_padding():
    params = {
        "a": linear.conv_init(jax.random.key(0), 3, C, (3, 3)),
        "b": linear.conv_init(jax.random.key(1), C, 4, (3, 3)),
    }

    def fn(params, x):
        y = nn.max_pool(linear.conv(params["a"], x), (2, 2), (2, 2), "SAME")
        return linear.conv(params["b"], y)

    # Zero padding marks the border, where b's bias cannot stand in for a's
    audit = audit_biases(fn, params, X)
    assert [f.verdict for f in audit.findings] == ["needed", "needed"]


def test_max_pooling_without_padding_lets_the_next_bias_stand_in():
    params = {
        "a": linear.conv_init(jax.random.key(0), 3, C, (3, 3)),
        "b": linear.conv_init(jax.random.key(1), C, C, (1, 1)),
    }

    def fn(params, x):
        y = nn.max_pool(linear.conv(params["a"], x), (2, 2), (2, 2))
        return linear.conv(params["b"], y)

    audit = audit_biases(fn, params, X)
    assert audit["a/bias"].verdict == "absorbable"
    assert audit["a/bias"].absorbed_by == ("b/bias",)
