"""When must zero become zero, and what does leaving the bias out buy where it must?

Answer: where zero itself matters. Networks of ReLU without biases keep f(2x) = 2 f(x) to the last bit, but a
norm can break that by itself; elsewhere leaving biases out buys little.

Source: a forum thread on bias=False, 2021: leave biases out "if you want to transform zeros to zeros", as in
learned rotations. Two parts: which networks without biases are homogeneous, f(a x) = a f(x), by their norm;
and a rotation learned from noisy pairs by least squares, with and without a bias.

Expected: ReLU without biases is homogeneous bit for bit. Layer and RMS norm map zero to zero, but divide the
scale out, f(a x) = f(x), up to epsilon. Batch norm subtracts a mean, of the batch or a running one, which is
a bias: an example of zeros is not mapped to zero. With the mean left out (bias-free batch norm, arXiv
1906.05478) the network at inference is homogeneous. With d inputs, n pairs and noise of variance 1 the
expected squared error of a rotation is, for each output, |x|²/(n - d - 1) without a bias and
1/n + (|x|² + d/n)/(n - d - 2) with one: without is better everywhere, most at zero. Where the rotation has
another centre it cannot be learned without.

Measured: f(2x) = 2 f(x) to the last bit with ReLU and with bias-free batch norm, where biases of the size of
the weights part the two by .24 and more; layer and RMS norm keep f(2x) = f(x) to 4e-7, batch norm in
training whatever the bias before it. An example of zeros leaves batch norm with at least .26 of an answer's
size, without any bias. Errors of a rotation of 8 dimensions from 24 pairs are .98 ± .03 of the closed forms.
By these a bias costs a fifth of the error for inputs like those learned from and a tenth far away; at zero
all of the error is its own. Where the centre is 3 standard deviations away the error there is 40 times larger
without it.

So the rule of thumb holds, with two corrections: norms decide as much as biases do, and what leaving out a
bias buys is little unless zero itself matters.

Cost: about 12 s on 2 CPU cores. Command: `python -m experiments zero_to_zero`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

FORUM = "forum thread on bias=False, 2021"
BIAS_FREE = "arXiv 1906.05478"
CASES = {
    "ReLU": ("dense-relu", "training"),
    "layer norm": ("dense-ln-relu", "training"),
    "RMS norm": ("dense-rms-relu", "training"),
    "BN, training": ("dense-bn-relu", "training"),
    "BN, inference": ("dense-bn-relu", "inference"),
    "BN, bias-free": ("dense-bn-relu", "without mean"),
}
"""Order of the layers, and which statistics batch norm uses."""
HOMOGENEOUS = ["ReLU", "BN, bias-free"]
SCALE_FREE = ["layer norm", "RMS norm"]


@dataclass(frozen=True)
class Config:
    """Networks, and rotations."""

    width: int = 64
    """Features of a hidden layer."""
    depth: int = 4
    """Hidden layers."""
    batch: int = 32
    """Inputs of a network."""
    log2_scales: tuple[int, ...] = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
    """Powers of two that inputs are multiplied by; 0 and 1 are needed."""
    sigma_b: tuple[float, ...] = (0.0, 1.0)
    """Standard deviations of the biases of a network: none, and some."""
    seeds: int = 10
    """Networks of each kind."""
    inputs: int = 8
    """Dimensions that are rotated."""
    pairs: int = 24
    """Noisy pairs that a rotation is learned from."""
    radii: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    """Distances from the centre, in standard deviations of the inputs' coordinates, to measure errors at."""
    shift: float = 3.0
    """Distance of the centre of rotation from zero where it has another, in the same unit."""
    rotations: int = 2000
    """Seeds of a rotation."""


SMOKE = Config(width=32, depth=3, log2_scales=(-2, 0, 1), seeds=10, radii=(0.0, 4.0), rotations=1000)


def run(config: Config) -> xr.Dataset:
    """Scale the inputs of drawn networks, and learn rotations."""
    axes = {"seed": np.arange(config.seeds), "sigma_b": config.sigma_b, "log2_scale": config.log2_scales}
    answer = functools.partial(_answer, config)
    dims = {"scaled": ("example", "output"), "zero": ("output",)}
    networks = _gaps(bj.sweep.run(answer, axes, static={"case": list(CASES)}, dims=dims))
    rotate = functools.partial(_rotate, config)
    static = {"use_bias": [False, True], "centred": [True, False]}
    rotations = bj.sweep.run(
        rotate, {"seed": np.arange(config.rotations)}, static=static, dims={"error": ("radius",)}
    )
    rotations = rotations.rename(seed="rotation").assign_coords(radius=list(config.radii))
    found = rotations.drop_vars("status").merge(networks)
    return found.assign(theory=theory(found.radius, config.pairs, config.inputs)).assign_attrs(
        pairs=config.pairs
    )


