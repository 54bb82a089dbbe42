"""How fast do gradients explode behind batch norm, and does a bias slow them down?

Answer: by 1.2 to 1.8 per layer, as theory says. A bias before the norm changes nothing; one before the
activation, with the norm behind it, makes the explosion steeper.

Source: Yang et al., arXiv 1902.08129, after the "BatchNorm" on the to-do list of the notebook on Xavier and
the bias. Random networks with batch norm before or behind the activation are measured layer by layer and laid
over the exact rates, for several batch sizes and biases from none to the size of the weights.

Expected: squared gradients grow towards the input by (B - 2)/(B - 3) per layer in a linear network with batch
size B, and by 1.788 (B = 8) to 1.493 (B = 64) behind ReLU, whatever the scale of the weights. A bias right
before batch norm changes none of this, and its gradient is zero. With the norm behind the activation the bias
is alive, and makes the explosion steeper; behind ReLU the growth then has no finite mean, so geometric means
of layers are compared, of networks with the same weights.

Measured, growth of the squared gradient per layer without a bias (95% interval; theory in brackets):

    batch norm before ReLU, B = 8     1.769 ± .027 (1.788)
    batch norm before ReLU, B = 64    1.490 ± .007 (1.493)
    linear with batch norm, B = 8     1.200 ± .009 (1.200)

A bias right before the norm changes the growth by 7e-5 at most, whatever its size and the batch; one before
tanh or ReLU by up to 16% and more. One as large as the weights multiplies geometric means by 1.10 ± .004
(B = 64) to 1.16 ± .015 (B = 8) behind tanh, and by 1.25 at least behind ReLU, the lowest end of the four
intervals: single layers reach 1e5 there. With a quarter of that bias the interval behind tanh includes 1 at
B = 8.

Cost: about 80 s on 2 CPU cores. Command: `python -m experiments batch_norm_gradients`.
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
STEEPER = 1.01
"""Least factor to call one growth steeper than another."""
_ENDS = 4  # layers at either end that still know the input or the loss


@dataclass(frozen=True)
class Config:
    """The networks and the batches."""

    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    """Examples in a batch; at least 8, for rates of smaller ones scatter too much, and at most an eighth of
    the width, or the theory of wide networks is off."""
    sigma_b: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    """Scales of the bias, beginning with 0; that of the weights is 1."""
    width: int = 512
    """Features of every layer."""
    depth: int = 20
    """Layers."""
    seeds: int = 10
    """Number of seeds."""


SMOKE = Config(batch_sizes=(16,), sigma_b=(0.0, 1.0), width=256, depth=16)


def run(config: Config) -> xr.Dataset:
    """Measure gradients and correlations of every layer, and evaluate the theory."""
    axes = {"seed": np.arange(config.seeds), "sigma_b": np.asarray(config.sigma_b)}
    static = {"order": [*BEFORE, *AFTER], "batch_size": list(config.batch_sizes)}
    measure = functools.partial(_measure, config)
    dataset = bj.sweep.run(measure, axes, static=static, dims=bj.propagation.DIMS)
    return with_theory(dataset, config).assign_attrs(width=config.width)


def with_theory(dataset: xr.Dataset, config: Config) -> xr.Dataset:
    """Add the rates of wide networks, and the correlation of two examples before the norm."""
    rates = np.asarray([_theory(str(order), config) for order in dataset.order.values])
    # Two examples leave the norm with correlation -1/(B - 1) each time; ReLU and the bias move that
    centred = -1 / (dataset.batch_size - 1.0)
    angle = np.pi - np.arccos(centred)
    kernel = (np.sqrt(1 - centred**2) + centred * angle) / np.pi
    correlation = (kernel / 2 + dataset.sigma_b**2) / (1 / 2 + dataset.sigma_b**2)
    return dataset.assign(
        rate_theory=(("order", "batch_size", "sigma_b"), rates), correlation_theory=correlation
    ).assign_coords(layer=np.arange(1, config.depth + 1))


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


def each_growth(dataset: xr.Dataset) -> xr.DataArray:
    """Growth of the squared gradient in each layer that knows neither the input nor the loss."""
    return bj.propagation.growth(dataset.log_grad_features, ends=_ENDS)


def log_growth(dataset: xr.Dataset) -> xr.DataArray:
    """Log of the growth, mean of layers; that has a mean over seeds behind ReLU with a bias, too."""
    return -dataset.log_grad_features.diff("layer").isel(layer=slice(_ENDS, -_ENDS)).mean("layer")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold measured rates to the theory; null twins have no bias, or one behind the activation."""
    off = curves.at_bias(dataset, MEASURED, 0.0)
    return [*_rates(dataset, off), *_before(dataset), *_after(dataset, off), _correlations(dataset, off)]


