"""The auditor against known truth, false verdicts in both directions, and brute force."""

import json
import os

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from biasjax import attention, linear, norms
from biasjax.audit import audit_biases, audit_modes

C = 8
X = jax.random.normal(jax.random.key(7), (4, 6, 6, 3))
ROWS = jax.random.normal(jax.random.key(8), (5, 6))
TOKENS = jax.random.normal(jax.random.key(9), (2, 5, C))


def rank(audit, path):
    return audit[path].rank


def keyed(n=4):
    return iter(jax.random.split(jax.random.key(0), n))


# Known truth, biasjax's own layers -------------------------------------------------------------------


def own_conv_norm(norm, then=lambda y: y):
    keys = keyed()
    params = {
        "conv": linear.conv_init(next(keys), 3, C, (3, 3)),
        "norm": norms.norm_init(C),
        "head": linear.conv_init(next(keys), C, C, (3, 3), use_bias=False),
    }

    def fn(params, x, train=True):
        y = linear.conv(params["conv"], x)
        y = norm(params["norm"], y, train)
        return linear.conv(params["head"], jax.nn.relu(y))

    return fn, params


def own_batch_norm(params, y, train):
    return norms.batch_norm(params, norms.batch_stats_init(C), y, train=train)[0]


OWN_NORMS = {
    "batch": (own_batch_norm, C),
    "instance": (lambda p, y, train: norms.instance_norm(p, y), C),
    "group": (lambda p, y, train: norms.group_norm(p, y, groups=4), 4),
    "layer": (lambda p, y, train: norms.layer_norm(p, y), 1),
    "rms": (lambda p, y, train: norms.rms_norm(p, y), 0),
}


@pytest.mark.parametrize("name", OWN_NORMS)
def test_own_norm_cancels(name):
    norm, cancelled = OWN_NORMS[name]
    fn, params = own_conv_norm(norm)
    audit = audit_biases(fn, params, X)
    assert rank(audit, "conv/bias") == C - cancelled
    assert audit["norm/bias"].verdict == "needed"
    basis = audit["conv/bias"].basis
    assert (basis and basis.name) == {"group": "per group", "layer": "uniform"}.get(name)


def test_own_batch_norm_in_evaluation_cancels_nothing():
    fn, params = own_conv_norm(own_batch_norm)
    modes = audit_modes(lambda p, s, x, train: (fn(p, x, train), s), params, (), X)
    assert modes.train["conv/bias"].verdict == "cancelled"
    assert modes.eval["conv/bias"].rank == C
    assert modes.eval["conv/bias"].verdict == "absorbable"
    assert modes.eval["conv/bias"].absorbed_by == ("norm/bias",)
    assert modes.differing == ("conv/bias", "norm/bias")
    assert "1 of 2 biases, 8 of 16 parameters, do nothing in training." in modes.table()


