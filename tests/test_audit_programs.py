"""What a program may hold: masks, branches, loops, kinks, dropout, low precision."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from biasjax import attention, linear
from biasjax.audit import audit_biases

C = 8
ROWS = jax.random.normal(jax.random.key(8), (5, 6))
TOKENS = jax.random.normal(jax.random.key(9), (2, 5, C))


def keyed(n=4):
    return iter(jax.random.split(jax.random.key(0), n))


def two_layers():
    keys = keyed(2)
    return {"a": linear.dense_init(next(keys), 6, C), "b": linear.dense_init(next(keys), C, 3)}


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

    for seed in range(2):
        audit = audit_biases(fn, params, x, seed=seed)
        assert [audit[name].unique for name in ("bias", "c_bias")] == [4, 128]


def test_batch_of_identical_rows():
    def fn(params, x):
        y = jax.nn.relu(linear.dense(params["a"], x))
        y = (y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-5)
        return linear.dense(params["b"], y)

    params = two_layers()
    audit = audit_biases(fn, params, jnp.ones((4, 6)))
    assert audit["a/bias"].rank == C


def test_dropout_with_a_raw_key():
    def fn(params, key, x):
        y = jnp.tanh(linear.dense(params["a"], x))
        y = jnp.where(jax.random.bernoulli(key, 0.5, y.shape), y, 0)
        return linear.dense(params["b"], y)

    assert audit_biases(fn, two_layers(), jax.random.PRNGKey(0), ROWS[:1], joint=False)["a/bias"].rank == C


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
    basis = audit["bias"].basis
    assert (audit["bias"].rank, basis and basis.name) == (C - 1, "uniform")


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
    basis = audit["layers_0/bias"].basis
    assert basis is not None
    assert basis.name == "uniform"
