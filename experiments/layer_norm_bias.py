"""How large must a bias be to stop gradients from exploding behind layer norm, and what does that cost?

Answer: behind ReLU a bias of .68 to .70 of the weights' scale. The price is the signal: past it all inputs
become alike.

Source: the "BatchNorm" and "ReLu" on the to-do list of the notebook on Xavier and the bias, carried over to
layer norm; closed forms below. Random networks with layer or RMS norm before or behind the activation are
measured for biases from none to the size of the weights and laid over the theory of wide networks.

Expected: with layer norm behind ReLU squared gradients change towards the input by
(pi/(pi - 1)) / (1 + sigma_b²/sigma_w²) per layer, so a bias turns explosion into decay at
sigma_b²/sigma_w² = 1/(pi - 1) = .467. Before ReLU the rate is 1 without a bias and below 1 with any. That
has a price: the rate is also the slope of the correlation map, so where gradients decay all inputs get alike.

Measured, growth of the squared gradient per layer with layer norm behind ReLU (95% interval; theory in
brackets):

    no bias            1.470 ± .014 (1.467)
    sigma_b = sigma_w  .744 ± .010 (.733)

It passes 1 at sigma_b²/sigma_w² = .495 ± .022: 512 features lie somewhat above the theory of wide networks,
which is within the ± .034 that the claim allows. With tanh behind the norm that is at .073 ± .004 (.070).
With the greatest bias 1 - c behind ReLU is 5e-6 in layer 40: past the critical bias all inputs become one.

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
    seeds: int = 10
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
    return with_theory(dataset, config).assign_attrs(width=config.width)


def with_theory(dataset: xr.Dataset, config: Config) -> xr.Dataset:
    """Add gradient rates and correlations of wide networks."""
    scales = dataset.sigma_w.values, dataset.ratio.values
    theory = [_theory(str(order), config.depth, *scales) for order in dataset.order.values]
    rate, correlation = (np.stack(part) for part in zip(*theory, strict=True))
    return dataset.assign(
        rate_theory=(("order", "sigma_w", "ratio"), rate),
        correlation_theory=(("order", "layer", "sigma_w", "ratio"), correlation),
    ).assign_coords(layer=np.arange(1, config.depth + 1))


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


def without_bias(dataset: xr.Dataset) -> xr.Dataset:
    """The null twin: what was measured without a bias, held to the theory of all biases."""
    still = dataset[list(MEASURED)].sel(ratio=0.0, drop=True)
    return dataset.assign({name: x.broadcast_like(dataset[name]) for name, x in still.items()})


def growth(dataset: xr.Dataset) -> xr.DataArray:
    """Growth of the squared gradient in each layer that knows neither the input nor the loss."""
    return bj.propagation.growth(dataset.log_grad_features, ends=_ENDS)


def critical(rate: xr.DataArray) -> xr.DataArray:
    """Ratio at which a falling rate passes 1, and the greatest ratio if it stays above.

    Found by interpolation of 1/rate, which is linear behind ReLU.
    """
    import xarray as xr

    def crossing(values):
        return np.interp(1.0, 1 / values, rate.ratio.values)

    return xr.apply_ufunc(crossing, rate, input_core_dims=[["ratio"]], vectorize=True)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold rates, critical biases and correlations to the theory; null twins have no bias."""
    off, over, cells = without_bias(dataset), ("layer", "seed"), ("sigma_w", "ratio")

    def worst(data: xr.Dataset) -> xr.DataArray:
        return abs(growth(data).mean(over) / data.rate_theory - 1).max(cells)

    each = growth(dataset)
    # Three standard errors, and the first correction to infinite width
    error = (curves.standard_error(each, over, ddof=0) / each.mean(over)).max(cells)
    bound = 3 * error + 2 / dataset.attrs["width"]
    rates = curves.rates(worst(dataset), bound, CLOSED_FORM, worst(off))
    return [*rates, *_critical(dataset, off, bound), *_correlations(dataset, off)]


def _critical(dataset: xr.Dataset, off: xr.Dataset, bound: xr.DataArray) -> list[Claim]:
    """Bias at which explosion turns into decay; it may be off by as much as the rates may."""
    each = growth(dataset).mean("layer")
    rate, half, theory = each.mean("seed"), bj.plot.confidence(each, "seed"), dataset.rate_theory
    rates = (rate, growth(off).mean(("layer", "seed")), rate + half, theory, theory * (1 + bound))
    # The weight scales share their draws, so a mean over them scatters as one does
    found, never, upper, expected, reach = (
        critical(values.sel(order=[RELU, TANH])).mean("sigma_w") for values in rates
    )
    made = []
    values = ((RELU, CLOSED_FORM, 1 / (np.pi - 1)), (TANH, QUADRATURE, expected.sel(order=TANH)))
    for order, source, value in values:
        text = f"{order.removeprefix('dense-')}: critical sigma_b²/sigma_w²"
        at, null, end, tolerance = (x.sel(order=order) for x in (found, never, upper, abs(reach - expected)))
        made.append(equal(text, source, value, at, tolerance=tolerance, interval=end - at, null=null))
    return made