ATTENTION = {
    "plain": ({}, {}, 0),
    "causal": ({}, {"causal": True}, 0),
    "rotary": ({}, {"rotary": True}, C),
    "qk_norm": ({"qk_norm": True}, {}, C),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_own_attention_key_bias(name):
    init, options, expected = ATTENTION[name]
    params = attention.attention_init(jax.random.key(0), C, 2, **init)
    audit = audit_biases(lambda p, x: attention.attention(p, x, heads=2, **options), params, TOKENS)
    assert rank(audit, "key/bias") == expected
    assert audit["value/bias"].verdict == audit["out/bias"].verdict == "absorbable"
    assert (audit["value/bias"].rank, audit["value/bias"].unique) == (C, 0)
    assert audit["value/bias"].absorbed_by == ("out/bias",)
    assert audit["query/bias"].verdict == "needed"


def test_own_attention_sink_keeps_the_value_bias():
    params = attention.attention_init(jax.random.key(0), C, 2, sink=True)
    audit = audit_biases(lambda p, x: attention.attention(p, x, heads=2), params, TOKENS)
    assert audit["value/bias"].verdict == audit["key/bias"].verdict == "needed"


def test_own_softmax_cancels_one_direction_of_the_logits():
    params = linear.dense_init(jax.random.key(0), 6, C)
    audit = audit_biases(lambda p, x: jax.nn.softmax(linear.dense(p, x)), params, ROWS)
    assert (audit["bias"].rank, audit["bias"].verdict, audit["bias"].basis.name) == (
        C - 1,
        "partly cancelled",
        "uniform",
    )
    assert audit["bias"].deaths[0].where.startswith(__file__)


# The same nets in other frameworks -------------------------------------------------------------------


class LinenNet(nn.Module):
    norm: str

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(C, (3, 3))(x)
        if self.norm == "relu-batch":
            x = nn.relu(x)
        if "batch" in self.norm:
            fast = "two-pass" not in self.norm
            x = nn.BatchNorm(use_running_average=not train, use_fast_variance=fast)(x)
        else:
            norm = {
                "instance": nn.InstanceNorm,
                "group": lambda: nn.GroupNorm(4),
                "layer": nn.LayerNorm,
                "rms": nn.RMSNorm,
            }
            x = norm[self.norm]()(x)
        return nn.Conv(4, (3, 3), use_bias=False)(nn.relu(x))


LINEN = {"batch": 8, "batch two-pass": 8, "relu-batch": 0, "instance": 8, "group": 4, "layer": 1, "rms": 0}


@pytest.mark.parametrize("name", LINEN)
def test_linen_norm_cancels(name):
    net = LinenNet(name)
    variables = net.init(jax.random.key(0), X, False)
    rest = {"batch_stats": variables.get("batch_stats", {})}

    def fn(params, x):
        return net.apply({"params": params, **rest}, x, True, mutable=["batch_stats"])[0]

    audit = audit_biases(fn, variables["params"], X)
    assert rank(audit, "Conv_0/bias") == C - LINEN[name]
    if LINEN[name]:
        death = audit["Conv_0/bias"].deaths[-1]
        assert death.primitive == "sub"
        assert "Norm_0" in death.module
        assert "normalization.py" in death.where


ORDERS = {"train": (True, 0), "eval": (False, C)}


@pytest.mark.parametrize("mode", ORDERS)
def test_linen_modes_apart(mode):
    train, expected = ORDERS[mode]
    net = LinenNet("batch")
    variables = net.init(jax.random.key(0), X, False)

    def fn(params, x):
        return net.apply({**variables, "params": params}, x, train, mutable=["batch_stats"])[0]

    assert rank(audit_biases(fn, variables["params"], X), "Conv_0/bias") == expected


def test_linen_attention():
    net = nn.MultiHeadDotProductAttention(2)
    params = net.init(jax.random.key(0), TOKENS)["params"]
    audit = audit_biases(lambda p, x: net.apply({"params": p}, x), params, TOKENS)
    assert audit["key/bias"].verdict == "cancelled"
    assert "attention.py" in audit["key/bias"].deaths[0].where
    assert audit["value/bias"].verdict == "absorbable"


def test_norm_behind_padding_and_another_convolution_leaves_the_borders():
    # conv -> zero padding -> conv -> norm: the shift is not uniform at the borders
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(C, (1, 1))(x)
            x = nn.Conv(C, (3, 3), use_bias=False)(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
            return nn.BatchNorm(use_running_average=False)(x)

    variables = Net().init(jax.random.key(0), X)

    def fn(params, x):
        return Net().apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    assert audit_biases(fn, variables["params"], X)["Conv_0/bias"].rank == C


# False verdicts --------------------------------------------------------------------------------------


def two_layers(zero=""):
    keys = keyed()
    params = {
        "a": linear.dense_init(next(keys), 6, C),
        "norm": norms.norm_init(C),
        "b": linear.dense_init(next(keys), C, 3),
    }
    if zero == "kernel":
        params["b"] = params["b"]._replace(kernel=0 * params["b"].kernel)
    if zero == "scale":
        params["norm"] = params["norm"]._replace(scale=0 * params["norm"].scale)
    return params


def mlp(params, x):
    y = jax.nn.relu(linear.dense(params["a"], x))
    return linear.dense(params["b"], norms.rms_norm(params["norm"], y))


@pytest.mark.parametrize("zero", ["kernel", "scale"])
def test_zero_initialised_layers_hide_nothing(zero):
    params = two_layers(zero)
    assert audit_biases(mlp, params, ROWS)["a/bias"].rank == C
    given_values = audit_biases(mlp, params, ROWS, randomize=False)
    assert given_values["a/bias"].verdict == "cancelled"
    assert given_values["b/bias"].is_zero


def test_dead_units_are_not_dead_biases():
    params = two_layers()
    params["a"] = params["a"]._replace(bias=jnp.full(C, -20.0))
    for randomize in (True, False):
        audit = audit_biases(mlp, params, ROWS[:1], randomize=randomize)
        assert audit["a/bias"].rank == C


@pytest.mark.parametrize("seed", range(4))
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


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.leaky_relu])
def test_units_that_are_always_on_are_not_linear(activation):
    # Whatever the draw: kernel and features are positive, and stay so
    keys = keyed(3)
    x, w = jnp.abs(jax.random.normal(next(keys), (5, 6))), jnp.abs(jax.random.normal(next(keys), (6, C)))
    params = {
        "w": w,
        "bias": jnp.zeros(C),
        "v": jax.random.normal(next(keys), (C, 3)),
        "c_bias": jnp.zeros(3),
    }

    def fn(p, x):
        return activation(x @ p["w"] + p["bias"]) @ p["v"] + p["c_bias"]

    assert [f.verdict for f in audit_biases(fn, params, x).findings] == ["needed", "needed"]


