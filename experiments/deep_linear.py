"""What does the bias do to a deep linear network: keep its signal, or drown it?

Answer: it drowns it. The plateau that a bias holds is its own noise: the difference of two inputs falls by 16
per layer all the same, and gradients are what they are without it.

Source: the notebook on Xavier and the bias, exactly its setting: 100 linear layers of width 50 on 784 inputs,
weights N(0, 1) or N(0, 1/784) in every layer ("Xavier"), biases N(0, 1) or none. It sees the standard
deviation explode, with the bias too; vanish under Xavier weights; and hold under Xavier weights with the
bias, and concludes that the bias makes deep networks stable.

Expected: with the bias a plateau at sqrt(784/734) = 1.0335, without it a fall by sqrt(50/784) = .2525 per
layer; weights N(0, 1) overflow at layer 44-45, a naive standard deviation already at 20-22. And what the
notebook does not ask: the plateau is the bias's own noise. The difference of two inputs falls by 50/784 per
layer all the same, so their correlation goes to 1, and gradients vanish as if there were no bias.

Measured: all of it. A plateau at 1.032 (1e-8 without the bias); overflow at layer 45, of the naive deviation
at 22, where a bias moves ln std of layer 100 by 0.04 (under Xavier weights by 137); 1 - c of two inputs falls
by 16 per layer to below 2e-14 at layer 20 (without the bias it stays 1). Gradients are equal with and without
the bias; with tanh between the layers, whose slopes a bias changes, their logs part by 82.

Cost: about 15 s on 2 CPU cores. Command: `python -m experiments deep_linear`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from experiments._parts import curves
from experiments._parts.notebook import CELLS, PRINTED, TYPICAL, TYPICAL_FALL, XAVIER, theory
from experiments.claims import CLOSED_FORM, NOTEBOOK, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

_THEORY = {"linestyle": "--", "color": "black", "linewidth": 0.8}
_WIDE = {"linewidth": 4, "alpha": 0.5}  # a line for another to lie upon
_MEASURED = ("correlation", "distance", "log_grad_features", "log_q", "log_std", "underflow_layer")


@dataclass(frozen=True)
class Config:
    """The notebook's setting, over many seeds."""

    inputs: int = 784
    """Input features."""
    width: int = 50
    """Features of every layer."""
    depth: int = 100
    """Layers."""
    seeds: int = 100
    """Number of seeds."""


SMOKE = Config(seeds=30)


def run(config: Config) -> xr.Dataset:
    """Draw all cells and seeds as one grid, which shares draws; and gradients with tanh in between."""
    axes = {"seed": np.arange(config.seeds), "weight_std": [1.0, XAVIER], "sigma_b": [0.0, 1.0]}
    dims = {**bj.propagation.DIMS, "naive_std": ("layer",), "tanh_log_gradients": ("layer",)}
    dataset = bj.sweep.run(functools.partial(_measure, config), axes, dims=dims)
    axes = {"seed": np.arange(min(10, config.seeds)), "sigma_b": [0.0, 1.0]}
    tanh = bj.sweep.run(functools.partial(_measure_tanh, config), axes, dims=dims)
    dataset["tanh_log_gradients"] = tanh.tanh_log_gradients.rename(seed="tanh_seed")
    dataset = dataset.assign_coords(layer=np.arange(1, config.depth + 1))
    return dataset.assign_attrs(width=config.width, inputs=config.inputs)


def _measure(config: Config, key, *, weight_std, sigma_b) -> dict:
    """Measure one network: the notebook's numbers with one input, correlation and gradients with two."""
    import jax
    import jax.numpy as jnp

    net_key, x_key = jax.random.split(key)
    net, scales = _network(config, "dense"), _scales(config, weight_std, sigma_b)
    x = jax.random.normal(x_key, (2, config.inputs))
    one = bj.propagation.propagate(net_key, net, scales, x[:1], backward=False)
    two = bj.propagation.propagate(net_key, net, scales, x)
    values = bj.propagation.features(net_key, net, scales, x[:1])[:, 0]
    bessel = math.sqrt(config.width / (config.width - 1))  # the notebook's std divides by n - 1
    centred = values - jnp.mean(values, -1, keepdims=True)
    return {
        "std": bessel * one.std,
        "naive_std": jnp.sqrt(jnp.sum(jnp.square(centred), -1) / (config.width - 1)),
        "log_std": math.log(bessel) + one.log_std,
        "log_q": one.log_q,
        "overflow_layer": one.overflow_layer,
        "underflow_layer": one.underflow_layer,
        "status": one.status,
        "correlation": two.correlation,
        "distance": two.distance,
        "log_grad_features": two.log_grad_features,
    }


