"""Does a denoiser without biases cope with more noise than it was trained on?

Answer: yes: at five times the training noise it is 5 to 6 dB ahead of its twin with biases. It costs 3 dB
within the training noise on a photograph that is unlike those learned from.

Source: Mohan et al., "Robust and interpretable blind image denoising via bias-free convolutional neural
networks", arXiv 1906.05478: DnCNN trained on noise of sigma 0 to 10 (of 255), the strongest practical case
for leaving biases out. Here it is smaller, and learns from half of a photograph.

Expected: PSNR at sigma 10, 50, 90 is 33.69, 15.29, 11.07 dB with biases and 33.84, 25.80, 23.25 dB without
(BSD68, 20 layers of 64 channels). Without biases f(a x) = a f(x), batch norm included once it subtracts no
mean and adds no shift; then a noisy image is a darker, less noisy one times a number. With them the network
is A x + b around x, and b, fit to the noise seen in training, holds the correction back beyond it.

Measured, 10 seeds, dB at sigma 10, 50, 90: on the other half of the photograph 32.45, 15.27, 9.68 with
biases and 32.34, 21.45, 16.89 without; on another photograph 30.05, 15.22, 9.71 and 26.73, 19.74, 15.96. So
6.2 ± .5 and 4.5 ± .3 dB are gained at 50 (published: 10.5), 7.2 ± .5 and 6.3 ± .4 at 90 (12.2), and nothing
is lost at 10 on the same photograph (.1). f(2x) is 2 f(x) to the last bit without biases, and to .014
and more with them.

On the other photograph 3.3 dB are lost at 10: without biases a network cannot know how large noise is, only
how it looks, and takes a temple's texture for noise once it has learned from a smooth flower. Biases are
worth something where the size of the noise is known and images are not like those learned from.

Cost: about 2.5 minutes on 2 CPU cores. Command: `python -m experiments denoiser`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from biasjax import _text
from experiments._parts import denoising
from experiments.claims import Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

MOHAN, OWN = "arXiv 1906.05478", "experiment"
PUBLISHED = {10.0: (33.69, 33.84), 50.0: (15.29, 25.80), 90.0: (11.07, 23.25)}
"""PSNR in dB with and without biases, by sigma."""


@dataclass(frozen=True)
class Config:
    """The network, its training, and the noise that it is tested at."""

    channels: int = 16
    """Features of a layer."""
    depth: int = 5
    """Convolutions of 3x3, all but the first and the last with batch norm."""
    patch: int = 32
    """Pixels of the side of a training patch."""
    batch_size: int = 8
    """Patches of an update."""
    steps: int = 1000
    """Updates of Adam, at a rate that falls to zero by a cosine."""
    learning_rate: float = 1e-3
    """Adam's rate at first."""
    trained_to: float = 10.0
    """Training noise has a sigma that is uniform from 0 to this, of 255."""
    sigmas: tuple[float, ...] = (5.0, 10.0, 20.0, 30.0, 50.0, 70.0, 90.0)
    """Test noise; 10, 50 and 90 are needed."""
    crop: int = 160
    """Pixels of the side of a test image."""
    seeds: int = 10
    """Networks of each kind."""


SMOKE = Config(
    channels=8,
    depth=4,
    patch=16,
    batch_size=16,
    steps=800,
    learning_rate=3e-3,
    sigmas=(10.0, 50.0, 90.0),
    crop=64,
    seeds=3,
)


def run(config: Config) -> xr.Dataset:
    """Train denoisers with and without biases, and test them."""
    missing = set(PUBLISHED) - set(config.sigmas)
    if missing:
        fix = "They are what the claims are about."
        bj.check.fail("sigmas", "10, 50 and 90 among them", config.sigmas, fix)
    image = ("photograph", "row", "column")
    dims = dict.fromkeys(("psnr", "psnr_noisy", "net_bias"), ("sigma", "photograph"))
    dataset = bj.sweep.run(
        functools.partial(denoising.point, config),
        {"seed": np.arange(config.seeds)},
        static={"use_bias": [True, False]},
        dims=dims | {"denoised": image, "noisy": image, "weights": ("weight",)},
        batching=1,
    )
    coordinates = {"sigma": list(config.sigmas), "photograph": list(denoising.PHOTOGRAPHS)}
    return dataset.assign_coords(coordinates).assign_attrs(trained_to=config.trained_to)


def gained(dataset: xr.Dataset) -> xr.DataArray:
    """PSNR without biases less that with them, of the same seed, in dB."""
    return dataset.psnr.sel(use_bias=False) - dataset.psnr.sel(use_bias=True)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold the gap to the published one, and its cause to the network's bias."""
    free, biased = (dataset.sel(use_bias=bias) for bias in (False, True))
    text = "no bias: |f(2x) - 2f(x)| / |f(2x)|"
    made = [at_most(text, MOHAN, 1e-5, free.homogeneity.max(), null=biased.homogeneity.min())]
    gap, others = gained(dataset), free.psnr - free.psnr.roll(seed=1)  # of one seed and the next: no bias
    for sigma in (50.0, 90.0):
        for photograph in denoising.PHOTOGRAPHS:
            own, null = (x.sel(sigma=sigma, photograph=photograph) for x in (gap, others))
            half = bj.plot.confidence(own, "seed")
            text = f"dB gained without, {photograph}, at {sigma:.0f}"
            made.append(at_least(text, MOHAN, 2.0, own.mean(), interval=half, null=null.mean()))
    inside, beyond = gap.sel(sigma=10.0), gap.sel(sigma=50.0).mean("seed")
    same, other = (inside.sel(photograph=photograph) for photograph in denoising.PHOTOGRAPHS)
    half, expected = bj.plot.confidence(inside, "seed"), PUBLISHED[10.0][1] - PUBLISHED[10.0][0]
    text, options = (
        "dB gained without, same, at 10",
        {"tolerance": 1.5, "interval": half.sel(photograph="same")},
    )
    made.append(equal(text, MOHAN, expected, same.mean(), **options, null=beyond.sel(photograph="same")))
    text, options = "dB lost without, other, at 10", {"interval": half.sel(photograph="other")}
    made.append(at_least(text, OWN, 0.5, -other.mean(), **options, null=-beyond.sel(photograph="other")))
    won = (dataset.psnr - dataset.psnr_noisy).sel(sigma=50.0).mean("photograph")
    own, null = (won.sel(use_bias=bias) for bias in (True, False))
    text, half = "dB won with biases at 50", bj.plot.confidence(own, "seed")
    expected = PUBLISHED[50.0][0] - 20 * np.log10(255 / 50)
    made.append(equal(text, MOHAN, expected, own.mean(), tolerance=1.0, interval=half, null=null.mean()))
    return made


def table(dataset: xr.Dataset) -> str:
    """PSNR by noise: published, and of both test images."""
    rows: list[tuple[str, ...]] = [
        ("sigma", "published with", "without", "same: with", "without", "other: with", "without")
    ]
    mean = dataset.psnr.mean("seed")
    for sigma in dataset.sigma.values:
        published = [f"{value:.2f}" for value in PUBLISHED.get(sigma, ())] or ["", ""]
        own = [
            f"{float(mean.sel(sigma=sigma, photograph=photograph, use_bias=bias)):.2f}"
            for photograph in denoising.PHOTOGRAPHS
            for bias in (True, False)
        ]
        rows.append((f"{sigma:.0f}", *published, *own))
    return _text.table(rows, right=tuple(range(7)))


def figure(dataset: xr.Dataset):
    """PSNR and the network's bias over the noise, and the images of one seed."""
    return denoising.draw(dataset)