def test_pieces_that_nothing_reaches_are_dead():
    # The derivative takes the outer kink both ways, but no shift ever gets there
    def fn(params, x):
        return jax.nn.relu(-1 - jax.nn.relu(x + params["bias"])) + jnp.tanh(x + params["c_bias"])

    audit = audit_biases(fn, {"bias": jnp.zeros(6), "c_bias": jnp.zeros(6)}, ROWS)
    assert [f.verdict for f in audit.findings] == ["cancelled", "needed"]


def test_batch_of_identical_rows():
    def fn(params, x):
        y = jax.nn.relu(linear.dense(params["a"], x))
        y = (y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-5)
        return linear.dense(params["b"], y)

    params = two_layers()
    del params["norm"]
    audit = audit_biases(fn, params, jnp.ones((4, 6)))
    assert audit["a/bias"].rank == C


def test_dropout_with_a_key():
    def fn(params, key, x):
        y = jnp.tanh(linear.dense(params["a"], x))
        y = jnp.where(jax.random.bernoulli(key, 0.5, y.shape), y, 0)
        return linear.dense(params["b"], y)

    params = two_layers()
    del params["norm"]
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        assert audit_biases(fn, params, key, ROWS[:1])["a/bias"].rank == C


def test_linen_dropout():
    from biasjax import adapters

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dropout(0.5, deterministic=not train)(nn.tanh(nn.Dense(C)(x)))
            return nn.Dense(3)(x)

    pure = adapters.from_linen(
        Net(), Net().init(jax.random.key(0), ROWS, False), rngs={"dropout": jax.random.key(1)}
    )
    modes = audit_modes(*pure, ROWS[:1])
    assert modes.train["Dense_0/bias"].rank == modes.eval["Dense_0/bias"].rank == C


def test_paths_of_arguments_are_the_same_in_modes():
    seen = set()

    def vary(path, leaf):
        seen.add(path)
        return True

    state = {"dropout": jax.random.key(0)}
    audit_modes(
        lambda p, s, x, train: (linear.dense(p["a"], x["rows"]), s), two_layers(), state, {"rows": ROWS},
        vary_inputs=vary, joint=False,
    )  # fmt: skip
    assert "0/rows" in seen


def test_masked_attention():
    mask = jnp.array([True, True, True, False, False])
    params = attention.attention_init(jax.random.key(0), C, 2)

    def fn(params, x, mask):
        return attention.attention(params, x, heads=2, mask=mask)

    audit = audit_biases(fn, params, TOKENS, mask)
    assert audit["key/bias"].verdict == "cancelled"
    assert audit["value/bias"].verdict == "absorbable"
    assert audit["query/bias"].verdict == "needed"


@pytest.mark.parametrize("lowest", [-jnp.inf, float(jnp.finfo(jnp.float32).min), -1e30])
def test_masked_scores_with_a_floor(lowest):
    params = attention.attention_init(jax.random.key(0), C, 1)
    mask = jnp.tril(jnp.ones((5, 5), bool))

    def fn(params, x):
        query, key, value = (linear.dense(getattr(params, name), x) for name in ("query", "key", "value"))
        scores = jnp.where(mask, jnp.einsum("bqc,bkc->bqk", query, key), lowest)
        scores = jnp.maximum(scores, lowest)
        return linear.dense(params.out, jax.nn.softmax(scores) @ value)

    audit = audit_biases(fn, params, TOKENS)
    assert [audit[f"{name}/bias"].verdict for name in ("key", "query", "value")] == [
        "cancelled",
        "needed",
        "absorbable",
    ]


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


def test_one_bias_used_twice():
    # Before the norm it is cancelled, after it is not
    def fn(params, x):
        y = x @ params["w"] + params["bias"]
        return (y - y.mean(0)) / y.std(0) + jnp.tanh(params["bias"])

    params = {"w": jnp.ones((6, C)), "bias": jnp.zeros(C)}
    assert audit_biases(fn, params, ROWS)["bias"].verdict == "needed"


def test_cond_scan_and_while():
    def fn(params, x):
        y = jax.lax.cond(x.sum() > 0, lambda y: y + params["cond_bias"], lambda y: y * 2, x)

        def layer(y, bias):
            z = jnp.tanh(y) + bias
            return (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5), y

        y, _ = jax.lax.scan(layer, y, params["scan_bias"])
        _steps, y = jax.lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] + params["while_bias"])), (0, y)
        )
        return y + jax.lax.fori_loop(0, 2, lambda i, z: z * 0.5 + params["fori_bias"], y)

    names = ("cond_bias", "while_bias", "fori_bias")
    params = {name: jnp.zeros(6) for name in names} | {"scan_bias": jnp.zeros((3, 6))}
    audit = audit_biases(fn, params, ROWS)
    assert audit["scan_bias"].verdict == "cancelled"
    assert audit["scan_bias"].deaths
    assert all(death.where.startswith(__file__) for death in audit["scan_bias"].deaths)
    assert all(audit[name].rank == 6 for name in names)


