"""A small conditional GAN on digits: its generator by way of conditioning, its training, its judge."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

import biasjax as bj
from biasjax import conditional, linear, norms, training

if TYPE_CHECKING:
    import jax

CLASSES, PIXELS = 10, 64
MODES = ("batch norm", "conditional batch norm", "FiLM", "concatenation")
"""What the condition does: it enters the linear layer before batch norm, makes batch norm's scale and bias,
makes a scale and bias without a norm, or enters the linear layer before ReLU."""


class Generator(NamedTuple):
    """The layer after the conditioning vector, what conditions, and two layers more."""

    first: linear.Linear
    norm: norms.Norm | None
    film: conditional.Film | None
    hidden: linear.Linear
    out: linear.Linear


class Judge(NamedTuple):
    """A classifier of digits, whose hidden features samples are compared in."""

    hidden: linear.Linear
    features: linear.Linear
    out: linear.Linear


def generator_init(
    key: jax.Array, mode: str, latents: int, width: int
) -> tuple[Generator, norms.BatchStats | None]:
    """Draw a generator."""
    import jax

    first, film, hidden, out = jax.random.split(key, 4)
    enters = mode in ("batch norm", "concatenation")
    normed = mode in ("batch norm", "conditional batch norm")
    params = Generator(
        linear.dense_init(first, latents + CLASSES * enters, width, kernel_init="he_normal"),
        norms.norm_init(width) if mode == "batch norm" else None,
        None if enters else conditional.film_init(film, CLASSES, width),
        linear.dense_init(hidden, width, width, kernel_init="he_normal"),
        linear.dense_init(out, width, PIXELS),
    )
    return params, norms.batch_stats_init(width) if normed else None


def generate(
    params: Generator,
    state: norms.BatchStats | None,
    latents: jax.Array,
    condition: jax.Array,
    *,
    train: bool,
) -> tuple[jax.Array, norms.BatchStats | None]:
    """Make images (batch, pixels) from latents (batch, latents) and one-hot classes (batch, classes)."""
    import jax
    import jax.numpy as jnp

    h = latents if params.film else jnp.concatenate([latents, condition], -1)
    h = linear.dense(params.first, h)
    if state is not None:
        own = norms.Norm() if params.norm is None else params.norm
        h, state = norms.batch_norm(own, state, h, train=train, momentum=0.9)
    if params.film is not None:
        h = conditional.film(params.film, h, condition)
    h = jax.nn.relu(linear.dense(params.hidden, jax.nn.relu(h)))
    return jax.nn.sigmoid(linear.dense(params.out, h)), state


def _dense_layers(key: jax.Array, sizes: list[tuple[int, int]]) -> tuple[linear.Linear, ...]:
    import jax

    keys = jax.random.split(key, len(sizes))
    return tuple(
        linear.dense_init(k, *size, kernel_init="he_normal") for k, size in zip(keys, sizes, strict=True)
    )


def _discriminate(params: tuple[linear.Linear, ...], images: jax.Array, condition: jax.Array) -> jax.Array:
    import jax
    import jax.numpy as jnp

    h = jnp.concatenate([images, condition], -1)
    for layer in params[:-1]:
        h = jax.nn.leaky_relu(linear.dense(layer, h), 0.2)
    return linear.dense(params[-1], h)[..., 0]


def point(config: Any, judge: Judge, key: jax.Array, *, bias: jax.Array, mode: str) -> dict[str, Any]:
    """Train one GAN, the first linear layer's bias on (1) or off (0), and judge its samples."""
    import jax
    import jax.numpy as jnp

    data = bj.data.flatten(bj.data.digits())
    drawing, opposing, ordering, sampling, testing = jax.random.split(key, 5)
    params, state = generator_init(drawing, mode, config.latents, config.width)
    width = config.width
    sizes = [(PIXELS + CLASSES, width), (width, width), (width, 1)]
    rival = _dense_layers(opposing, sizes)
    players = training.begin(_adam(config), params, state), training.begin(_adam(config), rival)
    rows = training.batch_order(ordering, len(data.train_x), config.steps, config.batch_size)
    update = functools.partial(_update, config, data, bias)
    batches = (rows, jax.random.split(sampling, config.steps))
    (own, rival), told = jax.lax.scan(update, players, batches)
    asked = _asked(config, data, rows[-1], testing)
    slopes, _ = jax.grad(functools.partial(_fooling, bias, rival.params), has_aux=True)(*own[:2], asked)
    told["gradient_share"] = jnp.linalg.norm(slopes.first.bias) / jnp.linalg.norm(slopes.first.kernel)
    return told | _judge(config, judge, switched(own.params, bias), own.state, testing)


