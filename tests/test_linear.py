from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import linear, tree


def _params(window=(3, 3), inputs=4, outputs: Any = 6, seed=0, **options):
    return linear.conv_init(
        jax.random.key(seed), inputs, outputs, window, bias_init="standard_normal", **options
    )


def _x(*shape):
    return jax.random.normal(jax.random.key(7), shape)


def _agree(ours, theirs, tolerance=1e-6):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1, np.abs(theirs).max()))


CONVS = [
    ((3,), (2, 9, 4), {}),
    ((3, 3), (2, 8, 7, 4), {}),
    ((3, 2), (2, 8, 7, 4), {"strides": 2}),
    ((3, 3), (2, 8, 7, 4), {"strides": (2, 1), "padding": "VALID"}),
    ((3, 3), (2, 8, 7, 4), {"padding": 2, "dilation": 2}),
    ((3, 3), (2, 8, 7, 4), {"padding": [(0, 2), (1, 0)]}),
    ((5, 4), (2, 8, 7, 4), {"padding": "CIRCULAR"}),
    ((3, 3), (2, 8, 7, 4), {"padding": "CIRCULAR", "dilation": 2}),
    ((2, 3, 2), (2, 4, 5, 3, 4), {"dilation": (1, 1, 2)}),
    ((3, 3), (2, 8, 7, 4), {"groups": 2}),
]


@pytest.mark.parametrize(("window", "shape", "options"), CONVS)
def test_conv_agrees_with_flax(window, shape, options):
    params = _params(window, groups=options.get("groups", 1))
    layer = nn.Conv(
        6,
        window,
        strides=options.get("strides", 1),
        padding=options.get("padding", "SAME"),
        kernel_dilation=options.get("dilation", 1),
        feature_group_count=options.get("groups", 1),
    )
    x = _x(*shape)
    theirs = layer.apply({"params": params._asdict()}, x)
    _agree(linear.conv(params, x, **options), theirs)
    if window == (3, 3):
        first = linear.conv(params, jnp.moveaxis(x, -1, 1), channels_first=True, **options)
        _agree(jnp.moveaxis(first, 1, -1), theirs)


@pytest.mark.parametrize(
    ("window", "options"),
    [((4, 4), {"strides": 2}), ((3, 2), {"strides": (1, 2), "padding": "VALID"}), ((3, 3), {"padding": 1})],
)
def test_conv_transpose_agrees_with_flax(window, options):
    params, x = _params(window), _x(2, 5, 6, 4)
    layer = nn.ConvTranspose(
        6, window, strides=options.get("strides"), padding=options.get("padding", "SAME")
    )
    if isinstance(options.get("padding"), int):
        layer = nn.ConvTranspose(6, window, padding=[(options["padding"],) * 2] * 2)
    _agree(linear.conv_transpose(params, x, **options), layer.apply({"params": params._asdict()}, x))


def test_dense_agrees_with_flax_and_float64_product():
    params, x = linear.dense_init(jax.random.key(0), 4, 6, bias_init="standard_normal"), _x(3, 4)
    _agree(linear.dense(params, x), nn.Dense(6).apply({"params": params._asdict()}, x))
    wide = np.asarray(x, np.float64) @ np.asarray(params.kernel, np.float64) + np.asarray(params.bias)
    _agree(linear.dense(params, x), wide)


def test_layers_agree_with_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def tensor(array):
        return torch.from_numpy(np.array(array))

    def kernel(params):  # HWIO -> OIHW
        return tensor(jnp.moveaxis(params.kernel, (-1, -2), (0, 1)))

    params, x = _params((3, 2), groups=2), _x(2, 4, 8, 7)
    ours = linear.conv(params, x, strides=2, padding=(1, 2), dilation=(1, 2), groups=2, channels_first=True)
    theirs = functional.conv2d(
        tensor(x), kernel(params), tensor(params.bias), stride=2, padding=(1, 2), dilation=(1, 2), groups=2
    )
    _agree(ours, theirs)
    params = _params((4, 4))
    # PyTorch's transposed kernel is (inputs, outputs, H, W) and mirrored; its padding p is k - 1 - p here
    mirrored = tensor(jnp.transpose(params.kernel[::-1, ::-1], (2, 3, 0, 1)))
    theirs = functional.conv_transpose2d(tensor(x), mirrored, tensor(params.bias), stride=2, padding=1)
    _agree(linear.conv_transpose(params, x, strides=2, padding=4 - 1 - 1, channels_first=True), theirs)
    dense = linear.dense_init(jax.random.key(0), 4, 6, bias_init="torch_uniform")
    x = _x(3, 4)
    _agree(linear.dense(dense, x), functional.linear(tensor(x), tensor(dense.kernel.T), tensor(dense.bias)))


def test_layers_agree_with_keras():
    layers = pytest.importorskip("keras").layers

    def agree(layer, params, x, ours):
        layer.build(x.shape)
        layer.set_weights([np.asarray(leaf) for leaf in params])
        _agree(ours, layer(x))

    for window, shape, kind in (
        ((3,), (2, 9, 4), layers.Conv1D),
        ((3, 2), (2, 8, 7, 4), layers.Conv2D),
        ((2, 3, 2), (2, 4, 5, 3, 4), layers.Conv3D),
    ):
        params, x = _params(window), _x(*shape)
        agree(kind(6, window, strides=2, padding="same"), params, x, linear.conv(params, x, strides=2))
        dilated = kind(6, window, dilation_rate=2, padding="valid")
        if window != (2, 3, 2):
            agree(dilated, params, x, linear.conv(params, x, dilation=2, padding="VALID"))
    params, x = _params((3, 3)), _x(2, 5, 6, 4)
    # Keras' transposed kernel is (H, W, outputs, inputs) and mirrored
    mirrored = params._replace(kernel=jnp.swapaxes(params.kernel[::-1, ::-1], -1, -2))
    layer = layers.Conv2DTranspose(6, 3, strides=2, padding="valid")
    agree(layer, mirrored, x, linear.conv_transpose(params, x, strides=2, padding="VALID"))
    params = linear.dense_init(jax.random.key(0), 4, 6, bias_init="glorot_uniform")
    agree(layers.Dense(6), params, _x(3, 4), linear.dense(params, _x(3, 4)))


