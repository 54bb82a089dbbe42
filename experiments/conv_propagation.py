"""What do convolutions change of signal propagation: spatial modes, borders, singular values?

Source: the last open question of the notebook on Xavier and the bias ("Conv layer"); Xiao et al., arXiv
1806.05393. Deep 1-D convolutional networks with Gaussian, orthogonal and delta-orthogonal kernels, linear,
ReLU and tanh, with and without bias, under circular and under zero padding. Two inputs whose correlation
varies in waves over the positions are sent through them.

Expected: under circular padding variance and gradients follow the dense maps. A window of k averages the
covariance of two inputs over positions, so that a wave of wave number theta shrinks by chi_c times
(1 + 2 cos theta + ...)/k per layer; a delta-orthogonal kernel leaves every wave alone, and without activation
is an isometry, where the largest singular value is 2 under Gaussian kernels and sqrt(8/3) under plain
orthogonal ones. Under zero padding the border loses a third of its variance, and the bias fills it.

Measured: q, gradients and covariances within 2.6 standard errors of theory at every layer; wave 2 shrinks to
.092 in 4 layers (.105 ± .041), and by 6e-7 at most under a delta-orthogonal kernel. The border has .67 of the
middle's variance in the first layer, .73 with sigma_b = .5. Largest s² 3.98, 2.69 (orthogonal) and 1.

Cost: about 60 s on 2 CPU cores. Command: `python -m experiments conv_propagation`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import curves, drawing, spectra, waves
from experiments.claims import Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

XIAO = "arXiv 1806.05393"
KERNEL_SIZE = 3
WEIGHT_SCALES = {"linear": 1.0, "relu": 2**0.5, "tanh": 1.760955**0.5}
"""sigma_w; for tanh it is critical at sigma_b² = .05, chaotic below, ordered above."""
WINDOWS = dict.fromkeys(("gaussian", "orthogonal"), (1 / 3,) * 3) | {"delta_orthogonal": (0.0, 1.0, 0.0)}
BOTH = ("gaussian", "delta_orthogonal")
"""Kernels whose difference zero padding and the figures show."""


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
    static = {"activation": config.zero_padded, "kernel": BOTH}
    zeros = bj.sweep.run(functools.partial(measure, padding="SAME"), axes, static=static, dims=dims)
    zeros = zeros.rename_vars({name: f"zeros_{name}" for name in zeros.data_vars})
    zeros: xr.Dataset = zeros.rename(activation="zeros_activation", kernel="zeros_kernel")
    dataset = xr.merge([circular.drop_vars("status"), zeros.drop_vars("zeros_status")])
    sizes = {"width": config.width, "kernel_size": KERNEL_SIZE}
    dataset["log_singular"] = spectra.sweep(config.jacobian_depths, **sizes)
    dataset = xr.merge([dataset, theory(config, "CIRCULAR", circular), theory(config, "SAME", zeros)])
    dataset = dataset.assign_coords(layer=np.arange(1, config.depth + 1))
    return dataset.assign_attrs(width=config.width)


def _measure(config: Config, key, *, activation, kernel, sigma_b, padding) -> dict:
    import jax.numpy as jnp

    net = bj.network.Network(
        inputs=config.width,
        width=config.width,
        depth=config.depth,
        order=f"{activation}-conv",  # ends with the convolution: features are pre-activations
        kernel_init=kernel,
        kernel_size=(KERNEL_SIZE,),
        padding=padding,
    )
    scales = bj.network.Scales(WEIGHT_SCALES[activation], sigma_b)
    x = jnp.asarray(waves.inputs(config.positions, config.width))
    z = bj.propagation.features(key, net, scales, x)
    gradient: Any = bj.propagation.propagate(key, net, scales, x).log_grad_features
    return {
        "q": jnp.mean(z**2, (1, 3)),
        "covariance": jnp.mean(z[:, 0] * z[:, 1], -1),
        "log_gradient": gradient - gradient[-1],
    }


def theory(config: Config, padding: str, like: xr.Dataset) -> xr.Dataset:
    """Mean-field q and covariance of each position and layer, gradients, and the scatter of q and these."""
    import jax

    prefix = "zeros_" if padding == "SAME" else ""
    dims = (f"{prefix}activation", f"{prefix}kernel", "layer", "sigma_b", "position")
    windows = np.array([WINDOWS[str(name)] for name in like[dims[1]].values])

    def each(activation: str) -> dict:
        return jax.vmap(functools.partial(_curves, config, activation, padding))(windows)

    coords = {name: like[name].values for name in (*dims[:2], "sigma_b")}
    return curves.theory(each, dims, coords, prefix)


def _curves(config: Config, activation: str, padding: str, window) -> dict:
    """Theory of one activation and window, ``(depth, sigma_b, positions)`` or ``(depth, sigma_b)``."""
    import jax.numpy as jnp

    sigma_w, sigma_b = WEIGHT_SCALES[activation], jnp.asarray(config.sigma_b)[:, None]
    c = jnp.asarray(waves.profile(config.positions))
    step = functools.partial(bj.meanfield.conv_trajectory, window=window, padding=padding)
    q, c = (both[1] for both in step("linear", jnp.ones_like(c), c, sigma_w, sigma_b, depth=1))
    q, c = step(activation, q, c, sigma_w, sigma_b, depth=config.depth - 1)
    # Positions average fluctuations down; of one position they are those of a dense layer
    middle = q[..., config.positions // 2]
    gradients = curves.gradients(activation, middle, sigma_w, width=config.width, passed=slice(-1))
    if padding == "SAME":
        gradients = {"q_scatter": gradients["q_scatter"]}
    return {"q": q, "covariance": q * c, **gradients}


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold circular padding to the dense maps and to Fourier modes, and zero padding to its border."""
    ratio = dataset.q.mean(("seed", "position")) / dataset.q_theory.mean("position")
    q, gradient = curves.deviations(dataset, ratio, np.exp(dataset.log_gradient).mean("seed"))
    text = "circular, {} of every layer and combination: worst, in standard errors"
    worst = curves.WORST
    return [
        at_most(text.format("q"), XIAO, worst, abs(q).max()),
        at_most(text.format("squared gradient"), XIAO, worst, abs(gradient).max()),
        at_most(text.format("covariance of two inputs"), XIAO, worst, _covariances(dataset, "").max()),
        *_waves(dataset),
        *_border(dataset),
        *spectra.claims(dataset.log_singular, dataset.attrs["width"]),
    ]


