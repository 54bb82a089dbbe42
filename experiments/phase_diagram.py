"""Where in the plane of weight and bias scales does a deep network keep two inputs apart?

Source: Poole et al., arXiv 1606.05340, and Schoenholz et al., arXiv 1611.01232, after the question of seed
document 004 about Xavier and the bias. Pairs of inputs are sent through random tanh networks on a grid of
(sigma_w, sigma_b), and the correlation that they end with, the growth of gradients and the depth scale are
laid over mean-field theory.

Expected: below a critical line sigma_w(sigma_b) all inputs become one (c* = 1) and gradients vanish
(chi_1 < 1); above it they stay apart and gradients explode. On it, at sigma_b² = .05, sigma_w² = 1.761.
A bias moves the line up: it is the bias that makes inputs alike.

Measured: q*, c* and chi_1 within 1.3% of theory (median of the grid), the critical line within 2.4%
everywhere; sigma_w² = 1.794 on it at sigma_b² = .05.

Cost: about 15 s on 2 CPU cores. Command: `python -m experiments phase_diagram`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import drawing
from experiments.claims import POOLE, SCHOENHOLZ, Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

MEASURED = ("q", "correlation", "distance", "log_grad_features")


@dataclass(frozen=True)
class Config:
    """The grid and the networks."""

    activation: str = "tanh"
    """Name of the activation."""
    sigma_w: tuple[float, float, int] = (0.5, 4.0, 29)
    """Weight scales: least, greatest, number."""
    sigma_b: tuple[float, float, int] = (0.05, 1.0, 11)
    """Bias scales: least, greatest, number."""
    width: int = 400
    """Features of every layer."""
    depth: int = 50
    """Layers."""
    seeds: int = 4
    """Number of seeds."""


SMOKE = Config(sigma_w=(0.5, 4.0, 15), sigma_b=(0.05, 1.0, 5), width=200, seeds=2)


def run(config: Config) -> xr.Dataset:
    """Measure the grid, and evaluate the theory on it."""
    import jax

    axes = {
        "seed": np.arange(config.seeds),
        "sigma_w": np.linspace(*config.sigma_w),
        "sigma_b": np.linspace(*config.sigma_b),
    }
    dataset = bj.sweep.run(functools.partial(_measure, config), axes, dims=bj.propagation.DIMS)
    scales = np.meshgrid(axes["sigma_w"], axes["sigma_b"], indexing="ij")
    theory = jax.jit(functools.partial(bj.phases.order_parameters, config.activation))(*scales)
    grid = ("sigma_w", "sigma_b")
    for name in ("q", "c", "chi_1", "xi_c"):
        dataset[f"{name}_theory"] = grid, np.asarray(getattr(theory, name))
    line = bj.phases.critical_line(config.activation, axes["sigma_b"]).sigma_w[..., 0]
    dataset["line_theory"] = "sigma_b", np.asarray(line)
    return dataset.assign_coords(layer=np.arange(1, config.depth + 1)).assign_attrs(width=config.width)


def _measure(config: Config, key, *, sigma_w, sigma_b) -> dict:
    import jax
    import jax.numpy as jnp

    net_key, x_key = jax.random.split(key)
    order = f"dense-{config.activation}"
    net = bj.network.Network(inputs=config.width, width=config.width, depth=config.depth, order=order)
    x = jax.random.normal(x_key, (2, config.width))
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
    found = bj.propagation.propagate(net_key, net, bj.network.Scales(sigma_w, sigma_b), x)
    return {name: getattr(found, name) for name in MEASURED}


def measured(dataset: xr.Dataset) -> xr.Dataset:
    """Order parameters from layers: means of the last fifth, and rates of the last half, over seeds."""
    import xarray as xr

    depth = dataset.sizes["layer"]
    late, half = dataset.isel(layer=slice(-depth // 5, None)), slice(depth // 2, None)
    growth: Any = np.log(bj.propagation.growth(dataset.log_grad_features.isel(layer=half)))
    chi = np.exp(growth.mean(("layer", "seed")))
    # In the ordered phase 1 - c decays like exp(-layer / xi_c), until rounding stops it
    usable = (dataset.distance > 1e-10) & (dataset.distance < 0.05)
    logs = np.log(dataset.distance.where(usable))
    decay = logs.diff("layer").mean(("layer", "seed"))
    xi = -1 / decay.where((dataset.chi_1_theory < 1) & (usable.sum("layer").min("seed") > 3))
    means = {"q": late.q, "c": late.correlation}
    means = {name: value.mean(("layer", "seed")) for name, value in means.items()}
    return xr.Dataset({**means, "chi_1": chi, "xi_c": xi, "line": _crossing(chi)})


def _crossing(chi: xr.DataArray) -> xr.DataArray:
    """Weight scale at which chi_1 first passes 1, by linear interpolation of its log."""
    logs, sigma_w = np.log(chi.transpose("sigma_b", "sigma_w").values), chi.sigma_w.values
    at = np.argmax(logs > 0, axis=1)
    rows = np.arange(len(at))
    low, high = logs[rows, at - 1], logs[rows, at]
    crossing = sigma_w[at - 1] - low / (high - low) * (sigma_w[at] - sigma_w[at - 1])
    return chi.isel(sigma_w=0, drop=True).copy(data=np.where(at > 0, crossing, np.nan))


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold measured order parameters to mean-field theory."""
    found = measured(dataset)
    # Away from criticality, where 50 layers reach the fixed point
    near = dataset.xi_c_theory < dataset.sizes["layer"] / 5
    chi = abs(found.chi_1 / dataset.chi_1_theory - 1)
    q = abs(found.q / dataset.q_theory - 1).where(near)
    c = abs(found.c - dataset.c_theory).where(near)
    xi = abs(found.xi_c / dataset.xi_c_theory - 1).where(near)
    line = abs(found.line / dataset.line_theory - 1)
    error = float(np.sqrt(2 / dataset.attrs["width"] / dataset.sizes["seed"]))  # of one layer's q
    share = float((near & np.isfinite(found.xi_c)).mean())
    return [
        at_most("q* / theory - 1, median of the grid", POOLE, error, q.median()),
        at_most("c* - theory, median of the grid", POOLE, error, c.median()),
        at_most("chi_1 / theory - 1, median of the grid", POOLE, error, chi.median()),
        at_most("critical line: sigma_w / theory - 1, worst", POOLE, 2 * error, line.max()),
        at_most(f"xi_c / theory - 1, median of {share:.0%} of the grid", SCHOENHOLZ, 0.1, xi.median()),
        equal(
            "sigma_w² on the line at sigma_b² = .05",
            "scipy quadrature",
            1.760955,
            found.line.interp(sigma_b=np.sqrt(0.05)) ** 2,
            tolerance=4 * error * 1.760955,
        ),
    ]


