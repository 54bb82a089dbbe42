"""What can be audited, and what is refused before it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax._audit.model import Biases, trace
from biasjax.audit import audit_biases

ROWS = jax.random.normal(jax.random.key(8), (5, 6))


def centred(params, x):
    y = x @ params["w"] + params["bias"]
    return y - y.mean(0)


CENTRED = {"w": jnp.ones((6, 2)), "bias": jnp.zeros(2)}


def test_outputs_are_those_of_the_function_in_float64():
    def fn(params, x):
        return {"classes": x.argmax(-1), "logits": 1e3 * centred(params, x), "loss": params["bias"].sum()}

    params = CENTRED | {"spare_bias": jnp.zeros(3)}
    model = trace(fn, params, ROWS)
    assert (model.names, model.paths[-1], model.parameters) == (["bias", "spare_bias"], "args/0", 3)
    assert [model.program.used[i] for i in model.biases.indices] == [True, False]
    assert model.width == 5 * 2 + 1
    flat = np.array([0.3, -0.1, 7.0, 8.0, 9.0])
    with jax.enable_x64(True):
        found = np.asarray(model.outputs(flat, model.leaves))
        parts = model.outputs([flat[:2], flat[2:]], model.leaves)
        both_ways = model.pieces(flat, [*model.leaves, np.int32(0)])
    logits = np.ravel(1e3 * centred({"w": np.ones((6, 2)), "bias": flat[:2]}, np.asarray(ROWS, float)))
    # Each output in units of its size
    np.testing.assert_allclose(found[:10] / found[0], logits / logits[0], rtol=1e-9)
    assert 0.01 < np.abs(found[:10]).max() < 10
    np.testing.assert_array_equal(found, parts)
    np.testing.assert_allclose(found, both_ways, rtol=1e-12)


def test_biases_are_one_flat_vector():
    biases = Biases((2, 0), ((2, 3), ()))
    leaves = [np.float64(7.0), np.zeros(4), np.arange(6.0).reshape(2, 3)]
    assert (biases.sizes, biases.slices, biases.total) == ([6, 1], [slice(0, 6), slice(6, 7)], 7)
    flat = biases.gather(leaves)
    np.testing.assert_array_equal(flat, [0, 1, 2, 3, 4, 5, 7])
    moved = biases.put(leaves, [-flat[place] for place in biases.slices])
    np.testing.assert_array_equal(biases.gather(moved), -flat)
    assert moved[1] is leaves[1]


def test_a_masks_value_is_no_scale():
    mask = jnp.arange(6) < 4
    model = trace(lambda p, x: jnp.where(mask, x + p["bias"], -1e30), {"bias": jnp.zeros(6)}, ROWS)
    with jax.enable_x64(True):
        out = np.asarray(model.outputs(np.zeros(6), model.leaves)).reshape(5, 6)
    assert np.abs(out[:, :4]).max() > 0.1
    np.testing.assert_array_equal(out[:, 4:], -1.0)


def test_what_is_a_bias():
    def names(is_bias):
        return trace(centred, CENTRED, ROWS, is_bias=is_bias).names

    assert names(None) == names({"w": False, "bias": True}) == ["bias"]
    assert names(lambda path, leaf: path == "w") == ["w"]
    with pytest.raises(ValueError, match="mask like the params"):
        names({"bias": True})
    with pytest.raises(TypeError, match="is_bias: expected a pytree"):
        names({"bias": True, 1: False})
    with pytest.raises(TypeError, match="is_bias at 'w': expected True or False, got 'no'"):
        names({"bias": True, "w": "no"})
    with pytest.raises(TypeError, match="is_bias: expected True or False for 'bias', got ArrayImpl"):
        names(lambda path, leaf: leaf > 0)


def test_numbers_as_leaves():
    audit = audit_biases(lambda p, x: x.sum(1) * p["scale"] + p["bias"], {"scale": 2.0, "bias": 0.0}, ROWS)
    assert audit["bias"].verdict == "needed"


def test_a_key_among_the_parameters_and_outputs_is_no_bias():
    params = CENTRED | {"key_bias": jax.random.key(0)}
    audit = audit_biases(lambda p, x: (centred(p, x), p["key_bias"]), params, ROWS, joint=False)
    assert [found.path for found in audit.findings] == ["bias"]


def test_an_audit_within_jit():
    with pytest.raises(TypeError, match="an array at 'args/0', got a traced one"):
        jax.jit(lambda x: trace(centred, CENTRED, x))(ROWS)


REFUSED = {
    "named bias, b, beta, offset": (lambda p, x: x @ p["w"], {"w": CENTRED["w"]}, ROWS),
    "got TypeError": (centred, CENTRED, ROWS[:, :3]),
    "finite outputs at the given input": (lambda p, x: jnp.log(0 * x) + p["bias"][0], CENTRED, ROWS),
    "a floating output": (lambda p, x: centred(p, x).argmax(), CENTRED, ROWS),
    "at least one number in the outputs": (centred, CENTRED, ROWS[:0]),
    "no leaves at all": (centred, None, ROWS),
    "an array at 'name', got str": (centred, CENTRED | {"name": "net"}, ROWS),
    "a function, got dict": (CENTRED, centred, ROWS),
    "a pytree, got .*Use one type of keys": (centred, CENTRED | {1: 2.0}, ROWS),
    "range of jax's dtypes at 'args/0', got larger": (centred, CENTRED, 2**31),
    "range of jax's dtypes at 'n', got larger": (centred, CENTRED | {"n": np.array([2**40])}, ROWS),
    "range of jax's dtypes at 'm', got larger": (centred, CENTRED | {"m": 1e300}, ROWS),
    "array of numbers at 'args/0', got dtype <U1": (centred, CENTRED, np.array(["a"])),
}


@pytest.mark.parametrize("expected", REFUSED)
def test_bad_input(expected):
    with pytest.raises((ValueError, TypeError), match=f"{expected}"):
        trace(*REFUSED[expected])


def test_a_function_that_draws_by_itself():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="the same program whenever it is traced"):
        trace(lambda p, x: centred(p, x) + rng.standard_normal(2), CENTRED, ROWS)


def test_host_callbacks():
    def fn(params, x, dtype=None, method: str | None = "sequential"):
        y = centred(params, x)
        like = jax.ShapeDtypeStruct(y.shape, dtype or y.dtype)
        return jax.pure_callback(np.tanh, like, y, vmap_method=method)  # pyright: ignore

    assert audit_biases(fn, CENTRED, ROWS)["bias"].verdict == "cancelled"
    with pytest.raises(ValueError, match=r"Expected: float32.*host callback must return the dtype"):
        trace(lambda p, x: fn(p, x, dtype=np.float32), CENTRED, ROWS)
    with pytest.raises(ValueError, match="expected a vmap_method"):
        trace(lambda p, x: fn(p, x, method=None), CENTRED, ROWS)


def test_a_function_that_keeps_tracers():
    kept = []

    def leaky(params, x):
        kept.append(params["bias"])
        return centred(params, x) + kept[0]

    with pytest.raises(ValueError, match=r"pure function|the same program whenever"):
        trace(leaky, CENTRED, ROWS)


def test_arrays_on_different_devices():
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("one device")
    with pytest.raises(ValueError, match="all arrays on the same devices"):
        trace(centred, jax.device_put(CENTRED, devices[0]), jax.device_put(ROWS, devices[1]))


def test_a_donated_array():
    gone = jnp.ones((5, 6))
    gone.delete()
    with pytest.raises(ValueError, match="donated"):
        trace(centred, CENTRED, gone)