def _covariances(dataset: xr.Dataset, prefix: str, name: str = "covariance") -> xr.DataArray:
    """Differences from theory at each position over the greatest scatter of a layer, and q / width."""
    measured, expected = dataset[f"{prefix}{name}"], dataset[f"{prefix}{name}_theory"]
    scatter = curves.standard_error(measured).max("position")
    left_out = dataset[f"{prefix}q_theory"].max("position") / dataset.attrs["width"]
    return abs(measured.mean("seed") - expected) / (scatter + left_out)


def _waves(dataset: xr.Dataset) -> list[Claim]:
    """Waves of the covariance in linear networks: the window's Fourier factor to the power of the layer."""
    linear = dataset.covariance.sel(activation="linear", sigma_b=0.0)
    made = []
    for mode in waves.MODES:
        factor = (1 + 2 * math.cos(2 * math.pi * mode / dataset.sizes["position"])) / 3
        layer = 1 if mode == waves.MODES[-1] else 4  # before the noise of finite width is all that is left
        seen = waves.amplitudes(linear.sel(kernel="gaussian", layer=layer)).sel(mode=mode)
        tolerance = curves.SINGLE * curves.standard_error(seen)
        text = f"linear, Gaussian: wave {mode} of layer {layer}, (1 + 2 cos)/3 = {factor:.3f} per layer"
        made.append(equal(text, "Fourier", factor**layer / 4, seen.mean(), tolerance=tolerance))
    kept = abs(linear.sel(kernel="delta_orthogonal") - waves.profile(dataset.sizes["position"])).max()
    text = "linear, delta-orthogonal: covariance of two inputs - that of the first, worst"
    return [*made, at_most(text, "isometry", 1e-5, kept)]


def _border(dataset: xr.Dataset) -> list[Claim]:
    """Zero padding: q of every position against theory, and of the border in the first layer."""
    text = "zero padding, {} of every position and layer: worst, in standard errors"
    made = [
        at_most(text.format("q"), XIAO, curves.WORST, _covariances(dataset, "zeros_", "q").max()),
        at_most(text.format("covariance"), XIAO, curves.WORST, _covariances(dataset, "zeros_").max()),
    ]
    linear = dataset.zeros_q.sel(zeros_activation="linear").isel(layer=0).mean("seed")
    error = curves.SINGLE * math.sqrt(2 / dataset.attrs["width"] / dataset.sizes["seed"])
    for sigma_b in (0.0, 0.5):
        q = linear.sel(zeros_kernel="gaussian", sigma_b=sigma_b)
        expected = (2 / 3 + sigma_b**2) / (1 + sigma_b**2)
        text = f"zero padding, sigma_b = {sigma_b}: q of the border / of the middle, first layer"
        ends = (q[0] + q[-1]) / 2 / q[1:-1].mean()
        made.append(equal(text, "2 of 3 inputs", expected, ends, tolerance=error * expected))
    q = dataset.zeros_q.sel(zeros_activation="linear", zeros_kernel="delta_orthogonal", sigma_b=0.0)
    text = "zero padding, delta-orthogonal, linear: largest |q - 1|"
    return [*made, at_most(text, "the border is not seen", 1e-5, abs(q - 1).max())]


