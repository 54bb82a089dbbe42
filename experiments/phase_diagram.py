"""Where in the plane of weight and bias scales does a deep network keep two inputs apart, and who moves that?

Answer: on a critical line, where theory puts it to 2%. A bias moves it to larger weights for tanh and its
like and to smaller ones for GELU and SiLU; ReLU loses it altogether.

Source: Poole et al., arXiv 1606.05340, and Schoenholz et al., arXiv 1611.01232, after a question in a
notebook on Xavier and the bias. Pairs of inputs are sent through random tanh networks on a grid of
(sigma_w, sigma_b), and the correlation that they end with, the growth of gradients and the depth scale are
laid over mean-field theory. Inputs of the critical variance are also sent through networks of every named
activation on its critical line and 5% off it, with the bias and without.

Expected: on one side of a critical line sigma_w(sigma_b) all inputs become one (c* = 1, "ordered") and
gradients vanish (chi_1 < 1), on the other they stay apart and gradients explode ("chaotic"). For tanh, at
sigma_b² = .05, sigma_w² = 1.761 on it. A bias moves the line up for tanh, erf, softsign, hard tanh, sin, ELU,
SELU (and by 5% and 1% for ReLU6 and the sigmoid, to sigma_b = 1), and down for GELU and SiLU: from 2 to 1.40.
Critical points of these two at small biases (to .4 and .7) are unstable: variances leave them, so chi_1
jumps there. ReLU, leaky ReLU and linear networks have a line at sigma_b = 0 only, a point: with a bias chi_1
is 1 at the same sigma_w, but q grows by sigma_b² a layer. Softplus has none.

Measured: q*, c* and chi_1 of tanh within .6% of theory (median of the plane), xi_c within 1.1%, the line
within 1.3% everywhere (sigma_w² = 1.774 at sigma_b² = .05). All 36 critical points with a bias, four of them
unstable, lie between 5% less and 5% more of sigma_w (15 of 36 without the bias); stable ones are within 2.1%
of theory, intervals included. From no bias to sigma_b = 1 the critical sigma_w grows 1.861-fold (theory
1.856) for tanh, .702-fold (.703) for GELU, .701-fold (.701) for SiLU. q of ReLU gains .97 ± .09 sigma_b² a
layer.

Cost: about 80 s on 2 CPU cores. Command: `python -m experiments phase_diagram`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import critical, drawing
from experiments.claims import POOLE, SCHOENHOLZ, Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

MEASURED = ("q", "correlation", "distance", "log_grad_features")
UP = ("tanh", "erf", "softsign", "hard_tanh", "sin", "elu", "selu")
OTHERS = ("gelu", "silu", "gelu_tanh", "sigmoid", "relu6")
POINTS = ("relu", "leaky_relu", "linear")


@dataclass(frozen=True)
class Config:
    """The grid and the networks."""

    activation: str = "tanh"
    """Name of the activation of the plane."""
    sigma_w: tuple[float, float, int] = (0.5, 4.0, 29)
    """Weight scales of the plane: least, greatest, number."""
    sigma_b: tuple[float, float, int] = (0.05, 1.0, 11)
    """Bias scales of the plane, beside 0: least, greatest, number."""
    width: int = 400
    """Features of every layer."""
    depth: int = 50
    """Layers."""
    seeds: int = 10
    """Number of seeds."""
    lines: tuple[str, ...] = (*UP, *OTHERS, *POINTS)
    """Activations whose critical lines are measured."""
    line_sigma_b: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0)
    """Bias scales at which they are, increasing from 0."""
    line_seeds: int = 20
    """Number of seeds of the lines."""


SMOKE = Config(
    sigma_w=(0.5, 2.5, 17),
    sigma_b=(0.1, 1.0, 4),
    width=200,
    seeds=8,
    lines=("tanh", "gelu"),
    line_sigma_b=(0.0, 0.5),
    line_seeds=12,
)


def run(config: Config) -> xr.Dataset:
    """Measure plane and lines, and evaluate the theory on them."""
    names = tuple(dict.fromkeys((config.activation, *config.lines)))
    plane, on = np.append(0, np.linspace(*config.sigma_b)), np.asarray(config.line_sigma_b)
    fine = functools.reduce(np.union1d, (np.linspace(0, max(on), 41), on, plane))
    lines = critical.theory(names, fine)
    sizes = {"width": config.width, "depth": config.depth, "seeds": config.line_seeds}
    found = critical.measure(lines.sel(sigma_b=on), **sizes)
    dataset = _plane(config, plane)
    line = lines.sigma_w.sel(activation=config.activation, sigma_b=plane)
    dataset["line_theory"] = "sigma_b", line.values
    for part, prefix in ((found, "line_"), (lines, "fine_")):
        own = {str(name): f"{prefix}{name}" for name in part.variables if name != "activation"}
        dataset = dataset.merge(part.rename(own))
    return dataset


def _plane(config: Config, sigma_b: np.ndarray) -> xr.Dataset:
    import jax

    axes = {"seed": np.arange(config.seeds), "sigma_w": np.linspace(*config.sigma_w), "sigma_b": sigma_b}
    dataset = bj.sweep.run(functools.partial(_measure, config), axes, dims=bj.propagation.DIMS)
    scales = np.meshgrid(axes["sigma_w"], sigma_b, indexing="ij")
    theory = jax.jit(functools.partial(bj.phases.order_parameters, config.activation))(*scales)
    for name in ("q", "c", "chi_1", "xi_c"):
        dataset[f"{name}_theory"] = ("sigma_w", "sigma_b"), np.asarray(getattr(theory, name))
    return dataset.assign_coords(layer=np.arange(1, config.depth + 1))


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
    # The mean of growths, for that of their logs is less by half their variance
    chi = bj.propagation.growth(dataset.log_grad_features.isel(layer=half)).mean(("layer", "seed"))
    # In the ordered phase 1 - c decays like exp(-layer / xi_c), until rounding stops it
    usable = (dataset.distance > 1e-10) & (dataset.distance < 0.05)
    logs = np.log(dataset.distance.where(usable))
    decay = logs.diff("layer").mean(("layer", "seed"))
    # Where it does not, xi_c is infinite
    xi = -1 / decay.where(usable.sum("layer").min("seed") > 3, -0.0)
    means = {"q": late.q, "c": late.correlation}
    means = {name: value.mean(("layer", "seed")) for name, value in means.items()}
    return xr.Dataset({**means, "chi_1": chi, "xi_c": xi, "line": critical.crossing(chi, "sigma_w")})


def without_bias(dataset: xr.Dataset) -> xr.Dataset:
    """The null twin of the plane: what was measured without a bias, held to the theory of all biases."""
    still = dataset[list(MEASURED)].sel(sigma_b=0, drop=True)
    return dataset.assign({name: x.broadcast_like(dataset[name]) for name, x in still.items()})


def errors(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """How far measured order parameters are off theory where there is a bias."""
    # Away from criticality, where 50 layers reach the fixed point
    found, biased = measured(dataset), dataset.sigma_b > 0
    near = biased & (dataset.xi_c_theory < dataset.sizes["layer"] / 5)
    names = ("q", "chi_1", "xi_c", "line")
    relative = {name: abs(found[name] / dataset[f"{name}_theory"] - 1) for name in names}
    return {
        "q": relative["q"].where(near),
        "c": abs(found.c - dataset.c_theory).where(near),
        "chi_1": relative["chi_1"].where(biased),
        "xi_c": relative["xi_c"].where(near & (dataset.chi_1_theory < 1)),
        "line": relative["line"].where(biased).fillna(np.inf).where(biased),
    }


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold plane and lines to mean-field theory."""
    return [*plane_claims(dataset), *critical.claims(_lines(dataset, "line_"))]


