"""A bias that batch norm cancels: how it shrinks and drifts, and how far the running mean lags behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._parts import drawing
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most

if TYPE_CHECKING:
    import xarray as xr


def lag_formula(bias_value: Any, momentum: Any, decay_rate: Any, t: Any) -> Any:
    """Lag of the running mean behind a bias that shrinks by ``decay_rate`` each step, after t steps.

    b0 r^t - (1 - m) b0 (r^t - m^t)/(r - m), which is b0 m^t for a constant bias (r = 1). Where r is m the
    quotient is its limit, t m^(t - 1).
    """
    r, m = decay_rate, momentum
    alike = abs(r - m) < 1e-9
    quotient = (r**t - m**t) / (r - m + alike) + alike * t * m ** (t - 1)
    return bias_value * (r**t - (1 - m) * quotient)


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


def _loss_gap(dataset: xr.Dataset) -> xr.DataArray:
    """Largest difference of training losses with and without the bias, over a whole run."""
    return abs(dataset.loss.sel(use_bias=True) - dataset.loss.sel(use_bias=False)).max("step")


def training_claims(dataset: xr.Dataset, dead: list[str], source: str) -> list[Claim]:
    """The bias before batch norm leaves training alone; behind ReLU it does not, which is the null twin."""
    every = _loss_gap(dataset)
    gap, alive = every.sel(order=dead), every.sel(order=_alive(dataset))
    exact = abs(dataset.loss_float64.sel(use_bias=True) - dataset.loss_float64.sel(use_bias=False))
    median = gap.sel(order=dead[0], optimizer="sgd").median()
    times = _over_rounding(dataset)
    null, least = (
        (None, None) if not alive.size else (_over_zero(alive).min(), times.sel(order=alive.order).min())
    )
    made = [
        at_most("BN first: loss gap, float64", source, 1e-12, exact.max(), null=null),
        at_most("BN first: loss gap, median, SGD", source, 1e-5, median, null=null),
        at_most(
            "BN first: gap / rounding's, worst cell", "control", 10, times.sel(order=dead).max(), null=least
        ),
    ]
    if alive.size:
        text = "ReLU first: loss gap, least run"
        made.append(at_least(text, source, 0.05, _over_zero(alive).min(), null=gap.max()))
    return made


def _alive(dataset: xr.Dataset) -> list[str]:
    return [str(order) for order in dataset.order.values if order.endswith("relu-bn")]


def _over_zero(values: xr.DataArray) -> xr.DataArray:
    return values.sel(bias_value=values.bias_value > 0)


def _over_rounding(dataset: xr.Dataset) -> xr.DataArray:
    """Gap at the greatest bias over the gap between it and nearly the same one, in every cell.

    Rounding lets two runs part until a ReLU switches for an example in one of them alone, by 1e-7 or by 1e-3,
    so geometric means over seeds are compared.
    """
    greatest = dataset.loss.sel(use_bias=True).isel(bias_value=-1)
    gaps = [_loss_gap(dataset).isel(bias_value=-1), abs(greatest - dataset.loss_other).max("step")]
    gap, rounding = (np.exp(np.log(one + 1e-8).mean("seed")) for one in gaps)
    return gap / rounding


def lag_claims(dataset: xr.Dataset, dead: list[str]) -> list[Claim]:
    """Hold lags to the formula, with and without L2; the null is a lag of the other sign."""
    found = []
    for order in dead:
        measured, expected = lags(dataset, order)
        off, flipped = (abs(sign * measured - expected) / dataset.bias_value for sign in (1, -1))
        decayed, some = dataset.weight_decay > 0, dataset.bias_value > 0
        for name, chosen in (("b0 m^t", ~decayed), ("L2 formula", decayed)):
            if chosen.any():
                text = f"{order}: (lag - {name}) / b0"
                where = {"weight_decay": chosen, "bias_value": some}
                worst, null = (error.sel(where).max() for error in (off, flipped))
                found.append(at_most(text, CLOSED_FORM, 1e-3, worst, null=null))
    return found


def drift_claims(dataset: xr.Dataset, dead: list[str]) -> list[Claim]:
    """Hold how a bias without gradient shrinks and drifts, under SGD and Adam, to round-off."""
    runs = dataset.sel(optimizer="sgd", use_bias=True).isel(report=-1)
    last, alive = runs.sel(order=dead), runs.sel(order=~dataset.order.isin(dead))
    shrunk = abs(last.bias_mean / last.bias_value / rate(dataset) ** last.report - 1)
    grown = abs(last.bias_mean / last.bias_value * rate(dataset) ** last.report - 1)
    worst, null = (error.sel(bias_value=dataset.bias_value > 0).max() for error in (shrunk, grown))
    found = [at_most("dead bias under L2: b / its formula - 1", CLOSED_FORM, 1e-3, worst, null=null)]
    still = {"weight_decay": dataset.weight_decay == 0}
    if still["weight_decay"].any():
        # A large bias keeps ReLU from cutting, so that it is dead behind it, too
        moved = alive.sel(still).isel(bias_value=0).bias_drift.min() if alive.order.size else None
        drift = last.sel(still).bias_drift.max()
        found.append(at_most("dead bias: drift under SGD, rms", "round-off", 1e-5, drift, null=moved))
    if "adam_drift" in dataset:
        small, large = dataset.adam_drift.isel(adam_epsilon=[0, -1])
        text = "dead bias: drift, Adam, epsilon {:.0e}".format
        found.append(at_least(text(float(small.adam_epsilon)), "round-off", 1e-3, small, null=large))
        found.append(at_most(text(float(large.adam_epsilon)), "round-off", 1e-6, large, null=small))
    return found


def draw_lag(ax: Any, dataset: xr.Dataset, order: str, where: dict[str, Any]) -> None:
    """Draw the lag at one weight decay and momentum, measured as dots on the formula's lines."""
    measured, expected = (lag.sel(where) for lag in lags(dataset, order))
    pair = (measured.mean("seed"), expected)
    drawing.family(ax, "report", *pair, color="bias_value", label=lambda value: None)
    ax.plot([], [], color="black", linewidth=1, label="formula")
    ax.plot([], [], "o", color="black", markersize=3.5, label="measured")
    ax.legend()