def _measure_tanh(config: Config, key, *, sigma_b) -> dict:
    """Gradients under Xavier weights with tanh in between, whose slopes a bias does change."""
    import jax

    net_key, x_key = jax.random.split(key)
    x = jax.random.normal(x_key, (2, config.inputs))
    net, scales = _network(config, "dense-tanh"), _scales(config, XAVIER, sigma_b)
    return {"tanh_log_gradients": bj.propagation.propagate(net_key, net, scales, x).log_grad_features}


def _network(config: Config, order: str) -> bj.network.Network:
    return bj.network.Network(inputs=config.inputs, width=config.width, depth=config.depth, order=order)


def _scales(config: Config, weight_std, sigma_b) -> bj.network.Scales:
    fan_in = np.array([config.inputs] + [config.width] * (config.depth - 1), np.float32)
    return bj.network.Scales(weight_std * np.sqrt(fan_in), sigma_b)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold the notebook's four cells, and what it did not ask, to numbers.

    Null twins put what was measured without a bias into the cells with one, and the other way round. Where a
    claim is that the bias does nothing, its twin is a case where it does.
    """
    off, on = (curves.at_bias(dataset, _MEASURED, sigma_b) for sigma_b in (0.0, 1.0))
    both = curves.twins(lambda data: np.mean([_inside(data, cell).mean() for cell in CELLS]), dataset, off)
    return [
        at_least("printed std: share within ours", NOTEBOOK, 0.95, **both),
        *_explosion(dataset),
        *_plateau(dataset, off),
        *_decay(dataset, on),
        *_noise(dataset, off, on),
        *_gradients(dataset),
    ]


def _cell(dataset: xr.Dataset, cell: tuple[float, float]) -> xr.Dataset:
    return dataset.sel(weight_std=cell[0], sigma_b=cell[1], method="nearest")


def _inside(dataset: xr.Dataset, cell: tuple[float, float]) -> np.ndarray:
    """Whether what is printed lies between the least and the greatest of our seeds."""
    printed = np.log(PRINTED[cell])
    ours = _cell(dataset, cell).log_std.isel(layer=slice(len(printed)))
    return (printed >= ours.min("seed").values) & (printed <= ours.max("seed").values)


def _explosion(dataset: xr.Dataset) -> list[Claim]:
    """Weights N(0, 1) overflow, and a bias is too small to be seen in it."""
    plain = _cell(dataset, CELLS[0])
    naive = np.argmax(~np.isfinite(plain.naive_std.values), axis=1) + 1
    weights, xavier = (
        abs(_cell(dataset, biased).log_std - _cell(dataset, cell).log_std).isel(layer=-1)
        for biased, cell in (CELLS[1::-1], CELLS[2:])
    )
    interval, null = bj.plot.confidence(weights, "seed"), xavier.mean()
    return [
        equal("N(0, 1): first infinite layer", NOTEBOOK, 44.5, plain.overflow_layer.median(), tolerance=0.5),
        equal("N(0, 1): first naive infinity", "squares", 21, np.median(naive), tolerance=1),
        at_most(
            "N(0, 1): |ln std, bias / none|", NOTEBOOK, 0.1, weights.mean(), interval=interval, null=null
        ),
    ]


def _plateau(dataset: xr.Dataset, off: xr.Dataset) -> list[Claim]:
    """The bias's noise, which Xavier weights pass on."""
    q, _ = theory(dataset, *CELLS[2])
    # A mean square of n Gaussians scatters by sqrt(2/n), its root by half as much
    error = math.sqrt(2 / dataset.attrs["width"] / dataset.sizes["seed"]) / 2
    made = []
    for layer in (1, 2, 3):
        both = curves.twins(lambda data, layer=layer: _rms(data).sel(layer=layer), dataset, off)
        expected = math.sqrt(q[layer - 1])
        text, tolerance = f"Xavier, bias: rms at layer {layer}", 4 * error * expected
        made.append(equal(text, CLOSED_FORM, expected, **both, tolerance=tolerance))
    both = curves.twins(lambda data: _rms(data).sel(layer=slice(11, None)).mean(), dataset, off)
    text = "Xavier, bias: rms, layers 11 on"
    return [*made, equal(text, CLOSED_FORM, math.sqrt(784 / 734), **both, tolerance=error)]


