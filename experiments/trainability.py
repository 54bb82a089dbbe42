"""How deep a tanh network can be trained, and how much of that depth does a bias take away?

Source: Schoenholz et al., arXiv 1611.01232: a random network can be trained only if it is no deeper than
about 6 xi_c, the depth over which two inputs keep their distance. Networks of many depths, weight and bias
scales are trained on the 8x8 digits, all of them in one compiled program, whose depth is traced.

Expected: networks up to 2 xi_c deep learn, from 6 xi_c on they only guess, and in between accuracy falls to
half; xi_c diverges on the critical line sigma_w(sigma_b), and there the deepest networks train. A bias moves
that line up, so in the ordered phase it takes depth away.

Measured on 288 networks: median accuracy .94 up to 2 xi_c and .09 from 6 xi_c on, half lost at 3.6 xi_c. At
sigma_w = 1.07 all six depths pass 50% with sigma_b = .05, and two with sigma_b = .7.

Cost: about 60 s on 2 CPU cores. Command: `python -m experiments trainability`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from experiments.claims import SCHOENHOLZ, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

_TRAINED = 0.5  # test accuracy; ten classes, so guessing has a tenth


@dataclass(frozen=True)
class Config:
    """The grid and the training."""

    sigma_w: tuple[float, float, int] = (0.75, 3.0, 8)
    """Weight scales: least, greatest, number."""
    sigma_b: tuple[float, ...] = (0.05, 0.2236, 0.7)
    """Bias scales, increasing."""
    depths: tuple[int, ...] = (4, 8, 13, 20, 28, 40)
    """Hidden layers, increasing; every network costs as much as the deepest."""
    learning_rates: tuple[float, ...] = (0.02, 0.1)
    """Of SGD; the better one of a network counts."""
    steps: int = 200
    """Updates."""
    width: int = 64
    """Features of every layer."""
    batch_size: int = 32
    """Examples in an update."""


SMOKE = Config(
    sigma_w=(0.75, 3.0, 3),
    sigma_b=(0.05, 0.7),
    depths=(3, 8, 20),
    learning_rates=(0.03, 0.1),
    steps=150,
    width=40,
)


def run(config: Config) -> xr.Dataset:
    """Train the grid, and evaluate the depth scale on it and along a fine line."""
    axes = {
        "learning_rate": list(config.learning_rates),
        "sigma_b": list(config.sigma_b),
        "sigma_w": np.linspace(*config.sigma_w),
        "depth": np.asarray(config.depths),
    }
    data = bj.data.flatten(bj.data.digits())
    dataset = bj.sweep.run(functools.partial(_train, config, data), axes)
    fine = np.linspace(*config.sigma_w[:2], 181)
    both = np.concatenate([axes["sigma_w"], fine])
    xi_c = np.asarray(bj.phases.order_parameters("tanh", both, np.asarray(config.sigma_b)[:, None]).xi_c)
    dataset["xi_c"] = ("sigma_b", "sigma_w"), xi_c[:, : len(axes["sigma_w"])]
    dataset["xi_c_line"] = ("sigma_b", "sigma_w_line"), xi_c[:, len(axes["sigma_w"]) :]
    line = bj.phases.critical_line("tanh", np.asarray(config.sigma_b)).sigma_w[..., 0]
    dataset["critical"] = "sigma_b", np.asarray(line)
    return dataset.assign_coords(sigma_w_line=fine)


def _train(config: Config, data, key, *, learning_rate, sigma_b, sigma_w, depth) -> dict:
    net = bj.network.Network(
        inputs=data.train_x.shape[-1],
        width=config.width,
        depth=max(config.depths),
        outputs=10,
        order="dense-tanh",
    )
    options = {"steps": config.steps, "batch_size": config.batch_size, "report_at": (config.steps,)}
    train = bj.training.make_train(net, "sgd", data, **options)
    numbers = bj.training.Hyperparams(learning_rate, depth=depth)
    history = train(key, bj.network.Scales(sigma_w, sigma_b), numbers)[1]
    return {"accuracy": history.accuracy_running[-1], "loss": history.loss[-1]}


def reach(accuracy: xr.DataArray) -> xr.DataArray:
    """Depth at which accuracy falls below one half, interpolated in log depth; NaN if it does not."""
    import xarray as xr

    logs = np.log(accuracy.depth.values)

    def one(values):
        low = np.flatnonzero(values < _TRAINED)
        if not low.size or low[0] == 0:
            return np.nan
        at = low[0]
        share = (values[at - 1] - _TRAINED) / (values[at - 1] - values[at])
        return np.exp(logs[at - 1] + share * (logs[at] - logs[at - 1]))

    return xr.apply_ufunc(one, accuracy, input_core_dims=[["depth"]], vectorize=True)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold accuracies to the depth scale."""
    best = dataset.accuracy.max("learning_rate")
    scaled = dataset.depth / dataset.xi_c
    deepest = reach(best)
    ratio = deepest / dataset.xi_c
    chaotic = dataset.sigma_w > dataset.critical
    # A count, for the reach at the least bias may lie beyond the grid
    ordered = best.sel(sigma_w=1.1, method="nearest")
    trained = (ordered >= _TRAINED).sum("depth")
    return [
        at_least("accuracy at depths to 2 xi_c, median", SCHOENHOLZ, 0.85, best.where(scaled <= 2).median()),
        at_most("accuracy at depths from 6 xi_c, median", SCHOENHOLZ, 0.2, best.where(scaled >= 6).median()),
        equal("depth at which half is lost / xi_c, median", "from both", 4, ratio.median(), tolerance=2),
        at_least(
            "the same, ordered phase / chaotic phase",
            "experiment",
            1.0,
            ratio.where(~chaotic).median() / ratio.where(chaotic).median(),
        ),
        at_least(
            f"sigma_w = {float(ordered.sigma_w):.2f}: depths that train, least bias - greatest bias",
            "experiment",
            1.0,
            trained.isel(sigma_b=0) - trained.isel(sigma_b=-1),
        ),
    ]


