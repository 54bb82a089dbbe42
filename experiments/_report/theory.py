"""The numbers that the page's live controls carry, as dictionaries of what JSON holds.

All come from the library: the browser interpolates, iterates and convolves, and knows no constant.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from biasjax import activations

if TYPE_CHECKING:
    import xarray as xr


class Grid(NamedTuple):
    """Of the phase map: what is to choose from, and what its sliders move on, in even steps."""

    activations: tuple[str, ...]
    sigma_w: np.ndarray
    sigma_b: np.ndarray


_TWICE = ("swish", "gelu_tanh")  # a second name, and one whose map looks like another's
GRID = Grid(
    tuple(name for name in activations.NAMES if name not in _TWICE), np.arange(5, 31) / 10, np.arange(11) / 10
)
TRAINS = 6
"""Depth that still trains, in xi_c (arXiv 1611.01232)."""
WORDS = {
    "ordered": "Ordered phase: χ₁ is below 1. Two inputs become alike with depth, and gradients shrink.",
    "vanishes": "Ordered phase: without a bias the variance falls to 0, and gradients shrink.",
    "edge": "Edge of chaos: χ₁ is 1. Gradients keep their size, and the depth scale is infinite.",
    "chaotic": "Chaotic phase: χ₁ is above 1. Two inputs part with depth, and gradients grow.",
    "diverges": "The variance grows without end, and gradients by χ₁ a layer: that limits depth, not ξ.",
    "unresolved": "The theory has no answer here.",
}
"""What the map says of a phase, by name."""
LEVELS = (1.0, 3.0, 10.0)
"""Depth scales between which colours of the map change."""
SIDE = 96
"""Pixels of the side of the image that is denoised."""
NOISE_SCALE = 4096
"""Steps of the noise that is carried, in one standard deviation."""


def phases(activation: str, sigma_w: np.ndarray, sigma_b: np.ndarray) -> dict[str, Any]:
    """Order parameters of one activation on the grid, flat with sigma_w last; None is infinite.

    Returns
    -------
    dict
        ``q``, ``chi_1`` and ``xi_c``; ``phase``, positions in `WORDS`; and ``line``, points
        (sigma_w, sigma_b) of the stable critical line.
    """
    import biasjax as bj

    plane = bj.phases.diagram(activation, sigma_w=sigma_w, sigma_b=sigma_b).transpose("sigma_b", "sigma_w")
    line = bj.phases.critical_line(activation, sigma_b)
    first = np.where(np.asarray(line.stable)[..., 0], np.asarray(line.sigma_w)[..., 0], np.inf)
    if activation in ("linear", "relu", "leaky_relu"):  # every variance stays: the point is not called stable
        first = np.asarray(line.sigma_w)[..., 0]
    inside = first <= np.max(sigma_w)
    found = {name: plane[name].values.ravel() for name in ("q", "chi_1", "xi_c")}
    status = [bj.phases.STATUSES[int(i)] for i in plane.status.values.ravel()]
    named = [_phase(name, chi) for name, chi in zip(status, found["chi_1"], strict=True)]
    return {
        **{name: [_short(x) for x in values] for name, values in found.items()},
        "phase": [list(WORDS).index(name) for name in named],
        "line": [[_short(x), _short(y)] for x, y in zip(first[inside], sigma_b[inside], strict=True)],
    }


def _phase(status: str, chi_1: float) -> str:
    if status in ("diverges", "unresolved"):
        return status
    if abs(chi_1 - 1) < 1e-4:
        return "edge"
    if status == "vanishes":
        return status
    return "chaotic" if chi_1 > 1 else "ordered"


def looks(table: dict[str, Any]) -> np.ndarray:
    """How each cell of a map is coloured: its phase, and in which of `LEVELS` its depth scale is."""
    names = list(WORDS)
    kinds = [names[i].replace("vanishes", "ordered") for i in table["phase"]]
    levels = [len(LEVELS) if xi is None else sum(xi >= at for at in LEVELS) for xi in table["xi_c"]]
    return np.array(
        [
            f"{kind}-{level}" if kind in ("ordered", "chaotic") else kind
            for kind, level in zip(kinds, levels, strict=True)
        ]
    )


def _short(x: Any) -> float | None:
    """Five digits, which JSON can hold; None of what is infinite or not known."""
    return float(f"{float(x):.5g}") if np.isfinite(x) else None


def regimes(dataset: xr.Dataset) -> dict[str, Any]:
    """The regime map's curve, its runs at the end, and the standard deviation that it was measured at.

    Returns
    -------
    dict
        ``shift`` and ``lost`` of the curve; ``runs``, pairs of lag/std by the formula and accuracy lost,
        means over seeds; ``std``, the median of what is normalised; ``forgotten``, up to which m^t it holds.
    """
    from experiments import regime_map

    curve = regime_map.curve(dataset, "accuracy")
    known = regime_map.settled(dataset)
    means = [
        x.where(known).isel(report=-1).mean("seed") for x in (dataset.lag_formula, dataset.accuracy_lost)
    ]
    lag, lost = (x.transpose(*means[0].dims).values.ravel() for x in means)
    seen = np.isfinite(lag) & np.isfinite(lost)
    return {
        "shift": [float(x) for x in curve.shift],
        "lost": [float(x) for x in curve.lost],
        "runs": [[_short(x), _short(y)] for x, y in zip(lag[seen], lost[seen], strict=True)],
        "std": float(dataset.batch_std.median()),
        "forgotten": regime_map.FORGOTTEN,
    }


def denoiser(dataset: xr.Dataset) -> dict[str, Any]:
    """Weights of seed 0 with and without biases, a clean image and one noise, in base64, little-endian.

    Returns
    -------
    dict
        ``with`` and ``without`` (float32), ``clean`` (uint8, of 255), ``noise`` (int16, of ``scale``),
        ``side``, ``channels``, ``depth`` and ``trained_to``.
    """
    from experiments._parts import denoising

    config = json.loads(dataset.attrs["config"])
    start = (160 - SIDE) // 2
    photograph = np.asarray(denoising.images(32, 160)[1][0, start : start + SIDE, start : start + SIDE, 0])
    noise = np.random.default_rng(0).standard_normal((SIDE, SIDE)).clip(-7, 7)
    weights = dataset.weights.isel(seed=0)
    widths = (1, *(config["channels"],) * (config["depth"] - 1), 1)
    size = sum(9 * i * o + o for i, o in itertools.pairwise(widths))
    if weights.sizes["weight"] != size:
        raise ValueError(f"{weights.sizes['weight']} weights are not those of {widths} features")
    return {
        "with": _base64(weights.sel(use_bias=True).values, "<f4"),
        "without": _base64(weights.sel(use_bias=False).values, "<f4"),
        "clean": _base64(np.rint(255 * photograph), "u1"),
        "noise": _base64(np.rint(NOISE_SCALE * noise), "<i2"),
        "scale": NOISE_SCALE,
        "side": SIDE,
        "channels": config["channels"],
        "depth": config["depth"],
        "trained_to": config["trained_to"],
    }


def _base64(values: Any, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode()


class Denoised(NamedTuple):
    """An image ``(side, side)`` and its PSNR in dB."""

    image: np.ndarray
    psnr: float


def denoised(data: dict[str, Any], sigma: float) -> dict[str, Denoised]:
    """Images and their PSNR, noisy, with and without biases, of what `denoiser` gave."""
    side = data["side"]
    clean = _array(data["clean"], "u1").reshape(side, side) / np.float32(255)
    noise = _array(data["noise"], "<i2").reshape(side, side) / np.float32(data["scale"])
    noisy = clean + np.float32(sigma / 255) * noise
    images = {"noisy": noisy} | {name: _plain(data, name, noisy) for name in ("with", "without")}
    return {name: Denoised(image, _psnr(image, clean)) for name, image in images.items()}


def _array(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def _psnr(image: np.ndarray, clean: np.ndarray) -> float:
    """PSNR of an image in [0, 1], infinite of the clean one."""
    error = float(np.mean((image - clean).astype(float) ** 2))
    return -10 * float(np.log10(error)) if error else float("inf")


def _plain(data: dict[str, Any], name: str, noisy: np.ndarray) -> np.ndarray:
    """Run the plain ReLU network that the weights are of; see `denoising.folded` for their order."""
    import jax
    import jax.numpy as jnp

    from biasjax import linear

    weights, h = _array(data[name], "<f4"), jnp.asarray(noisy)[None, ..., None]
    widths = (1, *(data["channels"],) * (data["depth"] - 1), 1)
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        size = 9 * inputs * outputs
        kernel, bias = weights[:size].reshape(3, 3, inputs, outputs), weights[size : size + outputs]
        h = linear.conv(linear.Linear(jnp.asarray(kernel), jnp.asarray(bias)), h)
        h, weights = jax.nn.relu(h) if i < data["depth"] - 1 else h, weights[size + outputs :]
    return noisy - np.asarray(h)[0, ..., 0]


def png(image: np.ndarray) -> str:
    """A grey image, cut to [0, 1], as a data URI."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(np.rint(255 * image.clip(0, 1)).astype(np.uint8)).save(held, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def response(activation: str, x: np.ndarray) -> np.ndarray:
    """An activation of the library at points, in float32."""
    import jax.numpy as jnp

    return np.asarray(activations.get(activation)(jnp.asarray(x, jnp.float32)))