def _rms(dataset: xr.Dataset) -> xr.DataArray:
    return np.sqrt(np.exp(_cell(dataset, CELLS[2]).log_q).mean("seed"))


def _decay(dataset: xr.Dataset, on: xr.Dataset) -> list[Claim]:
    """Without the bias Xavier's weights lose the signal, at last below the range of float32."""
    plain = functools.partial(_cell, cell=CELLS[3])
    falls = curves.twins(lambda data: plain(data).log_q.diff("layer").mean() / 2, dataset, on)
    zeros = curves.twins(lambda data: plain(data).underflow_layer.median(), dataset, on)
    error = math.sqrt(2 / dataset.attrs["width"] / dataset.sizes["seed"] / dataset.sizes["layer"]) / 2
    # Sums of 50 products of 1.2e-38 and 1/28 start to be flushed where the largest entry is about 1e-37
    return [
        equal("Xavier, no bias: ln rms falls", CLOSED_FORM, TYPICAL_FALL, **falls, tolerance=4 * error),
        equal("Xavier, no bias: zero at layer", "no denormals", 64.5, **zeros, tolerance=0.5),
    ]


def _noise(dataset: xr.Dataset, off: xr.Dataset, on: xr.Dataset) -> list[Claim]:
    """What the notebook did not ask: what is left of the inputs."""
    biased, plain = (functools.partial(_cell, cell=cell) for cell in CELLS[2:])
    falls = curves.twins(
        lambda data: np.exp(np.log(biased(data).distance.sel(layer=[2, 6])).diff("layer").mean() / 4),
        dataset,
        off,
    )
    error = 50 / 784 * 4 * math.sqrt(4 / dataset.attrs["width"] / dataset.sizes["seed"] / 4)
    worst = curves.twins(lambda data: biased(data).distance.sel(layer=20).max(), dataset, off)
    kept = curves.twins(lambda data: plain(data).correlation.sel(layer=10).mean(), dataset, on)
    scatter = 4 * curves.standard_error(plain(dataset).correlation.sel(layer=10), ddof=0)
    expected = 50 / 784 * math.exp(TYPICAL)
    return [
        equal("Xavier, bias: 1 - c falls by", CLOSED_FORM, expected, **falls, tolerance=error),
        at_most("Xavier, bias: 1 - c, layer 20", "rounding", 1e-12, **worst),
        equal("Xavier, no bias: c at layer 10", "scale-free", 0, **kept, tolerance=scatter),
    ]


def _gradients(dataset: xr.Dataset) -> list[Claim]:
    """Gradients vanish with the bias as without: a linear network's do not know it; with tanh they would."""
    xavier = dataset.sel(weight_std=XAVIER, method="nearest").log_grad_features
    linear, tanh = (abs(logs.diff("sigma_b")).max() for logs in (xavier, dataset.tanh_log_gradients))
    growth = -xavier.sel(sigma_b=1.0).diff("layer").mean("layer") / 2
    text, interval = "Xavier, bias: ln |gradient|", bj.plot.confidence(growth, "seed")
    return [
        at_most("|ln gradient, bias / none|", "W alone", 1e-3, linear, null=tanh),
        equal(text, CLOSED_FORM, TYPICAL_FALL, growth.mean(), tolerance=0.01, interval=interval),
    ]


def figure(dataset: xr.Dataset):
    """Standard deviation of all cells, the plateau, what is left of two inputs, and gradients."""
    titles = ["all four cells", "with bias: the plateau", "two inputs", "the bias changes no gradient"]
    fig, axes = bj.plot.panels([titles[0], *(f"Xavier weights: {title}" for title in titles[1:])])
    _draw_std(axes[0], dataset)
    _draw_plateau(axes[1], dataset)
    _draw_distance(axes[2], dataset)
    _draw_gradients(axes[3], dataset)
    for ax in axes:
        ax.set_xlabel("layer")
        ax.legend(loc="lower left" if ax is axes[0] else None, ncols=2 if ax is axes[0] else 1)
    fig.suptitle(
        "The plateau under Xavier weights is the bias's noise: inputs and gradients are lost all the same"
    )
    return fig


