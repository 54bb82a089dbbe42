"""What do convolutions change of signal propagation: spatial modes, borders, singular values?

Source: the last open question of seed document 004 ("Conv layer"); Xiao et al., arXiv 1806.05393. Deep 1-D
convolutional networks with Gaussian, orthogonal and delta-orthogonal kernels, linear, ReLU and tanh, with and
without bias, under circular and under zero padding. Two inputs whose correlation varies in waves over the
positions are sent through them.

Expected: under circular padding variance and gradients follow the dense maps. A window of k averages the
covariance of two inputs over positions, so that a wave of wave number theta shrinks by chi_c times
(1 + 2 cos theta + ...)/k per layer; a delta-orthogonal kernel leaves every wave alone, and without activation
is an isometry, where the largest singular value is 2 under Gaussian kernels and sqrt(8/3) under plain
orthogonal ones. Under zero padding the border loses a third of its variance, and the bias fills it.

Cost: about 60 s on 2 CPU cores. Command: `python -m experiments conv_propagation`.
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

XIAO = "arXiv 1806.05393"
KERNEL_SIZE = 3
MODES = (1, 2, 4)
"""Waves of the correlation of the two inputs, in periods over all positions, each of amplitude 1/4."""
WEIGHT_SCALES = {"linear": 1.0, "relu": 2**0.5, "tanh": 1.760955**0.5}
"""sigma_w; for tanh it is critical at sigma_b² = .05, chaotic below, ordered above."""
WINDOWS = dict.fromkeys(("gaussian", "orthogonal"), (1 / 3,) * 3) | {"delta_orthogonal": (0.0, 1.0, 0.0)}
WORST, SINGLE = 4.5, 3.0
"""Standard errors to allow the worst of a thousand numbers, and one number."""


@dataclass(frozen=True)
class Config:
    """The grid and the networks."""

    activations: tuple[str, ...] = ("linear", "relu", "tanh")
    """Names of activations."""
    kernels: tuple[str, ...] = ("gaussian", "orthogonal", "delta_orthogonal")
    """Draws of the kernels."""
    zero_padded: tuple[str, ...] = ("linear", "tanh")
    """Activations to measure under zero padding, too."""
    jacobian_depths: tuple[int, ...] = (1, 10)
    """Layers of the linear networks whose singular values are taken."""
    sigma_b: tuple[float, ...] = (0.0, 0.05**0.5, 0.5)
    """Standard deviations of the biases."""
    positions: int = 16
    """Positions of an input."""
    width: int = 64
    """Channels of every layer and of the inputs, at least twice as many as positions."""
    depth: int = 12
    """Layers."""
    seeds: int = 24
    """Number of seeds."""


SMOKE = Config(
    activations=("linear", "tanh"),
    kernels=("gaussian", "delta_orthogonal"),
    zero_padded=("linear",),
    jacobian_depths=(1,),
    width=32,
    seeds=16,
)


def run(config: Config) -> xr.Dataset:
    """Measure circular and zero padding and singular values, and evaluate the theory."""
    import xarray as xr

    static = {"activation": config.activations, "kernel": config.kernels}
    axes = {"seed": np.arange(config.seeds), "sigma_b": config.sigma_b}
    dims = {"q": ("layer", "position"), "covariance": ("layer", "position"), "log_gradient": ("layer",)}
    measure = functools.partial(_measure, config)
    circular = bj.sweep.run(functools.partial(measure, padding="CIRCULAR"), axes, static=static, dims=dims)
    static = {"activation": config.zero_padded, "kernel": ("gaussian", "delta_orthogonal")}
    zeros = bj.sweep.run(functools.partial(measure, padding="SAME"), axes, static=static, dims=dims)
    zeros = zeros.rename_vars({name: f"zeros_{name}" for name in zeros.data_vars})
    zeros: xr.Dataset = zeros.rename(activation="zeros_activation", kernel="zeros_kernel")
    static = {"net_kernel": tuple(WINDOWS), "net_depth": config.jacobian_depths}
    values = functools.partial(_singular_values, config)
    spectra = bj.sweep.run(values, {"seed": [0]}, static=static, dims={"log_singular": ("value",)})
    dataset = xr.merge([circular.drop_vars("status"), zeros.drop_vars("zeros_status")])
    dataset["log_singular"] = spectra.log_singular.isel(seed=0, drop=True)
    dataset = xr.merge([dataset, theory(config, "CIRCULAR", circular), theory(config, "SAME", zeros)])
    dataset = dataset.assign_coords(layer=np.arange(1, config.depth + 1))
    return dataset.assign_attrs(width=config.width)


def profile(positions: int) -> np.ndarray:
    """Correlation of the two inputs at each position."""
    angle = 2 * np.pi * np.arange(positions) / positions
    return np.sum([np.cos(mode * angle) for mode in MODES], axis=0) / 4


def _inputs(config: Config) -> np.ndarray:
    """Two inputs of mean square 1, different positions at right angles: ``(2, positions, width)``."""
    draws = np.random.default_rng(0).standard_normal((config.width, 2 * config.positions))
    x, other = np.split(np.linalg.qr(draws)[0].T * math.sqrt(config.width), 2)
    c = profile(config.positions)[:, None]
    return np.stack([x, c * x + np.sqrt(1 - c**2) * other]).astype(np.float32)


def _network(config: Config, order: str, kernel: str, padding: str, depth: int) -> bj.network.Network:
    return bj.network.Network(
        inputs=config.width,
        width=config.width,
        depth=depth,
        order=order,
        kernel_init=kernel,
        kernel_size=(KERNEL_SIZE,),
        padding=padding,
    )


def _measure(config: Config, key, *, activation, kernel, sigma_b, padding) -> dict:
    import jax.numpy as jnp

    # The order ends with the convolution: features are pre-activations
    net = _network(config, f"{activation}-conv", kernel, padding, config.depth)
    scales, x = bj.network.Scales(WEIGHT_SCALES[activation], sigma_b), jnp.asarray(_inputs(config))
    z = bj.propagation.features(key, net, scales, x)
    gradient = bj.propagation.propagate(key, net, scales, x).log_grad_features
    return {
        "q": jnp.mean(z**2, (1, 3)),
        "covariance": jnp.mean(z[:, 0] * z[:, 1], -1),
        "log_gradient": gradient - gradient[-1],
    }


def _singular_values(config: Config, key, *, net_kernel, net_depth) -> dict:
    import jax.numpy as jnp

    net = _network(config, "conv", net_kernel, "CIRCULAR", net_depth)
    x = jnp.ones((1, 8, config.width))
    return {"log_singular": bj.jacobian.singular_values(key, net, bj.network.Scales(), x)}


def theory(config: Config, padding: str, like: xr.Dataset) -> xr.Dataset:
    """Mean-field q and covariance of each position and layer, gradients, and the scatter of q and these."""
    import jax
    import xarray as xr

    prefix = "zeros_" if padding == "SAME" else ""
    activation, kernel = f"{prefix}activation", f"{prefix}kernel"
    parts = []
    with jax.enable_x64(True):
        for act in like[activation].values:
            windows = np.array([WINDOWS[str(name)] for name in like[kernel].values])
            curves = jax.jit(jax.vmap(functools.partial(_curves, config, str(act), padding)))
            parts.append({name: np.asarray(value) for name, value in curves(windows).items()})
    found = xr.Dataset(coords={activation: like[activation], kernel: like[kernel], "sigma_b": like.sigma_b})
    for name in parts[0]:
        value = np.stack([part[name] for part in parts])
        dims = (activation, kernel, "layer", "sigma_b", "position")
        found[f"{prefix}{name}_theory"] = dims[: value.ndim], value
    return found


def _curves(config: Config, activation: str, padding: str, window) -> dict:
    """Theory of one activation and window, ``(depth, sigma_b, positions)`` or ``(depth, sigma_b)``."""
    import jax
    import jax.numpy as jnp

    sigma_w, sigma_b = WEIGHT_SCALES[activation], jnp.asarray(config.sigma_b)[:, None]
    c = jnp.asarray(profile(config.positions))
    step = functools.partial(bj.meanfield.conv_trajectory, window=window, padding=padding)
    q, c = (both[1] for both in step("linear", jnp.ones_like(c), c, sigma_w, sigma_b, depth=1))
    q, c = step(activation, q, c, sigma_w, sigma_b, depth=config.depth - 1)
    # Positions average fluctuations down; of one position they are those of a dense layer
    middle = q[..., config.positions // 2]
    scatter = bj.meanfield.fluctuations(activation, middle, sigma_w, width=config.width) / middle
    found = {"q": q, "covariance": q * c, "q_scatter": scatter}
    if padding == "SAME":
        return found
    chi, change = jax.jvp(lambda q: bj.meanfield.chi(activation, q, sigma_w), (middle,), (middle,))
    act = bj.activations.get(activation)
    slope = bj.gaussian.derivative(act)
    fourth = bj.gaussian.expectation(
        bj.activations.Activation(lambda x: slope(x) ** 4, act.kinks), jnp.sqrt(middle)
    )
    own = (3 * fourth * sigma_w**4 / chi**2 - 1) / config.width
    error = jnp.sqrt(_from(own)) + _from(jnp.abs(change / chi) * scatter)
    return found | {"log_gradient": _from(jnp.log(chi)), "log_gradient_scatter": error}


def _from(values):
    """Sum from each layer to the last but one, whose slopes the gradient of pre-activations passes."""
    return values[::-1].cumsum(0)[::-1] - values[-1:]


def wave(values: xr.DataArray, mode: int) -> xr.DataArray:
    """Amplitude of a wave over positions."""
    import xarray as xr

    n = values.sizes["position"]
    angle = xr.DataArray(2 * np.pi * mode * np.arange(n) / n, dims="position")
    return 2 / n * (values * np.cos(angle)).sum("position")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold circular padding to the dense maps and to Fourier modes, and zero padding to its border."""
    root = math.sqrt(dataset.sizes["seed"])
    q = dataset.q.mean(("seed", "position")) / dataset.q_theory.mean("position") - 1
    gradient = np.log(np.exp(dataset.log_gradient).mean("seed")) - dataset.log_gradient_theory
    gradient = (gradient / dataset.log_gradient_scatter_theory).isel(layer=slice(-1))
    text = "circular, {} of every layer and combination: worst, in standard errors"
    return [
        at_most(text.format("q"), XIAO, WORST, abs(q / dataset.q_scatter_theory * root).max()),
        at_most(text.format("squared gradient"), XIAO, WORST, abs(gradient * root).max()),
        at_most(text.format("covariance of two inputs"), XIAO, WORST, _covariances(dataset, "").max()),
        *_waves(dataset),
        *_border(dataset),
        *_isometries(dataset),
    ]


