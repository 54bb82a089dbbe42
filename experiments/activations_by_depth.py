"""Does Xavier initialisation assume anything about the bias? Every layer, forward and backward.

Source: the open questions of the notebook on Xavier and the bias ("Does Xavier init make any assumption about
the bias term?", "Plot activations for each layer", "Backward pass", "ReLu"); Glorot & Bengio (2010); He et
al., arXiv 1502.01852. ReLU, tanh and GELU networks under Xavier, He, LeCun and orthogonal weights, with
biases from 0 to 1, measured layer by layer and laid over mean-field theory.

Expected: Xavier assumes a bias of zero and an activation that is nearly the identity. So it keeps tanh up to
a slow fall, q ~ 1/(2 l), and gradients fall like 1/l only; with ReLU q halves per layer, down to a plateau
sigma_b²/(1 - sigma_w²/2) that is the bias's own noise. Under He's weights a bias lets q of ReLU grow by
sigma_b² per layer. A bias drives two inputs together in every case but one: tanh under He's weights with a
small bias is chaotic.

Measured: all curves within 3.7 standard errors of theory. Under Xavier 1/q of tanh grows by 2.02 per layer
(1.93), q of ReLU halves, to .505 with sigma_b = .5; under He's weights it reaches 7.2 (7) in 20 layers. GELU
dies without a bias: by 1/4 per layer under Xavier, and under He from 2 to .04.

Cost: about 80 s on 2 CPU cores. Command: `python -m experiments activations_by_depth`.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import curves, drawing, histograms
from experiments.claims import CLOSED_FORM, POOLE, SCHOENHOLZ, Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

HE = "arXiv 1502.01852"
INITIALIZERS = {
    "xavier": ("glorot_normal", 4 / 3, 1.0),  # 2 / (fan_in + fan_out) of each weight
    "he": ("he_normal", 2.0, 2.0),
    "lecun": ("lecun_normal", 1.0, 1.0),
    "orthogonal": ("orthogonal", 1.0, 1.0),
}
"""The draw of the weights, and sigma_w² of the first layer, with twice as many inputs, and of the others."""
_TITLES = {"relu": "ReLU", "gelu": "GELU"}
MEASURED = ("q", "std", "dead", "distance", "log_grad_features")


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


SMOKE = Config(("relu", "tanh"), ("xavier", "he"), sigma_b=(0.0, 0.25, 0.5), width=64, depth=12, seeds=16)


def run(config: Config) -> xr.Dataset:
    """Measure the grid and evaluate the theory on it; histograms for Xavier alone."""
    import xarray as xr

    static = {"activation": config.activations, "initializer": config.initializers}
    axes = {"seed": np.arange(config.seeds), "sigma_b": config.sigma_b}
    measure = functools.partial(_measure, config)
    dataset = bj.sweep.run(measure, axes, static=static, dims=bj.propagation.DIMS)
    networks = {name: _network(config, name, "xavier") for name in config.activations}
    dataset["share"] = histograms.sweep(networks, [0.0, 0.5]).rename(sigma_b="histogram_sigma_b")
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
    """Mean-field q, std, 1 - c, dead fraction and gradient of each layer, and the scatter of q."""
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
    act = bj.activations.get(activation)
    mean, square = (
        bj.gaussian.expectation(bj.activations.Activation(f, act.kinks), jnp.sqrt(q))
        for f in (act, lambda x: act(x) ** 2)
    )
    both_off = 0.5 - jnp.arccos(c) / (2 * jnp.pi)
    return {
        "q": q,
        "std": jnp.sqrt(square - mean**2),
        "distance": 1 - c,
        "dead": both_off if activation == "relu" else jnp.zeros_like(c),
        **curves.gradients(activation, q, sigma_w, width=config.width, passed=slice(1, None)),
    }


def measured(dataset: xr.Dataset) -> xr.Dataset:
    """Means over seeds: q, std, dead fraction, 1 - c, and squared gradients over that of the last layer."""
    gradient = curves.over_last(dataset.log_grad_features)
    return dataset[["q", "std", "dead", "distance"]].assign(gradient=gradient).mean("seed")


def deviations(dataset: xr.Dataset) -> xr.Dataset:
    """Differences from theory in standard errors of the mean over seeds.

    Of the correlation the error is the greatest scatter over seeds of a curve, and 1 / width for what theory
    leaves out. Of q and gradients it is `curves.gradients`', which is first order in 1 / width: where single
    networks scatter by more than q itself (GELU under He's weights without a bias, where small q falls
    fastest, so that a few networks hold the mean up) there is no mean to speak of, and the value is NaN.
    """
    import xarray as xr

    found, width = measured(dataset), dataset.attrs["width"]
    first_order = dataset.q_scatter_theory < 1
    q, log_gradient = curves.deviations(dataset, found.q / dataset.q_theory, found.gradient)
    c_error = curves.standard_error(dataset.distance).max("layer") + 1 / width
    dead_error = math.sqrt(0.25 / width / dataset.sizes["seed"])
    c = (found.distance - dataset.distance_theory) / c_error
    dead = (found.dead - dataset.dead_theory) / dead_error
    log_gradient = log_gradient.where(first_order.all("layer"))
    return xr.Dataset({"q": q.where(first_order), "log_gradient": log_gradient, "c": c, "dead": dead})


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold every curve to theory, and what it says of Xavier and the bias to closed forms."""
    away, found = abs(deviations(dataset)), measured(dataset)
    text = "{} of layers and combinations: worst, in standard errors"
    error, miss = dataset.q_scatter_theory.median(), abs(found.q / dataset.q_theory - 1).median()
    share = float(away.q.notnull().mean())
    dead = away.dead.sel(activation="relu").max()
    return [
        at_most(text.format(f"q ({share:.0%})"), POOLE, curves.WORST, away.q.max()),
        at_most(text.format("1 - correlation"), POOLE, curves.WORST, away.c.max()),
        at_most(text.format("squared gradient"), SCHOENHOLZ, curves.WORST, away.log_gradient.max()),
        at_most("dead fraction of ReLU, the same", POOLE, curves.WORST, dead),
        at_most("q / theory - 1, median", POOLE, error / math.sqrt(dataset.sizes["seed"]), miss),
        *_tanh(dataset, found),
        *_relu(dataset, found),
        *(_gelu(dataset, found) if "gelu" in dataset.activation else ()),
        *_correlations(dataset, found),
    ]


