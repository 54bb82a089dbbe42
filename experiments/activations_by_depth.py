"""Does Xavier initialisation assume anything about the bias? Every layer, forward and backward.

Answer: yes, that there is none. With biases of .5 variances settle or grow as theory says, but two inputs
become alike in every case but tanh under He's weights: what survives depth is the bias's noise.

Source: the open questions of the notebook on Xavier and the bias ("Does Xavier init make any assumption about
the bias term?", "Plot activations for each layer", "Backward pass", "ReLu"); Glorot & Bengio (2010); He et
al., arXiv 1502.01852. ReLU, tanh and GELU networks under Xavier, He, LeCun and orthogonal weights, with
biases from 0 to 1, measured layer by layer and laid over mean-field theory.

Expected: Xavier assumes a bias of zero and an activation that is nearly the identity. So it keeps tanh up to
a slow fall, q ~ 1/(2 l), and gradients fall like 1/l only; with ReLU q halves per layer, down to a plateau
sigma_b²/(1 - sigma_w²/2) that is the bias's own noise. Under He's weights a bias lets q of ReLU grow by
sigma_b² per layer. A bias drives two inputs together in every case but one: tanh under He's weights with a
small bias is chaotic.

Measured: all curves within 3.7 standard errors of theory (61 or more off with the bias switched off). Under
Xavier 1/q of tanh grows by 2.02 per layer (1.93) and q of ReLU halves, to .505 with sigma_b = .5 (2e-6
without); under He's weights it reaches 7.2 (7) in 20 layers. A bias of .5 leaves .52 or less of 1 - c in
every cell. GELU dies without a bias: by 1/4 per layer under Xavier, and under He from 2 to .006.

Scope: there, GELU under He without a bias, theory is the median network's. Small q falls fastest, so what a
network of width 200 strays by in early layers grows to three times q, and a few networks hold the mean of 40
up to 7 times theory, and that of early gradients over the last layer's to 12 times. That is finite width: of
200 networks each the mean q was 39, 9 and 7 times theory at width 100, 200 and 400, of 100 of width 800 4
times, and of 40 of width 1600 1.4 times; medians stayed within 1.45 times.

Cost: about 70 s on 2 CPU cores. Command: `python -m experiments activations_by_depth`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from experiments._parts import closed_forms, curves, drawing
from experiments._parts.closed_forms import BIAS
from experiments.claims import POOLE, SCHOENHOLZ, Claim, at_most

if TYPE_CHECKING:
    import xarray as xr

INITIALIZERS = {
    "xavier": ("glorot_normal", 4 / 3, 1.0),  # 2 / (fan_in + fan_out) of each weight
    "he": ("he_normal", 2.0, 2.0),
    "lecun": ("lecun_normal", 1.0, 1.0),
    "orthogonal": ("orthogonal", 1.0, 1.0),
}
"""The draw of the weights, and sigma_w² of the first layer, with twice as many inputs, and of the others."""
MEASURED = ("q", "distance", "log_grad_features")
TITLES = {"relu": "ReLU", "gelu": "GELU"}
NOTES = {
    ("relu", "1 -"): "ReLU; no bias: one curve",
    ("relu", "|gr"): "ReLU; the bias changes nothing",
    ("tanh", "1 -"): "tanh; no bias: one curve, at 1",
    ("gelu", "|gr"): "GELU; He, no bias: networks differ",
}
"""Titles of panels where curves coincide, or scatter."""


@dataclass(frozen=True)
class Config:
    """The grid and the networks."""

    activations: tuple[str, ...] = ("relu", "tanh", "gelu")
    """Names of activations."""
    initializers: tuple[str, ...] = ("xavier", "he", "lecun", "orthogonal")
    """Draws of the weights, all at their usual gain."""
    sigma_b: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    """Standard deviations of the biases."""
    width: int = 200
    """Features of every layer; the networks have twice as many inputs."""
    depth: int = 20
    """Layers."""
    seeds: int = 40
    """Number of seeds."""


SMOKE = Config(("relu", "tanh"), ("xavier", "he"), sigma_b=(0.0, 0.25, 0.5), width=64, depth=12, seeds=64)


def run(config: Config) -> xr.Dataset:
    """Measure the grid and evaluate the theory on it."""
    import xarray as xr

    static = {"activation": config.activations, "initializer": config.initializers}
    axes = {"seed": np.arange(config.seeds), "sigma_b": config.sigma_b}
    measure = functools.partial(_measure, config)
    dataset = bj.sweep.run(measure, axes, static=static, dims=bj.propagation.DIMS)
    dataset = xr.merge([dataset, theory(config, dataset.sigma_b.values)])
    dataset = dataset.assign_coords(layer=np.arange(1, config.depth + 1))
    return dataset.assign_attrs(width=config.width)


def _network(config: Config, activation: str, initializer: str) -> bj.network.Network:
    return bj.network.Network(
        inputs=2 * config.width,
        width=config.width,
        depth=config.depth,
        order=f"dense-{activation}",
        kernel_init=INITIALIZERS[initializer][0],
    )


def _measure(config: Config, key, *, activation, initializer, sigma_b) -> dict:
    import jax
    import jax.numpy as jnp

    net_key, x_key = jax.random.split(key)
    # Two inputs of mean square 1 at a right angle
    x, y = jax.random.normal(x_key, (2, 2 * config.width))
    x = jnp.stack([v / jnp.sqrt(jnp.mean(v**2)) for v in (x, y - jnp.dot(x, y) / jnp.dot(x, x) * x)])
    net, scales = _network(config, activation, initializer), bj.network.Scales(sigma_b=sigma_b)
    found = bj.propagation.propagate(net_key, net, scales, x)
    return {name: getattr(found, name) for name in MEASURED}


def theory(config: Config, sigma_b: np.ndarray) -> xr.Dataset:
    """Mean-field q, 1 - c and gradient of each layer, and the scatter of q."""
    dims = ("activation", "layer", "initializer", "sigma_b")
    coords = {"activation": config.activations, "initializer": config.initializers, "sigma_b": sigma_b}
    return curves.theory(functools.partial(_curves, config), dims, coords)


def _curves(config: Config, activation: str) -> dict:
    """Theory of one activation, ``(depth, initializer, sigma_b)`` each."""
    import jax.numpy as jnp

    first, rest = jnp.asarray([INITIALIZERS[one][1:] for one in config.initializers]).T[..., None]
    sigma_b, sigma_w = jnp.asarray(config.sigma_b), jnp.sqrt(rest)
    q = first + sigma_b**2
    q, c = bj.meanfield.trajectory(activation, q, sigma_b**2 / q, sigma_w, sigma_b, depth=config.depth - 1)
    return {
        "q": q,
        "distance": 1 - c,
        **curves.gradients(activation, q, sigma_w, width=config.width, passed=slice(1, None)),
    }


def deviations(dataset: xr.Dataset) -> xr.Dataset:
    """Differences from theory in standard errors of the mean over seeds.

    Of the correlation the error is the greatest scatter over seeds of a curve, and 1 / width for what theory
    leaves out. Of q and gradients it is `curves.gradients`', which is first order in 1 / width: where single
    networks scatter by more than q itself (GELU under He's weights without a bias) there is no mean to speak
    of, and the value is NaN.
    """
    import xarray as xr

    found, width = closed_forms.measured(dataset), dataset.attrs["width"]
    first_order = dataset.q_scatter_theory < 1
    q, log_gradient = curves.deviations(dataset, found.q / dataset.q_theory, found.gradient)
    c_error = curves.standard_error(dataset.distance).max("layer") + 1 / width
    c = (found.distance - dataset.distance_theory) / c_error
    log_gradient = log_gradient.where(first_order.all("layer"))
    return xr.Dataset({"q": q.where(first_order), "log_gradient": log_gradient, "c": c})


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold every curve to theory, and what it says of Xavier and the bias to closed forms."""
    off, on = (curves.at_bias(dataset, MEASURED, sigma_b) for sigma_b in (0.0, BIAS))
    return [
        *_theory(dataset, off),
        *closed_forms.tanh(dataset, on),
        *closed_forms.relu(dataset, off, on),
        *(closed_forms.gelu(dataset, on) if "gelu" in dataset.activation else ()),
        *closed_forms.correlations(dataset, off),
    ]


def _theory(dataset: xr.Dataset, off: xr.Dataset) -> list[Claim]:
    """Hold all cells and layers at once."""
    worst, worst_off = (abs(deviations(data)).max() for data in (dataset, off))
    share = float((dataset.q_scatter_theory < 1).mean())
    made = []
    for name, text, source in (
        ("q", f"q: worst of {share:.0%}, in std errors", POOLE),
        ("c", "1 - c: worst, in std errors", POOLE),
        ("log_gradient", "|gradient|²: worst, in std errors", SCHOENHOLZ),
    ):
        made.append(at_most(text, source, curves.WORST, worst[name], null=worst_off[name]))
    error = dataset.q_scatter_theory.median() / math.sqrt(dataset.sizes["seed"])
    both = curves.twins(
        lambda data: abs(closed_forms.measured(data).q / data.q_theory - 1).median(), dataset, off
    )
    return [*made, at_most("q / theory - 1: median of cells", POOLE, error, **both)]


def figure(dataset: xr.Dataset):
    """Draw the rms of pre-activations, 1 - c and gradients by depth, medians of seeds, on the theory."""
    data = dataset.sel(initializer=["xavier", "he"], sigma_b=[0.0, BIAS])
    rows = {
        "rms of pre-activations (inputs: 1)": (np.sqrt(data.q), np.sqrt(data.q_theory)),
        "1 - correlation of two inputs": (data.distance, data.distance_theory),
        "|gradient|² / the last layer's": (
            curves.over_last(data.log_grad_features),
            np.exp(data.log_gradient_theory),
        ),
    }
    names = [str(name) for name in data.activation.values]
    fig, axes = bj.plot.panels(names * len(rows), columns=len(names), size=(3.7, 2.6))
    grid = np.array(axes, object).reshape(len(rows), len(names))
    for row, (label, both) in zip(grid, rows.items(), strict=True):
        row[0].set_ylabel(label)
        for name, ax in zip(names, row, strict=True):
            _draw(ax, *(one.sel(activation=name) for one in both))
            ax.set_title(NOTES.get((name, label[:3]), TITLES.get(name, name)), loc="left")
    for ax in grid[-1]:
        ax.set_xlabel("layer")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    finding = (
        "Without a bias Xavier's weights keep only tanh alive; with one, what is left at depth is its noise"
    )
    fig.suptitle(f"{finding}\n{drawing.MEDIANS}", fontsize=11)
    return fig


def _draw(ax, measured: xr.DataArray, theory: xr.DataArray) -> None:
    median, *band = curves.median_interval(measured)
    style = {"color": "initializer", "marker": "sigma_b", "linestyles": ("-", "--"), "band": band}
    drawing.family(ax, "layer", median, theory, label="{}, $\\sigma_b$ = {:g}".format, **style)
    ax.locator_params(axis="x", integer=True)
    if theory.max() > 30 * theory.min():
        ax.set_yscale("log")
