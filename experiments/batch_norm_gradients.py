"""How fast do gradients explode behind batch norm, and does a bias slow them down?

Source: Yang et al., arXiv 1902.08129, after the "BatchNorm" on the to-do list of seed document 004. Random
networks with batch norm before or behind the activation are measured layer by layer and laid over the exact
rates, for several batch sizes and biases from none to the size of the weights.

Expected: squared gradients grow towards the input by (B - 2)/(B - 3) per layer in a linear network with batch
size B, and by 1.788 (B = 8) to 1.493 (B = 64) behind ReLU, whatever the scale of the weights. A bias before
batch norm changes none of this, and its gradient is zero. With the norm behind the activation the bias is
alive, and makes the explosion steeper.

Cost: about 60 s on 2 CPU cores. Command: `python -m experiments batch_norm_gradients`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from experiments.claims import Claim, at_least, at_most

if TYPE_CHECKING:
    import xarray as xr

YANG = "arXiv 1902.08129"
CLOSED_FORM = "closed form"
BEFORE = ("dense-bn", "dense-bn-relu")
AFTER = ("dense-relu-bn", "dense-tanh-bn")
_DOTS = {"linestyle": "", "marker": "o", "markersize": 4}
_FORGOTTEN = 4  # layers at either end that still know the input or the loss


@dataclass(frozen=True)
class Config:
    """The networks and the batches."""

    batch_sizes: tuple[int, ...] = (6, 8, 16, 32, 64)
    """Examples in a batch; at most an eighth of the width, or the theory of wide networks is off."""
    sigma_b: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    """Scales of the bias, beginning with 0; that of the weights is 1."""
    width: int = 512
    """Features of every layer."""
    depth: int = 20
    """Layers."""
    seeds: int = 4
    """Number of seeds."""


SMOKE = Config(batch_sizes=(8,), sigma_b=(0.0, 0.5), width=256, depth=16)


def run(config: Config) -> xr.Dataset:
    """Measure gradients and correlations of every layer, and evaluate the theory."""
    axes = {"seed": np.arange(config.seeds), "sigma_b": np.asarray(config.sigma_b)}
    static = {"order": [*BEFORE, *AFTER], "batch_size": list(config.batch_sizes)}
    names = ("log_grad_features", "log_grad_kernels", "log_grad_biases", "correlation")
    dims = dict.fromkeys(names, ("layer",))
    dataset = bj.sweep.run(functools.partial(_measure, config, names), axes, static=static, dims=dims)
    grid = ("order", "batch_size", "sigma_b")
    rates = [_theory(order, config) for order in static["order"]]
    dataset["rate_theory"] = grid, np.asarray(rates)
    # Two examples leave the norm with correlation -1/(B - 1) each time; ReLU and the bias move that
    centred = -1 / (dataset.batch_size - 1.0)
    angle = np.pi - np.arccos(centred)
    kernel = (np.sqrt(1 - centred**2) + centred * angle) / np.pi
    dataset["correlation_theory"] = (kernel / 2 + dataset.sigma_b**2) / (1 / 2 + dataset.sigma_b**2)
    return dataset.assign_coords(layer=np.arange(1, config.depth + 1)).assign_attrs(width=config.width)


def _measure(config: Config, names, key, *, sigma_b, order: str, batch_size: int) -> dict:
    import jax

    net_key, x_key = jax.random.split(key)
    net = bj.network.Network(inputs=config.width, width=config.width, depth=config.depth, order=order)
    x = jax.random.normal(x_key, (batch_size, config.width))
    found = bj.propagation.propagate(net_key, net, bj.network.Scales(1.0, sigma_b), x, epsilon=1e-8)
    return {name: getattr(found, name) for name in names}


def _theory(order: str, config: Config) -> np.ndarray:
    """Rates of wide networks, (batch size, bias); NaN behind ReLU with a bias: there is no finite mean."""
    sizes, sigma_b = np.asarray(config.batch_sizes, float), np.asarray(config.sigma_b)
    if order in BEFORE:
        name = "relu" if "relu" in order else "linear"
        rate = np.asarray(bj.normrates.batch_norm(name, sizes))
        return np.broadcast_to(rate[:, None], (len(sizes), len(sigma_b)))
    name = order.split("-")[1]
    after = functools.partial(bj.normrates.batch_norm, name, place="after", sigma_b=sigma_b)
    rate = np.stack([after(size) for size in config.batch_sizes])
    return np.where((name == "relu") & (sigma_b > 0), np.nan, rate)


def growth(dataset: xr.Dataset) -> xr.DataArray:
    """Growth of the squared gradient norm towards the input, layer by layer, away from both ends."""
    inner = slice(_FORGOTTEN, -_FORGOTTEN)
    return np.exp(-dataset.log_grad_features.diff("layer")).isel(layer=inner)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold measured rates to the theory."""
    dataset = dataset.sel(batch_size=dataset.batch_size >= 8)  # the rates of smaller ones scatter too much
    width, seeds, over = dataset.attrs["width"], dataset.sizes["seed"], ("layer", "seed")
    each = growth(dataset)
    rate, median = each.mean(over), each.median(over)
    off = abs(rate / dataset.rate_theory - 1).max(("batch_size", "sigma_b"))
    # Three standard errors of the worst cell, and what batches that are not small against the width do
    error = each.std(over) / rate / np.sqrt(each.sizes["layer"] * seeds)
    error = error.where(np.isfinite(dataset.rate_theory)).max(("batch_size", "sigma_b"))
    bound = 3 * error + float(dataset.batch_size.max()) / width / 8
    most = {"sigma_b": -1}
    steeper = (median.isel(most) / median.sel(sigma_b=0.0)).min("batch_size")
    still = abs(rate / rate.sel(sigma_b=0.0) - 1).sel(order=list(BEFORE))
    late = dataset.isel(layer=slice(_FORGOTTEN, None))
    share = np.exp(late.log_grad_biases - late.log_grad_kernels)
    bn_relu = late.sel(order="dense-bn-relu")
    apart = abs(bn_relu.correlation.mean(over) - bn_relu.correlation_theory)
    return [
        *(
            at_most(
                f"{order}: growth / theory - 1, worst", YANG, bound.sel(order=order), off.sel(order=order)
            )
            for order in dataset.order.values
        ),
        at_most("bias before batch norm: change of the growth, worst", CLOSED_FORM, 5e-3, still.max()),
        at_most(
            "bias before batch norm: |its gradient|² / |the kernel's|², worst",
            CLOSED_FORM,
            1e-9,
            share.sel(order=list(BEFORE)).max(),
        ),
        at_least("bias before tanh-bn: the same, least", "experiment", 1e-6, share.sel(order=AFTER[1]).min()),
        *(
            at_least(
                f"{order}: median growth, greatest bias / none", "experiment", 1.0, steeper.sel(order=order)
            )
            for order in AFTER
        ),
        at_most(
            "dense-bn-relu: correlation of two examples - arc-cosine kernel, worst",
            YANG,
            3 / np.sqrt(width * seeds),
            apart.max(),
        ),
    ]


