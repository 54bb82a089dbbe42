"""How fast do gradients explode behind batch norm, and does a bias slow them down?

Source: Yang et al., arXiv 1902.08129, after the "BatchNorm" on the to-do list of the notebook on Xavier and
the bias. Random networks with batch norm before or behind the activation are measured layer by layer and laid
over the exact rates, for several batch sizes and biases from none to the size of the weights.

Expected: squared gradients grow towards the input by (B - 2)/(B - 3) per layer in a linear network with batch
size B, and by 1.788 (B = 8) to 1.493 (B = 64) behind ReLU, whatever the scale of the weights. A bias before
batch norm changes none of this, and its gradient is zero. With the norm behind the activation the bias is
alive, and makes the explosion steeper.

Measured, growth of the squared gradient per layer without a bias (theory in brackets):

    batch norm before ReLU, B = 8     1.755 (1.788)
    batch norm before ReLU, B = 64    1.493 (1.493)
    linear with batch norm, B = 8     1.200 (1.200)

A bias before the norm changes the growth by 8e-5 at most; with the norm behind the activation the greatest
makes the median growth 1.14 (ReLU) and 1.10 (tanh) times as steep.

Cost: about 60 s on 2 CPU cores. Command: `python -m experiments batch_norm_gradients`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from experiments._parts import curves, drawing
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most

if TYPE_CHECKING:
    import xarray as xr

YANG = "arXiv 1902.08129"
BEFORE = ("dense-bn", "dense-bn-relu")
AFTER = ("dense-relu-bn", "dense-tanh-bn")
MEASURED = ("log_grad_features", "log_grad_kernels", "log_grad_biases", "correlation")
_ENDS = 4  # layers at either end that still know the input or the loss


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
    measure = functools.partial(_measure, config)
    dataset = bj.sweep.run(measure, axes, static=static, dims=bj.propagation.DIMS)
    rates = [_theory(order, config) for order in static["order"]]
    dataset["rate_theory"] = ("order", "batch_size", "sigma_b"), np.asarray(rates)
    # Two examples leave the norm with correlation -1/(B - 1) each time; ReLU and the bias move that
    centred = -1 / (dataset.batch_size - 1.0)
    angle = np.pi - np.arccos(centred)
    kernel = (np.sqrt(1 - centred**2) + centred * angle) / np.pi
    dataset["correlation_theory"] = (kernel / 2 + dataset.sigma_b**2) / (1 / 2 + dataset.sigma_b**2)
    return dataset.assign_coords(layer=np.arange(1, config.depth + 1)).assign_attrs(width=config.width)


def _measure(config: Config, key, *, sigma_b, order: str, batch_size: int) -> dict:
    import jax

    net_key, x_key = jax.random.split(key)
    net = bj.network.Network(inputs=config.width, width=config.width, depth=config.depth, order=order)
    x = jax.random.normal(x_key, (batch_size, config.width))
    found = bj.propagation.propagate(net_key, net, bj.network.Scales(1.0, sigma_b), x, epsilon=1e-8)
    return {name: getattr(found, name) for name in MEASURED}


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


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold measured rates to the theory."""
    dataset = dataset.sel(batch_size=dataset.batch_size >= 8)  # the rates of smaller ones scatter too much
    return [*_rates(dataset), *_before(dataset), *_after(dataset), _correlations(dataset)]


def _rates(dataset: xr.Dataset) -> list[Claim]:
    """Growth of every order, whatever the batch and the bias."""
    over, cells = ("layer", "seed"), ("batch_size", "sigma_b")
    each = bj.propagation.growth(dataset.log_grad_features, ends=_ENDS)
    rate = each.mean(over)
    off = abs(rate / dataset.rate_theory - 1).max(cells)
    # Three standard errors of the worst cell, and what batches that are not small against the width do
    error = curves.standard_error(each, over, ddof=0) / rate
    error = error.where(np.isfinite(dataset.rate_theory)).max(cells)
    bound = 3 * error + float(dataset.batch_size.max()) / dataset.attrs["width"] / 8
    return curves.rates(off, bound, YANG)