def _error(dataset: xr.Dataset, name: str = "q", **where) -> float:
    """Greatest deviation to allow at the last layer, relative, of the mean over seeds."""
    scatter = dataset[f"{name}_scatter_theory"].sel(**where)
    scatter = scatter.isel(layer=-1) if name == "q" else scatter.isel(layer=0)
    return curves.SINGLE * float(scatter) / math.sqrt(dataset.sizes["seed"])


def _cell(activation: str, initializer: str, sigma_b: float) -> dict[str, Any]:
    return {"activation": activation, "initializer": initializer, "sigma_b": sigma_b}


def _tanh(dataset: xr.Dataset, found: xr.Dataset) -> list[Claim]:
    """Xavier keeps tanh nearly alive without a bias, forward and backward."""
    made, last = [], dataset.sizes["layer"]
    start = last // 3
    for name in [name for name in ("xavier", "orthogonal") if name in dataset.initializer]:
        where = _cell("tanh", name, 0.0)
        # tanh² = u² - 2/3 u⁴ + 17/45 u⁶ makes q' = q - 2 q² + 17/3 q³ and 1/q' = 1/q + 2 - 5/3 q
        inverse = 1 / found.q.sel(where).sel(layer=[start, last]).values
        expected = 2 - 5 / 6 * math.log(last / start) / (last - start)
        tolerance = _error(dataset, **where) * inverse[1] / (last - start)
        text = f"tanh, {name}, no bias: growth of 1/q per layer"
        growth = (inverse[1] - inverse[0]) / (last - start)
        made.append(equal(text, "expansion of tanh", expected, growth, tolerance=tolerance))
    where = _cell("tanh", "xavier", 0.0)
    gradient = found.gradient.sel(where).sel(layer=start)
    # chi(q) = 1 - 2 q + 7 q² follows q'/q to first order: a gradient grows like the layers below it
    text = f"tanh, Xavier, no bias: gradient of layer {start} / of layer {last}"
    tolerance = start / last * math.expm1(_error(dataset, "log_gradient", **where))
    return [*made, equal(text, "l / L", start / last, gradient, tolerance=tolerance)]


def _relu(dataset: xr.Dataset, found: xr.Dataset) -> list[Claim]:
    """Xavier loses half of the variance per layer, to the bias's noise; He keeps it, and adds the bias's."""
    last, where = dataset.sizes["layer"], _cell("relu", "xavier", 0.0)
    q = found.q.sel(where)
    fall = math.log(q[-1] / q[0]) / (last - 1)
    tolerance = _error(dataset, **where) / (last - 1)
    text = "ReLU, Xavier, no bias: ln of q's fall per layer"
    made = [equal(text, CLOSED_FORM, math.log(0.5), fall, tolerance=tolerance)]
    for name, sigma_b, text, expected in (
        ("xavier", 0.5, "plateau of q, sigma_b²/(1 - 1/2)", 2 * 0.5**2),
        ("he", 0.5, "q of the last layer, 2 + l sigma_b²", 2 + last * 0.5**2),
        ("he", 0.0, "q of the last layer stays 2", 2.0),
    ):
        where = _cell("relu", name, sigma_b)
        tolerance, q = _error(dataset, **where) * expected, found.q.sel(where)[-1]
        made.append(equal(f"ReLU, {name}, sigma_b = {sigma_b}: {text}", HE, expected, q, tolerance=tolerance))
    return made