def figure(dataset: xr.Dataset):
    """Growth over batch size and over bias, gradients over depth, and correlations."""
    sizes = dataset.batch_size.values
    middle = int(sizes[len(sizes) // 2])
    titles = ["growth per layer, no bias", f"growth per layer, B = {middle}"]
    titles += [f"squared gradient by layer, B = {sizes[0]}, no bias"]
    titles += ["dense-bn-relu: two examples of a batch"]
    fig, axes = bj.plot.panels(titles)
    for color, order in zip(bj.plot.COLORS, dataset.order.values, strict=False):
        part = dataset.sel(order=order)
        _draw_growth(axes[:2], part, middle, color)
        _draw_gradient(axes[2], part.isel(batch_size=0).sel(sigma_b=0.0), color)
    late = dataset.correlation.isel(layer=slice(_FORGOTTEN, None)).mean(("layer", "seed"))
    for color, sigma_b in zip(bj.plot.COLORS, dataset.sigma_b.values, strict=False):
        label = {"color": color, "label": f"$\\sigma_b$ = {sigma_b:g}"}
        bj.plot.line(axes[3], dataset.correlation_theory.sel(sigma_b=sigma_b), "batch_size", **label)
        measured = late.sel(sigma_b=sigma_b, order="dense-bn-relu")
        bj.plot.line(axes[3], measured, "batch_size", color=color, **_DOTS)
    axes[2].set_yscale("log")
    for ax in (axes[0], axes[3]):
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
    for ax, name in zip(axes, ("batch size B", r"$\sigma_b$", "layer", "batch size B"), strict=True):
        ax.set_xlabel(name)
    axes[0].legend()
    axes[1].legend()
    axes[3].legend(ncols=2)
    axes[3].set(ylim=(0, 1.1), ylabel="correlation of pre-activations")
    fig.suptitle("lines: theory of wide networks; dots (left below: lines): measured", fontsize=10)
    return fig


def _draw_growth(axes, part: xr.Dataset, middle: int, color: str) -> None:
    """Over batch size without bias, and over the bias at one batch size."""
    order, each = str(part.order.values), growth(part)
    rate = each.mean(("layer", "seed"))
    bj.plot.line(axes[0], part.rate_theory.sel(sigma_b=0.0), "batch_size", color=color, label=order)
    bj.plot.line(axes[0], rate.sel(sigma_b=0.0), "batch_size", color=color, **_DOTS)
    at = {"batch_size": middle}
    if order == "dense-relu-bn":
        style = _DOTS | {"color": color, "linestyle": ":", "label": f"{order}: median"}
        bj.plot.line(axes[1], each.median(("layer", "seed")).sel(at), "sigma_b", **style)
    else:
        bj.plot.line(axes[1], part.rate_theory.sel(at), "sigma_b", color=color)
        bj.plot.line(axes[1], rate.sel(at), "sigma_b", color=color, **_DOTS)


def _draw_gradient(ax, part: xr.Dataset, color: str) -> None:
    logs = part.log_grad_features - part.log_grad_features.isel(layer=-1)
    bj.plot.line(ax, np.exp(logs), "layer", over="seed", color=color)
    theory = float(part.rate_theory) ** (part.sizes["layer"] - part.layer.values)
    ax.plot(part.layer, theory, color=color, linestyle="--", linewidth=0.8)
