"""Small networks of many architectures, trained for a few steps on the digits, as `Pure` models."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from biasjax import adapters, data

BIASES = nn.initializers.normal(0.5)
Conv = functools.partial(nn.Conv, bias_init=BIASES)
Dense = functools.partial(nn.Dense, bias_init=BIASES)


class ConvBnRelu(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for features in (4, 6):
            x = Conv(features, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.8)(x))
        return Dense(10)(x.mean((1, 2)))


class Residual(nn.Module):
    """Version 1: conv-bn-relu-conv-bn-add-relu; version 2: bn-relu-conv-bn-relu-conv-add."""

    version: int

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.8)
        x = Conv(4, (3, 3))(x)
        if self.version == 1:
            y = nn.relu(norm()(Conv(4, (3, 3))(x)))
            x = nn.relu(x + norm()(Conv(4, (3, 3))(y)))
        else:
            y = Conv(4, (3, 3))(nn.relu(norm()(x)))
            x = x + Conv(4, (3, 3))(nn.relu(norm()(y)))
        return Dense(10)(x.mean((1, 2)))


class MobileNet(nn.Module):
    """Inverted residuals: expand, depthwise, project."""

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.8, epsilon=1e-3)
        x = nn.relu6(norm()(Conv(4, (3, 3), strides=2)(x)))
        y = nn.relu6(norm()(Conv(8, (1, 1))(x)))
        y = nn.relu6(norm()(Conv(8, (3, 3), feature_group_count=8)(y)))
        x = x + norm()(Conv(4, (1, 1))(y))
        return Dense(10)(x.mean((1, 2)))


class ConditionalNorm(nn.Module):
    """Batch norm whose scale and bias a class chooses."""

    @nn.compact
    def __call__(self, x, train):
        label = jnp.int32(x.sum((1, 2, 3)) > 0)
        x = Conv(4, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train, use_scale=False, use_bias=False)(x)
        scale, bias = (nn.Embed(2, 4)(label)[:, None, None] for _ in range(2))
        return Dense(10)(nn.relu(x * (1 + scale) + bias).mean((1, 2)))


def _rotated(x):
    """Rotary embedding of (batch, places, heads, features)."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None, None] / 10.0 ** jnp.arange(half)
    a, b = x[..., :half], x[..., half:]
    turned = (a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles))
    return jnp.concatenate(turned, -1)


class Attention(nn.Module):
    """Attention in which several heads share keys and values, with or without rotary embedding."""

    rotary: bool
    groups: int

    @nn.compact
    def __call__(self, x):
        project = functools.partial(nn.DenseGeneral, bias_init=BIASES)
        q, k, v = (project((heads, 4))(x) for heads in (2, self.groups, self.groups))
        if self.rotary:
            q, k = _rotated(q), _rotated(k)
        k, v = (jnp.repeat(y, 2 // self.groups, 2) for y in (k, v))
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0)
        return project(8, axis=(-2, -1))(jnp.einsum("bhqk,bkhd->bqhd", weights, v))


class Transformer(nn.Module):
    """Rows of a digit as tokens."""

    pre: bool = True
    rotary: bool = False
    groups: int = 2
    norm: type = nn.LayerNorm

    @nn.compact
    def __call__(self, x, train):
        x = Dense(8)(x[..., 0]) + self.param("positions", BIASES, (8, 8))
        for part in (Attention(self.rotary, self.groups), lambda h: Dense(8)(nn.gelu(Dense(12)(h)))):
            x = x + part(self.norm()(x)) if self.pre else self.norm()(x + part(x))
        return Dense(10)((self.norm()(x) if self.pre else x).mean(1))


MODELS = {
    "conv-bn-relu": ConvBnRelu(),
    "residual v1": Residual(1),
    "residual v2": Residual(2),
    "mobilenet": MobileNet(),
    "conditional": ConditionalNorm(),
    "pre-norm": Transformer(),
    "post-norm": Transformer(pre=False),
    "rotary": Transformer(rotary=True),
    "grouped queries": Transformer(groups=1),
    "rms": Transformer(norm=nn.RMSNorm),
}


def trained(name: str, steps: int = 20):
    """A trained model and a batch."""
    digits = data.digits()
    x, labels = digits.train_x[:64], digits.train_y[:64]
    module = MODELS[name]
    pure = adapters.from_linen(module, module.init(jax.random.key(0), x, False))
    tx = optax.sgd(0.05, momentum=0.9)

    @jax.jit
    def step(params, state, opt_state):
        def loss(params):
            y, new = pure.apply(params, state, x, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean(), new

        gradients, state = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state

    params, state, opt_state = pure.params, pure.state, tx.init(pure.params)
    for _ in range(steps):
        params, state, opt_state = step(params, state, opt_state)
    return pure._replace(params=params, state=state), x[:8]