def switched(params: Generator, on: jax.Array) -> Generator:
    """Multiply the bias of the first linear layer by 1 or 0, so that one program has it on or off."""
    import jax.numpy as jnp

    on = jnp.asarray(on, params.first.kernel.dtype)
    return params._replace(first=params.first._replace(bias=cast("jax.Array", params.first.bias) * on))


def _adam(config: Any):
    import optax

    return optax.adam(config.learning_rate, b1=0.5)


def _update(config: Any, data: bj.data.Data, bias: jax.Array, players: Any, batch: Any):
    """One step of the discriminator, then one of the generator: losses that do not saturate."""
    import jax
    import jax.numpy as jnp

    (own, rival), (rows, key) = players, batch
    asked = _asked(config, data, rows, key)
    fakes = generate(switched(own.params, bias), own.state, *asked, train=True)[0]

    def against(params, state, _):
        real = _discriminate(params, data.train_x[rows], asked[1])
        fake = _discriminate(params, fakes, asked[1])
        return jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake)), state

    rival, rival_loss = training.descend(_adam(config), against, rival, None)
    fooling = functools.partial(_fooling, bias, rival.params)
    own, loss = training.descend(_adam(config), fooling, own, asked)
    return (own, rival), {"loss": loss, "rival_loss": rival_loss}


def _asked(config: Any, data: bj.data.Data, rows: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Latents, and the classes of a batch."""
    import jax

    latents = jax.random.normal(key, (len(rows), config.latents))
    return latents, jax.nn.one_hot(data.train_y[rows], CLASSES)


def _fooling(bias: jax.Array, rival: Any, params: Generator, state: Any, asked: Any):
    """Loss of the generator."""
    import jax
    import jax.numpy as jnp

    images, state = generate(switched(params, bias), state, *asked, train=True)
    return jnp.mean(jax.nn.softplus(-_discriminate(rival, images, asked[1]))), state


def _judge(config: Any, judge: Judge, params: Generator, state: Any, key: jax.Array) -> dict[str, Any]:
    """Accuracy of the classifier on samples at inference, and moments of its features."""
    import jax
    import jax.numpy as jnp

    labels = jnp.arange(config.samples) % CLASSES
    latents = jax.random.normal(key, (config.samples, config.latents))
    images, _ = generate(params, state, latents, jax.nn.one_hot(labels, CLASSES), train=False)
    features, logits = judged(judge, images)
    found = jnp.argmax(logits, -1)
    mean = features.mean(0)
    return {
        "accuracy": jnp.mean((found == labels).astype(jnp.float32)),
        "accuracy_others": jnp.mean((found == jnp.roll(labels, 1)).astype(jnp.float32)),
        "mean": mean,
        "covariance": (features - mean).T @ (features - mean) / config.samples,
        "sample": images[:CLASSES].reshape(CLASSES, 8, 8),
    }


def judged(judge: Judge, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features and logits."""
    import jax

    features = jax.nn.relu(linear.dense(judge.features, jax.nn.relu(linear.dense(judge.hidden, images))))
    return features, linear.dense(judge.out, features)


def train_judge(config: Any) -> Judge:
    """Train the classifier on the training digits, once."""
    import jax
    import optax

    data = bj.data.flatten(bj.data.digits())
    adam = optax.adam(3e-3)
    drawing, ordering = jax.random.split(jax.random.key(0))
    layers = _dense_layers(drawing, [(PIXELS, 64), (64, config.features), (config.features, CLASSES)])

    def loss(params, state, rows):
        logits = judged(params, data.train_x[rows])[1]
        return training.cross_entropy(logits, data.train_y[rows]), state

    rows = training.batch_order(ordering, len(data.train_x), config.judge_steps, 64)
    update = functools.partial(training.descend, adam, loss)
    run = jax.jit(lambda first: jax.lax.scan(update, first, rows)[0].params)
    return run(training.begin(adam, Judge(*layers)))


def frechet(mean, covariance, other_mean, other_covariance) -> np.ndarray:
    """Fréchet distance of normal distributions, squared: |m - m'|² + tr(C + C' - 2 (C C')^1/2).

    Parameters
    ----------
    mean, covariance
        (..., features) and (..., features, features); the others alike, or of fewer axes.
    """
    mean, covariance, other_mean, other_covariance = (
        np.asarray(part, np.float64) for part in (mean, covariance, other_mean, other_covariance)
    )
    values, vectors = np.linalg.eigh(other_covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariance @ root)
    both = np.trace(covariance, axis1=-2, axis2=-1) + np.trace(other_covariance)
    return ((mean - other_mean) ** 2).sum(-1) + both - 2 * np.sqrt(np.maximum(inner, 0)).sum(-1)