def _rates(dataset: xr.Dataset, off: xr.Dataset) -> list[Claim]:
    """Growth of every order, whatever the batch and the bias."""
    over, cells = ("layer", "seed"), ("batch_size", "sigma_b")
    known = np.isfinite(dataset.rate_theory)

    def worst(data: xr.Dataset, theory: xr.DataArray) -> xr.DataArray:
        return abs(each_growth(data).mean(over) / theory - 1).where(known).max(cells)

    # Of orders whose theory knows no bias the null is the rate of their neighbour, with the other activation
    swapped = dataset.rate_theory.isel(order=[1, 0, 3, 2]).assign_coords(order=dataset.order)
    biased = dataset.order == "dense-tanh-bn"
    null = worst(off, dataset.rate_theory).where(biased, worst(dataset, swapped))
    each = each_growth(dataset)
    # Three standard errors of the worst cell, and what batches that are not small against the width do
    error = (curves.standard_error(each, over, ddof=0) / each.mean(over)).where(known).max(cells)
    bound = 3 * error + float(dataset.batch_size.max()) / dataset.attrs["width"] / 8
    return curves.rates(worst(dataset, dataset.rate_theory), bound, YANG, null)


def _before(dataset: xr.Dataset) -> list[Claim]:
    """A bias before batch norm does nothing; the null is the norm behind the activation."""
    rate = each_growth(dataset).mean(("layer", "seed"))
    change = abs(rate / rate.sel(sigma_b=0.0) - 1)
    late = dataset.isel(layer=slice(_ENDS, None))
    share = np.exp(late.log_grad_biases - late.log_grad_kernels)
    made = []
    for text, bound, values in (
        ("bias before bn: change of growth", 1e-3, change),
        ("bias before bn: |grad|² / kernel's", 1e-9, share),
    ):
        worst = values.max([dim for dim in values.dims if dim != "order"])
        dead, alive = worst.sel(order=list(BEFORE)).max(), worst.sel(order=list(AFTER)).min()
        made.append(at_most(text, CLOSED_FORM, bound, dead, null=alive))
    return made


def _after(dataset: xr.Dataset, off: xr.Dataset) -> list[Claim]:
    """With the norm behind the activation the greatest bias makes the explosion steeper.

    Pairs of networks share their weights, so ratios scatter less than growths do.
    """
    made = []
    for order in AFTER:
        text = f"{order.removeprefix('dense-')}: growth ratio, 95% low end"
        least, same = (_steeper(data.sel(order=order)) for data in (dataset, off))
        made.append(at_least(text, "experiment", STEEPER, least, null=same))
    return made


def _steeper(dataset: xr.Dataset) -> xr.DataArray:
    """Growth with the greatest bias over that with none: lower end of its 95% interval, least of batches."""
    logs = log_growth(dataset)
    paired = logs.isel(sigma_b=-1) - logs.sel(sigma_b=0.0)
    lower = paired.mean("seed") - bj.plot.confidence(paired, "seed")
    return lower.min("batch_size").pipe(np.exp)