def test_untied_biases_are_one_per_position_and_channel():
    params = _params((3, 3), untie_biases=True, output_size=(4, 4))
    x = _x(2, 8, 8, 4)
    without = linear.conv(params._replace(bias=None), x, strides=2)
    assert params.bias is not None
    _agree(linear.conv(params, x, strides=2), without + params.bias)
    first = linear.conv(params, jnp.moveaxis(x, -1, 1), strides=2, channels_first=True)
    _agree(jnp.moveaxis(first, 1, -1), without + params.bias)
    with pytest.raises(ValueError, match=r"untied biases for \(8, 8\) positions, got \(4, 4\)"):
        linear.conv(params, x)


def test_first_vgg16_convolution_has_1792_parameters(key):
    params = linear.conv_init(key, 3, 64, (3, 3))
    assert tree.count(params) == (1792, 64)
    assert tree.count(linear.conv_init(key, 3, 64, (3, 3), use_bias=False)) == (1728, 0)
    assert tree.count(linear.dense_init(key, 512 * 7 * 7, 4096)) == (102_764_544, 4096)


def test_parameters_are_cast_to_the_input():
    params = linear.dense_init(jax.random.key(0), 4, 6)
    assert linear.dense(params, _x(3, 4).astype(jnp.bfloat16)).dtype == jnp.bfloat16


BAD = [
    (lambda p, x: linear.conv(p, x[..., :3]), ValueError, "4 input channels .* got an input of shape"),
    (lambda p, x: linear.conv(p, x, groups=4), ValueError, "16 input channels"),
    (lambda p, x: linear.conv(p, x[0]), ValueError, "4 axes, .* got .*Add or drop axes"),
    (lambda p, x: linear.conv(p, x, padding="SMAE"), ValueError, "Did you mean 'SAME'"),
    (lambda p, x: linear.conv(p, x, padding=[1]), ValueError, "padding: expected a name, one number or 2"),
    (lambda p, x: linear.conv(p, x, strides=(1, 1, 1)), ValueError, "strides: expected one number or 2"),
    (lambda p, x: linear.conv(p, x, strides=0), ValueError, "strides: expected an integer of at least 1"),
    (lambda p, x: linear.conv(p, x[:, :2, :2], padding="VALID"), ValueError, "window that fits"),
    (lambda p, x: linear.conv(p, x.astype(int)), TypeError, "floating dtype, got int32. Cast it"),
    (lambda p, x: linear.conv_transpose(p, x, padding="CIRCULAR"), ValueError, "SAME, VALID or explicit"),
    (lambda p, x: _params(inputs=4, groups=3), ValueError, "divisor of 4 inputs and 6 outputs, got 3"),
    (lambda p, x: _params(window=(3,) * 4), ValueError, "one to three entries"),
    (lambda p, x: _params(untie_biases=True), ValueError, "2 entries for untied biases"),
    (lambda p, x: _params(kernel_init="he_norml"), ValueError, "Did you mean 'he_normal'"),
    (lambda p, x: _params(outputs=0), ValueError, "outputs: expected an integer of at least 1, got 0"),
    (lambda p, x: _params(outputs=2.0), TypeError, "outputs: expected an integer"),
    (lambda p, x: linear.dense(linear.dense_init(jax.random.key(0), 3, 2), x), ValueError, r"\(\.\.\., 3\)"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused_clearly(call, error, message):
    with pytest.raises(error, match=message):
        call(_params(), _x(2, 8, 7, 4))


SCALAR = linear.Linear(jnp.ones(()))
WRONG = [
    (lambda: linear.dense(None, X), TypeError, "dense: expected Linear, got None"),  # pyright: ignore
    (lambda: linear.dense([jnp.ones((3, 2))], X), TypeError, "dense: expected Linear, got "),  # pyright: ignore
    (lambda: linear.dense(SCALAR, X), ValueError, "dense: expected a 2-D kernel"),
    (
        lambda: linear.dense(linear.Linear(jnp.ones((3, 2)), jnp.ones(())), X),
        ValueError,
        "expected 2 entries",
    ),
    (lambda: linear.conv(SCALAR, X), ValueError, "conv: expected a kernel of 3 to 5 axes"),
    (
        lambda: linear.conv(linear.Linear(jnp.ones((3, 2))), X),
        ValueError,
        "conv: expected a kernel of 3 to 5",
    ),
    (lambda: linear.conv_transpose(None, X), TypeError, "conv_transpose: expected Linear, got None"),  # pyright: ignore
    (lambda: linear.conv_init(jax.random.key(0), 1, 1, 3), TypeError, "kernel_size: expected a sequence"),  # pyright: ignore
    (lambda: linear.dense_init(0, 1, 1), TypeError, "key: expected one PRNG key, got 0"),  # pyright: ignore
    (lambda: linear.dense_init(jax.random.key(0), 2**31, 1), ValueError, "an integer of at most"),
]
X = jnp.ones((4, 3))


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_what_is_no_parameter_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