def figure(dataset: xr.Dataset):
    """Correlation and gradient growth in the plane, and slices of them with depth scales."""
    titles = ["measured $c^*$ and critical line", r"measured $\chi_1$ and critical line"]
    titles += ["$c^*$", r"$\chi_1$", "depth scale $\\xi_c$, ordered phase", "critical line"]
    fig, axes = bj.plot.panels(titles, columns=2)
    found = measured(dataset)
    fig.colorbar(_draw_plane(axes[0], found.c, vmin=0, vmax=1), ax=axes[0])
    chi = _draw_plane(axes[1], np.log10(found.chi_1), vmin=-0.7, vmax=0.7, cmap="RdBu_r")
    fig.colorbar(chi, ax=axes[1], label="log10")
    for ax in axes[:2]:
        _draw_line(ax, found.line, dataset.line_theory, upright=True)
    chosen = {"sigma_b": np.linspace(0, dataset.sizes["sigma_b"] - 1, 3).astype(int)}
    for ax, name in zip(axes[2:5], ("c", "chi_1", "xi_c"), strict=True):
        theory = dataset[f"{name}_theory"].where((dataset.chi_1_theory < 1) | (name != "xi_c"))
        pair = (values.isel(chosen) for values in (found[name], theory))
        drawing.family(ax, "sigma_w", *pair, color="sigma_b", label="$\\sigma_b$ = {:.2f}".format)
        ax.set_xlabel(r"$\sigma_w$")
    axes[3].axhline(1, color="grey", linewidth=0.8)
    axes[4].set_yscale("log")
    _draw_line(axes[5], found.line, dataset.line_theory, upright=False)
    for ax in axes[:1] + axes[2:]:
        ax.legend()
    fig.suptitle(drawing.LEGEND, fontsize=10)
    return fig


def _draw_plane(ax, values: xr.DataArray, **style: Any):
    ax.grid(visible=False)
    values = values.transpose("sigma_b", "sigma_w")
    return ax.pcolormesh(values.sigma_w, values.sigma_b, values, **style, rasterized=True)


def _draw_line(ax, measured: xr.DataArray, theory: xr.DataArray, *, upright: bool) -> None:
    """Draw the critical line, with the bias upwards or to the right."""
    for line, style, label in ((theory, "k--", "theory"), (measured, "k.", r"measured $\chi_1$ = 1")):
        ax.plot(*((line, line.sigma_b) if upright else (line.sigma_b, line)), style, label=label)
    names = (r"$\sigma_w$", r"$\sigma_b$")
    ax.set(**dict(zip(("xlabel", "ylabel"), names if upright else names[::-1], strict=True)))