def _covariances(dataset: xr.Dataset, prefix: str, name: str = "covariance") -> xr.DataArray:
    """Differences from theory at each position over the greatest scatter of a layer, and q / width."""
    measured, expected = dataset[f"{prefix}{name}"], dataset[f"{prefix}{name}_theory"]
    scatter = measured.std("seed", ddof=1).max("position") / math.sqrt(dataset.sizes["seed"])
    left_out = dataset[f"{prefix}q_theory"].max("position") / dataset.attrs["width"]
    return abs(measured.mean("seed") - expected) / (scatter + left_out)


def _waves(dataset: xr.Dataset) -> list[Claim]:
    """Waves of the covariance in linear networks: the window's Fourier factor to the power of the layer."""
    linear = dataset.covariance.sel(activation="linear", sigma_b=0.0)
    made = []
    for mode in MODES:
        factor = (1 + 2 * math.cos(2 * math.pi * mode / dataset.sizes["position"])) / 3
        layer = 1 if mode == MODES[-1] else 4  # before the noise of finite width is all that is left
        seen = wave(linear.sel(kernel="gaussian", layer=layer), mode)
        tolerance = SINGLE * float(seen.std(ddof=1)) / math.sqrt(dataset.sizes["seed"])
        text = f"linear, Gaussian: wave {mode} of layer {layer}, (1 + 2 cos)/3 = {factor:.3f} per layer"
        made.append(equal(text, "Fourier", factor**layer / 4, seen.mean(), tolerance=tolerance))
    kept = abs(linear.sel(kernel="delta_orthogonal") - profile(dataset.sizes["position"])).max()
    text = "linear, delta-orthogonal: covariance of two inputs - that of the first, worst"
    return [*made, at_most(text, "isometry", 1e-5, kept)]


