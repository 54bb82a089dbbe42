"""Programs in float64: the values of the function itself, its lines, and what is said of impure ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex
from jax.extend import source_info_util

from biasjax._jaxpr.double import program

W = np.random.default_rng(0).standard_normal((6, 6))
X = np.random.default_rng(1).standard_normal((4, 6))


@jax.custom_vjp
def doubled(x):
    """Twice x, with a derivative that is a lie."""
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (7 * g,))


@jax.custom_jvp
def tripled(x):
    return 3 * x


tripled.defjvp(lambda primals, tangents: (3 * primals[0], 7 * tangents[0]))


def image(x):
    return jnp.tile(x[:, :, None, None], (1, 1, 5, 5)) * jnp.arange(25, dtype=x.dtype).reshape(5, 5)


def conv(x, kernel, **options):
    return jax.lax.conv_general_dilated(x, kernel, padding=((1, 0), (0, 2)), **options)


def kernel(w):
    return jnp.tile(w[:, :, None, None], (1, 1, 3, 2)) * jnp.arange(6, dtype=w.dtype).reshape(3, 2)


HWIO = ("NHWC", "HWIO", "NHWC")
FNS = {
    "dense": lambda w, x: jax.nn.gelu(x @ w),
    "jit": lambda w, x: jax.jit(lambda x: jnp.tanh(x @ w))(x),
    "remat": lambda w, x: jax.checkpoint(lambda x: jnp.sin(x @ w))(x),
    "custom_vjp": lambda w, x: doubled(x @ w),
    "custom_jvp": lambda w, x: tripled(jax.nn.relu(x)),
    "scan": lambda w, x: jax.lax.scan(lambda c, s: (jnp.tanh(c @ w) * s, c.sum()), x, jnp.arange(1.0, 4.0)),
    "cond": lambda w, x: jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: x - 1, x),
    "while": lambda w, x: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ w), (0, x)),
    "reduce_max": lambda w, x: (x.max(), (x @ w).max(1), x.min((0, 1)), x.min(0)),
    "argmax": lambda w, x: (jnp.argmax(x, 1), jnp.argsort(x @ w, 0)),
    "integers": lambda w, x: jnp.max(jnp.arange(6) * jnp.sign(x).astype(int), 1),
    "conv": lambda w, x: conv(image(x), kernel(w), window_strides=(1, 1)),
    "strided": lambda w, x: conv(image(x), kernel(w), window_strides=(2, 3)),
    "dilated": lambda w, x: conv(
        image(x), kernel(w), window_strides=(2, 1), rhs_dilation=(2, 1), lhs_dilation=(1, 2)
    ),
    "grouped": lambda w, x: conv(image(x), kernel(w)[:, :2], window_strides=(2, 2), feature_group_count=3),
    "hwio": lambda w, x: conv(
        image(x).transpose(0, 2, 3, 1), kernel(w).T, window_strides=(2, 2), dimension_numbers=HWIO
    ),
    "complex": lambda w, x: jnp.abs(jnp.fft.fft(x)) + jnp.linalg.norm(w),
    "identities": lambda w, x: jax.lax.stop_gradient(x) + jax.lax.optimization_barrier(x @ w),
    "random": lambda w, x: x + jax.random.bernoulli(jax.random.key(0), 0.5, x.shape),
    "scatter": lambda w, x: x.at[1].add(w[0]),
}


@pytest.fixture(scope="module")
def values():
    """All functions in one program, and by JAX in float64."""

    def together(w, x):
        return {name: fn(w, x) for name, fn in FNS.items()}

    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(True):
        expected = jax.jit(together)(W, X)
        lifted = program(together, W.astype(np.float32), X.astype(np.float32))
        return jax.tree.unflatten(jax.tree.structure(expected), jax.jit(lifted.__call__)(W, X)), expected


@pytest.mark.parametrize("name", FNS)
def test_values_are_those_of_the_function(values, name):
    for found, expected in zip(*map(jax.tree.leaves, (values[0][name], values[1][name])), strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def evaluated(fn, *args):
    """Outputs in float64, of a function called in float32."""
    lifted = program(fn, *(np.asarray(arg, np.float32) for arg in args))
    with jax.enable_x64(True):
        return lifted(*args)


def test_casts_to_lower_precision_are_casts_to_float64():
    def fn(w, x):
        low = (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(np.float32)
        return jax.lax.reduce_precision(low, 5, 3)

    np.testing.assert_allclose(evaluated(fn, W, X)[0], X @ W, rtol=1e-13)


def test_a_carry_in_float32_is_lifted_after_tracing():
    def fn(w, x):
        start = jnp.zeros((), np.float32)
        return jax.lax.scan(lambda c, row: (c + row.sum(), None), start, x)[0]

    [total] = evaluated(fn, W, X)
    assert total.dtype == np.float64
    np.testing.assert_allclose(total, X.sum(), rtol=1e-13)


def test_bits_are_those_of_the_asked_precision():
    [bits] = evaluated(lambda w, x: jax.lax.bitcast_convert_type(x.astype(np.float32), np.int32), W, X)
    np.testing.assert_array_equal(bits, X.astype(np.float32).view(np.int32))


def test_a_kernel_that_knows_float32_alone_is_called_in_it():
    single = jex.Primitive("single")
    single.def_impl(lambda x: x)

    @single.def_abstract_eval
    def _(x):
        if x.dtype != np.float32:
            raise TypeError
        return x

    [out] = evaluated(lambda w, x: single.bind(x.astype(np.float32)) + 1, W, X)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, X.astype(np.float32).astype(np.float64) + 1)


def test_derivatives_are_of_what_is_computed():
    lifted = program(lambda w, x: doubled(x) + tripled(x) + jax.lax.stop_gradient(x), W, X)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(jax.grad(lambda x: lifted(W, x)[0].sum())(X), np.full(X.shape, 6.0))


def test_the_derivative_of_a_maximum_is_that_of_one_entry():
    lifted = program(lambda w, x: (x.max(1), x.min(1)), W, X)
    with jax.enable_x64(True):
        for which in (0, 1):
            slope = jax.grad(lambda x, which=which: lifted(W, x)[which].sum())(np.ones_like(X))
            assert sorted(np.unique(slope)) == [0, 1]
            np.testing.assert_array_equal(slope.sum(1), 1)


@pytest.mark.parametrize(
    ("size", "strides", "expected"),
    [
        (4, 1, "dot_general"),
        (5, 1, "conv_general_dilated"),
        (33, 2, "dot_general"),
        (66, 2, "conv_general_dilated"),
    ],
)
def test_slow_convolutions_are_matmuls(size, strides, expected):
    x, kernel = np.ones((1, 1, size, size), np.float32), np.ones((1, 1, 3, 3), np.float32)
    lifted = program(lambda k, x: conv(x, k, window_strides=(strides, strides)), kernel, x)
    names = {eqn.primitive.name for eqn in lifted.jaxpr.eqns}
    assert names & {"dot_general", "conv_general_dilated"} == {expected}


def test_convolutions_stay_where_asked():
    def conv(kernel, x):
        return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC"))

    kernel, x = jnp.ones((3, 2, 2)), jnp.ones((1, 5, 2))
    names = [
        {eqn.primitive.name for eqn in program(conv, kernel, x, products=products).jaxpr.jaxpr.eqns}
        for products in (True, False)
    ]
    assert "conv_general_dilated" not in names[0]
    assert names[1] == {"conv_general_dilated"}
    # Windows that do not fit leave nothing
    with jax.enable_x64(True):
        assert program(conv, kernel, x[:, :1])(np.ones((3, 2, 2)), np.ones((1, 1, 2)))[0].shape == (1, 0, 2)


def test_what_nothing_depends_on_is_left_out():
    def fn(params, x):
        jax.debug.print("{}", params["idle"])
        return {"y": x * params["b"], "n": jnp.argmax(x), "z": jnp.fft.fft(x)}, jnp.exp(x)[:0].sum()

    lifted = program(fn, {"b": np.ones(3), "idle": np.ones(2), "late": np.ones(3)}, np.ones(3))
    assert lifted.used == (True, False, False, True)
    assert lifted.floating == (False, True, True, True)
    assert not any("debug" in eqn.primitive.name for eqn in lifted.jaxpr.eqns)


def places(fn, primitive):
    """Name stack, and line counted from the first of ``fn``, of the equations of one primitive."""
    eqns = [eqn for eqn in program(fn, W, X).jaxpr.eqns if eqn.primitive.name == primitive]
    lines = [source_info_util.summarize(eqn.source_info).partition("test_double.py:")[2] for eqn in eqns]
    first = fn.__code__.co_firstlineno
    return [
        (str(eqn.source_info.name_stack), int(line.partition(":")[0]) - first)
        for eqn, line in zip(eqns, lines, strict=True)
    ]


def test_equations_keep_their_names_and_lines():
    def fn(w, x):
        with jax.named_scope("block"):
            y = jax.nn.log_softmax(x @ w)
        z = jax.nn.log_softmax(y)  # traced once, at the line above
        with jax.named_scope("scanned"):
            return jax.lax.scan(lambda c, _: (jnp.sin(c), None), z, None, length=2)[0]

    assert places(fn, "scan") == [("scanned", 5)]
    assert [line for _, line in places(fn, "exp")] == [2, 3]
    assert [stack.partition("/")[0] == "block" for stack, _ in places(fn, "exp")] == [True, False]


def test_lines_within_jitted_functions_are_their_own():
    def fn(w, x):
        @jax.jit
        def block(x):
            x = jnp.sin(x)
            return jax.checkpoint(lambda x: jnp.sin(x))(x)

        return jnp.sin(jax.jit(block)(x))

    assert [line for _, line in places(fn, "sin")] == [3, 4, 6]


def test_impure_functions_are_named():
    calls, kept = [], []

    def counting(w, x):
        calls.append(0)
        return x * len(calls)

    def leaking(w, x):
        kept.append(x)
        return x + kept[0]

    with pytest.raises(
        ValueError, match="expected the same program whenever it is traced, got two different"
    ):
        program(counting, W, X)
    with pytest.raises(ValueError, match=r"pure function|the same program whenever"):
        program(leaking, W, X)
    with pytest.raises(ValueError, match=r"expected fn\(params, \*args\) to run, got TypeError"):
        program(lambda w, x: x @ w[:, :2] @ w, W, X)
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="Make it pure"):  # the same equations with other constants
        program(lambda w, x: x + random.standard_normal(6), W, X)