@pytest.mark.parametrize("positive", [False, True])
def test_a_relu_layer_before_many_outputs_is_needed(positive):
    """A unit that is on at all sampled inputs would look linear, and replaceable by the output bias."""
    keys = jax.random.split(jax.random.key(5), 3)
    x = jax.random.normal(keys[0], (1, 20))
    x = jnp.abs(x) if positive else x
    params = {
        "w": jax.random.normal(keys[1], (20, 4)) / 20**0.5,
        "v": jax.random.normal(keys[2], (4, 128)) / 2,
    }
    params |= {"bias": jnp.zeros(4), "c_bias": jnp.zeros(128)}

    def fn(p, x):
        return jax.nn.relu(x @ p["w"] + p["bias"]) @ p["v"] + p["c_bias"]

    for seed in range(3):
        audit = audit_biases(fn, params, x, seed=seed)
        assert [audit[name].unique for name in ("bias", "c_bias")] == [4, 128]


def test_masked_logits_hide_no_others():
    def fn(params, x):
        return jnp.where(jnp.arange(C) < 6, x @ params["w"] + params["bias"], -1e30)

    audit = audit_biases(fn, {"w": jnp.ones((6, C)), "bias": jnp.zeros(C)}, ROWS)
    assert (audit["bias"].rank, audit["bias"].basis.name) == (6, "entries")


def test_many_entries_without_derivatives_before_a_scalar_loss():
    def fn(params, x, y):
        return jnp.mean((jnp.sign(x @ params["w"] + params["bias"]) @ params["v"] - y) ** 2)

    keys = keyed(3)
    params = {"w": jax.random.normal(next(keys), (6, 10)), "bias": jnp.zeros(10)}
    params["v"] = jax.random.normal(next(keys), (10, 2))
    assert audit_biases(fn, params, ROWS, ROWS[:, :2])["bias"].rank == 10


def test_arguments_stay_within_the_domain():
    def fn(params, x, t):
        x = jnp.sqrt(t)[:, None] * x + jnp.sqrt(1 - t)[:, None]
        return linear.dense(params["b"], jnp.tanh(linear.dense(params["a"], x)))

    audit = audit_biases(fn, two_layers(), ROWS, jnp.full(len(ROWS), 0.5))
    assert [audit[path].verdict for path in ("a/bias", "b/bias")] == ["needed", "needed"]


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
    assert [audit[path].verdict for path in ("a/bias", "b/bias")] == ["needed", "needed"]


def test_an_additive_mask_stays():
    mask = jnp.where(jnp.tril(jnp.ones((5, 5))) > 0, 0.0, -1e9)

    def fn(params, x, mask):
        query, key = (linear.dense(getattr(params, name), x) for name in ("query", "key"))
        return jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", query, key) + mask) @ x

    audit = audit_biases(fn, attention.attention_init(jax.random.key(0), C, 1), TOKENS, mask)
    assert [audit[f"{name}/bias"].rank for name in ("query", "key")] == [C, 0]


def test_ignored_labels_stay(standard_promotion):
    def fn(params, x, y):
        chosen = jnp.take_along_axis(x @ params["w"] + params["bias"], jnp.where(y < 0, 0, y)[:, None], 1)[
            :, 0
        ]
        ce = jax.nn.logsumexp(x @ params["w"] + params["bias"], -1) - chosen
        return jnp.where(y < 0, 0, ce).sum() / (y >= 0).sum()

    params = {"w": jax.random.normal(jax.random.key(0), (6, C)), "bias": jnp.zeros(C)}
    audit = audit_biases(fn, params, ROWS, jnp.array([-100, 3, 7, -100, 0]))
    assert (audit["bias"].rank, audit["bias"].basis.name) == (C - 1, "uniform")


def test_softplus_has_no_kink():
    def fn(params, x):
        logits = linear.dense(params["a"], jnp.tanh(x))
        return linear.dense(params["b"], jax.nn.log_sigmoid(logits) - jax.nn.log_sigmoid(-logits))

    audit = audit_biases(fn, two_layers(), ROWS)
    assert [audit[path].verdict for path in ("a/bias", "b/bias")] == ["absorbable", "absorbable"]


def test_complex_parameters(standard_promotion):
    params = {"eigenvalues": jnp.zeros(6, jnp.complex64), "bias": jnp.zeros(6)}
    audit = audit_biases(lambda p, x: jnp.abs(x * p["eigenvalues"]) + p["bias"], params, ROWS)
    assert audit["bias"].verdict == "needed"