def _border(dataset: xr.Dataset) -> list[Claim]:
    """Zero padding: q of every position against theory, and of the border in the first layer."""
    text = "zero padding, {} of every position and layer: worst, in standard errors"
    made = [
        at_most(text.format("q"), XIAO, WORST, _covariances(dataset, "zeros_", "q").max()),
        at_most(text.format("covariance"), XIAO, WORST, _covariances(dataset, "zeros_").max()),
    ]
    linear = dataset.zeros_q.sel(zeros_activation="linear").isel(layer=0).mean("seed")
    error = SINGLE * math.sqrt(2 / dataset.attrs["width"] / dataset.sizes["seed"])
    for sigma_b in (0.0, 0.5):
        q = linear.sel(zeros_kernel="gaussian", sigma_b=sigma_b)
        expected = (2 / 3 + sigma_b**2) / (1 + sigma_b**2)
        text = f"zero padding, sigma_b = {sigma_b}: q of the border / of the middle, first layer"
        ends = (q[0] + q[-1]) / 2 / q[1:-1].mean()
        made.append(equal(text, "2 of 3 inputs", expected, ends, tolerance=error * expected))
    q = dataset.zeros_q.sel(zeros_activation="linear", zeros_kernel="delta_orthogonal", sigma_b=0.0)
    text = "zero padding, delta-orthogonal, linear: largest |q - 1|"
    return [*made, at_most(text, "the border is not seen", 1e-5, abs(q - 1).max())]


