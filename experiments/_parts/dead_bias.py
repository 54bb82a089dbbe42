"""A bias that batch norm cancels: how it shrinks and drifts, and how far the running mean lags behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments._parts import drawing
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most

if TYPE_CHECKING:
    import xarray as xr


def lag_formula(bias_value: Any, momentum: Any, decay_rate: Any, t: Any) -> Any:
    """Lag of the running mean behind a bias that shrinks by ``decay_rate`` each step, after t steps.

    b0 r^t - (1 - m) b0 (r^t - m^t)/(r - m), which is b0 m^t for a constant bias (r = 1).
    """
    r, m = decay_rate, momentum
    return bias_value * (r**t - (1 - m) * (r**t - m**t) / (r - m))


def rate(dataset: xr.Dataset) -> xr.DataArray:
    """Factor by which SGD's L2 shrinks a bias without gradient in each step."""
    return 1 - dataset.attrs["sgd_learning_rate"] * dataset.weight_decay.astype(float)


def lags(dataset: xr.Dataset, order: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Lag measured against the running mean of the twin without the bias, and by the formula."""
    runs = dataset.sel(order=order, optimizer="sgd").isel(layer=0)
    biased, twin = runs.sel(use_bias=True), runs.sel(use_bias=False)
    measured = biased.bias_mean - (biased.running_mean - twin.running_mean)
    numbers = (runs.bias_value.astype(float), runs.bn_momentum.astype(float), rate(runs), runs.report)
    return measured, lag_formula(*numbers)


def lag_claims(dataset: xr.Dataset, dead: list[str]) -> list[Claim]:
    """Hold lags to the formula, with and without L2."""
    found = []
    for order in dead:
        measured, expected = lags(dataset, order)
        # Relative error where there is a lag: above a hundredth of the initial bias
        error = abs(measured / expected - 1).where(abs(expected) > 0.01 * dataset.bias_value)
        decayed = dataset.weight_decay > 0
        for name, chosen in (("b0 m^t", ~decayed), ("formula under L2", decayed)):
            if chosen.any():
                text = f"{order}: lag at inference / {name} - 1, worst"
                found.append(at_most(text, CLOSED_FORM, 0.01, error.sel(weight_decay=chosen).max()))
    return found


def drift_claims(dataset: xr.Dataset, dead: list[str]) -> list[Claim]:
    """Hold how a bias without gradient shrinks and drifts, under SGD and Adam, to round-off."""
    last = dataset.sel(order=dead, optimizer="sgd", use_bias=True).isel(report=-1)
    shrunk = last.bias_mean / last.bias_value / rate(dataset) ** last.report - 1
    shrunk = abs(shrunk.sel(bias_value=dataset.bias_value > 0)).max()
    found = [at_most("dead bias: b/b0 under SGD + L2 over (1 - lr wd)^T, - 1", CLOSED_FORM, 1e-3, shrunk)]
    still = last.sel(weight_decay=dataset.weight_decay == 0)
    if still.weight_decay.size:
        found.append(at_most("dead bias: drift under SGD, rms", "round-off", 1e-5, still.bias_drift.max()))
    if "adam_drift" in dataset:
        small, large = dataset.adam_drift.isel(adam_epsilon=[0, -1])
        text = "dead bias: drift under Adam, epsilon {:.0e}".format
        found.append(at_least(text(float(small.adam_epsilon)), "round-off", 1e-3, small))
        found.append(at_most(text(float(large.adam_epsilon)), "round-off", 1e-6, large))
    return found


def draw_lag(ax: Any, dataset: xr.Dataset, order: str, where: dict[str, Any]) -> None:
    """Draw the lag at one weight decay and momentum, measured as dots on the formula's lines."""
    measured, expected = (lag.sel(where) for lag in lags(dataset, order))
    pair = (measured.mean("seed"), expected)
    drawing.family(ax, "report", *pair, color="bias_value", label=lambda value: None)
    ax.plot([], [], color="black", linewidth=1, label="formula")
    ax.plot([], [], "o", color="black", markersize=3.5, label="measured")
    ax.legend()