def figure(dataset: xr.Dataset):
    """Accuracy over weight scale and depth for each bias, and the reach over the depth scale."""
    biases = dataset.sigma_b.values
    titles = [f"test accuracy, $\\sigma_b$ = {sigma_b:.2g}" for sigma_b in biases]
    fig, axes = bj.plot.panels([*titles, "depth at which half is lost"])
    best = dataset.accuracy.max("learning_rate")
    for ax, sigma_b in zip(axes, biases, strict=False):
        one = dataset.sel(sigma_b=sigma_b)
        fig.colorbar(_draw_accuracy(ax, best.sel(sigma_b=sigma_b), one), ax=ax)
    axes[0].legend(loc="lower left", frameon=True, facecolor="grey", labelcolor="white")
    _draw_reach(axes[-1], reach(best), dataset)
    return fig


def _draw_accuracy(ax, accuracy: xr.DataArray, one: xr.Dataset):
    """Draw a map over weight scale and depth, with 6 xi_c and the critical line upon it."""
    rows, logs = np.arange(accuracy.sizes["depth"]), np.log(accuracy.depth.values)
    values = accuracy.transpose("depth", "sigma_w")
    mesh = ax.pcolormesh(accuracy.sigma_w, rows, values, vmin=0, vmax=1, rasterized=True)
    ax.set_yticks(rows, [str(depth) for depth in accuracy.depth.values])
    line = np.interp(np.log(6 * one.xi_c_line), logs, rows, left=np.nan, right=np.nan)
    ax.plot(one.sigma_w_line, line, "w", linewidth=2.5)
    ax.plot(one.sigma_w_line, line, color="#D55E00", label=r"$6\,\xi_c$")
    ax.axvline(float(one.critical), color="w", linestyle="--", linewidth=1, label="critical line")
    ax.set(xlabel=r"$\sigma_w$", ylabel="depth")
    ax.grid(visible=False)
    return mesh


def _draw_reach(ax, deepest: xr.DataArray, dataset: xr.Dataset) -> None:
    """Draw the depth at which half is lost over the depth scale, phases apart."""
    for color, sigma_b in zip(bj.plot.COLORS, dataset.sigma_b.values, strict=False):
        one, reached = dataset.sel(sigma_b=sigma_b), deepest.sel(sigma_b=sigma_b)
        chaotic = one.sigma_w > one.critical
        for phase, marker, chosen in (("ordered", "o", ~chaotic), ("chaotic", "^", chaotic)):
            label = f"$\\sigma_b$ = {sigma_b:.2g}, {phase}"
            ax.plot(one.xi_c[chosen], reached[chosen], marker, color=color, label=label)
    ends = np.array([0.5, float(dataset.depth.max()) / 4])
    ax.plot(ends, 6 * ends, color="grey", label=r"$6\,\xi_c$")
    ax.set(xscale="log", yscale="log", xlabel=r"$\xi_c$, theory", ylabel="depth")
    ax.set_ylim(top=1000)
    ax.legend(loc="upper left", ncols=2, fontsize=7)
