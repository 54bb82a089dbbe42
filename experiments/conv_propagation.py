"""What do convolutions change of signal propagation: spatial modes, borders, singular values?

Answer: a window averages differences of two inputs over positions, which delta-orthogonal kernels do not;
padding with zeros takes a third of the variance at borders, and a bias fills it.

Source: the last open question of the notebook on Xavier and the bias ("Conv layer"); Xiao et al., arXiv
1806.05393. Deep 1-D convolutional networks with Gaussian, orthogonal and delta-orthogonal kernels, linear,
ReLU and tanh, with and without bias, under circular and under zero padding. Two inputs whose correlation
varies in waves over the positions are sent through them.

Expected: under circular padding variance and gradients follow the dense maps. A window of k averages the
covariance of two inputs over positions, so that a wave of wave number theta shrinks by chi_c times
(1 + 2 cos theta + ...)/k per layer; a delta-orthogonal kernel leaves every wave alone, and without activation
is an isometry, where the largest singular value is 2 under Gaussian kernels and sqrt(8/3) under plain
orthogonal ones. Under zero padding the border loses a third of its variance, and the bias fills it.

Measured: q and covariances within 2.7 standard errors of theory at every layer and position, under both
paddings (7.1 and more, in each combination of activation and kernel, if the bias is taken away); gradients of
linear networks and ReLU within .8, those of tanh within .19 (rms; 3.6). Over 512 networks wave 2 shrinks to
.105 in 4 layers (theory .105), and by 6e-7 at most under a delta-orthogonal kernel. In the first layer the
border has .664 ± .006 of the middle's variance (.667), .728 ± .006 with sigma_b = .5 (.733). Largest s² 3.98,
2.69 (orthogonal) and 1. Scope: theory tells a bias of .5 from none everywhere, of .22 not with ReLU (3.5).

Cost: about 60 s on 2 CPU cores. Command: `python -m experiments conv_propagation`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import border, curves, drawing, spectra, waves
from experiments.claims import Claim, at_most

if TYPE_CHECKING:
    import xarray as xr

XIAO = "arXiv 1806.05393"
KERNEL_SIZE = 3
WEIGHT_SCALES = {"linear": 1.0, "relu": 2**0.5, "tanh": 1.760955**0.5}
"""sigma_w; for tanh it is critical at sigma_b² = .05, chaotic below, ordered above."""
WINDOWS = dict.fromkeys(("gaussian", "orthogonal"), (1 / 3,) * 3) | {"delta_orthogonal": (0.0, 1.0, 0.0)}
DIMS = {"q": ("layer", "position"), "covariance": ("layer", "position"), "log_gradient": ("layer",)}
MEASURED = ("q", "covariance", "log_gradient", "zeros_q", "zeros_covariance")
BOTH = ("gaussian", "delta_orthogonal")
"""Kernels whose difference zero padding and the figures show."""
SAME = ("layer", "sigma_b", "position")
"""What a claim takes the worst of; activations and kernels must each bear it out."""


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
    many: int = 512
    """Number of linear networks whose first layers alone are measured."""


SMOKE = Config(
    activations=("linear", "tanh"),
    kernels=("gaussian", "delta_orthogonal"),
    zero_padded=("linear",),
    jacobian_depths=(1,),
    width=32,
    seeds=16,
    many=512,
)


def run(config: Config) -> xr.Dataset:
    """Measure circular and zero padding and singular values, and evaluate the theory."""
    import xarray as xr

    static = {"activation": config.activations, "kernel": config.kernels}
    axes = {"seed": np.arange(config.seeds), "sigma_b": config.sigma_b}
    measure = functools.partial(_measure, config)
    circular = bj.sweep.run(functools.partial(measure, padding="CIRCULAR"), axes, static=static, dims=DIMS)
    static = {"activation": config.zero_padded, "kernel": BOTH}
    zeros = bj.sweep.run(functools.partial(measure, padding="SAME"), axes, static=static, dims=DIMS)
    zeros = zeros.rename_vars({name: f"zeros_{name}" for name in zeros.data_vars})
    zeros: xr.Dataset = zeros.rename(activation="zeros_activation", kernel="zeros_kernel")
    dataset = xr.merge([circular.drop_vars("status"), zeros.drop_vars("zeros_status")])
    dataset["border_q"] = (
        _many(config, "SAME", 1, (0.0, 0.5)).q.isel(layer=0).rename(sigma_b="border_sigma_b")
    )
    first = _many(config, "CIRCULAR", waves.LAYER, (0.0,)).covariance.isel(sigma_b=0, drop=True)
    dataset["first_covariance"] = first.rename(layer="first_layer")
    sizes = {"width": config.width, "kernel_size": KERNEL_SIZE}
    dataset["log_singular"] = spectra.sweep(config.jacobian_depths, **sizes)
    dataset = xr.merge([dataset, theory(config, "CIRCULAR", circular), theory(config, "SAME", zeros)])
    dataset = dataset.assign_coords(layer=np.arange(1, config.depth + 1))
    return dataset.assign_attrs(width=config.width)


def _many(config: Config, padding: str, depth: int, sigma_b: tuple[float, ...]) -> xr.Dataset:
    """Measure the first layers of many linear Gaussian networks."""
    one = dataclasses.replace(config, depth=depth)
    fixed = {"activation": "linear", "kernel": "gaussian", "padding": padding}
    axes = {"seed": np.arange(config.many), "sigma_b": sigma_b}
    found = bj.sweep.run(functools.partial(_measure, one, **fixed), axes, dims=DIMS)
    return found.rename(seed="many").drop_vars("status")


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
    """Hold both paddings to theory; the null twin has at every bias what was measured without one.

    The null is that of the combination of activation and kernel that a bias moves least.
    """
    off, made = curves.at_bias(dataset, MEASURED, 0.0), []
    for text, name, prefix in (
        ("circular: q, standard errors off", "q", ""),
        ("circular: covariances, likewise", "covariance", ""),
        ("zero padding: q, likewise", "q", "zeros_"),
        ("zero padding: covariances, likewise", "covariance", "zeros_"),
    ):
        worst, null = (_apart(data, prefix, name).max(SAME) for data in (dataset, off))
        made.append(at_most(text, XIAO, curves.WORST, worst.max(), null=null.min()))
    sizes = dataset.attrs["width"]
    parts = waves.claims(dataset), border.claims(dataset), spectra.claims(dataset.log_singular, sizes)
    return [*made, *_gradients(dataset, off), *itertools.chain(*parts)]


def _apart(dataset: xr.Dataset, prefix: str, name: str) -> xr.DataArray:
    """Differences from theory at each position over the greatest scatter of a layer, and q / width."""
    measured, expected = dataset[f"{prefix}{name}"], dataset[f"{prefix}{name}_theory"]
    scatter = curves.standard_error(measured).max("position")
    left_out = dataset[f"{prefix}q_theory"].max("position") / dataset.attrs["width"]
    return abs(measured.mean("seed") - expected) / (scatter + left_out)


def _gradients(dataset: xr.Dataset, off: xr.Dataset) -> list[Claim]:
    """Hold gradients to theory; those of linear networks and ReLU know no bias, tanh's are their null."""
    if "tanh" not in dataset.activation:
        return []

    def apart(data: xr.Dataset) -> xr.DataArray:
        ratio = data.q.mean(("seed", "position")) / data.q_theory.mean("position")
        return curves.deviations(data, ratio, np.exp(data.log_gradient).mean("seed"))[1]

    def rms(data: xr.Dataset) -> xr.DataArray:
        return (apart(data).sel(activation="tanh") ** 2).mean(SAME[:2]) ** 0.5

    swapped = dataset.assign(log_gradient=dataset.log_gradient.sel(activation="tanh", drop=True))
    others = dataset.activation != "tanh"
    worst, null = (abs(apart(data)).where(others).max(SAME[:2]) for data in (dataset, swapped))
    return [
        at_most("tanh: gradients, rms, likewise", XIAO, 1.0, rms(dataset).max(), null=rms(off).min()),
        at_most("linear, ReLU: gradients, likewise", XIAO, curves.WORST, worst.max(), null=null.min()),
    ]


