"""What closed forms say of q, correlation and gradients by layer under Xavier's and He's weights.

Null twins put what was measured without a bias into all cells or, where a claim is about the lack of one,
what was measured at `BIAS`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import curves
from experiments.claims import CLOSED_FORM, POOLE, SCHOENHOLZ, Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

HE = "arXiv 1502.01852"
BIAS, CHAOTIC = 0.5, 0.25
"""Standard deviations of biases that claims are about; the latter leaves tanh chaotic under He's weights."""


def measured(dataset: xr.Dataset) -> xr.Dataset:
    """Means over seeds: q, 1 - c, and squared gradients over that of the last layer."""
    gradient = curves.over_last(dataset.log_grad_features)
    return dataset[["q", "distance"]].assign(gradient=gradient).mean("seed")


def _error(dataset: xr.Dataset, where: dict[str, Any], name: str = "q") -> float:
    """Greatest deviation to allow at the last layer, relative, of the mean over seeds."""
    scatter = dataset[f"{name}_scatter_theory"].sel(where)
    scatter = scatter.isel(layer=-1) if name == "q" else scatter.isel(layer=0)
    return curves.SINGLE * float(scatter) / math.sqrt(dataset.sizes["seed"])


def _cell(activation: str, initializer: str, sigma_b: float) -> dict[str, Any]:
    return {"activation": activation, "initializer": initializer, "sigma_b": sigma_b}


def tanh(dataset: xr.Dataset, on: xr.Dataset) -> list[Claim]:
    """Xavier keeps tanh nearly alive without a bias, forward and backward."""
    start, last = dataset.sizes["layer"] // 3, dataset.sizes["layer"]
    # tanh² = u² - 2/3 u⁴ + 17/45 u⁶ makes q' = q - 2 q² + 17/3 q³ and 1/q' = 1/q + 2 - 5/3 q
    expected, made = 2 - 5 / 6 * math.log(last / start) / (last - start), []
    for name in [name for name in ("xavier", "orthogonal") if name in dataset.initializer]:
        where = _cell("tanh", name, 0.0)
        ends = {**where, "layer": [start, last]}
        both = curves.twins(
            lambda data, ends=ends: (1 / measured(data).q.sel(ends)).diff("layer")[0], dataset, on
        )
        both = {key: value / (last - start) for key, value in both.items()}
        tolerance = _error(dataset, where) / dataset.q_theory.sel(where)[-1] / (last - start)
        text = f"no bias, tanh, {name}: 1/q"
        made.append(equal(text, "expansion of tanh", expected, **both, tolerance=tolerance))
    where = _cell("tanh", "xavier", 0.0)
    both = curves.twins(
        lambda data: np.log(measured(data).gradient.sel({**where, "layer": start})), dataset, on
    )
    # chi(q) = 1 - 2 q + 7 q² follows q'/q to first order: a gradient grows like the layers below it
    tolerance, text = _error(dataset, where, "log_gradient"), f"no bias, tanh: ln |g{start}/g{last}|²"
    return [*made, equal(text, "ln(l / L)", math.log(start / last), **both, tolerance=tolerance)]


def relu(dataset: xr.Dataset, off: xr.Dataset, on: xr.Dataset) -> list[Claim]:
    """Xavier loses half of the variance per layer, to the bias's noise; He keeps it, and adds the bias's."""
    where, last = _cell("relu", "xavier", 0.0), dataset.sizes["layer"]
    both = curves.twins(lambda data: np.log(measured(data).q.sel(where)).diff("layer").mean(), dataset, on)
    text, tolerance = "no bias, relu, xavier: ln q falls", _error(dataset, where) / (last - 1)
    return [
        equal(text, CLOSED_FORM, -math.log(2), **both, tolerance=tolerance),
        _at_end("he", 0.0, 2.0, dataset, on),
        # sigma_b² / (1 - sigma_w²/2), and 2 + l sigma_b²
        _at_end("xavier", BIAS, 2 * BIAS**2, dataset, off),
        _at_end("he", BIAS, 2 + last * BIAS**2, dataset, off),
    ]


