"""Verdicts that the joint analysis once got wrong, and models beyond the exact method's limit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax.adapters import from_linen
from biasjax.audit import audit_biases, audit_modes

WIDTH = 16


def attention_layer(deviation):
    """Pre-norm attention with a residual connection, weights of a standard deviation, and its parameters."""
    rng = np.random.default_rng(0)
    params = {"ln": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)}}
    for name in "qkvo":
        kernel = jnp.asarray(rng.standard_normal((WIDTH, WIDTH)) * deviation, jnp.float32)
        params[name] = {"kernel": kernel, "bias": jnp.zeros(WIDTH)}

    def fn(p, x):
        centred = x - x.mean(-1, keepdims=True)
        y = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
        y = y * p["ln"]["scale"] + p["ln"]["bias"]
        q, k, v = (
            (y @ p[name]["kernel"] + p[name]["bias"]).reshape(*x.shape[:-1], 2, WIDTH // 2) for name in "qkv"
        )
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(WIDTH // 2))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
        return x + mixed @ p["o"]["kernel"] + p["o"]["bias"]

    return fn, params, jax.random.normal(jax.random.key(1), (2, 6, WIDTH))


@pytest.mark.parametrize("deviation", [0.25, 0.02, 0.005])
@pytest.mark.parametrize("limit", [2048, 1])
def test_a_query_bias_is_absorbed_through_the_norm_before_it(deviation, limit):
    found = audit_biases(*attention_layer(deviation), joint_limit=limit)
    assert {f.path: f.unique for f in found.findings} == dict.fromkeys(
        ["k/bias", "ln/bias", "o/bias", "q/bias", "v/bias"], 0
    )
    assert found["k/bias"].verdict == "cancelled"
    assert found["q/bias"].absorbed_by[0] == "ln/bias"
    assert found["o/bias"].absorbed_by == ("v/bias",)


class LayerScale(nn.Module):
    """Two ConvNeXt-like blocks whose output is scaled by a parameter."""

    start: float

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            y = nn.LayerNorm()(nn.Conv(8, (3,), feature_group_count=8, name=f"depthwise_{i}")(x))
            y = nn.Dense(8, name=f"pointwise_{i}")(nn.gelu(nn.Dense(16)(y)))
            x = x + y * self.param(f"gamma_{i}", nn.initializers.constant(self.start), (8,))
        return nn.Dense(4, name="head")(nn.LayerNorm()(x.mean(1)))


def test_the_verdict_does_not_depend_on_the_size_of_a_scale():
    x = jax.random.normal(jax.random.key(0), (2, 6, 8))
    found = []
    for start in (1e-6, 1.0):
        net = LayerScale(start)
        params = net.init(jax.random.key(1), x)["params"]
        audit = audit_biases(lambda p, x, net=net: net.apply({"params": p}, x), params, x)
        found.append([(f.path, f.verdict, f.unique) for f in audit.findings])
    assert found[0] == found[1]
    assert ("pointwise_1/bias", "needed", 8) in found[0]


class Wide(nn.Module):
    """A norm's bias before a wide layer, with a wide tail."""

    width: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.width, name="wide")(nn.LayerNorm()(x)))
        return nn.Dense(5)(nn.gelu(nn.Dense(1000, name="tail")(y)))


@pytest.mark.parametrize("width", [1100, 3000])
def test_a_wide_bias_is_compared_with_the_norm_before_it(width):
    x = jax.random.normal(jax.random.key(0), (4, 6))
    params = Wide(width).init(jax.random.key(1), x)["params"]
    found = audit_biases(lambda p, x: Wide(width).apply({"params": p}, x), params, x)
    norm = found["LayerNorm_0/bias"]
    assert (norm.verdict, norm.absorbed_by) == ("absorbable", ("wide/bias",))
    assert found["wide/bias"].verdict == found["tail/bias"].verdict == "needed"
    assert not found.exact
    assert "upper bound" in found.table()


class Bottleneck(nn.Module):
    """MobileNet v2: inverted residual blocks with linear bottlenecks."""

    blocks: int = 4

    @nn.compact
    def __call__(self, x, train):
        def norm(y, name):
            return nn.BatchNorm(use_running_average=not train, name=name)(y)

        for i in range(self.blocks):
            y = nn.relu6(norm(nn.Conv(48, (1, 1), use_bias=False)(x), f"expand_{i}"))
            depthwise = nn.Conv(48, (3, 3), feature_group_count=48, use_bias=False)
            y = nn.relu6(norm(depthwise(y), f"depthwise_{i}"))
            x = x + norm(nn.Conv(8, (1, 1), use_bias=False)(y), f"project_{i}")
        x = nn.relu6(norm(nn.Conv(48, (1, 1), use_bias=False)(x), "last"))
        return nn.Dense(4)(x.mean((1, 2)))


def test_identical_blocks_are_judged_alike():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    modes = audit_modes(
        *from_linen(Bottleneck(), Bottleneck().init(jax.random.key(1), x, False)), x, joint_limit=1
    )
    for i in range(4):
        for name in ("expand", "depthwise"):
            for found in (modes.train, modes.eval):
                one = found[f"{name}_{i}/bias"]
                assert (one.verdict, one.unique) == ("needed", 48), one
        assert modes.train[f"project_{i}/bias"].verdict == "cancelled"
        assert modes.eval[f"project_{i}/bias"].verdict == "absorbable"


def test_one_absorbs_where_one_suffices():
    def fn(p, x):
        y = jnp.tanh(x @ p["w"]) + p["a_bias"] + p["b_bias"]
        return y @ p["v"] + p["c_bias"], jnp.sin(x + p["d_bias"])

    params = {f"{name}_bias": jnp.zeros(4) for name in "abcd"} | {"w": jnp.eye(4), "v": jnp.eye(4) + 0.3}
    for limit in (2048, 1):
        found = audit_biases(fn, params, jax.random.normal(jax.random.key(0), (3, 4)), joint_limit=limit)
        assert [len(f.absorbed_by) for f in found.findings] == [1, 1, 1, 0]


def test_ones_beside_an_input_are_a_mask():
    def fn(p, x, mask):
        y = (x + p["bias"]) * mask
        return y - y.mean(-1, keepdims=True)

    x = jax.random.normal(jax.random.key(0), (3, 4))
    found = audit_biases(fn, {"bias": jnp.zeros(4)}, x, jnp.ones((3, 4)))
    assert found["bias"].basis is not None
    assert found["bias"].basis.name == "uniform"
    # Without one they stand for an input
    assert (
        audit_biases(lambda p, x: x * p["bias"], {"bias": jnp.zeros(4)}, jnp.ones((3, 4)))["bias"].rank == 4
    )


def test_how_far_others_move_is_said():
    # b = 1e3 c: c has to move a thousandth of b, and b a thousand times as far as c
    def fn(p, x):
        return x + p["b_bias"] + 1e3 * p["c_bias"]

    params = {"b_bias": jnp.zeros(4), "c_bias": jnp.zeros(4)}
    for limit in (2048, 1):
        found = audit_biases(fn, params, jax.random.normal(jax.random.key(0), (3, 4)), joint_limit=limit)
        assert found["b_bias"].compensation == pytest.approx(1e-3, rel=1e-6)
        assert found["c_bias"].compensation == pytest.approx(1e3, rel=1e-6)

    def far(p, x):
        return x + p["b_bias"] * 1e-8 + p["c_bias"]

    found = audit_biases(far, params, jax.random.normal(jax.random.key(0), (3, 4)), joint_limit=1)
    assert (found["c_bias"].verdict, found["b_bias"].verdict) == ("needed", "absorbable")
