"""Differences of checkpoints whose truth is known: made dead, moved, rescaled, or in earnest."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax.audit import ModesAudit, audit_biases, explain_difference, tolerance

RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 4)).astype(np.float32)


def drawn(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


A = {
    "conv": {"kernel": drawn(4, 6), "bias": drawn(6)},
    "norm": {"scale": 1 + 0.1 * drawn(6), "bias": drawn(6)},
    "hidden": {"kernel": drawn(6, 5), "bias": drawn(5)},
    "spare": {"bias": drawn(2)},
    "head": {"kernel": drawn(5, 3), "bias": drawn(3)},
}


def model(params, x):
    y = x @ params["conv"]["kernel"] + params["conv"]["bias"]
    y = (y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-3)
    y = y * params["norm"]["scale"] + params["norm"]["bias"]
    y = jnp.tanh(y @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return y @ params["head"]["kernel"] + params["head"]["bias"]


def changed(**leaves):
    """Copy with some leaves replaced, layer__leaf."""
    other = {name: dict(layer) for name, layer in A.items()}
    for name, leaf in leaves.items():
        layer, key = name.split("__")
        other[layer][key] = leaf
    return other


def explained(other, **options):
    return explain_difference(model, A, other, X, **options)


def kinds(found):
    return {f"{one.path} {one.part}".strip(): one.kind for one in found.differences}


def moved(step):
    """Shift of the norm's bias that the next layer's takes back, in float32."""
    return {
        "norm__bias": A["norm"]["bias"] + step,
        "hidden__bias": A["hidden"]["bias"] - step @ A["hidden"]["kernel"],
    }


@pytest.fixture(scope="module")
def mixed():
    """One difference of each kind; the leaves of the pair are not neighbours."""
    step = drawn(6)
    head = A["head"]["kernel"] + 0.1 * drawn(5, 3)
    return explained(
        changed(
            conv__bias=A["conv"]["bias"] + 20 * drawn(6),
            head__kernel=head,
            **moved(step),
            spare__bias=drawn(2),
        )
    )


def test_each_kind(mixed):
    assert kinds(mixed) == {
        "conv/bias": "dead",
        "head/kernel": "real",
        "hidden/bias": "absorbed",
        "norm/bias": "absorbed",
        "spare/bias": "dead",
    }
    [hidden, norm] = mixed.having("absorbed")
    assert (hidden.absorbed_by, norm.absorbed_by) == (("norm/bias",), ("hidden/bias",))
    assert min(hidden.change, norm.change) > 0.1
    assert mixed.change > 0.01


def test_a_dead_difference_is_dead_up_to_a_size(mixed):
    dead, spare = mixed.having("dead")
    assert dead.change < 1e-12
    assert 1 < dead.sizes["bfloat16"] < dead.sizes["float16"] < dead.sizes["float32"]
    assert dead.harmed == ("bfloat16",)
    assert spare.sizes == dict.fromkeys(["float32", "bfloat16", "float16"], np.inf)
    assert mixed.having("real")[0].sizes == {}


def test_without_dtypes():
    found = explained(changed(conv__bias=A["conv"]["bias"] + 1), dtypes=())
    assert (kinds(found), found.differences[0].sizes) == ({"conv/bias": "dead"}, {})
    assert "root mean square" not in found.table()


def test_the_null_is_real():
    # As large as what was moved above, and taken back with the wrong sign
    shifts = moved(drawn(6))
    wrong = 2 * A["hidden"]["bias"] - shifts["hidden__bias"]
    assert set(kinds(explained(changed(**shifts | {"hidden__bias": wrong}))).values()) == {"real"}
    assert kinds(explained(changed(norm__bias=shifts["norm__bias"]))) == {"norm/bias": "real"}


def test_two_pairs_are_two():
    def twice(params, x):
        return jnp.stack([model(params["one"], x), model(params["two"], x)])

    other = {"one": changed(**moved(drawn(6))), "two": changed(**moved(drawn(6)))}
    found = explain_difference(twice, {"one": A, "two": A}, other, X)
    assert [one.absorbed_by for one in found.differences] == [
        ("one/norm/bias",),
        ("one/hidden/bias",),
        ("two/norm/bias",),
        ("two/hidden/bias",),
    ]
    assert found.change < 1e-5


def test_three_biases_that_make_up_for_each_other():
    def added(params, x):
        return jnp.tanh(x @ params["w"] + params["bias"] + params["bias2"]) + params["bias3"].sum()

    def both(params, x):
        return added(params, x) + params["b_q"] + params["b_k"] + params["b_v"]

    a = {"w": drawn(4, 4)} | {name: drawn(4) for name in ("bias", "bias2", "bias3", "b_q", "b_k", "b_v")}
    step, one, two = drawn(4), drawn(4), drawn(4)
    b = a | {"bias": a["bias"] + step, "bias2": a["bias2"] - step}
    b |= {"b_q": a["b_q"] + one, "b_k": a["b_k"] + two, "b_v": a["b_v"] - one - two}
    found = explain_difference(both, a, b, X)
    assert {one.path: one.absorbed_by for one in found.differences} == {
        "b_k": ("b_q", "b_v"),
        "b_q": ("b_k", "b_v"),
        "b_v": ("b_k", "b_q"),
        "bias": ("bias2",),
        "bias2": ("bias",),
    }


def test_a_kernel_rescaled():
    def relu(params, x):
        y = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
        return y @ params["second"]["kernel"] + params["second"]["bias"]

    a = {
        "first": {"kernel": drawn(4, 6), "bias": drawn(6)},
        "second": {"kernel": drawn(6, 3), "bias": drawn(3)},
    }
    first = {name: 3 * leaf for name, leaf in a["first"].items()}
    b = {"first": first, "second": {"kernel": a["second"]["kernel"] / 3, "bias": a["second"]["bias"]}}
    found = explain_difference(relu, a, b, X)
    assert kinds(found) == dict.fromkeys(["first/bias", "first/kernel", "second/kernel"], "absorbed")
    assert found.differences[0].absorbed_by == ("first/kernel", "second/kernel")
    # and beside a real difference, which does not take part
    b["second"]["bias"] = a["second"]["bias"] + 1
    assert kinds(explain_difference(relu, a, b, X)) == kinds(found) | {"second/bias": "real"}


def test_kernels_rescaled_among_many():
    def relus(params, x):
        for layer in params:
            x = jax.nn.relu(x @ layer["first"] + layer["bias"]) @ layer["second"]
        return x

    a = [{"first": drawn(4, 6), "bias": drawn(6), "second": drawn(6, 4)} for _ in range(4)]
    by = (3.0, 1.0, 0.5, 1.0)
    b = [
        {"first": s * one["first"], "bias": s * one["bias"], "second": one["second"] / s}
        for s, one in zip(by, a, strict=True)
    ]
    b[1]["second"], b[3]["bias"] = a[1]["second"] + 0.1, a[3]["bias"] + 0.1
    found = explain_difference(relus, a, b, X)
    moved = [f"{layer}/{name}" for layer in (0, 2) for name in ("bias", "first", "second")]
    assert kinds(found) == dict.fromkeys(moved, "absorbed") | {"1/second": "real", "3/bias": "real"}


def test_bfloat16_checkpoints():
    def rounded(other):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), other)

    with jax.numpy_dtype_promotion("standard"):
        found = explain_difference(model, rounded(A), rounded(changed(**moved(3 * drawn(6)))), X)
        assert kinds(found) == {"hidden/bias": "absorbed", "norm/bias": "absorbed"}
        # As much as was left by rounding, but all that there is
        other = changed(norm__bias=1.03 * A["norm"]["bias"], hidden__bias=1.03 * A["hidden"]["bias"])
        found = explain_difference(model, rounded(A), rounded(other), X)
        assert set(kinds(found).values()) == {"real"}


def test_stored_values_are_rounded():
    barely = np.nextafter(A["head"]["bias"], np.float32(9)).astype(np.float32)
    found = explained(changed(head__bias=barely))
    assert kinds(found) == {"head/bias": "rounding"}
    assert 0 < found.change < 1e-6


def test_the_dead_part_of_a_bias():
    def logits(params, x):
        return jax.nn.softmax(x @ params["kernel"] + params["bias"])

    a = {"kernel": drawn(4, 3), "bias": drawn(3)}
    audit = audit_biases(logits, a, X, joint=False)
    for step, expected in {
        (5.0, 5.0, 5.0): {"bias": "dead"},
        (5.0, 6.0, 5.0): {"bias dead": "dead", "bias rest": "real"},
        (1.0, -1.0, 0.0): {"bias": "real"},
    }.items():
        b = a | {"bias": a["bias"].astype(float) + np.array(step)}
        with jax.enable_x64(True):
            found = explain_difference(logits, a | {"bias": a["bias"].astype(float)}, b, X, audit=audit)
        assert kinds(found) == expected, step
    assert kinds(explain_difference(logits, a, a | {"bias": a["bias"] + 1}, X)) == {"bias": "dead"}


def test_leaves_that_are_no_floats():
    def fn(params, x):
        taken = jnp.where(params["mask"], x, 0)[:, params["order"]] + params["bias"]
        return taken + jax.random.normal(params["key"], (4,)) * params["gate"]

    a = {
        "bias": jnp.ones(4),
        "gate": jnp.zeros(4),
        "key": jax.random.key(0),
        "mask": jnp.array([True, True, False, True]),
        "order": jnp.arange(4),
    }
    b = a | {"key": jax.random.key(1), "mask": ~a["mask"], "order": a["order"][::-1]}
    found = explain_difference(fn, a, b, jnp.asarray(X))
    assert kinds(found) == {"key": "dead", "mask": "real", "order": "real"}
    assert np.isnan(found.differences[0].size)


def test_equal_parameters():
    found = explained(changed())
    assert (found.differences, found.change, repr(found)) == (
        (),
        0.0,
        "Differences(none; outputs differ by 0)",
    )
    assert found.table() == "The parameters are equal."


def test_tables_and_plain_values(mixed):
    lines = mixed.table().splitlines()
    assert lines[0].split()[:7] == ["leaf", "size", "change", "difference", "float32", "bfloat16", "float16"]
    assert "*" in lines[2]
    assert repr(mixed).startswith("Differences(2 dead, 2 absorbed, 1 real; outputs differ by 0.")
    plain = json.loads(json.dumps(mixed.to_dict()))
    assert plain["differences"][0]["harmed"] == ["bfloat16"]


def test_harm_is_that_of_tolerance():
    start = changed(conv__bias=np.zeros(6, np.float32))
    found = explain_difference(model, start, A, X, dtypes=["bfloat16"])
    limit = tolerance(audit_biases(model, A, X, joint=False), model, A, X, dtypes=["bfloat16"])["conv/bias"]
    assert 0.3 < found.differences[0].sizes["bfloat16"] / limit.sizes["bfloat16"] < 3


def test_bad_arguments():
    with pytest.raises(ValueError, match="one structure, got spare/bias in one of them"):
        explained({name: layer for name, layer in A.items() if name != "spare"})
    with pytest.raises(ValueError, match=r"kind at 'spare/bias', got float64\[2\] and float64\[3\]"):
        explained(changed(spare__bias=drawn(3)))
    with pytest.raises(ValueError, match=r"got float64\[2\] and int32\[2\]"):
        explained(changed(spare__bias=np.arange(2, dtype=np.int32)))
    with pytest.raises(TypeError, match="an array at 'spare/bias', got str"):
        explained(changed(spare__bias="none"))
    with pytest.raises(ValueError, match="finite outputs of both parameters"):
        explained(changed(head__bias=np.full(3, np.nan, np.float32)))
    with pytest.raises(ValueError, match="kind: expected one of absorbed, dead, real, rounding, got 'ded'"):
        explained(changed()).having("ded")
    found = audit_biases(model, A, X, joint=False)
    with pytest.raises(TypeError, match="a BiasAudit, got ModesAudit"):
        explained(changed(spare__bias=drawn(2)), audit=ModesAudit(found, found))