def _isometries(dataset: xr.Dataset) -> list[Claim]:
    """Singular values of linear networks: blocks of Gaussian and Haar matrices, and an isometry."""
    logs, n = dataset.log_singular, dataset.attrs["width"]
    # The largest s² of a Gaussian block scatters by 2^(4/3) n^(-2/3) (Tracy & Widom), below its limit 4
    tolerance = 4 * 2 ** (4 / 3) * n ** (-2 / 3)
    made = [
        equal(
            f"linear, {name}: largest s² of one layer", source, expected, np.exp(2 * top), tolerance=tolerance
        )
        for name, source, expected in (("gaussian", "Marchenko-Pastur", 4.0), ("orthogonal", "Jacobi", 8 / 3))
        for top in [logs.sel(net_kernel=name, net_depth=1).max()]
    ]
    worst = abs(logs.sel(net_kernel="delta_orthogonal")).max()
    return [
        *made,
        at_most(
            f"linear, delta-orthogonal: |ln s| of {int(logs.net_depth.max())} layers, worst",
            XIAO,
            1e-4,
            worst,
        ),
    ]


def figure(dataset: xr.Dataset):
    """Waves, correlation, variance and gradients by depth, the border, and singular values."""
    titles = ["waves of two inputs' covariance, linear", "tanh: correlation of two inputs, no bias"]
    titles += ["zero padding, linear, Gaussian: q", "singular values, linear"]
    titles += ["circular, Gaussian: q", "|gradient|² / last layer, marks as left"]
    fig, axes = bj.plot.panels(titles, columns=2)
    _draw_waves(axes[0], dataset)
    _draw_correlation(axes[1], dataset)
    _draw_border(axes[2], dataset)
    for color, name in zip(bj.plot.COLORS, WINDOWS, strict=False):
        for depth, style in zip(dataset.net_depth.values, ("-", "--"), strict=False):
            logs = np.sort(dataset.log_singular.sel(net_kernel=name, net_depth=depth).values)[::-1]
            label = f"{name.replace('_', '-')}, {depth} layer{'s'[: int(depth > 1)]}"
            axes[3].plot(np.linspace(0, 1, logs.size), np.exp(logs), style, color=color, label=label)
    axes[3].set(xlabel="rank / number", yscale="log", ylim=(1e-4, 10))
    gradient = np.exp(dataset.log_gradient).mean("seed")
    curves = (dataset.q.mean(("seed", "position")), dataset.q_theory.mean("position"))
    curves += (gradient, np.exp(dataset.log_gradient_theory))
    for ax, (measured, expected) in zip(axes[4:], (curves[:2], curves[2:]), strict=True):
        for color, name in zip(bj.plot.COLORS, dataset.activation.values, strict=False):
            for at, (mark, style) in enumerate((("o", "-"), ("s", "--"), ("^", ":"))):
                where = {"activation": name, "kernel": "gaussian"}
                one, line = (values.sel(where).isel(sigma_b=at) for values in (measured, expected))
                label = f"{name}, $\\sigma_b$ = {float(dataset.sigma_b[at]):.2f}"
                style = {"color": color, "linestyle": style}
                bj.plot.line(ax, line, "layer", linewidth=1, **style)
                style = {"color": color, "linestyle": "", "marker": mark, "markersize": 3.5}
                bj.plot.line(ax, one, "layer", label=label, **style)
        ax.set(xlabel="layer", yscale="log")
    axes[3].legend(fontsize=7)
    axes[4].set_ylim(top=20)
    axes[4].legend(fontsize=7, ncols=3, loc="upper center")
    fig.suptitle("dots: measured, mean of seeds; lines: mean-field theory", fontsize=10)
    return fig


