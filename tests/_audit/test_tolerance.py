"""From which size a dead bias harms a dtype: against closed forms, and what is never listed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import audit, norms
from biasjax.audit import audit_biases, tolerance

X = jax.random.normal(jax.random.key(0), (64, 4))
HEAD = {"w": jnp.ones((4, 3)) / 2, "bias": jnp.ones(3)}
PARAMS = {"w": jnp.eye(4), "bias": jnp.full(4, 100.0), "out": HEAD}


def measured(fn, params, x=X, **options):
    return tolerance(audit_biases(fn, params, x, joint=False), fn, params, x, **options)


def batch_normed(params, x):
    y, _ = norms.batch_norm(
        norms.Norm(), norms.batch_stats_init(4), x @ params["w"] + params["bias"], train=True
    )
    return y @ params["out"]["w"] + params["out"]["bias"]


def fast_variance(params, x):
    y = x @ params["w"] + params["bias"]
    mean, square = y.mean(0), jnp.square(y).mean(0)
    return (y - mean) / jnp.sqrt(jnp.maximum(square - mean**2, 0) + jnp.asarray(1e-5, y.dtype))


def attended(params, x):
    q, k = x @ params["q"]["w"] + params["q"]["bias"], x @ params["k"]["w"] + params["k"]["bias"]
    return jax.nn.softmax(q @ k.T / 2) @ x


def logits(params, x):
    return jax.nn.softmax(x @ params["w"] + params["bias"])


@pytest.fixture(scope="module")
def before_norm():
    return measured(batch_normed, PARAMS)


def test_a_bias_before_batch_norm(before_norm):
    # b + x is rounded to b's grid, of a step of 2^(1 - p) b for p digits, uniformly: an error of
    # s = 2^(1 - p) b / sqrt(12) on average over b's binade times 0.7; x has a variance of 1
    [limit] = before_norm.limits
    assert (limit.path, limit.dead, limit.present) == ("bias", 4, 100.0)
    for dtype, digits in {"float32": 24, "bfloat16": 8, "float16": 11}.items():
        expected = 0.01 * np.sqrt(12) / 0.7 / 2.0 ** (1 - digits)
        assert expected / 3 < limit.sizes[dtype] < 3 * expected, (dtype, limit.sizes[dtype], expected)
    assert limit.harmed == ("bfloat16", "float16")
    assert before_norm.rounding["float32"] < 1e-6 < 1e-3 < before_norm.rounding["bfloat16"] < 1e-2


def test_a_needed_bias_is_not_listed(before_norm):
    with pytest.raises(KeyError, match="expected one of bias, got 'out/bias'"):
        before_norm["out/bias"]


def test_at_the_size_found_outputs_leave(before_norm):
    direction = np.random.default_rng([0, 0]).standard_normal(4)
    size = before_norm["bias"].sizes["bfloat16"]

    def out(bias):
        # Operation by operation: a jitted sum is not rounded before it is cast for the statistics
        params = PARAMS | {"bias": jnp.asarray(bias)}
        cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, X))
        return np.asarray(batch_normed(*cast)).astype(float)

    def change(size):
        bias, base = size * direction / np.sqrt(np.mean(direction**2)), out(jnp.zeros(4))
        return np.sqrt(max(np.mean((out(side) - base) ** 2) for side in (bias, -bias)) / np.mean(base**2))

    assert change(0.5 * size) < 0.01 < change(1.1 * size)


def test_excess_precision_hides_harm(before_norm):
    kept = measured(batch_normed, PARAMS, dtypes=["bfloat16"], excess_precision=True)
    assert kept["bias"].sizes["bfloat16"] > 100 * before_norm["bias"].sizes["bfloat16"]


def test_a_fast_variance_loses_float32_early():
    # E[x²] - E[x]² has an error of b² 2^-24 or so, and half of it relative is the outputs'
    def size(fn):
        return measured(fn, PARAMS, dtypes=["float32"])["bias"].sizes["float32"]

    assert 200 < size(fast_variance) < 2000 < 1e5 < size(batch_normed)


def test_a_key_bias():
    w = jax.random.normal(jax.random.key(1), (4, 4)) / 2
    params = {name: {"w": w[::step], "bias": jnp.ones(4)} for name, step in {"q": 1, "k": -1}.items()}
    found = measured(attended, params, X[:8])
    [limit] = found.limits
    assert limit.path == "k/bias"
    sizes = [limit.sizes[name] for name in ("bfloat16", "float16", "float32")]
    assert 0.1 < sizes[0] < sizes[1] < sizes[2] < 1e6
    assert limit.harmed == ()


def test_only_the_dead_part_of_a_bias_is_shifted():
    params = PARAMS | {"bias": jnp.array([51.0, 50.0, 49.0, 50.0])}
    found = measured(logits, params)
    [limit] = found.limits
    assert (limit.dead, limit.present) == (1, pytest.approx(50.0))
    assert 0.5 < limit.sizes["bfloat16"] < limit.sizes["float16"] < limit.sizes["float32"] < np.inf


def test_what_never_harms():
    def subtracted(params, x):
        return x + 0 * jnp.clip(params["bias"], -1, 1) + params["out"]["bias"][0], x[:, :0]

    found = measured(subtracted, PARAMS)
    assert found["bias"].sizes == dict.fromkeys(["float32", "bfloat16", "float16"], np.inf)
    assert found["out/bias"].sizes["float32"] == np.inf  # two entries that no output sees


def test_a_model_that_computes_in_float32_whatever_it_is_given():
    def cast(params, x):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        return batch_normed(wide, x.astype(jnp.float32))

    found = measured(cast, PARAMS, dtypes=[jnp.bfloat16, "float32"])
    assert found["bias"].sizes["bfloat16"] > 1e4


def test_outputs_that_overflow():
    def large(params, x):
        return batch_normed(params, x) * 1e5

    found = measured(large, PARAMS, dtypes=["float16", "bfloat16"])
    assert np.isnan(found["bias"].sizes["float16"])
    assert found["bias"].sizes["bfloat16"] > 1
    assert found["bias"].harmed == ("bfloat16",)


def test_a_tolerance_below_the_rounding_of_the_dtype(before_norm):
    found = measured(batch_normed, PARAMS, dtypes=["bfloat16"], within=1e-6)
    assert found.rounding == {"bfloat16": before_norm.rounding["bfloat16"]}
    assert 0.5 < found["bias"].sizes["bfloat16"] <= before_norm["bias"].sizes["bfloat16"]


def test_random_keys_and_integers_pass_through():
    def dropped(params, x, key, order):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return batch_normed(params, jnp.where(kept, x, 0)[order]), key, order

    args = X, jax.random.key(0), jnp.arange(64)
    found = tolerance(audit_biases(dropped, PARAMS, *args, joint=False), dropped, PARAMS, *args)
    assert found["bias"].harmed == ("bfloat16", "float16")


def test_all_biases_take_one_program():
    def traces(names):
        count = 0

        def fn(params, x):
            nonlocal count
            count += 1
            for name in names:
                x = x + params[name]
                x = x - x.mean(0)
            return x

        params = {name: jnp.ones(4) for name in names}
        found = audit_biases(fn, params, X, joint=False)
        count = 0
        assert len(tolerance(found, fn, params, X, dtypes=["bfloat16"]).limits) == len(names)
        return count

    assert traces(["b1", "b2", "b3", "b4"]) == traces(["b1"])


def test_masked_outputs_are_no_scale():
    def masked(params, x):
        return jnp.where(jnp.arange(3) < 2, batch_normed(params, x), -1e30)

    found = measured(masked, PARAMS, dtypes=["bfloat16", "float16"])
    assert all(1 < size < 100 for size in found["bias"].sizes.values())


def test_tables_and_plain_values(before_norm):
    table = before_norm.table()
    assert table.splitlines()[0].split() == ["bias", "dead", "given", "float32", "bfloat16", "float16"]
    assert table.splitlines()[2].count("*") == 2
    assert "1 dead bias, 1 harmful as given; float32 from" in repr(before_norm)
    plain = json.loads(json.dumps(before_norm.to_dict()))
    assert plain["limits"][0]["harmed"] == ["bfloat16", "float16"]


def test_nothing_is_dead():
    def plain(params, x):
        return x @ params["w"] + params["bias"]

    found = tolerance(audit_biases(plain, {"w": jnp.eye(4), "bias": jnp.ones(4)}, X), plain, PARAMS, X)
    assert (found.limits, repr(found)) == ((), "Tolerances(0 dead biases, 0 harmful as given)")
    assert found.table()


def test_bad_arguments():
    found = audit_biases(batch_normed, PARAMS, X, joint=False)
    with pytest.raises(TypeError, match=r"expected a BiasAudit, got ModesAudit. Take one mode"):
        tolerance(audit.ModesAudit(found, found), batch_normed, PARAMS, X)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"4 entries at 'bias', got 3"):
        tolerance(found, lambda p, x: x + p["bias"][0], {"bias": jnp.ones(3)}, X)
    with pytest.raises(TypeError, match="a sequence of dtypes, got 'bfloat16'"):
        tolerance(found, batch_normed, PARAMS, X, dtypes="bfloat16")
    with pytest.raises(ValueError, match=r"at least one dtype, got \(\)"):
        tolerance(found, batch_normed, PARAMS, X, dtypes=())
    with pytest.raises(TypeError, match="a floating dtype, got 'int8'"):
        tolerance(found, batch_normed, PARAMS, X, dtypes=["int8"])
    with pytest.raises(ValueError, match=r"within: expected"):
        tolerance(found, batch_normed, PARAMS, X, within=-1.0)

    def mixed(params, x):
        return batch_normed(params, x) + jnp.ones(3)

    with pytest.raises(ValueError, match=r"a function that runs in bfloat16, got .*Cast what it closes over"):
        tolerance(found, mixed, PARAMS, X, dtypes=["bfloat16"])
