"""Small DnCNNs with and without biases: training on one photograph, tests at other noise, and the figure."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import biasjax as bj
from biasjax import linear, norms, training

if TYPE_CHECKING:
    import jax
    import xarray as xr

PHOTOGRAPHS = ("same", "other")
"""Tests: the part of the training photograph that is kept from training, and another photograph."""


class Net(NamedTuple):
    """First, middle (stacked) and last convolutions, and the norms of the middle ones (stacked)."""

    first: linear.Linear
    middle: linear.Linear
    last: linear.Linear
    norm: norms.Norm


def init(key: jax.Array, channels: int, depth: int, *, use_bias: bool) -> tuple[Net, norms.BatchStats]:
    """Draw a network that takes nothing off at first."""
    import jax
    import jax.numpy as jnp

    draw = functools.partial(linear.conv_init, kernel_size=(3, 3), use_bias=use_bias)
    first, middle, last = jax.random.split(key, 3)
    keys = jax.random.split(middle, depth - 2)
    body = jax.vmap(lambda key: draw(key, channels, channels, kernel_init="he_normal"))(keys)
    one = norms.norm_init(channels, use_bias=use_bias), norms.batch_stats_init(channels)
    norm, stats = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (depth - 2, *leaf.shape)), one)
    ends = draw(first, 1, channels, kernel_init="he_normal"), draw(last, channels, 1, kernel_init="zeros")
    return Net(ends[0], body, ends[1], norm), stats


def apply(
    params: Net, state: norms.BatchStats, x: jax.Array, *, train: bool
) -> tuple[jax.Array, norms.BatchStats]:
    """Denoise images (batch, height, width, 1): the network says what the noise is."""
    import jax

    normalise = bias_free_norm if params.norm.bias is None else norms.batch_norm

    def block(h, layer):
        own, norm, stats = layer
        y, stats = normalise(norm, stats, linear.conv(own, h), train=train, momentum=0.9)
        return jax.nn.relu(y), stats

    h = jax.nn.relu(linear.conv(params.first, x))
    h, state = jax.lax.scan(block, h, (params.middle, params.norm, state))
    return x - linear.conv(params.last, h), state


def bias_free_norm(
    params: norms.Norm, state: norms.BatchStats, x: jax.Array, *, train: bool, momentum: float
) -> tuple[jax.Array, norms.BatchStats]:
    """Divide by the standard deviation over batch and positions; no mean is taken off (arXiv 1906.05478)."""
    import jax
    import jax.numpy as jnp

    var = state.var
    if train:
        var = jnp.var(x, (0, 1, 2))
        state = state._replace(var=momentum * state.var + (1 - momentum) * var)
    return x * (cast("jax.Array", params.scale) * jax.lax.rsqrt(var + 1e-5)), state


def point(config: Any, key: jax.Array, *, use_bias: bool) -> dict[str, Any]:
    """Train one network, and test it at other noise."""
    import jax
    import jax.numpy as jnp
    import optax

    patches, tests = images(config.patch, config.crop)
    drawing, ordering, adding, testing = jax.random.split(key, 4)
    adam = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))

    def loss(params, state, batch):
        rows, key = batch
        level, noise = jax.random.split(key)
        sigma = jax.random.uniform(level, (len(rows), 1, 1, 1), maxval=config.trained_to / 255)
        clean = patches[rows]
        noisy = clean + sigma * jax.random.normal(noise, clean.shape)
        denoised, state = apply(params, state, noisy, train=True)
        return training.squared_error(denoised, clean), state

    first = training.begin(adam, *init(drawing, config.channels, config.depth, use_bias=use_bias))
    rows = training.batch_order(ordering, len(patches), config.steps, config.batch_size)
    update = functools.partial(training.descend, adam, loss)
    fit, _ = jax.lax.scan(update, first, (rows, jax.random.split(adding, config.steps)))

    def denoise(x):
        return apply(fit.params, fit.state, x, train=False)[0]

    noise = jax.random.normal(testing, tests.shape)
    at = functools.partial(_test, denoise, tests, noise)
    _, found = jax.lax.scan(lambda _, sigma: (None, at(sigma)), None, jnp.asarray(config.sigmas))
    noisy = tests + 50 / 255 * noise
    once, twice = denoise(noisy), denoise(2 * noisy)
    gap = jnp.linalg.norm(twice - 2 * once) / jnp.linalg.norm(twice)
    shown = {"denoised": once[..., 0], "noisy": noisy[..., 0], "weights": folded(fit.params, fit.state)}
    return found | {"homogeneity": gap} | shown


def folded(params: Net, state: norms.BatchStats) -> jax.Array:
    """Weights of the plain network that a trained one is: norms folded into the convolutions before them.

    The kernel (height, width, in, out) and bias of each layer in turn, flat; biases are 0 without biases.
    """
    import jax
    import jax.numpy as jnp

    factor = cast("jax.Array", params.norm.scale) * jax.lax.rsqrt(state.var + 1e-5)  # (depth - 2, channels)
    kernels = params.middle.kernel * factor[:, None, None, None]
    biases = jnp.zeros_like(factor)
    if params.norm.bias is not None:
        own = cast("jax.Array", params.middle.bias)
        biases = (own - state.mean) * factor + params.norm.bias
    middle = zip(kernels, biases, strict=True)
    first, last = ((p.kernel, _bias(p)) for p in (params.first, params.last))
    return jnp.concatenate([leaf.ravel() for layer in (first, *middle, last) for leaf in layer])


def _bias(params: linear.Linear) -> jax.Array:
    import jax.numpy as jnp

    return jnp.zeros(params.kernel.shape[-1]) if params.bias is None else params.bias


def images(patch: int, crop: int) -> tuple[jax.Array, jax.Array]:
    """Patches of the left half of a flower; a square of its right half, and the middle of a temple."""
    import jax.numpy as jnp

    photographs = bj.data.photographs()
    height, width, _ = photographs.train.shape
    cut, rows = width // 2, slice((height - crop) // 2, (height + crop) // 2)
    same = photographs.train[rows, cut : cut + crop]
    other = photographs.test[rows, (width - crop) // 2 : (width + crop) // 2]
    patches = bj.data.patches(photographs.train[:, :cut], patch, patch // 2)
    return patches, jnp.stack([same, other])


def _test(denoise: Any, clean: jax.Array, noise: jax.Array, sigma: jax.Array) -> dict[str, Any]:
    """PSNR, and the norm of the network's own bias relative to that of what it takes off."""
    import jax
    import jax.numpy as jnp

    def norm(x):
        return jnp.sqrt(jnp.sum(x**2, (1, 2, 3)))

    def psnr(x):
        return -10 * jnp.log10(jnp.mean((x - clean) ** 2, (1, 2, 3)))

    noisy = clean + sigma / 255 * noise
    # With ReLU the network is A x + b around x, so that b = f(x) - f'(x) x
    denoised, linear_part = jax.jvp(denoise, (noisy,), (noisy,))
    share = norm(denoised - linear_part) / norm(denoised - noisy)
    return {"psnr": psnr(denoised), "psnr_noisy": psnr(noisy), "net_bias": share}