def _answer(config: Config, key, *, sigma_b, log2_scale, case: str) -> dict[str, Any]:
    """Outputs of one network for scaled inputs, and for zeros."""
    import jax
    import jax.numpy as jnp

    order, statistics = CASES[case]
    network = bj.network.Network(
        inputs=config.inputs, width=config.width, depth=config.depth, outputs=4, order=order
    )
    drawing, sampling = jax.random.split(key)
    params, state = bj.network.init(drawing, network, bj.network.Scales(2**0.5, sigma_b))
    x = jax.random.normal(sampling, (config.batch, config.inputs))
    train = statistics == "training"
    if not train:  # statistics of the inputs as they are
        _, state = bj.network.apply(network, params, state, x, train=True, momentum=0.0)
    if statistics == "without mean":
        state = jax.tree.map(
            lambda stats: stats._replace(mean=jnp.zeros_like(stats.mean)),
            state,
            is_leaf=lambda leaf: isinstance(leaf, bj.norms.BatchStats),
        )

    def f(x):
        return bj.network.apply(network, params, state, x, train=train)[0]

    scale = jnp.ldexp(1.0, log2_scale)
    return {"scaled": f(scale * x), "zero": f(x.at[0].set(0.0))[0]}  # one example of zeros among others


def _gaps(outputs: xr.Dataset) -> xr.Dataset:
    """Sizes of outputs, relative to those for the inputs as they are."""
    import xarray as xr

    own = ("example", "output")

    def norm(values: xr.DataArray) -> xr.DataArray:
        return (values**2).sum([dim for dim in own if dim in values.dims]) ** 0.5

    scale, scaled = 2.0 ** outputs.log2_scale.astype(float), outputs.scaled
    y, zero = scaled.sel(log2_scale=0, drop=True), outputs.zero.isel(log2_scale=0, drop=True)
    return xr.Dataset(
        {
            "zero": norm(zero) / norm(y.isel(example=0)),
            "linear_gap": norm(scaled - scale * y) / (scale * norm(y)),
            "constant_gap": norm(scaled - y) / norm(y),
            "growth": norm(scaled) / norm(y),
        }
    )


def _rotate(config: Config, key, *, use_bias: bool, centred: bool) -> dict[str, Any]:
    """Squared error for each output of a rotation learned by least squares, at some distances."""
    import jax
    import jax.numpy as jnp

    d, pairs = config.inputs, config.pairs
    sampling, adding, looking = jax.random.split(key, 3)
    # Inputs have no direction, so one rotation stands for all; two LAPACK calls at once can hang XLA on a CPU
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0].astype(np.float32)
    centre = jnp.zeros(d) if centred else jnp.full(d, config.shift / d**0.5)
    x = jax.random.normal(sampling, (pairs, d))
    y = (x - centre) @ rotation + centre + jax.random.normal(adding, (pairs, d))

    def features(x):
        return jnp.concatenate([x, jnp.ones((len(x), 1))], 1) if use_bias else x

    design = features(x)
    learned = jnp.linalg.solve(design.T @ design, design.T @ y)
    direction = jax.random.normal(looking, (d,))
    direction = direction / jnp.linalg.norm(direction)
    at = jnp.asarray(config.radii)[:, None] * direction
    gap = features(at) @ learned - ((at - centre) @ rotation + centre)
    return {"error": jnp.mean(gap**2, 1)}


