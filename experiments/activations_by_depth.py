"""Does Xavier initialisation assume anything about the bias? Every layer, forward and backward.

Source: the open questions of seed document 004 ("Does Xavier init make any assumption about the bias term?",
"Plot activations for each layer", "Backward pass", "ReLu"); Glorot & Bengio (2010); He et al., arXiv
1502.01852. ReLU, tanh and GELU networks under Xavier, He, LeCun and orthogonal weights, with biases from 0
to 1, measured layer by layer and laid over mean-field theory.

Expected: Xavier assumes a bias of zero and an activation that is nearly the identity. So it keeps tanh up to
a slow fall, q ~ 1/(2 l), and gradients fall like 1/l only; with ReLU q halves per layer, down to a plateau
sigma_b²/(1 - sigma_w²/2) that is the bias's own noise. Under He's weights a bias lets q of ReLU grow by
sigma_b² per layer. A bias drives two inputs together in every case but one: tanh under He's weights with a
small bias is chaotic.

Cost: about 80 s on 2 CPU cores. Command: `python -m experiments activations_by_depth`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from experiments.claims import Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

SEED_004 = "seed document 004"
GLOROT = "Glorot & Bengio 2010"
HE = "arXiv 1502.01852"
POOLE = "arXiv 1606.05340"
SCHOENHOLZ = "arXiv 1611.01232"
INITIALIZERS = {
    "xavier": "glorot_normal",
    "he": "he_normal",
    "lecun": "lecun_normal",
    "orthogonal": "orthogonal",
}
BINS = np.linspace(-2, 2, 82)
"""Edges of the histograms; zero lies within the middle bin."""
WORST, SINGLE = 4.5, 3.0
"""Standard errors to allow the worst of a thousand numbers, and one number."""


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
    names = ("q", "std", "dead", "distance", "log_grad_features")
    dims = dict.fromkeys(names, ("layer",))
    dataset = bj.sweep.run(functools.partial(_measure, config), axes, static=static, dims=dims)
    static, axes = {"activation": config.activations}, {"sigma_b": [0.0, 0.5]}
    shares = bj.sweep.run(
        functools.partial(_histogram, config), axes, static=static, dims={"share": ("layer", "value")}
    )
    dataset["share"] = shares.share.rename(sigma_b="histogram_sigma_b")
    dataset = xr.merge([dataset, theory(config)])
    dataset = dataset.assign_coords(layer=np.arange(1, config.depth + 1), value=(BINS[1:] + BINS[:-1]) / 2)
    return dataset.assign_attrs(width=config.width)


def weight_variance(initializer: str) -> tuple[float, float]:
    """sigma_w² of the first layer, with twice as many inputs as outputs, and of the others.

    Examples
    --------
    >>> weight_variance("xavier")  # 2 / (fan_in + fan_out) of each weight
    (1.3333333333333333, 1.0)
    """
    return {"xavier": (4 / 3, 1.0), "he": (2.0, 2.0)}.get(initializer, (1.0, 1.0))


def _network(config: Config, activation: str, initializer: str) -> bj.network.Network:
    return bj.network.Network(
        inputs=2 * config.width,
        width=config.width,
        depth=config.depth,
        order=f"dense-{activation}",
        kernel_init=INITIALIZERS[initializer],
    )


def _measure(config: Config, key, *, activation, initializer, sigma_b) -> dict:
    import jax
    import jax.numpy as jnp

    net_key, x_key = jax.random.split(key)
    # Two inputs of mean square 1 at a right angle
    x, y = jax.random.normal(x_key, (2, 2 * config.width))
    x, y = (v / jnp.sqrt(jnp.mean(v**2)) for v in (x, y - jnp.dot(x, y) / jnp.dot(x, x) * x))
    x = jnp.stack([x, y])
    # The initialisers bring their gains with them
    scales = bj.network.Scales(sigma_b=sigma_b)
    found = bj.propagation.propagate(net_key, _network(config, activation, initializer), scales, x)
    names = ("q", "std", "dead", "distance", "log_grad_features")
    return {name: getattr(found, name) for name in names}


def _histogram(config: Config, key, *, activation, sigma_b) -> dict:
    """Share of the features of each layer in each bin, over 16 inputs, under Xavier."""
    import jax
    import jax.numpy as jnp

    net_key, x_key = jax.random.split(key)
    x = jax.random.normal(x_key, (16, 2 * config.width))
    scales = bj.network.Scales(sigma_b=sigma_b)
    values = bj.propagation.features(net_key, _network(config, activation, "xavier"), scales, x)
    below = jnp.stack([jnp.mean(values < edge, (1, 2)) for edge in BINS], -1)
    return {"share": jnp.diff(below, axis=-1)}


def theory(config: Config) -> xr.Dataset:
    """Mean-field q, std, 1 - c, dead fraction and gradient of each layer, and the scatter of q."""
    import jax
    import xarray as xr

    dims = ("activation", "layer", "initializer", "sigma_b")
    with jax.enable_x64(True):
        curves = [jax.jit(functools.partial(_curves, config, name))() for name in config.activations]
        curves = {name: np.stack([one[name] for one in curves]) for name in curves[0]}
    coords = {name: list(getattr(config, f"{name}s")) for name in ("activation", "initializer")}
    arrays = {f"{name}_theory": (dims, value) for name, value in curves.items()}
    return xr.Dataset(arrays, coords | {"sigma_b": list(config.sigma_b)})


def _curves(config: Config, activation: str) -> dict:
    """Theory of one activation, ``(depth, initializer, sigma_b)`` each."""
    import jax
    import jax.numpy as jnp

    first, rest = (
        jnp.asarray(one)[:, None] for one in zip(*map(weight_variance, config.initializers), strict=True)
    )
    sigma_b, sigma_w = jnp.asarray(config.sigma_b), jnp.sqrt(rest)
    q = first + sigma_b**2
    q, c = bj.meanfield.trajectory(activation, q, sigma_b**2 / q, sigma_w, sigma_b, depth=config.depth - 1)
    chi, chi_change = jax.jvp(lambda q: bj.meanfield.chi(activation, q, sigma_w), (q,), (q,))
    scatter = bj.meanfield.fluctuations(activation, q, sigma_w, width=config.width) / q
    act = bj.activations.get(activation)
    slope = bj.gaussian.derivative(act)
    mean, square, fourth = (
        bj.gaussian.expectation(bj.activations.Activation(f, act.kinks), jnp.sqrt(q))
        for f in (act, lambda x: act(x) ** 2, lambda x: slope(x) ** 4)
    )
    # Squared gradients scatter by the fourth moment of phi' g in each layer, and with q by way of chi
    own = (3 * fourth * sigma_w**4 / chi**2 - 1) / config.width
    both_off = 0.5 - jnp.arccos(c) / (2 * jnp.pi)
    return {
        "q": q,
        "q_scatter": scatter,
        "std": jnp.sqrt(square - mean**2),
        "distance": 1 - c,
        "dead": both_off if activation == "relu" else jnp.zeros_like(c),
        "log_gradient": _above(jnp.log(chi)),
        "log_gradient_scatter": jnp.sqrt(_above(own)) + _above(jnp.abs(chi_change / chi) * scatter),
    }


def _above(values):
    """Sum over the layers above each layer, for the gradient of features passes through those."""
    return values[::-1].cumsum(0)[::-1] - values


def measured(dataset: xr.Dataset) -> xr.Dataset:
    """Means over seeds: q, std, dead fraction, 1 - c, and squared gradients over that of the last layer."""
    gradient = np.exp(dataset.log_grad_features - dataset.log_grad_features.isel(layer=-1))
    means = dataset[["q", "std", "dead", "distance"]].assign(gradient=gradient).mean("seed")
    return means.assign(log_gradient=np.log(means.gradient))


def deviations(dataset: xr.Dataset) -> xr.Dataset:
    """Differences from theory in standard errors of the mean over seeds.

    Of q and gradients the error is that of `meanfield.fluctuations`, which knows nothing of the measurement;
    of the correlation it is the greatest scatter over seeds of a curve, and 1 / width for what theory leaves
    out. The former is first order in 1 / width: where single networks scatter by more than q itself (GELU
    under He's weights without a bias, where small q falls fastest, so that a few networks hold the mean up)
    there is no mean to speak of, and the value is NaN.
    """
    import xarray as xr

    found, root = measured(dataset), math.sqrt(dataset.sizes["seed"])
    first_order = dataset.q_scatter_theory < 1
    q = (found.q / dataset.q_theory - 1).where(first_order) / dataset.q_scatter_theory * root
    log_gradient = (found.log_gradient - dataset.log_gradient_theory) / dataset.log_gradient_scatter_theory
    scatter = dataset.distance.std("seed", ddof=1).max("layer") / root + 1 / dataset.attrs["width"]
    c = (found.distance - dataset.distance_theory) / scatter
    log_gradient = log_gradient.where(first_order.all("layer"))
    binomial = math.sqrt(0.25 / dataset.attrs["width"] / dataset.sizes["seed"])
    dead = (found.dead - dataset.dead_theory) / binomial
    return xr.Dataset(
        {"q": q, "log_gradient": log_gradient.isel(layer=slice(-1)) * root, "c": c, "dead": dead}
    )


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold every curve to theory, and what it says of Xavier and the bias to closed forms."""
    away = abs(deviations(dataset))
    found = measured(dataset)
    text = "{} of layers and combinations: worst, in standard errors"
    error, miss = dataset.q_scatter_theory.median(), abs(found.q / dataset.q_theory - 1).median()
    share = float(away.q.notnull().mean())
    dead = away.dead.sel(activation="relu").max()
    return [
        at_most(text.format(f"q ({share:.0%})"), POOLE, WORST, away.q.max()),
        at_most(text.format("1 - correlation"), POOLE, WORST, away.c.max()),
        at_most(text.format("squared gradient"), SCHOENHOLZ, WORST, away.log_gradient.max()),
        at_most("dead fraction of ReLU, the same", POOLE, WORST, dead),
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
    return SINGLE * float(scatter) / math.sqrt(dataset.sizes["seed"])


def _tanh(dataset: xr.Dataset, found: xr.Dataset) -> list[Claim]:
    """Xavier keeps tanh nearly alive without a bias, forward and backward; with one, gradients vanish."""
    made, last = [], dataset.sizes["layer"]
    start = last // 3
    for name in [name for name in ("xavier", "orthogonal") if name in dataset.initializer]:
        where = {"activation": "tanh", "initializer": name, "sigma_b": 0.0}
        # tanh² = u² - 2/3 u⁴ + 17/45 u⁶ makes q' = q - 2 q² + 17/3 q³ and 1/q' = 1/q + 2 - 5/3 q
        inverse = 1 / found.q.sel(where).sel(layer=[start, last]).values
        expected = 2 - 5 / 6 * math.log(last / start) / (last - start)
        tolerance = _error(dataset, **where) * inverse[1] / (last - start)
        text = f"tanh, {name}, no bias: growth of 1/q per layer"
        growth = (inverse[1] - inverse[0]) / (last - start)
        made.append(equal(text, "expansion of tanh", expected, growth, tolerance=tolerance))
    where = {"activation": "tanh", "initializer": "xavier", "sigma_b": 0.0}
    gradient = found.log_gradient.sel(where)
    # chi(q) = 1 - 2 q + 7 q² follows q'/q to first order: a gradient grows like the layers below it
    text = f"tanh, Xavier, no bias: gradient of layer {start} / of layer {last}"
    tolerance = start / last * math.expm1(_error(dataset, "log_gradient", **where))
    made.append(equal(text, "l / L", start / last, math.exp(gradient.sel(layer=start)), tolerance=tolerance))
    return made


def _relu(dataset: xr.Dataset, found: xr.Dataset) -> list[Claim]:
    """Xavier loses half of the variance per layer, to the bias's noise; He keeps it, and adds the bias's."""
    made, last = [], dataset.sizes["layer"]
    where = {"activation": "relu", "initializer": "xavier", "sigma_b": 0.0}
    q = found.q.sel(where)
    fall = math.log(q[-1] / q[0]) / (last - 1)
    tolerance = _error(dataset, **where) / (last - 1)
    text = "ReLU, Xavier, no bias: ln of q's fall per layer"
    made.append(equal(text, "closed form", math.log(0.5), fall, tolerance=tolerance))
    for name, bias, expected in (
        ("xavier", "plateau of q, sigma_b²/(1 - 1/2)", 2 * 0.5**2),
        ("he", "q of the last layer, 2 + l sigma_b²", 2 + last * 0.5**2),
        ("he", "q of the last layer stays 2", 2.0),
    ):
        where = {"activation": "relu", "initializer": name, "sigma_b": 0.0 if "stays" in bias else 0.5}
        text = f"ReLU, {name}, sigma_b = {where['sigma_b']}: {bias}"
        tolerance = _error(dataset, **where) * expected
        made.append(equal(text, HE, expected, found.q.sel(where)[-1], tolerance=tolerance))
    return made


def _gelu(dataset: xr.Dataset, found: xr.Dataset) -> list[Claim]:
    """GELU is x/2 near zero, so that without a bias every usual gain lets it die."""
    where = {"activation": "gelu", "initializer": "xavier", "sigma_b": 0.0}
    q, tolerance = found.q.sel(where)[-2:].values, 3 * _error(dataset, **where) / dataset.sizes["layer"]
    fall = equal(
        "GELU, Xavier, no bias: q of the last layer / below",
        "phi'(0)² = 1/4",
        0.25,
        q[1] / q[0],
        tolerance=tolerance,
    )
    text = "GELU, He, no bias: q of the last layer, of 2 at the first"
    where["initializer"] = "he"
    return [fall, at_most(text, "V(q) < q", 1.0, found.q.sel(where)[-1])]


def _correlations(dataset: xr.Dataset, found: xr.Dataset) -> list[Claim]:
    """A bias makes inputs alike, unless the network is chaotic; and makes gradients of tanh vanish."""
    ordered = found.distance.isel(layer=-1).sel(sigma_b=0.5)
    worst = dataset.distance_theory.isel(layer=-1).sel(sigma_b=0.5).max()
    deep = bj.phases.order_parameters("tanh", math.sqrt(2.0), 0.25)
    theory = dataset.distance_theory.sel(activation="tanh", initializer="he", sigma_b=0.25)[-1]
    chaos = found.distance.sel(activation="tanh", initializer="he", sigma_b=0.25)
    pairs = dataset.distance.sel(activation="tanh", initializer="he", sigma_b=0.25)
    scatter = float(pairs.std("seed", ddof=1).max()) / math.sqrt(dataset.sizes["seed"])
    where = {"activation": "tanh", "initializer": "xavier", "sigma_b": 0.5}
    half = dataset.sizes["layer"] // 2
    rate = -found.log_gradient.sel(where).isel(layer=slice(half, None)).diff("layer").mean()
    chi = float(bj.phases.order_parameters("tanh", 1.0, 0.5).chi_1)
    tolerance = _error(dataset, "log_gradient", **where) / math.sqrt(half * (dataset.sizes["layer"] - 1))
    return [
        at_most("sigma_b = 0.5: 1 - correlation at the end, worst", POOLE, 1.5 * worst, ordered.max()),
        equal(
            f"tanh, He, sigma_b = 0.25 is chaotic (c* = {float(deep.c):.3f}): 1 - c at the end",
            POOLE,
            theory,
            chaos[-1],
            tolerance=SINGLE * scatter,
        ),
        equal(
            "tanh, Xavier, sigma_b = 0.5: ln of the gradients' factor",
            SCHOENHOLZ,
            math.log(chi),
            rate,
            tolerance=tolerance,
        ),
    ]


def figure(dataset: xr.Dataset):
    """Rms of pre-activations and gradients by depth, and histograms of what leaves each layer."""
    names = {"relu": "ReLU", "tanh": "tanh", "gelu": "GELU"}
    activations = [str(name) for name in dataset.activation.values]
    rows = [
        f"{kind}, {bias}"
        for kind in ("forward", "gradient", "features, Xavier")
        for bias in ("no bias", "$\\sigma_b$ = 0.5")
    ]
    titles = [f"{names.get(name, name)}: {row}" for row in rows for name in activations]
    fig, axes = bj.plot.panels(titles, columns=len(activations), size=(3.7, 2.4))
    rows = [axes[i : i + len(activations)] for i in range(0, len(axes), len(activations))]
    found = measured(dataset)
    for at, name in enumerate(activations):
        for row, sigma_b in zip(range(2), (0.0, 0.5), strict=True):
            where = {"activation": name, "sigma_b": sigma_b}
            _draw(rows[row][at], np.sqrt(found.q.sel(where)), np.sqrt(dataset.q_theory.sel(where)))
            ax = rows[row + 2][at]
            _draw(ax, found.gradient.sel(where), np.exp(dataset.log_gradient_theory.sel(where)))
            share = dataset.share.sel(activation=name, histogram_sigma_b=sigma_b)
            _draw_share(rows[row + 4][at], share)
    for row, label in zip(rows, ("rms of pre-activations",) * 2 + ("|gradient|² / last",) * 2, strict=False):
        row[0].set_ylabel(label)
    for row in rows[4:]:
        row[0].set_ylabel("value; darker: more of them")
    for ax in axes:
        ax.locator_params(axis="x", integer=True)
    for ax in rows[-1]:
        ax.set_xlabel("layer")
    rows[0][0].legend(loc="lower left")
    fig.suptitle(
        "dots: measured, mean of seeds; lines: mean-field theory (LeCun and orthogonal share a line)",
        fontsize=10,
    )
    return fig


def _draw(ax, found: xr.DataArray, expected: xr.DataArray) -> None:
    marks = dict(zip(INITIALIZERS, zip(bj.plot.COLORS, "os^x", strict=False), strict=True))
    for name in expected.initializer.values:
        color, mark = marks[str(name)]
        style = {"color": color, "linestyle": "", "marker": mark, "markersize": 3.5, "label": str(name)}
        bj.plot.line(ax, found.sel(initializer=name), "layer", **style)
        bj.plot.line(ax, expected.sel(initializer=name), "layer", color=color, linewidth=1)
    if expected.max() > 30 * expected.min():
        ax.set_yscale("log")


def _draw_share(ax, share: xr.DataArray) -> None:
    """Draw one column for each layer, on a scale of logs, for half of ReLU's features are one value."""
    logs = np.log10(share.transpose("value", "layer") + 1e-4)
    ax.pcolormesh(share.layer, share.value, logs, cmap="Blues", vmin=-4, vmax=0, rasterized=True)
    ax.grid(visible=False)