def _draw_waves(ax, dataset: xr.Dataset) -> None:
    linear = {"activation": "linear", "sigma_b": 0.0}
    for color, mode in zip(bj.plot.COLORS, MODES, strict=False):
        for kernel, mark in (("gaussian", "o"), ("delta_orthogonal", "s")):
            where = linear | {"kernel": kernel}
            expected = wave(dataset.covariance_theory.sel(where), mode)
            measured = wave(dataset.covariance.sel(where).mean("seed"), mode)
            bj.plot.line(ax, expected, "layer", color=color, linewidth=1)
            style = {"color": color, "linestyle": "", "marker": mark, "markersize": 3.5}
            label = f"{mode} period{'s'[: mode > 1]}, Gaussian" if mark == "o" else None
            label = "all, delta-orthogonal" if mark == "s" and mode == MODES[-1] else label
            bj.plot.line(ax, measured, "layer", label=label, **style)
    ax.set(xlabel="layer", ylabel="amplitude", ylim=(-0.05, 0.4))
    ax.legend(fontsize=7, ncols=2, loc="upper right")


def _draw_correlation(ax, dataset: xr.Dataset) -> None:
    where = {"activation": "tanh", "sigma_b": 0.0, "kernel": "gaussian"}
    for color, layer in zip(bj.plot.COLORS, (1, 4, 12), strict=False):
        at = where | {"layer": min(layer, dataset.sizes["layer"])}
        for kernel, style in (("gaussian", "-"), ("delta_orthogonal", "--")):
            at["kernel"] = kernel
            expected = (dataset.covariance_theory / dataset.q_theory).sel(at)
            measured = (dataset.covariance.mean("seed") / dataset.q.mean("seed")).sel(at)
            ax.plot(expected, style, color=color, linewidth=1)
            mark = "o" if kernel == "gaussian" else "s"
            label = f"layer {at['layer']}" if kernel == "gaussian" else None
            ax.plot(measured, linestyle="", marker=mark, markersize=3.5, color=color, label=label)
    ax.plot([], [], "ks", linestyle="--", markersize=3.5, label="delta-orthogonal")
    ax.set(xlabel="position", ylim=(-0.7, 1.15))
    ax.legend(fontsize=7, ncols=3)


def _draw_border(ax, dataset: xr.Dataset) -> None:
    for color, sigma_b in zip(bj.plot.COLORS, (0.0, 0.5), strict=False):
        for layer, mark in ((1, "o"), (4, "s"), (12, "^")):
            where = {"zeros_activation": "linear", "zeros_kernel": "gaussian", "sigma_b": sigma_b}
            where["layer"] = min(layer, dataset.sizes["layer"])
            ax.plot(dataset.zeros_q_theory.sel(where), color=color, linewidth=1)
            label = f"layer {layer}, $\\sigma_b$ = {sigma_b}"
            style = {"linestyle": "", "marker": mark, "markersize": 3.5, "color": color, "label": label}
            ax.plot(dataset.zeros_q.sel(where).mean("seed"), **style)
    ax.set(xlabel="position", yscale="log", ylim=(0.2, 20))
    ax.legend(fontsize=7, ncols=2, loc="upper center")
