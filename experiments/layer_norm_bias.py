"""How large must a bias be to stop gradients from exploding behind layer norm, and what does that cost?

Source: the "BatchNorm" and "ReLu" on the to-do list of the notebook on Xavier and the bias, carried over to
layer norm; closed forms below. Random networks with layer or RMS norm before or behind the activation are
measured for biases from none to the size of the weights and laid over the theory of wide networks.

Expected: with layer norm behind ReLU squared gradients change towards the input by
(pi/(pi - 1)) / (1 + sigma_b²/sigma_w²) per layer, so a bias turns explosion into decay at
sigma_b²/sigma_w² = 1/(pi - 1) = .467. Before ReLU the rate is 1 without a bias and below 1 with any. That
has a price: the rate is also the slope of the correlation map, so where gradients decay all inputs get alike.

Measured, growth of the squared gradient per layer with layer norm behind ReLU (theory in brackets):

    no bias            1.472 (1.467)
    sigma_b = sigma_w  0.743 (0.733)

It passes 1 at sigma_b²/sigma_w² = .486 ± .038. With the greatest bias 1 - c is 5e-6 in layer 40: past the
critical bias all inputs become one.

Cost: about 30 s on 2 CPU cores. Command: `python -m experiments layer_norm_bias`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from experiments._parts import curves, drawing
from experiments.claims import CLOSED_FORM, Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

QUADRATURE = "quadrature"
RELU, TANH = "dense-relu-ln", "dense-ln-tanh"
MEASURED = ("log_grad_features", "correlation", "distance")
_ENDS = 4  # layers at either end that still know the input or the loss


@dataclass(frozen=True)
class Config:
    """The networks and the biases."""

    orders: tuple[str, ...] = (RELU, "dense-tanh-ln", "dense-relu-rms", "dense-ln-relu", TANH)
    """Norm before or behind the activation; the first and the last are always needed."""
    ratio: tuple[float, float, int] = (0.0, 1.0, 11)
    """sigma_b² / sigma_w²: least (0), greatest, number."""
    sigma_w: tuple[float, ...] = (0.5, 2.0)
    """Weight scales; the norm undoes them, but for how far they drive an activation before it."""
    width: int = 512
    """Features of every layer."""
    depth: int = 40
    """Layers."""
    seeds: int = 8
    """Number of seeds."""


SMOKE = Config(orders=(RELU, TANH), ratio=(0.0, 1.0, 5), sigma_w=(1.0,), width=256, depth=30)


def run(config: Config) -> xr.Dataset:
    """Measure gradients and the correlation of two inputs by layer, and evaluate the theory."""
    axes = {
        "seed": np.arange(config.seeds),
        "sigma_w": np.asarray(config.sigma_w),
        "ratio": np.linspace(*config.ratio),
    }
    measure, static = functools.partial(_measure, config), {"order": list(config.orders)}
    dataset = bj.sweep.run(measure, axes, static=static, dims=bj.propagation.DIMS)
    theory = [_theory(order, config.depth, axes["sigma_w"], axes["ratio"]) for order in config.orders]
    rate, correlation = (np.stack(part) for part in zip(*theory, strict=True))
    dataset["rate_theory"] = ("order", "sigma_w", "ratio"), rate
    dataset["correlation_theory"] = ("order", "layer", "sigma_w", "ratio"), correlation
    return dataset.assign_coords(layer=np.arange(1, config.depth + 1)).assign_attrs(width=config.width)


def _measure(config: Config, key, *, sigma_w, ratio, order: str) -> dict:
    import jax
    import jax.numpy as jnp

    net_key, x_key = jax.random.split(key)
    net = bj.network.Network(inputs=config.width, width=config.width, depth=config.depth, order=order)
    scales = bj.network.Scales(sigma_w, sigma_w * jnp.sqrt(ratio))
    # Two inputs at right angles, with mean 0 and variance 1 as behind a norm
    x = jnp.linalg.qr(jax.random.normal(x_key, (config.width, 3)).at[:, 0].set(1.0))[0][:, 1:].T
    found = bj.propagation.propagate(net_key, net, scales, x * config.width**0.5, epsilon=1e-8)
    return {name: getattr(found, name) for name in MEASURED}


def _theory(order: str, depth: int, sigma_w: np.ndarray, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient rate, (sigma_w, ratio), and correlation in each layer, (depth, sigma_w, ratio)."""
    import jax

    steps = order.split("-")[1:]
    activation = next(step for step in steps if step in bj.activations.NAMES)
    options = {"place": "after" if steps[0] == activation else "before", "centred": "rms" not in steps}
    sigma_w, ratio = np.broadcast_arrays(sigma_w[:, None], ratio)
    scales = (sigma_w, sigma_w * np.sqrt(ratio))

    def layer(c, _):
        return bj.normrates.layer_norm_correlation(activation, c, *scales, **options), c

    first = np.asarray(ratio / (1 + ratio), jax.dtypes.canonicalize_dtype(float))
    _, correlation = jax.lax.scan(layer, first, length=depth)
    return np.asarray(bj.normrates.layer_norm(activation, *scales, **options)), np.asarray(correlation)