def _correlations(dataset: xr.Dataset, off: xr.Dataset) -> Claim:
    def apart(data: xr.Dataset) -> tuple[float, float]:
        late = data.correlation.isel(layer=slice(_ENDS, None)).sel(order="dense-bn-relu").mean("layer")
        return curves.greatest(
            abs(late.mean("seed") - data.correlation_theory), bj.plot.confidence(late, "seed")
        )

    (worst, interval), (null, _) = apart(dataset), apart(off)
    bound = 3 / np.sqrt(dataset.attrs["width"] * dataset.sizes["seed"])
    return at_most("bn-relu: correlation - kernel", YANG, bound, worst, interval=interval, null=null)


def figure(dataset: xr.Dataset):
    """Growth over batch size and over bias, gradients over depth, and correlations."""
    sizes = dataset.batch_size.values
    middle = int(sizes[len(sizes) // 2])
    titles = [
        "no bias: the smaller the batch, the steeper",
        f"B = {middle}; flat: a bias right before the norm",
    ]
    titles += [f"B = {sizes[0]}, no bias; dashes: theory", "dense-bn-relu: two examples of a batch"]
    fig, axes = bj.plot.panels(titles, size=(4.8, 3.3))
    for ax, x, at in (
        (axes[0], "batch_size", {"sigma_b": 0.0}),
        (axes[1], "sigma_b", {"batch_size": middle}),
    ):
        _draw_growth(ax, dataset.sel(at), x)
        ax.set_ylabel("growth of |gradient|² per layer")
    _draw_gradients(axes[2], dataset.isel(batch_size=0).sel(sigma_b=0.0))
    late = dataset.correlation.isel(layer=slice(_ENDS, None)).sel(order="dense-bn-relu").mean("layer")
    label = "$\\sigma_b$ = {:g}".format
    drawing.means(axes[3], "batch_size", late, dataset.correlation_theory, color="sigma_b", label=label)
    for ax in (axes[0], axes[3]):
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
    for ax, name in zip(axes, ("batch size B", r"$\sigma_b$", "layer", "batch size B"), strict=True):
        ax.set_xlabel(name)
    axes[3].legend(ncols=4, loc="upper center", columnspacing=1, handletextpad=0.2)
    axes[3].set(ylim=(0, 1.1), ylabel="correlation of pre-activations")
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    finding = (
        "Gradients explode through batch norm; a bias right before it changes nothing, one before ReLU adds"
    )
    how = f"measured: mean of {dataset.sizes['seed']} seeds, bands its 95% interval; thin lines: theory"
    fig.suptitle(f"{finding}\n{how}", fontsize=10)
    return fig


def _draw_growth(ax, dataset: xr.Dataset, x: str) -> None:
    """Draw means over layers; behind ReLU with a bias there is none, and geometric ones stand for them."""
    theory = dataset.rate_theory
    drawing.means(ax, x, each_growth(dataset).mean("layer").where(np.isfinite(theory)), theory, color="order")
    if not np.isfinite(theory).all():
        name = "dense-relu-bn"
        color = bj.plot.COLORS[list(dataset.order.values).index(name)]
        style = {"color": color, "linestyle": ":", "marker": "v", "markersize": 3.5}
        logs = log_growth(dataset).sel(order=name)
        mean, half = logs.mean("seed"), bj.plot.confidence(logs, "seed")
        bj.plot.line(ax, mean.pipe(np.exp), x, label=f"{name}: geometric mean", **style)
        ends = np.exp(mean.values - half.values), np.exp(mean.values + half.values)
        ax.fill_between(mean[x].values, *ends, color=color, alpha=0.2, linewidth=0)


def _draw_gradients(ax, dataset: xr.Dataset) -> None:
    for color, order in zip(bj.plot.COLORS, dataset.order.values, strict=False):
        part = dataset.sel(order=order)
        relative = curves.over_last(part.log_grad_features)
        bj.plot.line(ax, relative, "layer", over="seed", color=color)
        theory = float(part.rate_theory) ** (part.sizes["layer"] - part.layer.values)
        ax.plot(part.layer, theory, color=color, linestyle="--", linewidth=0.8)
    ax.set(yscale="log", ylabel="|gradient|² / the last layer's")
    ax.locator_params(axis="x", integer=True)
