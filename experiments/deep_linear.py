"""What does the bias do to a deep linear network: keep its signal, or drown it?

Source: the notebook on Xavier and the bias, exactly its setting: 100 linear layers of width 50 on 784 inputs,
weights N(0, 1) or N(0, 1/784) in every layer ("Xavier"), biases N(0, 1) or none. It sees the standard
deviation explode, with the bias too; vanish under Xavier weights; and hold under Xavier weights with the
bias, and concludes that the bias makes deep networks stable.

Expected: with the bias a plateau at sqrt(784/734) = 1.0335, without it a fall by sqrt(50/784) = .2525 per
layer; weights N(0, 1) overflow at layer 44-45, a naive standard deviation already at 20-22. And what the
document does not ask: the plateau is the bias's own noise. The difference of two inputs falls by 50/784 per
layer all the same, so their correlation goes to 1, and gradients vanish as if there were no bias.

Measured: all of it. A plateau at 1.032; overflow at layer 45, of the naive deviation at 22; 1 - c of two
inputs falls by a factor of 16 per layer to below 2e-14 at layer 20; gradients with and without the bias are
equal.

Cost: about 15 s on 2 CPU cores. Command: `python -m experiments deep_linear`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import curves
from experiments.claims import CLOSED_FORM, NOTEBOOK, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

CELLS = ((1.0, 0.0), (1.0, 1.0), (1 / 28, 1.0), (1 / 28, 0.0))
"""Standard deviations of weights and biases in the four cells of the document."""
# What the document prints: the standard deviation after each of the first layers, one draw
_TEXT = {
    CELLS[0]: """
        26.1706 188.7720 1162.1053 10019.8301 63094.7305 455544.7500 3361917.5000 25106340 1.8682e08
        1.3495e09 9.3639e09 6.4331e10 4.3354e11 2.6942e12 1.8670e13 1.3257e14 9.5434e14 6.2041e15 3.8465e16
        1.9924e17 1.4602e18 1.0735e19 6.6974e19 4.8939e20 3.6402e21 2.4501e22
    """,
    CELLS[1]: """
        22.5135 157.3415 1014.1555 6892.7690 42421.7539 311417.0938 2563695.5000 17689588 1.3575e08
        1.0693e09 7.3240e09 4.7974e10 3.2171e11 2.3479e12 1.6541e13 1.2849e14 9.0753e14 5.6709e15 3.5614e16
        2.2148e17 1.4494e18 9.9376e18 6.0428e19 4.4832e20 3.0153e21 2.2223e22
    """,
    CELLS[2]: """
        1.3213 0.9710 1.0783 1.1460 0.9311 1.1002 1.0311 1.0027 1.1469 1.0446 1.0336 1.1801 1.0580 1.1358
        1.0590 0.8153 0.9828 0.9944 0.9233 1.0482 1.0281 1.2260 1.1781 1.1089 1.2104 1.0585 1.0125 0.9085
        0.9092 0.9785 0.9863 0.8722
    """,
    CELLS[3]: """
        0.9502 0.2757 0.0723 0.0186 0.0047 0.0011 0.0003 7.7497e-05 1.9835e-05 5.0685e-06 1.2090e-06
        2.6407e-07 6.7252e-08 1.4054e-08 3.3937e-09 7.8351e-10 1.8582e-10 5.6959e-11 1.6890e-11 3.9216e-12
        8.8020e-13 2.2054e-13 6.0513e-14 1.4695e-14 3.8098e-15 9.7716e-16 2.5967e-16
    """,
}
PRINTED = {cell: np.array(numbers.split(), float) for cell, numbers in _TEXT.items()}
# E[ln(chi²_n / n)] for n = 50: how far a typical mean square of 50 Gaussians lies below its mean, in logs
_TYPICAL = -0.020134
_TYPICAL_FALL = 0.5 * math.log(50 / 784) + _TYPICAL / 2  # of an rms per layer under Xavier weights
_THEORY = {"linestyle": "--", "color": "black", "linewidth": 0.8}
_WIDE = {"linewidth": 4, "alpha": 0.5}  # a line for another to lie upon


@dataclass(frozen=True)
class Config:
    """The document's setting, over many seeds."""

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
    """Draw all cells and seeds as one grid: the cells share their draws."""
    axes = {"seed": np.arange(config.seeds), "weight_std": [1.0, 1 / 28], "sigma_b": [0.0, 1.0]}
    dims = {**bj.propagation.DIMS, "naive_std": ("layer",)}
    dataset = bj.sweep.run(functools.partial(_measure, config), axes, dims=dims)
    dataset = dataset.assign_coords(layer=np.arange(1, config.depth + 1))
    return dataset.assign_attrs(width=config.width, inputs=config.inputs)