def _at_end(
    initializer: str, sigma_b: float, expected: float, dataset: xr.Dataset, twin: xr.Dataset
) -> Claim:
    """Claim of ReLU's q at the last layer."""
    where = _cell("relu", initializer, sigma_b)
    both = curves.twins(lambda data: measured(data).q.sel(where)[-1], dataset, twin)
    text = f"{f'bias {sigma_b}' if sigma_b else 'no bias'}, relu, {initializer}: last q"
    tolerance = _error(dataset, where) * expected
    return equal(text, HE, expected, **both, tolerance=tolerance)


def gelu(dataset: xr.Dataset, on: xr.Dataset) -> list[Claim]:
    """GELU is x/2 near zero, so that without a bias every usual gain lets it die; He's late and steeply.

    As slowly as He's 2 falls at first, so steeply later: what a network of finite width strays by grows, and
    few networks hold the mean over seeds up. The median follows theory.
    """
    where, seeds, width = _cell("gelu", "xavier", 0.0), dataset.sizes["seed"], dataset.attrs["width"]
    both = curves.twins(lambda data: np.log(data.q.sel(where)).diff("layer")[:, -1].mean(), dataset, on)
    # A mean square of n Gaussians scatters by sqrt(2/n), and its log lies 1/n below
    tolerance = curves.SINGLE * math.sqrt(2 / width / seeds) + 1 / width
    text = "no bias, gelu, xavier: ln q falls"
    made = [equal(text, "phi'(0)² = 1/4", -math.log(4), **both, tolerance=tolerance)]
    where = _cell("gelu", "he", 0.0)
    typical = np.log(dataset.q.sel(where)[..., -1])
    both = curves.twins(
        lambda data: np.log((data.q / data.q_theory).sel(where)[..., -1]).median(), dataset, on
    )
    # A median of Gaussians scatters sqrt(pi/2) times as much as their mean
    error = curves.SINGLE * math.sqrt(math.pi / 2) * curves.standard_error(typical)
    return [*made, equal("no bias, gelu, he: ln q / theory", POOLE, 0.0, **both, tolerance=error)]


def correlations(dataset: xr.Dataset, off: xr.Dataset) -> list[Claim]:
    """A bias makes inputs alike, unless the network is chaotic; and makes gradients of tanh vanish."""
    last, theory = dataset.distance.isel(layer=-1), dataset.distance_theory.isel(layer=-1)
    plain = last.sel(sigma_b=0.0).mean("seed")
    ratios = last.sel(sigma_b=BIAS) / plain
    # Half way between theory and no effect
    bound = (1 + (theory.sel(sigma_b=BIAS) / theory.sel(sigma_b=0.0)).max()) / 2
    both = curves.twins(
        lambda data: (measured(data).distance.isel(layer=-1).sel(sigma_b=BIAS) / plain).max(), dataset, off
    )
    text, interval = f"bias {BIAS}: 1 - c / without, worst", bj.plot.confidence(ratios, "seed").max()
    made = [at_most(text, POOLE, bound, **both, interval=interval)]
    where = _cell("tanh", "he", CHAOTIC)
    both = curves.twins(lambda data: measured(data).distance.sel(where)[-1], dataset, off)
    tolerance = curves.SINGLE * curves.standard_error(dataset.distance.sel(where)).max()
    text = f"bias {CHAOTIC}, tanh, he: 1 - c"
    made.append(equal(text, POOLE, theory.sel(where), **both, tolerance=tolerance))
    where, half = _cell("tanh", "xavier", BIAS), dataset.sizes["layer"] // 2
    deep = {**where, "layer": slice(half + 1, None)}
    both = curves.twins(
        lambda data: -np.log(measured(data).gradient.sel(deep)).diff("layer").mean(), dataset, off
    )
    # q has settled there, so that theory's last step is chi_1 of the fixed point
    chi = -dataset.log_gradient_theory.sel(where).diff("layer")[-1]
    error = _error(dataset, where, "log_gradient") / math.sqrt(half * (dataset.sizes["layer"] - 1))
    text = f"bias {BIAS}, tanh, xavier: ln chi_1"
    return [*made, equal(text, SCHOENHOLZ, chi, **both, tolerance=error)]
