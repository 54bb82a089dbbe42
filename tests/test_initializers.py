import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import initializers

N = 40_000
# Names that scale with the fan, and the variance times n on a bias of n entries (fan_in = fan_out = n)
SCALED = {"glorot": 1.0, "xavier": 1.0, "he": 2.0, "kaiming": 2.0, "lecun": 1.0}


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("name", SCALED)
def test_scaled_initialisers_take_a_bias(name, kind, key):
    bias = initializers.get(f"{name}_{kind}")(key, (N,), jnp.float32)
    # The variance of N draws scatters by about sqrt(2/N) = 0.7%
    np.testing.assert_allclose(N * bias.var(), SCALED[name], rtol=0.04)
    assert abs(float(bias.mean())) < 5 * float(bias.std()) / np.sqrt(N)
    if kind == "uniform":
        assert float(jnp.abs(bias).max()) <= np.sqrt(3 * SCALED[name] / N)


@pytest.mark.parametrize("name", ["glorot_uniform", "he_normal", "lecun_normal", "gaussian"])
@pytest.mark.parametrize("shape", [(300, 200), (3, 3, 40, 80)])
def test_kernels_have_the_variance_of_jax(name, shape, key):
    theirs = {"gaussian": jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")}
    theirs = theirs.get(name) or getattr(jax.nn.initializers, name)()
    ours = initializers.get(name)(key, shape, jnp.float32)
    np.testing.assert_allclose(ours.var(), theirs(key, shape).var(), rtol=0.05)


def test_names_and_spreads_are_those_of_keras(key):
    keras = pytest.importorskip("keras")
    shape = (N,)
    for name, theirs in {
        "zeros": "zeros",
        "ones": "ones",
        "normal": "random_normal",
        "uniform": "random_uniform",
        "truncated_normal": "truncated_normal",
        "glorot_uniform": "glorot_uniform",
        "glorot_normal": "glorot_normal",
        "he_uniform": "he_uniform",
        "he_normal": "he_normal",
        "lecun_uniform": "lecun_uniform",
        "lecun_normal": "lecun_normal",
    }.items():
        ours = np.asarray(initializers.get(name)(key, shape, jnp.float32))
        keras_draw = np.asarray(keras.initializers.get(theirs)(shape))
        np.testing.assert_allclose(ours.std(), keras_draw.std(), rtol=0.03, err_msg=name)
        np.testing.assert_allclose(np.abs(ours).max(), np.abs(keras_draw).max(), rtol=0.2, err_msg=name)


def test_torch_default_bias(key):
    torch = pytest.importorskip("torch")
    ours = np.asarray(initializers.get("torch_uniform", fan_in=100)(key, (N,), jnp.float32))
    theirs = torch.nn.Linear(100, N).bias.detach().numpy()
    np.testing.assert_allclose([ours.min(), ours.max()], [theirs.min(), theirs.max()], rtol=0.01)
    np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [n for n in initializers.NAMES if "orthogonal" not in n])
def test_every_name_takes_a_bias_in_any_dtype(name, dtype, key):
    bias = initializers.get(name, fan_in=9)(key, (5,), dtype)
    assert bias.shape == (5,)
    assert bias.dtype == dtype


def test_constants_and_callables(key):
    assert initializers.get(2.5)(key, (2,), jnp.float32).tolist() == [2.5, 2.5]
    traced = jax.jit(lambda value: initializers.get(value)(key, (2,), jnp.float32))(3.0)
    assert traced.tolist() == [3.0, 3.0]
    flax_style = jax.nn.initializers.normal(1.0)
    assert initializers.get(flax_style) is flax_style


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: initializers.get("zeroes"), "Did you mean 'zeros'"),
        (lambda: initializers.get("torch_uniform"), "fan_in of the bias' kernel"),
        (lambda: initializers.variance_scaling(mode="fan"), "mode: expected one of"),
        (lambda: initializers.get("orthogonal")(jax.random.key(0), (3,)), "a kernel of 2 axes or more, got"),
        (lambda: initializers.get("delta_orthogonal")(jax.random.key(0), (3, 4, 2)), "no more inputs than"),
        (lambda: initializers.torch_uniform(0), "fan_in: expected a number above 0"),
        (lambda: initializers.variance_scaling(-1.0), "scale: expected a number in"),
    ],
)
def test_bad_input_is_refused_clearly(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("name", "shape"), [("orthogonal", (8, 4)), ("delta_orthogonal", (3, 4, 8))])
def test_orthogonal_draws_are_those_of_jax_under_vmap_too(name, shape):
    keys = jax.random.split(jax.random.key(0), 6).reshape(2, 3)
    init = initializers.get(name)
    many = jax.jit(jax.vmap(jax.vmap(lambda key: init(key, shape))))(keys)
    theirs = getattr(jax.nn.initializers, name)()
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(many[i, j], theirs(keys[i, j], shape), atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_orthogonal_draws_of_narrow_dtypes_are_those_of_float32(dtype, key):
    draw = initializers.get("orthogonal")
    narrow = draw(key, (8, 4), dtype)
    assert narrow.dtype == dtype
    np.testing.assert_array_equal(narrow, draw(key, (8, 4)).astype(dtype))