def _measure(config: Config, key, *, weight_std, sigma_b) -> dict:
    """Measure one network: the document's numbers with one input, correlation and gradients with two."""
    import jax
    import jax.numpy as jnp

    net_key, x_key = jax.random.split(key)
    net = bj.network.Network(inputs=config.inputs, width=config.width, depth=config.depth, order="dense")
    fan_in = jnp.asarray([config.inputs] + [config.width] * (config.depth - 1))
    scales = bj.network.Scales(weight_std * jnp.sqrt(fan_in), sigma_b)
    x = jax.random.normal(x_key, (2, config.inputs))
    one = bj.propagation.propagate(net_key, net, scales, x[:1], backward=False)
    two = bj.propagation.propagate(net_key, net, scales, x)
    values = bj.propagation.features(net_key, net, scales, x[:1])[:, 0]
    bessel = math.sqrt(config.width / (config.width - 1))  # the document's std divides by n - 1
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


def theory(dataset: xr.Dataset, weight_std: float, sigma_b: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean square q of each layer, and 1 - c of two independent inputs.

    q -> s² q + sigma_b² with s² = width · weight_std²; q (1 - c) -> s² q (1 - c), whatever the bias.
    """
    first, growth = (dataset.attrs[name] * weight_std**2 for name in ("inputs", "width"))
    q = [first + sigma_b**2]
    for _ in range(dataset.sizes["layer"] - 1):
        q.append(growth * q[-1] + sigma_b**2)
    difference = first * growth ** np.arange(dataset.sizes["layer"], dtype=float)
    return np.array(q), difference / np.array(q)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold the document's four cells, and what it did not ask, to numbers."""
    cells = {cell: _cell(dataset, cell) for cell in CELLS}
    inside = [_inside(cells[cell].log_std, PRINTED[cell]) for cell in CELLS]
    text = "printed standard deviations between the least and greatest of our seeds"
    return [
        at_least(text, NOTEBOOK, 0.95, np.mean(np.concatenate(inside))),
        *_explosion(cells[CELLS[0]], "no bias"),
        *_explosion(cells[CELLS[1]], "bias"),
        *_plateau(dataset, cells[CELLS[2]]),
        *_decay(dataset, cells[CELLS[3]]),
        *_noise(dataset, cells[CELLS[2]], cells[CELLS[3]]),
    ]


def _cell(dataset: xr.Dataset, cell: tuple[float, float]) -> xr.Dataset:
    return dataset.sel(weight_std=cell[0], sigma_b=cell[1], method="nearest")


def _inside(log_std: xr.DataArray, printed: np.ndarray) -> np.ndarray:
    ours, log_printed = log_std.isel(layer=slice(len(printed))), np.log(printed)
    return (log_printed >= ours.min("seed").values) & (log_printed <= ours.max("seed").values)


def _explosion(cell: xr.Dataset, which: str) -> list[Claim]:
    naive = np.argmax(~np.isfinite(cell.naive_std.values), axis=1) + 1
    name, about = f"weights N(0, 1), {which}", "layer, median of seeds"
    return [
        equal(f"{name}: first infinite {about}", NOTEBOOK, 44.5, cell.overflow_layer.median(), tolerance=0.5),
        equal(f"{name}: naive std infinite, {about}", "squares", 21, np.median(naive), tolerance=1),
    ]


def _plateau(dataset: xr.Dataset, cell: xr.Dataset) -> list[Claim]:
    q, _ = theory(dataset, *CELLS[2])
    measured = np.sqrt(np.exp(cell.log_q).mean("seed"))
    # A mean square of n Gaussians scatters by sqrt(2/n), its root by half as much
    error = math.sqrt(2 / dataset.attrs["width"] / dataset.sizes["seed"]) / 2
    found = [
        equal(
            f"Xavier, bias: rms at layer {layer}",
            CLOSED_FORM,
            math.sqrt(q[layer - 1]),
            measured.sel(layer=layer),
            tolerance=4 * error * math.sqrt(q[layer - 1]),
        )
        for layer in (1, 2, 3)
    ]
    plateau = measured.sel(layer=measured.layer > 10).mean()
    text = "Xavier, bias: plateau, rms of layers 11 and on"
    return [*found, equal(text, CLOSED_FORM, math.sqrt(784 / 734), plateau, tolerance=error)]


def _decay(dataset: xr.Dataset, cell: xr.Dataset) -> list[Claim]:
    falls = cell.log_q.diff("layer").mean() / 2
    error = math.sqrt(2 / dataset.attrs["width"] / dataset.sizes["seed"] / dataset.sizes["layer"]) / 2
    text = "Xavier, no bias: ln of the typical fall of the rms per layer"
    layers = "Xavier, no bias: first all-zero layer, median of seeds"
    # Sums of 50 products of 1.2e-38 and 1/28 start to be flushed where the largest entry is about 1e-37
    return [
        equal(text, CLOSED_FORM, _TYPICAL_FALL, falls, tolerance=4 * error),
        equal(layers, "float32, no denormals", 64.5, cell.underflow_layer.median(), tolerance=0.5),
    ]


def _noise(dataset: xr.Dataset, biased: xr.Dataset, plain: xr.Dataset) -> list[Claim]:
    """What the document did not ask: what is left of the inputs, and of gradients."""
    early = np.log(biased.distance.sel(layer=[2, 6]))
    fall = np.exp(early.diff("layer").mean() / 4)
    error = 50 / 784 * 4 * math.sqrt(4 / dataset.attrs["width"] / dataset.sizes["seed"] / 4)
    gap = abs(biased.log_grad_features - plain.log_grad_features).max()
    steps = np.log(bj.propagation.growth(plain.log_grad_features)).mean() / 2
    kept = plain.correlation.sel(layer=10)
    scatter = curves.standard_error(kept, ddof=0)
    rate, expected = "Xavier, bias: fall of 1 - correlation per layer", 50 / 784 * math.exp(_TYPICAL)
    none, worst = "Xavier, no bias: mean correlation at layer 10", biased.distance.sel(layer=20).max()
    return [
        equal(rate, CLOSED_FORM, expected, fall, tolerance=error),
        at_most("Xavier, bias: 1 - correlation at layer 20, worst seed", "rounding", 1e-12, worst),
        equal(none, "scale-free", 0, kept.mean(), tolerance=4 * scatter),
        at_most("gradient with bias / without, largest |ln|", "W alone carries it", 1e-3, gap),
        equal(
            "Xavier: ln of the growth of gradients per layer",
            CLOSED_FORM,
            _TYPICAL_FALL,
            steps,
            tolerance=0.01,
        ),
    ]


def figure(dataset: xr.Dataset):
    """Standard deviation of all cells, the plateau, what is left of two inputs, and gradients."""
    titles = ["standard deviation, all four cells", "Xavier weights, with bias: the plateau"]
    titles += ["1 - correlation of two inputs, Xavier weights", "squared gradient norm, Xavier weights"]
    fig, axes = bj.plot.panels(titles, columns=2)
    _draw_std(axes[0], dataset)
    _draw_plateau(axes[1], dataset)
    _draw_distance(axes[2], dataset)
    _draw_gradients(axes[3], dataset)
    for ax in axes:
        ax.set_xlabel("layer")
        ax.legend(loc="lower left" if ax is axes[0] else None, ncols=2 if ax is axes[0] else 1)
    return fig


def _draw_std(ax, dataset: xr.Dataset) -> None:
    """Draw log10 std with a band over seeds, theory dashed, and the printed numbers as dots."""
    for color, cell in zip(bj.plot.COLORS, CELLS, strict=False):
        kind = f"{'N(0, 1)' if cell[0] == 1 else 'Xavier'}, {'bias' if cell[1] else 'no bias'}"
        measured = _cell(dataset, cell).log_std / math.log(10)
        width = _WIDE if cell == CELLS[0] else {}  # the bias changes nothing there
        bj.plot.line(ax, measured, "layer", over="seed", color=color, label=kind, **width)
        ax.plot(dataset.layer, np.log10(theory(dataset, *cell)[0]) / 2, **_THEORY)
        _draw_printed(ax, np.log10(PRINTED[cell]), color=color, markersize=4)
    for limit in (np.finfo(np.float32).tiny, np.finfo(np.float32).max):
        ax.axhline(np.log10(float(limit)), color="grey", linewidth=0.8, linestyle=":")
    ax.text(101, -36, "range of float32", color="grey", fontsize=7, ha="right")
    ax.plot([], [], **_THEORY, label="theory")
    ax.plot([], [], ".", color="grey", label="printed there")
    ax.set(ylabel="log10 std", ylim=(-135, 95))


def _draw_printed(ax, printed: np.ndarray, **style: Any) -> None:
    ax.plot(np.arange(1, len(printed) + 1), printed, ".", **style)


def _draw_distance(ax, dataset: xr.Dataset) -> None:
    for color, cell in zip(bj.plot.COLORS[2:], CELLS[2:], strict=False):
        distance, label = _cell(dataset, cell).distance, "bias" if cell[1] else "no bias"
        typical = np.exp(np.log(distance.where(distance > 0)).median("seed"))
        bj.plot.line(ax, typical, "layer", color=color, label=f"{label}, median")
        ax.plot(dataset.layer, theory(dataset, *cell)[1], **_THEORY)
    ax.plot([], [], **_THEORY, label="theory")
    ax.set(yscale="log", ylim=(1e-17, 10), xlim=(0, 40))


def _draw_gradients(ax, dataset: xr.Dataset) -> None:
    for color, cell in zip(bj.plot.COLORS[2:], CELLS[2:], strict=False):
        width = _WIDE if cell[1] else {}  # they are equal
        gradients = _cell(dataset, cell).log_grad_features.mean("seed") / math.log(10)
        label = "bias" if cell[1] else "no bias"
        bj.plot.line(ax, gradients, "layer", color=color, label=label, **width)
        line = float(gradients[-1]) + math.log10(50 / 784) * (dataset.layer[-1] - dataset.layer)
    ax.plot(dataset.layer, line, ":", color="black", label="(50/784) per layer")
    ax.set_ylabel("log10, mean of seeds")


def _draw_plateau(ax, dataset: xr.Dataset) -> None:
    cell = _cell(dataset, CELLS[2])
    bj.plot.line(ax, cell["std"], "layer", over="seed", color=bj.plot.COLORS[2], label="mean, and all seeds")
    q, _ = theory(dataset, *CELLS[2])
    ax.plot(dataset.layer, np.sqrt(q), **_THEORY, label="theory")
    _draw_printed(ax, PRINTED[CELLS[2]], color=bj.plot.COLORS[2], label="printed there")