def _draw_std(ax, dataset: xr.Dataset) -> None:
    """Draw log10 std, mean of seeds, theory dashed, and the printed numbers as dots."""
    for color, cell in zip(bj.plot.COLORS, CELLS, strict=False):
        kind = f"{'N(0, 1)' if cell[0] == 1 else 'Xavier'}, {'bias' if cell[1] else 'no bias'}"
        measured = _cell(dataset, cell).log_std.mean("seed") / math.log(10)
        width = _WIDE if cell == CELLS[0] else {}  # the bias changes nothing there
        bj.plot.line(ax, measured, "layer", color=color, label=kind, **width)
        ax.plot(dataset.layer, np.log10(theory(dataset, *cell)[0]) / 2, **_THEORY)
        printed = np.log10(PRINTED[cell])
        ax.plot(dataset.layer[: len(printed)], printed, ".", color=color, markersize=4)
    for limit in (np.finfo(np.float32).tiny, np.finfo(np.float32).max):
        ax.axhline(np.log10(float(limit)), color="grey", linewidth=0.8, linestyle=":")
    ax.text(101, -36, "range of float32", color="grey", fontsize=7, ha="right")
    ax.text(52, 66, "with and without bias: one line", fontsize=7, ha="right")
    ax.plot([], [], **_THEORY, label="theory")
    ax.plot([], [], ".", color="grey", label="printed there")
    ax.set(ylabel="log10 of the standard deviation", ylim=(-145, 95))


def _draw_plateau(ax, dataset: xr.Dataset) -> None:
    std = _cell(dataset, CELLS[2])["std"]
    color, band = bj.plot.COLORS[2], std.quantile([0.025, 0.975], ["seed"])
    bj.plot.line(ax, std.mean("seed"), "layer", color=color, label="mean of seeds")
    ax.fill_between(std.layer, *band.values, color=color, alpha=0.15, linewidth=0, label="95% of seeds")
    q, _ = theory(dataset, *CELLS[2])
    ax.plot(dataset.layer, np.sqrt(q), **_THEORY, label="theory")
    printed, style = PRINTED[CELLS[2]], {"color": bj.plot.COLORS[1], "label": "printed there, one draw"}
    ax.plot(std.layer[: len(printed)], printed, ".", **style)
    ax.set(ylabel="standard deviation", ylim=(0.6, 2.1))


def _draw_distance(ax, dataset: xr.Dataset) -> None:
    for color, cell in zip(bj.plot.COLORS[2:], CELLS[2:], strict=False):
        distance, label = _cell(dataset, cell).distance, "bias" if cell[1] else "no bias"
        median, *band = curves.median_interval(distance.where(distance > 0, 1e-18))
        bj.plot.line(ax, median, "layer", color=color, label=f"{label}, median of seeds")
        ax.fill_between(median.layer, *band, color=color, alpha=0.3, linewidth=0)
        ax.plot(dataset.layer, theory(dataset, *cell)[1], **_THEORY)
    ax.plot([], [], **_THEORY, label="theory")
    ax.text(39, 3e-15, "rounding", color="grey", fontsize=7, ha="right")
    ax.set(ylabel="1 - correlation (bands: 95% interval)", yscale="log", ylim=(1e-17, 10), xlim=(0, 40))


def _draw_gradients(ax, dataset: xr.Dataset) -> None:
    for color, cell in zip(bj.plot.COLORS[2:], CELLS[2:], strict=False):
        width = _WIDE if cell[1] else {}  # they are equal
        logs = _cell(dataset, cell).log_grad_features.mean("seed") / math.log(10)
        label = "bias" if cell[1] else "no bias"
        bj.plot.line(ax, logs - logs[-1], "layer", color=color, label=label, **width)
    line = math.log10(50 / 784) * (dataset.layer[-1] - dataset.layer)
    ax.plot(dataset.layer, line, ":", color="black", label="(50/784) per layer")
    ax.set_ylabel("log10 of |gradient|² / the last layer's")
