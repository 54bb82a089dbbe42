"""Audits of whole models against known truth, and what they take and give."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from biasjax import adapters, attention, audit, linear, norms
from biasjax.audit import audit_biases, audit_modes, in_mode

C = 8
ROWS = jax.random.normal(jax.random.key(8), (5, 6))
TOKENS = jax.random.normal(jax.random.key(9), (2, 5, C))


def two_layers(zero=""):
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "a": linear.dense_init(keys[0], 6, C),
        "norm": norms.norm_init(C),
        "b": linear.dense_init(keys[1], C, 3),
    }
    if zero == "kernel":
        params["b"] = params["b"]._replace(kernel=0 * params["b"].kernel)
    if zero == "scale":
        params["norm"] = params["norm"]._replace(scale=0 * params["norm"].scale)
    return params


def mlp(params, x):
    y = jax.nn.relu(linear.dense(params["a"], x))
    return linear.dense(params["b"], norms.rms_norm(params["norm"], y))


def centred(params, x):
    y = x @ params["w"] + params["bias"]
    return y - y.mean(0)


CENTRED = {"w": jnp.ones((6, 2)), "bias": jnp.zeros(2)}


def test_what_there_is():
    assert dir(audit) == sorted(audit.__all__)
    assert all(hasattr(audit, name) for name in audit.__all__)


# Known truth -----------------------------------------------------------------------------------------


ATTENTION = {
    "causal": ({}, {"causal": True}, 0),
    "rotary": ({}, {"rotary": True}, C),
    "qk_norm": ({"qk_norm": True}, {}, C),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_key_bias(name):
    init, options, expected = ATTENTION[name]
    params = attention.attention_init(jax.random.key(0), C, 2, **init)
    found = audit_biases(lambda p, x: attention.attention(p, x, heads=2, **options), params, TOKENS)
    assert found["key/bias"].rank == expected
    assert found["value/bias"].verdict == found["out/bias"].verdict == "absorbable"
    assert (found["value/bias"].rank, found["value/bias"].unique) == (C, 0)
    assert found["value/bias"].absorbed_by == ("out/bias",)
    assert found["query/bias"].verdict == "needed"


def test_an_attention_sink_keeps_the_value_bias():
    params = attention.attention_init(jax.random.key(0), C, 2, sink=True)
    found = audit_biases(lambda p, x: attention.attention(p, x, heads=2), params, TOKENS)
    assert found["value/bias"].verdict == found["key/bias"].verdict == "needed"


def test_softmax_cancels_one_direction_of_the_logits():
    params = linear.dense_init(jax.random.key(0), 6, C)
    found = audit_biases(lambda p, x: jax.nn.softmax(linear.dense(p, x)), params, ROWS)["bias"]
    assert (found.rank, found.verdict, found.basis and found.basis.name) == (
        C - 1,
        "partly cancelled",
        "uniform",
    )
    assert found.deaths[0].where.startswith(__file__)


@pytest.mark.parametrize("zero", ["kernel", "scale"])
def test_zero_initialised_layers_hide_nothing(zero):
    params = two_layers(zero)
    assert audit_biases(mlp, params, ROWS)["a/bias"].rank == C
    given_values = audit_biases(mlp, params, ROWS, randomize=False)
    assert given_values["a/bias"].verdict == "cancelled"
    assert given_values["b/bias"].is_zero


def test_unused_parameters():
    params = {"bias": jnp.zeros(C), "w": jnp.ones((6, C)), "spare_bias": jnp.zeros(3)}
    found = audit_biases(lambda p, x: x @ p["w"] + p["bias"], params, ROWS)
    assert found["spare_bias"].verdict == "unused"
    assert found["bias"].verdict == "needed"
    assert found.summary() == "1 of 2 biases, 3 of 11 parameters, do nothing."


def test_several_outputs_and_a_scalar_loss():
    params = two_layers()

    def several(params, x):
        y = linear.dense(params["a"], x)
        y = y - y.mean(0)
        return {"centred": y, "classes": y.argmax(-1)}, 1e6 * linear.dense(params["b"], y)

    assert audit_biases(several, params, ROWS)["a/bias"].verdict == "cancelled"

    def loss(params, x, labels):
        logits = mlp(params, x)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    found = audit_biases(loss, params, ROWS, jnp.array([0, 1, 2, 1, 0]))
    assert found["a/bias"].verdict == "needed"
    last = found["b/bias"]
    assert (last.rank, last.basis and last.basis.name) == (2, "uniform")


# Modes -----------------------------------------------------------------------------------------------


def test_modes():
    def apply(params, state, x, *, train):
        y = x @ params["w"] + params["bias"]
        return (y - y.mean(0) if train else jnp.tanh(y)) + params["c_bias"], state

    modes = audit_modes(apply, CENTRED | {"c_bias": jnp.zeros(2)}, (), ROWS)
    assert (modes.train["bias"].verdict, modes.eval["bias"].verdict) == ("cancelled", "needed")
    assert modes.differing == ("bias",)
    lines = modes.table().splitlines()
    assert [line.split()[0] for line in lines if line.endswith("*")] == ["bias"]
    assert "1 of 2 biases, 2 of 4 parameters, do nothing in training." in modes.table()
    for train, found in ((True, modes.train), (False, modes.eval)):
        fn, keys = in_mode(apply, (), train)
        assert keys == {}
        alone = audit_biases(fn, CENTRED | {"c_bias": jnp.zeros(2)}, ROWS, keys)
        assert [f.verdict for f in alone.findings] == [f.verdict for f in found.findings]


def test_dropout_draws_its_key():
    # At the given key some units are off throughout
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dropout(0.5, deterministic=not train)(nn.tanh(nn.Dense(C)(x)))
            return nn.Dense(3)(x)

    variables, rngs = Net().init(jax.random.key(0), ROWS, False), {"dropout": jax.random.key(1)}
    pure = adapters.from_linen(Net(), variables, rngs=rngs)
    fn, keys = in_mode(pure.apply, pure.state, True)
    assert [leaf.dtype for leaf in keys.values()] == [rngs["dropout"].dtype]
    assert audit_biases(fn, pure.params, ROWS[:1], keys, joint=False)["Dense_0/bias"].rank == C
    still = audit_biases(
        fn, pure.params, ROWS[:1], keys, joint=False, vary_inputs=lambda path, leaf: path == "0"
    )
    assert still["Dense_0/bias"].rank < C


def test_paths_of_arguments_are_the_same_in_modes():
    seen = set()

    def vary(path, leaf):
        seen.add(path)
        return True

    def apply(params, state, x, train):
        return centred(params, x["rows"]), state

    modes = audit_modes(
        apply, CENTRED, {"key": jax.random.key(0)}, {"rows": ROWS}, vary_inputs=vary, joint=False
    )
    assert seen == {"0/rows", "1/0"}
    assert modes.differing == ()


# What is given ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    return audit_biases(centred, CENTRED, ROWS, seed=5)


def test_what_is_found(found):
    assert json.loads(json.dumps(found.to_dict()))["findings"][0]["verdict"] == "cancelled"
    assert "dies at sub, tests/test_audit.py" in found.table()
    assert found["bias"].evidence.change < 1e-10
    assert (found["bias"].unique, found.exact) == (0, True)


def test_without_the_joint_analysis():
    alone = audit_biases(centred, CENTRED, ROWS, joint=False)
    assert (alone["bias"].unique, alone["bias"].absorbed_by) == (None, ())
    with pytest.raises(ValueError, match="expected an audit with joint=True"):
        alone.check("absorbable")


def test_the_same_seed_gives_the_same_findings(found):
    assert audit_biases(centred, CENTRED, ROWS, seed=5).to_dict() == found.to_dict()
    assert audit_biases(centred, CENTRED, ROWS, seed=6)["bias"].evidence != found["bias"].evidence


def test_float64_does_not_leak(found):
    assert jnp.ones(1).dtype == jnp.float32


BAD_OPTIONS = [
    ("draws", 0, "an integer of at least 1, got 0"),
    ("joint_limit", 0, "an integer of at least 1, got 0"),
    ("seed", -1, "an integer of at least 0, got -1"),
    ("seed", 0.5, "an integer of at least 0, got 0.5"),
    ("joint", None, "True or False, got None"),
    ("randomize", None, "True, False or a predicate, got None"),
    ("vary_inputs", "0", "True, False or a predicate, got '0'"),
]


@pytest.mark.parametrize(("option", "value", "expected"), BAD_OPTIONS)
def test_bad_options_are_refused_before_the_function_is_traced(option, value, expected):
    seen = []
    with pytest.raises((ValueError, TypeError), match=f"{option}: expected {expected}"):
        audit_biases(lambda params, x: seen.append(x), CENTRED, ROWS, **{option: value})
    assert not seen


def test_a_predicate_on_entries():
    with pytest.raises(TypeError, match="expected True or False for 'bias', got ndarray"):
        audit_biases(centred, CENTRED, ROWS, randomize=lambda path, leaf: leaf > 0)


def test_bad_arguments_of_modes():
    def apply(params, state, x, *, train):
        return centred(params, x), state

    with pytest.raises(TypeError, match="apply: expected a function, got 3"):
        in_mode(3, (), True)  # pyright: ignore
    with pytest.raises(TypeError, match="train: expected True or False, got 'eval'"):
        in_mode(apply, (), "eval")  # pyright: ignore
    with pytest.raises(TypeError, match=r"state: expected a pytree, got .* Use one type of keys"):
        audit_modes(apply, CENTRED, {1: 2, "x": 3}, ROWS)


def test_misspelt_options_of_modes_name_the_nearest():
    with pytest.raises(
        ValueError, match=r"audit_modes: expected one of .*, got 'draw'. Did you mean 'draws'\?"
    ):
        audit_modes(lambda params, state, x, *, train: (x, state), {}, (), ROWS, draw=3)