def theory(radius: xr.DataArray, n: int, d: int) -> xr.DataArray:
    """Expected squared error of a rotation about zero, (use_bias, radius), noise of variance 1.

    The estimate's covariance is the inverse of X'X, whose expectation for normal inputs is that of an inverse
    Wishart matrix: I/(n - d - 1), and I/(n - d - 2) once the mean is estimated, too.
    """
    import xarray as xr

    square = radius.astype(float) ** 2
    without, biased = square / (n - d - 1), 1 / n + (square + d / n) / (n - d - 2)
    return xr.concat([without, biased], "use_bias").assign_coords(use_bias=[False, True])


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Homogeneous or not, by norm; and errors of rotations, held to their closed form."""
    return [*_network_claims(dataset), *_rotation_claims(dataset)]


def _network_claims(dataset: xr.Dataset) -> list[Claim]:
    free, biased = dataset.sel(sigma_b=0.0), dataset.isel(sigma_b=-1)
    made = []
    for case, source in zip(HOMOGENEOUS, (FORUM, BIAS_FREE), strict=True):
        gap, null = (part.linear_gap.sel(case=case, log2_scale=1) for part in (free, biased))
        bound = 0.0 if case == "ReLU" else 1e-6
        made.append(at_most(f"{case}: |f(2x) - 2f(x)| / |f|", source, bound, gap.max(), null=null.min()))
    gap, null = (part.constant_gap.sel(case=SCALE_FREE, log2_scale=1) for part in (free, biased))
    text = "LN, RMS: |f(2x) - f(x)| / |f(x)|"
    made.append(at_most(text, CLOSED_FORM, 1e-3, gap.max(), null=null.min()))
    dead = dataset.constant_gap.sel(case=["BN, training", "BN, inference"], log2_scale=1)
    text = "BN, training, any bias: the same"
    train, running = (dead.sel(case=case) for case in dead.case.values)
    made.append(at_most(text, CLOSED_FORM, 1e-3, train.max(), null=running.min()))
    zero, null = (part.zero.sel(case=[*HOMOGENEOUS, *SCALE_FREE]) for part in (free, biased))
    made.append(at_most("all but BN with its mean: |f(0)|", FORUM, 0.0, zero.max(), null=null.min()))
    zero, null = free.zero.sel(case=["BN, training", "BN, inference"]), free.zero.sel(case="BN, bias-free")
    made.append(at_least("BN, no bias: |f(0)| / |f(x)|", CLOSED_FORM, 0.05, zero.min(), null=null.max()))
    return made


def _rotation_claims(dataset: xr.Dataset) -> list[Claim]:
    about_zero, elsewhere = dataset.error.sel(centred=True), dataset.error.sel(centred=False)
    away, made = dataset.radius > 0, []
    for use_bias, word in ((False, "no bias"), (True, "with bias")):
        own, other = (
            about_zero.sel(use_bias=b) / dataset.theory.sel(use_bias=use_bias)
            for b in (use_bias, not use_bias)
        )
        each, null = (x.where(away, drop=True).mean("radius") for x in (own, other))
        half = bj.plot.confidence(each, "rotation")
        text = f"rotation: error / theory, {word}"
        made.append(
            equal(text, CLOSED_FORM, 1.0, each.mean(), tolerance=0.05, interval=half, null=null.mean())
        )
    middle, moved = about_zero.sel(radius=0.0), elsewhere.sel(radius=0.0)
    without, biased = (middle.sel(use_bias=b) for b in (False, True))
    made.append(at_most("rotation: error at zero, no bias", FORUM, 0.0, without.max(), null=biased.min()))
    ratio = moved.mean("rotation").sel(use_bias=False) / moved.mean("rotation").sel(use_bias=True)
    null = without.mean() / biased.mean()
    made.append(at_least("another centre: error without / with", CLOSED_FORM, 10.0, ratio, null=null))
    return made


def figure(dataset: xr.Dataset):
    """Outputs over the scale of inputs, without and with biases; errors of rotations over distance."""
    fig, axes = bj.plot.panels(
        [
            "networks without biases",
            "the same with biases",
            "rotation about zero",
            "rotation about another centre",
        ],
        size=(4.8, 3.3),
    )
    for ax, sigma_b in zip(axes, dataset.sigma_b.values[[0, -1]], strict=False):
        _draw_growth(ax, dataset.sel(sigma_b=sigma_b))
    axes[0].legend(fontsize=7)
    _draw_errors(axes[2], dataset, centred=True)
    _draw_errors(axes[3], dataset, centred=False)
    axes[2].legend(loc="upper left")
    fig.suptitle(
        "Without biases zero becomes zero; only batch norm with its mean, a bias too, breaks that\n"
        f"{dataset.sizes['seed']} networks of each kind, {dataset.sizes['rotation']} rotations: "
        "means and 95% intervals",
        fontsize=10,
    )
    return fig


def _draw_growth(ax: Any, dataset: xr.Dataset) -> None:
    scale = 2.0 ** dataset.log2_scale.astype(float)
    for i, (case, color) in enumerate(zip(CASES, bj.plot.COLORS, strict=False)):
        style = {"color": color, "label": case, "marker": "os^xD+"[i], "markersize": 3.5}
        growth = dataset.growth.sel(case=case, drop=True).assign_coords(log2_scale=scale)
        bj.plot.line(ax, growth, "log2_scale", over="seed", **style)
    ax.set(xlabel="a", ylabel="|f(a x)| / |f(x)|")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)


def _draw_errors(ax: Any, dataset: xr.Dataset, *, centred: bool) -> None:
    for use_bias, color in zip((False, True), bj.plot.COLORS, strict=False):
        error = dataset.error.sel(use_bias=use_bias, centred=centred, drop=True)
        label = "with bias" if use_bias else "no bias"
        style = {"color": color, "marker": "o", "markersize": 3.5, "linestyle": ""}
        bj.plot.line(ax, error, "radius", over="rotation", label=label, **style)
        if centred:
            bj.plot.line(ax, dataset.theory.sel(use_bias=use_bias), "radius", color=color, label="theory")
    ax.set(xlabel="|x|", ylabel=f"squared error, {dataset.attrs['pairs']} pairs")
    ax.set_yscale("symlog", linthresh=0.1)