def critical(rate: xr.DataArray) -> xr.DataArray:
    """Ratio at which a falling rate passes 1, by interpolation of 1/rate, which is linear behind ReLU."""
    import xarray as xr

    def crossing(values):
        return np.interp(1.0, 1 / values, rate.ratio.values, left=np.nan, right=np.nan)

    return xr.apply_ufunc(crossing, rate, input_core_dims=[["ratio"]], vectorize=True)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold rates, critical biases and correlations to the theory."""
    each = bj.propagation.growth(dataset.log_grad_features, ends=_ENDS)
    over, cells = ("layer", "seed"), ("sigma_w", "ratio")
    rate = each.mean(over)
    # Three standard errors, and the first correction to infinite width
    bound = 3 * (curves.standard_error(each, over, ddof=0) / rate).max(cells) + 2 / dataset.attrs["width"]
    off = abs(rate / dataset.rate_theory - 1).max(cells)
    rates = curves.rates(off, bound, CLOSED_FORM)
    return [*rates, *_critical(dataset, rate, bound), *_correlations(dataset)]


def _critical(dataset: xr.Dataset, rate: xr.DataArray, bound: xr.DataArray) -> list[Claim]:
    """Bias at which explosion turns into decay; it may be off by as much as the rates may."""
    # The weight scales share their draws, so a mean over them scatters as one does
    found, expected, reach = (
        critical(values).mean("sigma_w")
        for values in (rate, dataset.rate_theory, dataset.rate_theory * (1 + bound))
    )
    text = "{}: sigma_b²/sigma_w² at which the growth is 1"
    made, tolerance = [], abs(reach - expected)
    values = ((RELU, CLOSED_FORM, 1 / (np.pi - 1)), (TANH, QUADRATURE, expected.sel(order=TANH)))
    for name, source, value in values:
        at, off = found.sel(order=name), tolerance.sel(order=name)
        made.append(equal(text.format(name), source, value, at, tolerance=off))
    return made


def _correlations(dataset: xr.Dataset) -> list[Claim]:
    """What the bias costs: two inputs become one, as fast as gradients decay."""
    apart = abs(dataset.correlation - dataset.correlation_theory).mean("seed").median()
    usable = (dataset.distance > 1e-9) & (dataset.distance < 1e-2)
    falls = np.exp(np.log(dataset.distance.where(usable)).diff("layer").mean(("layer", "seed")))
    steady = usable.sum(("layer", "seed")) > dataset.sizes["seed"] * 8
    off = abs(falls / dataset.rate_theory - 1).where(steady).median()
    last = dataset.distance.sel(order=RELU).isel(ratio=-1, layer=-1).max()
    text = "past the critical bias: fall of 1 - c per layer / growth of gradients - 1, median"
    error = 2 / np.sqrt(dataset.attrs["width"])
    return [
        at_most("correlation of two inputs - theory, median", QUADRATURE, error, apart),
        at_most(text, CLOSED_FORM, 0.02, off),
        at_most(f"{RELU}: 1 - c in the last layer, greatest bias", QUADRATURE, 0.05, last),
    ]


def figure(dataset: xr.Dataset):
    """Growth over the bias, correlation over the bias, and both by layer for layer norm behind ReLU."""
    titles = ["growth of squared gradients per layer"]
    titles += [f"correlation of two inputs, layer {dataset.sizes['layer']}"]
    titles += [f"{RELU}: squared gradient", f"{RELU}: correlation of two inputs"]
    fig, axes = bj.plot.panels(titles)
    one = dataset.isel(sigma_w=0)
    _draw_over_bias(axes[:2], one)
    _draw_by_layer(axes[2:], one.sel(order=RELU))
    axes[0].legend()
    axes[2].legend(title=r"$\sigma_b^2/\sigma_w^2$", loc="upper right", ncols=2)
    fig.suptitle(
        "above: lines theory of wide networks, dots measured; below: lines measured, dashes theory",
        fontsize=10,
    )
    return fig


def _draw_over_bias(axes, one: xr.Dataset) -> None:
    rate = bj.propagation.growth(one.log_grad_features, ends=_ENDS).mean(("layer", "seed"))
    last = one.isel(layer=-1)
    pairs = ((rate, one.rate_theory), (last.correlation.mean("seed"), last.correlation_theory))
    for ax, pair in zip(axes, pairs, strict=True):
        drawing.family(ax, "ratio", *pair, color="order")
        ax.axvline(1 / (np.pi - 1), color="grey", linewidth=0.8, linestyle=":")
        ax.set_xlabel(r"$\sigma_b^2/\sigma_w^2$ (dotted: $1/(\pi-1)$)")
    axes[0].axhline(1, color="grey", linewidth=0.8)


def _draw_by_layer(axes, one: xr.Dataset) -> None:
    chosen = np.linspace(0, one.sizes["ratio"] - 1, 5).astype(int)
    for color, index in zip(bj.plot.COLORS, chosen, strict=False):
        part = one.isel(ratio=index)
        label = {"color": color, "label": f"{float(part.ratio):.2g}"}
        dashes = {"color": color, "linestyle": "--", "linewidth": 0.8}
        bj.plot.line(axes[0], curves.over_last(part.log_grad_features), "layer", over="seed", **label)
        theory = float(part.rate_theory) ** (part.sizes["layer"] - part.layer.values)
        axes[0].plot(part.layer, theory, **dashes)
        bj.plot.line(axes[1], part.correlation, "layer", over="seed", **label)
        axes[1].plot(part.layer, part.correlation_theory, **dashes)
    axes[0].set_yscale("log")
    for ax in axes:
        ax.set_xlabel("layer")