def test_inputs_outside_the_domain_tell_nothing():
    x = jax.random.uniform(jax.random.key(0), (1, 30), minval=0.02, maxval=0.98)
    w, v = jax.random.normal(jax.random.key(1), (30, 4)) / 5, jax.random.normal(jax.random.key(2), (4, 3))
    params = {"w": w, "v": v, "bias": jnp.zeros(4), "c_bias": jnp.zeros(3)}

    def fn(p, x):
        return jnp.tanh(jnp.arctanh(x) @ p["w"] + p["bias"]) @ p["v"] + p["c_bias"]

    audit = audit_biases(fn, params, x)
    assert [(finding.verdict, finding.rank) for finding in audit.findings] == [("needed", 4), ("needed", 3)]


def test_masked_entries_of_a_bias_stay_masked():
    bias = jnp.array([0.0, 0.0, 0.0, -jnp.inf])
    audit = audit_biases(lambda p, x: jax.nn.softmax(x[:, :4] + p["bias"]), {"bias": bias}, ROWS)
    assert audit["bias"].rank == 2


@pytest.mark.parametrize("bound", [-4.0, 0.0, 3.0])
def test_a_bias_that_few_inputs_reach(bound):
    def fn(params, x):
        return jax.lax.cond(x.sum() > bound, lambda y: y + params["bias"], lambda y: y * 2, jnp.tanh(x))

    finding = audit_biases(fn, {"bias": jnp.zeros(6)}, ROWS)["bias"]
    assert (finding.rank, finding.verdict) == (6, "needed")


def test_a_bias_that_dies_in_a_branch_and_in_a_loop():
    def centre(y):
        return y - y.mean(0)

    def fn(params, x):
        y = jax.lax.cond(x.sum() > 1e9, lambda y: y, centre, x + params["a_bias"])
        return jax.lax.while_loop(
            lambda c: c[0] < 2, lambda c: (c[0] + 1, centre(c[1] + params["b_bias"])), (0, y)
        )[1]

    audit = audit_biases(fn, {"a_bias": jnp.zeros(6), "b_bias": jnp.zeros(6)}, ROWS)
    assert [f.verdict for f in audit.findings] == ["cancelled", "cancelled"]
    assert all("centre" in f.deaths[0].where for f in audit.findings)


def test_integer_and_bfloat16_parameters(standard_promotion):
    params = {
        "table": jnp.arange(3),
        "bias": jnp.zeros(C, jnp.bfloat16),
        "w": jnp.ones((6, C), jnp.bfloat16),
        "int_bias": jnp.zeros(C, jnp.int32),
    }

    def fn(params, x):
        y = x.astype(jnp.bfloat16) @ params["w"] + params["bias"] + params["int_bias"].astype(jnp.bfloat16)
        y = (y - y.mean(0)).astype(jnp.float32)
        return y[:, params["table"]]

    audit = audit_biases(fn, params, ROWS)
    assert [f.path for f in audit.findings] == ["bias"]
    assert audit["bias"].verdict == "cancelled"
    assert audit_biases(lambda p, x: fn(p, x) + p["bias"][0], params, ROWS)["bias"].rank == 1


def test_precision_inside_the_model_does_not_matter(standard_promotion):
    net = nn.Sequential([nn.Dense(C, dtype=jnp.bfloat16), nn.LayerNorm(dtype=jnp.bfloat16)])
    params = net.init(jax.random.key(0), ROWS)["params"]
    audit = audit_biases(lambda p, x: net.apply({"params": p}, x), params, ROWS)
    assert audit["layers_0/bias"].basis.name == "uniform"


def test_unused_parameters():
    params = {"bias": jnp.zeros(C), "w": jnp.ones((6, C)), "spare_bias": jnp.zeros(3)}
    audit = audit_biases(lambda p, x: x @ p["w"] + p["bias"], params, ROWS)
    assert audit["spare_bias"].verdict == "unused"
    assert audit["bias"].verdict == "needed"
    assert audit.summary() == "1 of 2 biases, 3 of 11 parameters, do nothing."


def test_several_outputs_and_a_scalar_loss():
    params = two_layers()

    def several(params, x):
        y = linear.dense(params["a"], x)
        return {"centred": y - y.mean(0), "classes": y.argmax(-1)}, 1e6 * linear.dense(
            params["b"], y - y.mean(0)
        )

    assert audit_biases(several, params, ROWS)["a/bias"].verdict == "cancelled"

    def loss(params, x, labels):
        logits = mlp(params, x)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    audit = audit_biases(loss, params, ROWS, jnp.array([0, 1, 2, 1, 0]))
    assert audit["a/bias"].verdict == "needed"
    assert (audit["b/bias"].rank, audit["b/bias"].basis.name) == (2, "uniform")


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