def figure(dataset: xr.Dataset):
    """Waves, correlation, variance and gradients by depth, the border, and singular values."""
    titles = ["waves of two inputs' covariance, linear", "how much correlations still differ by position"]
    titles += ["zero padding, linear, Gaussian", "linear: singular values of networks"]
    titles += ["circular, Gaussian: variance", "circular, Gaussian: gradients, marks as left"]
    fig, axes = bj.plot.panels(titles, columns=2)
    waves.draw(axes[0], dataset.sel(activation="linear", sigma_b=0.0, kernel=list(BOTH)))
    _draw_correlation(axes[1], dataset)
    border.draw(axes[2], dataset)
    spectra.draw(axes[3], dataset.log_singular)
    _draw_layers(axes[4], dataset.q.mean("position"), dataset.q_theory.mean("position"))
    _draw_layers(axes[5], np.exp(dataset.log_gradient), np.exp(dataset.log_gradient_theory))
    axes[4].set(ylim=(0.35, 30), ylabel="q, mean of positions")
    axes[4].legend(fontsize=7, ncols=3, loc="upper center")
    axes[5].set_ylabel("|gradient|² / the last layer's")
    at_one = "linear, ReLU: all at 1, whatever the bias"
    axes[5].text(0.97, 0.06, at_one, ha="right", fontsize=7, transform=axes[5].transAxes)
    message = "A window averages waves away, a point keeps them; a bias fills the border that padding drains"
    how = f"dots: mean of {dataset.sizes['seed']} seeds, bands its 95% interval; lines: mean-field theory"
    fig.suptitle(f"{message}\n{how}", fontsize=10)
    return fig


def _draw_correlation(ax, dataset: xr.Dataset) -> None:
    """Draw the slope of correlations by position over those of the inputs."""
    name = "tanh" if "tanh" in dataset.activation else "linear"
    one = dataset.sel(activation=name, sigma_b=0.0, kernel=list(BOTH))
    both = waves.slope(one.covariance / one.q), waves.slope(one.covariance_theory / one.q_theory)
    drawing.means(ax, "layer", *both, color="kernel", label=lambda kernel: spectra.LABELS[str(kernel)])
    ax.set(xlabel="layer", ylabel="slope of correlation over the inputs'", ylim=(0, 1.05))
    ax.legend(title=f"{name}, no bias")


def _draw_layers(ax, measured: xr.DataArray, theory: xr.DataArray) -> None:
    """Draw curves by layer of every activation, under Gaussian kernels and up to three biases."""
    pair = (values.sel(kernel="gaussian") for values in (measured, theory))
    styles = {"marker": "sigma_b", "linestyles": ("-", "--", ":")}
    label = "{}, $\\sigma_b$ = {:.2f}".format
    drawing.means(ax, "layer", *pair, color="activation", label=label, **styles)
    ax.set(xlabel="layer", yscale="log")