def draw(dataset: xr.Dataset):
    """PSNR and the network's bias over the noise, and the images of one seed."""
    fig, axes = bj.plot.panels(
        [
            "the other half of the photograph",
            "another photograph",
            "share of the network's bias",
            "sigma 50: noisy",
            "with biases",
            "without",
        ],
        columns=3,
        size=(4.0, 3.3),
    )
    for ax, photograph in zip(axes[:2], PHOTOGRAPHS, strict=True):
        _draw_psnr(ax, dataset.sel(photograph=photograph))
    axes[1].legend(fontsize=7)
    share = dataset.net_bias.sel(use_bias=True, drop=True)
    for photograph, color in zip(PHOTOGRAPHS, bj.plot.COLORS[2:], strict=False):
        one = share.sel(photograph=photograph)
        bj.plot.line(
            axes[2], one, "sigma", over="seed", color=color, marker="o", markersize=3.5, label=photograph
        )
    axes[2].set(xlabel="sigma of the noise", ylabel="|b| / |what is taken off|", ylim=(0, None))
    axes[2].legend(fontsize=7)
    one = dataset.isel(seed=0).sel(photograph="same")
    shown = [one.noisy.sel(use_bias=True), *(one.denoised.sel(use_bias=bias) for bias in (True, False))]
    for ax, image, psnr in zip(axes[3:], shown, _labels(one), strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="none")  # pixels as they are in an SVG
        ax.set_xlabel(psnr)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    return fig


def _labels(one: xr.Dataset) -> list[str]:
    at = one.sel(sigma=50.0)
    values = [at.psnr_noisy.sel(use_bias=True), *(at.psnr.sel(use_bias=bias) for bias in (True, False))]
    return [f"{float(value):.1f} dB" for value in values]


def _draw_psnr(ax: Any, dataset: xr.Dataset) -> None:
    style = {"marker": "o", "markersize": 3.5}
    for bias, label, color in (
        (True, "with biases", bj.plot.COLORS[0]),
        (False, "without", bj.plot.COLORS[1]),
    ):
        one = dataset.psnr.sel(use_bias=bias, drop=True)
        bj.plot.line(ax, one, "sigma", over="seed", label=label, color=color, **style)
    noisy = dataset.psnr_noisy.isel(use_bias=0).mean("seed")
    ax.plot(noisy.sigma, noisy, ":", color="grey", label="as it came")
    ax.axvspan(0, dataset.attrs["trained_to"], color="grey", alpha=0.15, linewidth=0, label="trained on")
    ax.set(xlabel="sigma of the noise", ylabel="PSNR in dB")