def narrow(width, bottleneck):
    keys = keyed(3)
    return {
        "a": linear.dense_init(next(keys), 6, width),
        "kernel": jax.random.normal(next(keys), (width, bottleneck)),
        "c": linear.dense_init(next(keys), bottleneck, 4),
    }


@pytest.mark.parametrize(("width", "bottleneck"), [(60, 1), (100, 2)])
def test_a_bottleneck_shows_a_few_directions_at_each_draw(width, bottleneck):
    def fn(params, x):
        return linear.dense(params["c"], linear.dense(params["a"], x) @ params["kernel"])

    audit = audit_biases(fn, narrow(width, bottleneck), ROWS)
    assert (audit["a/bias"].rank, audit["a/bias"].verdict) == (width, "absorbable")


def test_a_bottleneck_hides_what_others_cannot_reproduce():
    width = 60

    def fn(params, x):
        y = linear.dense(params["a"], x) + jnp.pad(params["one_bias"], (0, width - 1))
        return linear.dense(params["c"], jnp.tanh(y @ params["kernel"]))

    audit = audit_biases(fn, narrow(width, 3) | {"one_bias": jnp.zeros(1)}, ROWS)
    assert (audit["a/bias"].unique, audit["a/bias"].verdict) == (width - 1, "partly absorbable")
    assert audit["one_bias"].absorbed_by == ("a/bias",)


def test_stacked_linear_layers():
    params = two_layers()
    audit = audit_biases(lambda p, x: linear.dense(p["b"], linear.dense(p["a"], x)), params, ROWS)
    assert audit["a/bias"].verdict == audit["b/bias"].verdict == "absorbable"
    assert audit["a/bias"].absorbed_by == ("b/bias",)


def test_partly_absorbable():
    # The next bias reaches only two of the entries
    params = {"a_bias": jnp.zeros(4), "b_bias": jnp.zeros(2)}
    audit = audit_biases(
        lambda p, x: x[:, :4] + p["a_bias"] + jnp.pad(p["b_bias"], (0, 2)), params, ROWS, joint=True
    )
    assert (audit["a_bias"].unique, audit["a_bias"].verdict) == (2, "partly absorbable")
    assert audit["b_bias"].verdict == "absorbable"


def test_windows_bound_what_is_unique():
    params = two_layers()
    audit = audit_biases(
        lambda p, x: linear.dense(p["b"], linear.dense(p["a"], x)), params, ROWS, joint_limit=C
    )
    assert not audit.exact
    assert audit["a/bias"].unique >= 0


def test_biases_beside_many_dead_ones_are_compared_with_enough_rows():
    # Up to the limit without the dead ones, beyond it with them
    half = 150
    dead = {f"dead_{i}": {"bias": jnp.zeros(half)} for i in range(2)}
    params = dead | {"gate": {"bias": jnp.zeros(half)}, "out": {"bias": jnp.zeros(half)}}
    kernel = jax.random.normal(jax.random.key(0), (6, 2 * half))

    def fn(params, x):
        y = x @ kernel + jnp.concatenate([params[name]["bias"] for name in dead])
        y = y - y.mean(0)
        return jnp.tanh(jnp.tanh(y[:, :half] + params["gate"]["bias"]) * y[:, half:] + params["out"]["bias"])

    audit = audit_biases(fn, params, ROWS, joint_limit=2 * half)
    assert [f.verdict for f in audit.findings] == ["cancelled", "cancelled", "needed", "needed"]


# The property ----------------------------------------------------------------------------------------

LAYERS = ("dense", "tanh", "relu", "batch", "layer", "group", "rms", "centre", "residual", "softmax")


def compose(layers, width=4):
    keys = iter(jax.random.split(jax.random.key(3), len(layers) + 1))
    params = {}
    for i, layer in enumerate(layers):
        if layer in ("dense", "residual"):
            params[f"{i}"] = linear.dense_init(next(keys), width, width)
        elif layer in ("batch", "layer", "group", "rms"):
            params[f"{i}"] = norms.norm_init(width)
    params["head"] = linear.dense_init(next(keys), width, width)

    def fn(params, x):
        for i, layer in enumerate(layers):
            p = params.get(f"{i}")
            x = {
                "dense": lambda x, p=p: linear.dense(p, x),
                "residual": lambda x, p=p: x + linear.dense(p, jnp.tanh(x)),
                "tanh": jnp.tanh,
                "relu": lambda x: jnp.where(x > 0, x, 0.1 * x),
                "batch": lambda x, p=p: norms.batch_norm(p, norms.batch_stats_init(width), x, train=True)[0],
                "layer": lambda x, p=p: norms.layer_norm(p, x),
                "group": lambda x, p=p: norms.group_norm(p, x[:, None], groups=2)[:, 0],
                "rms": lambda x, p=p: norms.rms_norm(p, x),
                "centre": lambda x: x - x.mean(0),
                "softmax": jax.nn.softmax,
            }[layer](x)
        return linear.dense(params["head"], x)

    return fn, params