def _before(dataset: xr.Dataset) -> list[Claim]:
    """A bias before batch norm does nothing, and one behind the activation something."""
    rate = bj.propagation.growth(dataset.log_grad_features, ends=_ENDS).mean(("layer", "seed"))
    still = abs(rate / rate.sel(sigma_b=0.0) - 1).sel(order=list(BEFORE))
    late = dataset.isel(layer=slice(_ENDS, None))
    share = np.exp(late.log_grad_biases - late.log_grad_kernels)
    dead, alive = share.sel(order=list(BEFORE)).max(), share.sel(order=AFTER[1]).min()
    name = "bias before batch norm"
    return [
        at_most(f"{name}: change of the growth, worst", CLOSED_FORM, 5e-3, still.max()),
        at_most(f"{name}: |its gradient|² / |the kernel's|², worst", CLOSED_FORM, 1e-9, dead),
        at_least("bias before tanh-bn: the same, least", "experiment", 1e-6, alive),
    ]


def _after(dataset: xr.Dataset) -> list[Claim]:
    """With the norm behind the activation the greatest bias makes the explosion steeper."""
    median = bj.propagation.growth(dataset.log_grad_features, ends=_ENDS).median(("layer", "seed"))
    steeper = (median.isel(sigma_b=-1) / median.sel(sigma_b=0.0)).min("batch_size")
    text = "{}: median growth, greatest bias / none"
    return [at_least(text.format(order), "experiment", 1.0, steeper.sel(order=order)) for order in AFTER]


def _correlations(dataset: xr.Dataset) -> Claim:
    late = dataset.isel(layer=slice(_ENDS, None)).sel(order="dense-bn-relu")
    apart = abs(late.correlation.mean(("layer", "seed")) - late.correlation_theory).max()
    text = "dense-bn-relu: correlation of two examples - arc-cosine kernel, worst"
    return at_most(text, YANG, 3 / np.sqrt(dataset.attrs["width"] * dataset.sizes["seed"]), apart)


def figure(dataset: xr.Dataset):
    """Growth over batch size and over bias, gradients over depth, and correlations."""
    sizes = dataset.batch_size.values
    middle = int(sizes[len(sizes) // 2])
    titles = ["growth per layer, no bias", f"growth per layer, B = {middle}"]
    titles += [f"squared gradient by layer, B = {sizes[0]}, no bias"]
    titles += ["dense-bn-relu: two examples of a batch"]
    fig, axes = bj.plot.panels(titles)
    each = bj.propagation.growth(dataset.log_grad_features, ends=_ENDS)
    _draw_growth(
        axes[0], each.sel(sigma_b=0.0), dataset.rate_theory.sel(sigma_b=0.0), "batch_size", named=True
    )
    at = {"batch_size": middle}
    _draw_growth(axes[1], each.sel(at), dataset.rate_theory.sel(at), "sigma_b", named=False)
    _draw_gradients(axes[2], dataset.isel(batch_size=0).sel(sigma_b=0.0))
    late = dataset.correlation.isel(layer=slice(_ENDS, None)).sel(order="dense-bn-relu")
    pair = late.mean(("layer", "seed")), dataset.correlation_theory
    drawing.family(axes[3], "batch_size", *pair, color="sigma_b", label="$\\sigma_b$ = {:g}".format)
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


def _draw_growth(ax, each: xr.DataArray, theory: xr.DataArray, x: str, *, named: bool) -> None:
    """Draw means over layers and seeds; behind ReLU with a bias there is none, and medians stand for them."""
    over = ("layer", "seed")
    mean, median = each.mean(over), each.median(over)
    drawing.family(
        ax,
        x,
        mean.where(np.isfinite(theory)),
        theory,
        color="order",
        label=str if named else lambda order: None,
    )
    if not np.isfinite(theory).all():
        name = "dense-relu-bn"
        color = bj.plot.COLORS[list(each.order.values).index(name)]
        label = {"label": f"{name}: median", "linestyle": ":"}
        bj.plot.line(ax, median.sel(order=name), x, color=color, marker="o", markersize=3.5, **label)


def _draw_gradients(ax, dataset: xr.Dataset) -> None:
    for color, order in zip(bj.plot.COLORS, dataset.order.values, strict=False):
        part = dataset.sel(order=order)
        relative = curves.over_last(part.log_grad_features)
        bj.plot.line(ax, relative, "layer", over="seed", color=color)
        theory = float(part.rate_theory) ** (part.sizes["layer"] - part.layer.values)
        ax.plot(part.layer, theory, color=color, linestyle="--", linewidth=0.8)
    ax.set_yscale("log")