def _gelu(dataset: xr.Dataset, found: xr.Dataset) -> list[Claim]:
    """GELU is x/2 near zero, so that without a bias every usual gain lets it die."""
    where = _cell("gelu", "xavier", 0.0)
    q, tolerance = found.q.sel(where)[-2:].values, 3 * _error(dataset, **where) / dataset.sizes["layer"]
    text = "GELU, Xavier, no bias: q of the last layer / below"
    fall = equal(text, "phi'(0)² = 1/4", 0.25, q[1] / q[0], tolerance=tolerance)
    text = "GELU, He, no bias: q of the last layer, of 2 at the first"
    return [fall, at_most(text, "V(q) < q", 1.0, found.q.sel(_cell("gelu", "he", 0.0))[-1])]


def _correlations(dataset: xr.Dataset, found: xr.Dataset) -> list[Claim]:
    """A bias makes inputs alike, unless the network is chaotic; and makes gradients of tanh vanish."""
    last = {"layer": -1}
    ordered = found.distance.isel(last).sel(sigma_b=0.5).max()
    worst = 1.5 * dataset.distance_theory.isel(last).sel(sigma_b=0.5).max()
    where = _cell("tanh", "he", 0.25)
    theory, chaos = (one.sel(where).isel(last) for one in (dataset.distance_theory, found.distance))
    scatter = curves.standard_error(dataset.distance.sel(where)).max()
    star = float(bj.phases.order_parameters("tanh", math.sqrt(2.0), 0.25).c)
    text = f"tanh, He, sigma_b = 0.25 is chaotic (c* = {star:.3f}): 1 - c at the end"
    where, half = _cell("tanh", "xavier", 0.5), dataset.sizes["layer"] // 2
    growth = bj.propagation.growth(np.log(found.gradient.sel(where).isel(layer=slice(half, None))))
    chi = float(bj.phases.order_parameters("tanh", 1.0, 0.5).chi_1)
    error = _error(dataset, "log_gradient", **where) / math.sqrt(half * (dataset.sizes["layer"] - 1))
    rate = "tanh, Xavier, sigma_b = 0.5: ln of the gradients' factor"
    return [
        at_most("sigma_b = 0.5: 1 - correlation at the end, worst", POOLE, worst, ordered),
        equal(text, POOLE, theory, chaos, tolerance=curves.SINGLE * scatter),
        equal(rate, SCHOENHOLZ, math.log(chi), np.log(growth).mean(), tolerance=error),
    ]


def figure(dataset: xr.Dataset):
    """Rms of pre-activations and gradients by depth, and histograms of what leaves each layer."""
    names, found = [str(name) for name in dataset.activation.values], measured(dataset)
    biases = {"no bias": 0.0, "$\\sigma_b$ = 0.5": 0.5}
    rows = [f"{kind}, {bias}" for kind in ("forward", "gradient", "features, Xavier") for bias in biases]
    titles = [f"{_TITLES.get(name, name)}: {row}" for row in rows for name in names]
    fig, axes = bj.plot.panels(titles, columns=len(names), size=(3.7, 2.4))
    grid = np.array(axes, object).reshape(3, len(biases), len(names))
    for (row, sigma_b), (column, name) in itertools.product(enumerate(biases.values()), enumerate(names)):
        where = {"activation": name, "sigma_b": sigma_b}
        one, theory = found.sel(where), dataset.sel(where)
        _draw(grid[0, row, column], np.sqrt(one.q), np.sqrt(theory.q_theory))
        _draw(grid[1, row, column], one.gradient, np.exp(theory.log_gradient_theory))
        share = dataset.share.sel(activation=name, histogram_sigma_b=sigma_b)
        histograms.draw(grid[2, row, column], share)
    labels = ("rms of pre-activations", "|gradient|² / last", "value; darker: more of them")
    for ax, label in zip(grid[:, :, 0].ravel(), np.repeat(labels, 2), strict=True):
        ax.set_ylabel(label)
    for ax in axes:
        ax.locator_params(axis="x", integer=True)
    for ax in grid[-1, -1]:
        ax.set_xlabel("layer")
    axes[0].legend(loc="lower left")
    fig.suptitle(f"{drawing.LEGEND} (LeCun and orthogonal share a line)", fontsize=10)
    return fig


def _draw(ax, measured: xr.DataArray, theory: xr.DataArray) -> None:
    drawing.family(ax, "layer", measured, theory, color="initializer")
    if theory.max() > 30 * theory.min():
        ax.set_yscale("log")