def brute_force(fn, params, x, draws=3, inputs=24):
    """Rank and unique of each bias by singular values of float64 Jacobians at random points.

    A shift counts as reproducible if at each draw of the parameters the others reproduce it over all inputs,
    each draw in its own way: unknowns w_d per draw beside one v, [stack J_b | diag J_rest] (v, -w) = 0.
    """
    with jax.enable_x64(True):
        rng = np.random.default_rng(11)
        flat, structure = jax.tree_util.tree_flatten_with_path(params)
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
        which = [i for i, name in enumerate(names) if name.endswith("bias")]
        run = jax.jit(
            lambda biases, leaves, x: jax.jacobian(
                lambda b: fn(
                    jax.tree.unflatten(
                        structure, [dict(zip(which, b, strict=True)).get(i, v) for i, v in enumerate(leaves)]
                    ),
                    x,
                )
            )(biases)
        )
        alone = {i: [] for i in which}
        others = {i: [] for i in which}
        for _ in range(draws):
            leaves = [np.asarray(v, np.float64) for _, v in flat]
            leaves = [np.where(v == 0, 0.5, v) * 0.3 + 0.7 * rng.standard_normal(v.shape) for v in leaves]
            rows = []
            for _ in range(inputs):
                jac = run([leaves[i] for i in which], leaves, rng.standard_normal(x.shape))
                rows.append(np.concatenate([np.asarray(j).reshape(-1, j.shape[-1]) for j in jac], 1))
            blocks = np.split(np.concatenate(rows), len(which), 1)
            for k, i in enumerate(which):
                alone[i].append(blocks[k])
                others[i].append(
                    np.concatenate([b for j, b in enumerate(blocks) if j != k] or [0 * blocks[k]], 1)
                )
        found = []
        for i in which:
            own = np.concatenate(alone[i])
            together = np.concatenate([own, scipy.linalg.block_diag(*others[i])], 1)
            found.append((names[i], svd_rank(own), svd_rank(together) - sum(map(svd_rank, others[i]))))
        return found


def svd_rank(rows, tolerance=1e-9):
    values = np.linalg.svd(rows, compute_uv=False)
    return int((values > tolerance * max(values[0], 1e-3)).sum())


# AUDIT_NETS=500 for a longer search
NETS = int(os.environ.get("AUDIT_NETS", "12"))


@hypothesis.settings(max_examples=NETS, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5))
@hypothesis.example(["group", "rms", "group", "tanh", "residual"])  # derivatives near zero in groups of two
def test_verdicts_agree_with_brute_force(layers):
    fn, params = compose(layers)
    x = ROWS[:, :4]
    audit = audit_biases(fn, params, x)
    for path, expected_rank, expected_unique in brute_force(fn, params, x):
        finding = audit[path]
        assert (finding.rank, finding.unique) == (expected_rank, min(expected_unique, expected_rank)), (
            path,
            layers,
        )


# Ranks and uniques in arithmetic of 120 digits (mpmath), in the order of the layers
EXACT = {
    # Round-off in the dead directions themselves, which a large shift multiplies
    ("group", "rms", "softmax", "centre", "rms", "group", "group", "softmax"): (
        (6, 5, 4, 4, 5, 6),
        (6, 5, 4, 4, 5, 6),
    ),
    # Directions a million times weaker than others of the same bias
    ("residual", "rms", "rms", "group", "group", "batch"): ((4, 4, 2, 2, 0, 4, 4), (4, 4, 2, 2, 0, 0, 0)),
    # At this width and optimisation level the compiler computes the softmax's maximum twice, differently
    ("group", "softmax", "relu"): ((3, 4), (3, 4)),
}


@pytest.mark.parametrize("layers", EXACT, ids=" ".join)
def test_verdicts_agree_with_exact_arithmetic(layers):
    width = 6 if len(layers) > 6 else 4
    fn, params = compose(layers, width)
    audit = audit_biases(fn, params, jax.random.normal(jax.random.key(8), (5, width)))
    assert (tuple(f.rank for f in audit.findings), tuple(f.unique for f in audit.findings)) == EXACT[layers]


@pytest.mark.parametrize("seed", [0, 1])
def test_rounding_with_few_outcomes_is_still_noise(seed):
    # Norms over pairs give nearly equal rows: their rounding has a few outcomes, and some neighbours agree
    fn, params = compose(["group", "group", "batch", "rms", "batch", "layer", "batch"])
    audit = audit_biases(fn, params, jax.random.normal(jax.random.key(0), (3, 4)), seed=seed)
    assert audit["0/bias"].rank == 2  # the second norm takes each pair's mean


# The rest of the interface ---------------------------------------------------------------------------