def _correlations(dataset: xr.Dataset, off: xr.Dataset) -> list[Claim]:
    """What the bias costs: two inputs become one, as fast as gradients decay."""
    biased = dataset.ratio > 0
    steady = _log_small(dataset).notnull().sum(("layer", "seed")) > dataset.sizes["seed"] * 8

    def apart(data: xr.Dataset) -> xr.DataArray:
        return abs((data.correlation - data.correlation_theory).mean("seed")).where(biased).median()

    def fall(data: xr.Dataset) -> xr.DataArray:
        # Where 1 - c never gets small it does not fall
        logs = _log_small(data).diff("layer").mean(("layer", "seed")).fillna(0.0)
        return abs(np.exp(logs) / data.rate_theory - 1).where(steady & biased).median()

    def last(data: xr.Dataset) -> xr.DataArray:
        return data.distance.sel(order=RELU).isel(ratio=-1, layer=-1).max()

    near = "correlation - theory, median"
    error = 2 / np.sqrt(dataset.attrs["width"] * dataset.sizes["seed"])
    end = f"{RELU.removeprefix('dense-')}: 1 - c at the end, most bias"
    return [
        at_most(near, QUADRATURE, error, **curves.twins(apart, dataset, off)),
        at_most("fall of 1 - c / growth - 1: median", CLOSED_FORM, 0.02, **curves.twins(fall, dataset, off)),
        at_most(end, QUADRATURE, 1e-3, **curves.twins(last, dataset, off)),
    ]


def _log_small(dataset: xr.Dataset) -> xr.DataArray:
    """Log of 1 - c where that is small, but not as small as rounding."""
    return np.log(dataset.distance.where((dataset.distance > 1e-9) & (dataset.distance < 1e-2)))


def figure(dataset: xr.Dataset):
    """Growth over the bias, correlation over the bias, and both by layer for layer norm behind ReLU."""
    titles = ["gradients: explode above 1, vanish below", f"two inputs in layer {dataset.sizes['layer']}"]
    titles += [f"{RELU}: gradients", f"{RELU}: two inputs"]
    fig, axes = bj.plot.panels(titles, size=(4.8, 3.3))
    one = dataset.isel(sigma_w=0)
    _draw_over_bias(axes[:2], one)
    _draw_by_layer(axes[2:], one.sel(order=RELU))
    axes[1].legend(title="both upper panels", loc="lower right")
    options = {"loc": "center right", "bbox_to_anchor": (1, 0.42), "ncols": 3, "columnspacing": 1}
    axes[3].legend(title=r"$\sigma_b^2/\sigma_w^2$, both lower panels", **options)
    finding = "A bias turns explosion behind layer norm into decay, and then makes all inputs one"
    how = f"mean of {dataset.sizes['seed']} seeds, bands its 95% interval"
    how += "; above: dots measured, lines theory; below: lines measured, dashes theory"
    fig.suptitle(f"{finding}\n{how}", fontsize=10)
    return fig


def _draw_over_bias(axes, one: xr.Dataset) -> None:
    last = one.isel(layer=-1)
    pairs = ((growth(one).mean("layer"), one.rate_theory), (last.correlation, last.correlation_theory))
    for ax, (each, theory) in zip(axes, pairs, strict=True):
        drawing.means(ax, "ratio", each, theory, color="order")
        ax.axvline(1 / (np.pi - 1), color="grey", linewidth=0.8, linestyle=":")
        ax.set_xlabel(r"$\sigma_b^2/\sigma_w^2$ (dotted: $1/(\pi-1)$)")
    axes[0].axhline(1, color="grey", linewidth=0.8)
    axes[0].set_ylabel("growth of |gradient|² per layer")
    axes[1].set_ylabel("correlation of pre-activations")
    axes[1].text(0.97, 0.86, "all coincide at 1", transform=axes[1].transAxes, ha="right", fontsize=8)


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
    axes[0].set(yscale="log", ylabel="|gradient|² / the last layer's")
    axes[1].set_ylabel("correlation of pre-activations")
    for ax in axes:
        ax.set_xlabel("layer")
        ax.locator_params(axis="x", integer=True)
