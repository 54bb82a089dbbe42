"""The models of other people's front pages and tutorials, and models that leave their biases out."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from biasjax.adapters import from_linen, from_nnx
from biasjax.audit import audit_modes

IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))


class FrontPage(nnx.Module):
    """Of Flax's front page: linear, batch norm, dropout, gelu, linear."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 8, rngs=rngs)
        self.bn = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.linear_out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.linear_out(nnx.gelu(self.dropout(self.bn(self.linear(x)))))


class Tutorial(nnx.Module):
    """Of Flax's MNIST tutorial: dropout between the first convolution and its batch norm, not the second."""

    def __init__(self, rate, rngs):
        self.conv1 = nnx.Conv(1, 32, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(32, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=rate)
        self.conv2 = nnx.Conv(32, 64, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(64, rngs=rngs)
        self.avg_pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(256, 16, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=rate)
        self.linear2 = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = self.batch_norm1(self.dropout1(self.conv1(x), rngs=rngs))
        x = self.batch_norm2(self.conv2(self.avg_pool(nnx.relu(x))))
        x = self.avg_pool(nnx.relu(x)).reshape(x.shape[0], -1)
        return self.linear2(nnx.relu(self.dropout2(self.linear1(x), rngs=rngs)))


def test_flax_front_page():
    modes = audit_modes(from_nnx(FrontPage(nnx.Rngs(0))), jnp.ones((5, 4)))
    assert {f.path: f.verdict for f in modes.train.findings} == {
        "linear/bias": "cancelled",
        "bn/bias": "needed",
        "linear_out/bias": "needed",
    }
    assert modes.eval["linear/bias"].absorbed_by == ("bn/bias",)
    assert "use_bias=False of flax.nnx.Linear" in modes.table()


@pytest.mark.parametrize("rate", [0.025, 0.0])
def test_flax_mnist_tutorial(rate):
    model = Tutorial(rate, nnx.Rngs(0))
    with jax.numpy_dtype_promotion("standard"):  # Flax's average pooling counts in integers
        modes = audit_modes(from_nnx(model), IMAGES, nnx.Rngs(1), joint=False)
    alive = [f.path for f in modes.train.findings if f.verdict == "alive"]
    assert modes.train["conv2/bias"].verdict == "cancelled"
    assert modes.train["conv2/bias"].size == 64
    # Dropout, which scales what it keeps, lets the shift through
    assert ("conv1/bias" in alive) == (rate > 0)
    assert {f.verdict for f in modes.eval.findings} == {"alive"}


class ResNetV1(nn.Module):
    """Small version of Flax's ImageNet example: no bias before a norm."""

    @nn.compact
    def __call__(self, x, train):
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.relu(norm()(conv(8, (7, 7), 2)(x)))
        for features in (8, 16):
            residual = norm(name=f"shortcut_{features}")(conv(features, (1, 1))(x))
            y = nn.relu(norm()(conv(features, (1, 1))(x)))
            y = nn.relu(norm()(conv(features, (3, 3))(y)))
            x = nn.relu(residual + norm(scale_init=nn.initializers.zeros)(conv(features, (1, 1))(y)))
        return nn.Dense(5)(x.mean((1, 2)))


class Standardized(nn.Module):
    """A convolution with standardised weights and no bias, as in BiT."""

    features: int

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        centred = kernel - kernel.mean((0, 1, 2))
        kernel = centred / jnp.sqrt(jnp.square(centred).mean((0, 1, 2)) + 1e-5)
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class BiT(nn.Module):
    """Pre-activation group norm and standardised weights."""

    @nn.compact
    def __call__(self, x):
        x = Standardized(8)(x)
        for _ in range(2):
            y = Standardized(8)(nn.relu(nn.GroupNorm(4)(x)))
            x = x + Standardized(8)(nn.relu(nn.GroupNorm(4)(y)))
        return nn.Dense(5)(nn.relu(nn.GroupNorm(4)(x)).mean((1, 2)))


@pytest.mark.parametrize("limit", [2048, 1])
@pytest.mark.parametrize("net", [ResNetV1(), BiT()], ids=["resnet", "bit"])
def test_nothing_is_found_where_no_bias_stands_before_a_norm(net, limit):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    args = (x, False) if isinstance(net, ResNetV1) else (x,)
    modes = audit_modes(from_linen(net, net.init(jax.random.key(1), *args)), x, joint_limit=limit)
    for audit in (modes.train, modes.eval):
        assert not audit.having("cancelled", "partly cancelled", "unused")