def centred(params, x):
    y = x @ params["w"] + params["bias"]
    return y - y.mean(0)


CENTRED = {"w": jnp.ones((6, 2)), "bias": jnp.zeros(2)}


def test_reports():
    audit = audit_biases(centred, CENTRED, ROWS)
    assert json.loads(json.dumps(audit.to_dict()))["findings"][0]["verdict"] == "cancelled"
    assert "dies at sub" in audit.table()
    assert audit["bias"].evidence.change < 1e-10
    with pytest.raises(AssertionError, match="expected no cancelled bias, got 1: bias"):
        audit.check("cancelled")
    audit.check("unused")
    with pytest.raises(ValueError, match="Did you mean 'cancelled'"):
        audit.check("canceled")
    with pytest.raises(KeyError, match="expected one of bias"):
        audit["w"]
    alone = audit_biases(centred, CENTRED, ROWS, joint=False)
    with pytest.raises(ValueError, match="expected an audit with joint=True"):
        alone.check("absorbable")


def test_what_is_a_bias():
    audit = audit_biases(centred, CENTRED, ROWS, is_bias=lambda path, leaf: path == "w")
    assert [f.path for f in audit.findings] == ["w"]
    mask = {"w": False, "bias": True}
    assert audit_biases(centred, CENTRED, ROWS, is_bias=mask)["bias"].verdict == "cancelled"
    with pytest.raises(ValueError, match="mask like the params"):
        audit_biases(centred, CENTRED, ROWS, is_bias={"bias": True})


def test_float64_does_not_leak():
    audit_biases(centred, CENTRED, ROWS)
    assert not jax.config.jax_enable_x64
    assert jnp.ones(1).dtype == jnp.float32


def test_the_same_seed_gives_the_same_findings():
    one, two = (audit_biases(centred, CENTRED, ROWS, seed=5).to_dict() for _ in range(2))
    assert one == two


def test_numbers_as_leaves():
    audit = audit_biases(lambda p, x: x.sum(1) * p["scale"] + p["bias"], {"scale": 2.0, "bias": 0.0}, ROWS)
    assert audit["bias"].verdict == "needed"


def test_bad_input():
    with pytest.raises(ValueError, match="named bias, b, beta, offset"):
        audit_biases(lambda p, x: x @ p["w"], {"w": CENTRED["w"]}, ROWS)
    with pytest.raises(ValueError, match="got TypeError"):
        audit_biases(centred, CENTRED, ROWS[:, :3])
    with pytest.raises(ValueError, match="finite outputs at the given input"):
        audit_biases(lambda p, x: jnp.log(0 * x) + p["bias"][0], CENTRED, ROWS)
    with pytest.raises(ValueError, match="a floating output"):
        audit_biases(lambda p, x: centred(p, x).argmax(), CENTRED, ROWS)
    with pytest.raises(ValueError, match="at least one number in the outputs"):
        audit_biases(centred, CENTRED, ROWS[:0])
    with pytest.raises(ValueError, match="no leaves at all"):
        audit_biases(centred, None, ROWS)
    with pytest.raises(TypeError, match="an array at 'name'"):
        audit_biases(centred, CENTRED | {"name": "net"}, ROWS)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="the same program whenever it is traced"):
        audit_biases(lambda p, x: centred(p, x) + rng.standard_normal(2), CENTRED, ROWS)


def test_fn_first():
    with pytest.raises(TypeError, match="expected a function, got dict"):
        audit_biases(CENTRED, centred, ROWS)  # pyright: ignore


def test_host_callbacks():
    def fn(params, x, dtype=None, method="sequential"):
        y = centred(params, x)
        like = jax.ShapeDtypeStruct(y.shape, dtype or y.dtype)
        return jax.pure_callback(np.tanh, like, y, vmap_method=method)

    assert audit_biases(fn, CENTRED, ROWS)["bias"].verdict == "cancelled"
    with pytest.raises(ValueError, match=r"Expected: float32.*host callback must return the dtype"):
        audit_biases(lambda p, x: fn(p, x, dtype=np.float32), CENTRED, ROWS)
    with pytest.raises(ValueError, match="expected a vmap_method"):
        audit_biases(lambda p, x: fn(p, x, method=None), CENTRED, ROWS)


def test_a_function_that_keeps_tracers():
    kept = []

    def leaky(params, x):
        kept.append(params["bias"])
        return centred(params, x) + kept[0]

    with pytest.raises(ValueError, match=r"pure function|the same program whenever"):
        audit_biases(leaky, CENTRED, ROWS)


def test_arrays_on_different_devices():
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("one device")
    with pytest.raises(ValueError, match="all arrays on the same devices"):
        audit_biases(centred, jax.device_put(CENTRED, devices[0]), jax.device_put(ROWS, devices[1]))