def figure(dataset: xr.Dataset):
    """Waves, correlation, variance and gradients by depth, the border, and singular values."""
    titles = ["waves of two inputs' covariance, linear", "tanh: correlation of two inputs, no bias"]
    titles += ["zero padding, linear, Gaussian: q", "singular values, linear"]
    titles += ["circular, Gaussian: q", "|gradient|² / last layer, marks as left"]
    fig, axes = bj.plot.panels(titles, columns=2)
    _draw_waves(axes[0], dataset)
    _draw_correlation(axes[1], dataset)
    _draw_border(axes[2], dataset)
    spectra.draw(axes[3], dataset.log_singular)
    _draw_layers(axes[4], dataset.q.mean(("seed", "position")), dataset.q_theory.mean("position"))
    _draw_layers(axes[5], np.exp(dataset.log_gradient).mean("seed"), np.exp(dataset.log_gradient_theory))
    axes[4].set_ylim(top=20)
    axes[4].legend(fontsize=7, ncols=3, loc="upper center")
    fig.suptitle(drawing.LEGEND, fontsize=10)
    return fig


def _draw_waves(ax, dataset: xr.Dataset) -> None:
    def label(mode: int, kernel: str) -> str | None:
        if kernel == "gaussian":
            return f"{mode} period{'s' if mode > 1 else ''}, Gaussian"
        return "all, delta-orthogonal" if mode == waves.MODES[-1] else None

    where = {"activation": "linear", "sigma_b": 0.0, "kernel": list(BOTH)}
    covariances = (dataset.covariance.mean("seed"), dataset.covariance_theory)
    pair = (waves.amplitudes(values.sel(where)) for values in covariances)
    drawing.family(ax, "layer", *pair, color="mode", marker="kernel", label=label)
    ax.set(xlabel="layer", ylabel="amplitude", ylim=(-0.05, 0.4))
    ax.legend(fontsize=7, ncols=2, loc="upper right")


def _draw_correlation(ax, dataset: xr.Dataset) -> None:
    def label(layer: int, kernel: str) -> str | None:
        return f"layer {layer}" if kernel == "gaussian" else None

    where = {"activation": "tanh", "sigma_b": 0.0, "kernel": list(BOTH), "layer": _some_layers(dataset)}
    means = dataset[["covariance", "q"]].mean("seed")
    both = (means.covariance / means.q, dataset.covariance_theory / dataset.q_theory)
    pair = (values.sel(where) for values in both)
    styles = {"marker": "kernel", "linestyles": ("-", "--")}
    drawing.family(ax, "position", *pair, color="layer", label=label, **styles)
    ax.plot([], [], "ks", linestyle="--", markersize=3.5, label="delta-orthogonal")
    ax.set(xlabel="position", ylim=(-0.7, 1.15))
    ax.legend(fontsize=7, ncols=3)


def _draw_border(ax, dataset: xr.Dataset) -> None:
    where = {"zeros_activation": "linear", "zeros_kernel": "gaussian", "sigma_b": [0.0, 0.5]}
    where["layer"] = _some_layers(dataset)
    pair = (values.sel(where) for values in (dataset.zeros_q.mean("seed"), dataset.zeros_q_theory))
    label = "layer {1}, $\\sigma_b$ = {0}".format
    drawing.family(ax, "position", *pair, color="sigma_b", marker="layer", label=label)
    ax.set(xlabel="position", yscale="log", ylim=(0.2, 20))
    ax.legend(fontsize=7, ncols=2, loc="upper center")


def _some_layers(dataset: xr.Dataset) -> list[int]:
    return [layer for layer in (1, 4, 12) if layer <= dataset.sizes["layer"]]


def _draw_layers(ax, measured: xr.DataArray, theory: xr.DataArray) -> None:
    """Draw curves by layer of every activation, under Gaussian kernels and up to three biases."""
    pair = (values.sel(kernel="gaussian") for values in (measured, theory))
    styles = {"marker": "sigma_b", "linestyles": ("-", "--", ":")}
    label = "{}, $\\sigma_b$ = {:.2f}".format
    drawing.family(ax, "layer", *pair, color="activation", label=label, **styles)
    ax.set(xlabel="layer", yscale="log")