def plane_claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold measured order parameters to mean-field theory; null twins have no bias."""
    null = without_bias(dataset)
    found, twin = errors(dataset), errors(null)
    bounds = {"q": 0.02, "c": 0.02, "chi_1": 0.02, "xi_c": 0.1}
    made = []
    for name, bound in bounds.items():
        text = f"{name} - theory, median" if name == "c" else f"{name} / theory - 1, median"
        source = SCHOENHOLZ if name == "xi_c" else POOLE
        made.append(at_most(text, source, bound, found[name].median(), null=twin[name].median()))
    line = measured(dataset).line
    wrong = [abs(line / dataset.line_theory / moved - 1).max() for moved in (0.95, 1.05)]
    nulls = min(float(x) for x in (*wrong, twin["line"].max()))
    made.append(at_most("line: sigma_w / theory - 1, worst", POOLE, 0.03, found["line"].max(), null=nulls))
    squares = (measured(one).line.interp(sigma_b=np.sqrt(0.05)) ** 2 for one in (dataset, null))
    text, exact = "sigma_w² on line at sigma_b² = .05", 1.760955
    square, nothing = (x.fillna(0) for x in squares)
    made.append(equal(text, "scipy quadrature", exact, square, tolerance=0.05 * exact, null=nothing))
    return made


def _lines(dataset: xr.Dataset, prefix: str) -> xr.Dataset:
    """What was measured of the lines, or their theory, by the names it has there."""
    names = {str(name) for name in dataset.variables} - {"line_theory"}
    own = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return dataset[[*own, "activation"]].rename(own)


def figure(dataset: xr.Dataset):
    """Correlation and gradient growth in the plane, slices of them with depth scales, and critical lines."""
    name = json.loads(dataset.attrs.get("config", "{}")).get("activation", "tanh")
    titles = [f"{name}: what two inputs become, and critical line", f"{name}: gradients, and critical line"]
    titles += [f"{name}: correlation of two inputs in the end", f"{name}: growth of gradients"]
    titles += [f"{name}: depth scale, ordered phase", r"beside all critical points: $\chi_1$ passes 1"]
    titles += ["critical lines that a bias moves up", "critical lines that it moves down, or little"]
    fig, axes = bj.plot.panels(titles, columns=2, size=(5.2, 3.2))
    found = measured(dataset)
    _draw_planes(axes[:2], dataset, found)
    _draw_slices(axes[2:5], dataset, found)
    lines, fine = _lines(dataset, "line_"), _lines(dataset, "fine_")
    critical.draw_beside(axes[5], lines)
    notes = ("tanh, erf all but coincide;", "both GELU coincide;")
    for ax, names, note in zip(axes[6:], (UP, OTHERS), notes, strict=True):
        shown = [name for name in names if name in lines.activation.values]
        critical.draw(ax, fine, lines, shown, f"{note}\nbars: 95% intervals")
    title = "A bias moves the edge of chaos: up for tanh, down for GELU and SiLU; ReLU has only a point"
    fig.suptitle(f"{title}\n{drawing.LEGEND}", fontsize=10)
    return fig


def _draw_planes(axes: Sequence[Any], dataset: xr.Dataset, found: xr.Dataset) -> None:
    diverging = {"vmin": -0.7, "vmax": 0.7, "center": 0}
    planes: Sequence[tuple[xr.DataArray, str, dict[str, Any]]] = (
        (found.c, "correlation $c^*$, measured", {"vmin": 0, "vmax": 1}),
        (np.log10(found.chi_1), r"$\log_{10}\,\chi_1$, measured", diverging),
    )
    names = {"ordered\n{}": (0.12, 0.75), "chaotic\n{}": (0.7, 0.3)}
    says = (("$c^* = 1$", "$c^* < 1$"), (r"$\chi_1 < 1$", r"$\chi_1 > 1$"))
    biased = dataset.sigma_b > 0
    for ax, (values, label, style), say in zip(axes, planes, says, strict=True):
        bj.plot.heatmap(ax, values.where(biased, drop=True), "sigma_w", "sigma_b", label=label, **style)
        ax.plot(dataset.line_theory[biased], dataset.sigma_b[biased], "k--", label="theory")
        ax.plot(found.line[biased], dataset.sigma_b[biased], "k.", label=r"measured $\chi_1$ = 1")
        for (text, (x, y)), meaning in zip(names.items(), say, strict=True):
            box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0}
            ax.text(x, y, text.format(meaning), transform=ax.transAxes, ha="center", bbox=box)
        ax.set(xlabel=r"$\sigma_w$", ylabel=r"$\sigma_b$")
        ax.legend(loc="lower right", frameon=True)


def _draw_slices(axes: Sequence[Any], dataset: xr.Dataset, found: xr.Dataset) -> None:
    chosen = {"sigma_b": np.linspace(1, dataset.sizes["sigma_b"] - 1, 3).astype(int)}
    labels = {"c": "correlation $c^*$", "chi_1": r"$\chi_1$, factor per layer", "xi_c": r"$\xi_c$ / layers"}
    for ax, (name, label) in zip(axes, labels.items(), strict=True):
        shown = (dataset.chi_1_theory < 1) | (name != "xi_c")
        pair = (x.where(shown).isel(chosen) for x in (found[name], dataset[f"{name}_theory"]))
        drawing.family(ax, "sigma_w", *pair, color="sigma_b", label="$\\sigma_b$ = {:.2f}".format)
        ax.set(xlabel=r"$\sigma_w$", ylabel=label)
        ax.legend()
    axes[1].axhline(1, color="grey", linewidth=0.8)
    axes[2].set_yscale("log")
