"""How must a bias be initialised, and how fast may it learn, as width grows?

Answer: from a constant standard deviation, at a rate that does not fall with width under Adam and grows with
it under SGD (muP). PyTorch's 1/sqrt(fan_in) lets biases vanish from wide layers.

Source: Table 3 of "Tensor Programs V" (arXiv 2203.03466), which puts all biases with the input weights:
initial variance 1/fan_in, rate fan_out under SGD and 1 under Adam. Networks of ReLU with two hidden layers
learn the 8x8 digits at many widths n, under muP and under rules that miss it by a power of n. At a width of
64 all rules are one.

Expected: under muP what a few updates add to any layer's pre-activations has no power of width, nor has what
a layer's own bias adds. A bias whose rate falls as 1/n, as that of a hidden kernel does under Adam and as one
rate for all does under SGD beside muP's kernels, adds 1/n of it. Its fan_in is 1, that of the constant which
it multiplies: fan_in of the layer, 1/sqrt(n), takes it from the initial pre-activation by as much. Standard:
one rate for all and an output kernel of 1/sqrt(n); logits then change as n, and hidden biases as 1/sqrt(n)
under SGD; under Adam their rate is right as it is.

Measured, widths 64 to 1024, 10 seeds, powers of n (95% interval). Under muP three updates change the three
layers by powers within .03 of 0 (± .05). Hidden biases' own part:

                SGD            Adam
    muP         -.03 ± .04     -.01 ± .01
    rate / n    -1.03 ± .04    -1.01 ± .02
    rate * n    .97 ± .04      .98 ± .01
    standard    -.49 ± .04     .00 ± .01     (first update)

Rates of the output's bias, which no width is in, must stay: times n its change grows as n^.98 (SGD). Initial
biases of 1/sqrt(n), as PyTorch draws them where fan_in is n, are n^-.50 of the first pre-activation; those of
sqrt(n) make the first change of logits grow as n^.80 (SGD) and n^.43 (Adam), the standard rule as n^.97 and
n^1.51.

Widths 32 to 256, 30 updates: where biases alone learn, the multiplier of their rate that is best has a power
of .03 ± .19 (SGD) and .11 ± .04 (Adam); where all learn, that at which half of what is learned is lost .05 ±
.19 and .31 ± .06: wide networks bear a little more, so the last one does not transfer exactly. With rates
over n all of these are 1 greater by construction.

What this does not show: that biases matter here. Where kernels learn, losses with hidden biases at a quarter
of the rate and at the rate are within .05 (SGD) and .004 (Adam) of each other, and at widths up to four times
the base width those of the standard rule are about as low, under SGD lower (.50 against .70 at 256).

Cost: about 80 s on 2 CPU cores. Command: `python -m experiments width_scaling`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from biasjax import _text
from experiments._parts import mup
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

TABLE = "arXiv 2203.03466, table 3"
TOLERANCE = 0.2
"""Of a power of width: rules that are wrong are so by half a power or more."""
CHANCE = np.log(10)
RACED = ["muP", "standard"]
"""Rules of longer runs; with rates of biases over n the multiplier is that of muP over n."""
ALL = [str(layer) for layer in mup.LAYERS]
HIDDEN, LOGITS = ALL[:2], ALL[2:]
PLACES = {1: "logits", 2: "hidden", 3: "all layers"}
SHARES = (
    # rule, null twin, power of the bias in the first pre-activation
    ("muP", "bias init / sqrt(n)", 0.0),
    ("bias init / sqrt(n)", "muP", -0.5),
    ("bias init * sqrt(n)", "muP", 0.5),
)
CHANGES = (
    # what is measured and where, rule, null twin, power
    ("whole", ALL, "muP", "standard", 0.0),
    ("bias", HIDDEN, "muP", "bias rate / n", 0.0),
    ("bias", HIDDEN, "bias rate / n", "muP", -1.0),
    ("bias", HIDDEN, "bias rate * n", "muP", 1.0),
    ("bias", LOGITS, "muP", "output bias rate / n", 0.0),
    ("bias", LOGITS, "output bias rate * n", "muP", 1.0),
)
STANDARD = {"SGD": ("muP", -0.5), "Adam": ("bias rate / n", 0.0)}
"""Null twin and power of hidden biases' change."""
GROWING = ("standard", "bias init * sqrt(n)")
"""Rules under which the change of logits grows with width."""

_DRAWN = ("muP", "standard", "bias rate / n", "bias rate * n", "bias init * sqrt(n)")
COLORED: dict[str, str] = dict(zip(_DRAWN, bj.plot.COLORS, strict=False))


@dataclass(frozen=True)
class Config:
    """Networks, and runs."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Features of both hidden layers where changes are measured."""
    race_widths: tuple[int, ...] = (32, 64, 128, 256)
    """The same where losses are."""
    base_width: int = 64
    """Width at which all rules are one, and rates are chosen."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    """Learning rates to choose from."""
    log4_multipliers: tuple[int, ...] = (-1, 0, 1, 2, 3, 4, 5)
    """Powers of four that rates of hidden biases are multiplied by; 0 is needed."""
    sigma_b: float = 0.5
    """Standard deviation of hidden biases at the base width."""
    out_scale: float = 0.25
    """Gain of the output's kernel: greater logits at first are an effect of narrow networks alone."""
    batch: int = 64
    """Examples in a batch."""
    steps: int = 3
    """Updates after which changes are measured."""
    race_steps: int = 30
    """Updates after which losses are."""
    seeds: int = 10
    """Networks, each with an order of examples."""


SMOKE = Config(
    widths=(64, 512),
    race_widths=(32, 128),
    rates=(0.03, 0.3),
    log4_multipliers=(0, 1, 2, 3, 4, 5),
    race_steps=20,
)


def run(config: Config) -> xr.Dataset:
    """Choose rates at the base width, then measure changes and losses over widths."""
    optimizers, seeds = np.arange(len(mup.OPTIMIZERS)), np.arange(config.seeds)
    tuned, rates = _tune(config, {"seed": seeds, "optimizer": optimizers})
    axes = {"seed": seeds, "optimizer": optimizers, "rule": np.arange(len(mup.RULES))}
    dims = dict.fromkeys(("whole", "bias", "kernel"), ("step", "layer")) | {"share": ("layer",)}
    measure = functools.partial(mup.coordinates, config, rates)
    measured = bj.sweep.run(measure, axes, static={"width": list(config.widths)}, dims=dims)
    axes |= {"rule": [list(mup.RULES).index(name) for name in RACED], "kernels": [0.0, 1.0]}
    axes |= {"multiplier": 4.0 ** np.array(config.log4_multipliers)}
    race = functools.partial(mup.race, config, rates)
    raced = bj.sweep.run(race, axes, static={"width": list(config.race_widths)})
    raced = raced.rename(rule="raced", width="race_width")
    found = measured.drop_vars("status").merge(raced.drop_vars("status")).merge(tuned)
    names = {"optimizer": list(mup.OPTIMIZERS), "rule": list(mup.RULES), "raced": RACED}
    names |= {"layer": ALL, "step": 1 + np.arange(config.steps)}
    found = found.assign(rate_chosen=("optimizer", list(rates))).assign_coords(names)
    return found.assign_attrs(steps=config.steps, race_steps=config.race_steps)


def _tune(config: Config, axes: dict[str, Any]) -> tuple[xr.Dataset, tuple[float, ...]]:
    """Losses held out at the base width over rates, and the best rate of each optimiser."""
    losses = bj.sweep.run(functools.partial(mup.tune, config), axes | {"rate": config.rates}).held_out
    best = losses.mean("seed").argmin("rate").values
    return losses.rename("tuned").to_dataset(), tuple(float(config.rates[i]) for i in best)


def slope(values: xr.DataArray, over: str = "width") -> xr.DataArray:
    """Power of width, by least squares through the logs."""
    x = np.log2(values[over].astype(float))
    x = x - x.mean()
    return (np.log2(values) * x).sum(over, skipna=False) / (x**2).sum()


def best(losses: xr.DataArray) -> xr.DataArray:
    """Multiplier of least loss, between those of the grid by a parabola through the logs."""

    def vertex(y: np.ndarray, logs: np.ndarray) -> float:
        i = int(np.clip(np.argmin(y), 1, len(y) - 2))
        left, right = y[i] - y[i - 1], y[i + 1] - y[i]
        part = np.clip(0.5 * (left + right) / (left - right), -1, 1) if left < right else 0.0
        return 2.0 ** (logs[i] + part * (logs[1] - logs[0]))

    return _along_multipliers(vertex, losses)


def harmful(losses: xr.DataArray) -> xr.DataArray:
    """Multiplier at which half of what is learned at the best one is lost; NaN where none is."""

    def crossing(y: np.ndarray, logs: np.ndarray) -> float:
        i = int(np.argmin(y))
        middle = (y[i] + CHANCE) / 2
        j = i + int(np.argmax(y[i:] >= middle))
        if j == i:  # no loss is as great, or nothing is learned
            return np.nan
        return 2.0 ** np.interp(middle, y[j - 1 : j + 1], logs[j - 1 : j + 1])

    return _along_multipliers(crossing, losses)


def _along_multipliers(find: Any, losses: xr.DataArray) -> xr.DataArray:
    import xarray as xr

    options = {"logs": np.log2(losses.multiplier.values.astype(float))}
    losses = losses.fillna(np.inf).clip(max=2 * CHANCE)  # one that diverged is as bad as can be
    return xr.apply_ufunc(find, losses, kwargs=options, input_core_dims=[["multiplier"]], vectorize=True)


def changes(one: xr.Dataset, measure: str, rule: str, layers: list[str], *, first: bool) -> xr.DataArray:
    """Power of width of what updates, or the first of them, added to pre-activations, (seed, layer)."""
    return slope(one[measure].sel(rule=rule, layer=layers).isel(step=0 if first else -1))


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Powers of width: of initial shares, of changes, and of the rates that are best or do harm."""
    share = slope(dataset.share.sel(optimizer="SGD", layer=["hidden 1"]))
    made = []
    for rule, null, power in SHARES:
        values = (share.sel(rule=which) for which in (rule, null))
        made.append(_power(f"initial bias / rest, {_short(rule)}", power, *values))
    for name in mup.OPTIMIZERS:
        one = dataset.sel(optimizer=name)
        made += [*_change_claims(one, name), *_rate_claims(one.train, name)]
    return made


def _change_claims(one: xr.Dataset, name: str) -> list[Claim]:
    """What updates add; only the first of them where a power of width holds no longer after it."""
    made = []
    null, power = STANDARD[name]
    for measure, layers, rule, twin, expected in (*CHANGES, ("bias", HIDDEN, "standard", null, power)):
        part = "change" if measure == "whole" else measure
        text = f"{name}, {part} of {PLACES[len(layers)]}, {_short(rule)}"
        # Under the standard rule another network starts then; gradients of the output's bias change sign
        first = rule == "standard" or (measure == "bias" and layers == LOGITS)
        values = (changes(one, measure, which, layers, first=first) for which in (rule, twin))
        made.append(_power(text, expected, *values))
    for rule in GROWING:
        own, twin = (changes(one, "whole", which, LOGITS, first=True)[:, 0] for which in (rule, "muP"))
        text, half = f"{name}, change of logits, {_short(rule)}", bj.plot.confidence(own, "seed")
        made.append(at_least(text, CLOSED_FORM, 0.25, own.mean(), interval=half, null=twin.mean()))
    return made


def _rate_claims(losses: xr.DataArray, name: str) -> list[Claim]:
    """How the multipliers that are best for biases alone, or do harm beside kernels, move with width."""
    made, under = [], losses.sel(raced="muP")
    for text, found in (("best", best(under.sel(kernels=0))), ("harmful", harmful(under.sel(kernels=1)))):
        power = slope(found, "race_width")
        says = f"{name}, {text} bias rate: |power|"
        # With rates over n the same network needs a multiplier of n more
        half, null = bj.plot.confidence(power, "seed"), abs(power.mean() + 1)
        made.append(at_most(says, TABLE, 0.5, abs(power.mean()), interval=half, null=null))
    return made


def _short(rule: str) -> str:
    return rule.removeprefix("output ").removeprefix("bias ")


def _power(name: str, expected: float, own: xr.DataArray, twin: xr.DataArray) -> Claim:
    """Claim a power of width of the layer, and for the null of the twin's layer, that is farthest from it."""
    means = [values.mean("seed").values for values in (own, twin)]
    far, null = (int(np.argmax(abs(values - expected))) for values in means)
    half = bj.plot.confidence(own[:, far], "seed")
    source, (value, other) = TABLE if name.endswith("muP") else CLOSED_FORM, (means[0][far], means[1][null])
    return equal(name, source, expected, value, tolerance=TOLERANCE, interval=half, null=other)


def table(dataset: xr.Dataset) -> str:
    """Losses after the longer runs, and multipliers of biases' rates, by width."""
    alone, both = dataset.train.sel(kernels=0), dataset.train.sel(kernels=1)
    loss, at_best, at_harm = both.sel(multiplier=1), best(alone), harmful(both)
    rows: list[tuple[str, ...]] = [("optimiser", "rule", "width", "loss", "best alone", "harmful")]
    for name in mup.OPTIMIZERS:
        for rule in RACED:
            for width in dataset.race_width.values:
                at = {"optimizer": name, "raced": rule, "race_width": width}
                cells = [f"{float(x.sel(at).mean()):.3g}" for x in (loss, at_best, at_harm)]
                rows.append((name, rule, str(width), *cells))
    return f"{_text.table(rows, right=range(2, 6))}\nmultipliers of the rate of hidden biases"


def figure(dataset: xr.Dataset):
    """Changes over width, by rule; losses over the rate of biases, by width."""
    titles = [f"{name}: change by hidden biases" for name in mup.OPTIMIZERS]
    titles += ["change of logits, first update", "Adam, muP: biases alone learn"]
    titles += [f"{name}, muP: all learn" for name in ("Adam", "SGD")]
    fig, axes = bj.plot.panels(titles, columns=3, size=(3.7, 3.2))
    for ax, name in zip(axes, mup.OPTIMIZERS, strict=False):
        change = dataset.bias.sel(optimizer=name, layer="hidden 2").isel(step=-1)
        _draw_changes(ax, change, ("muP", "standard", "bias rate / n", "bias rate * n"))
        ax.set_ylabel(f"RMS of what {dataset.attrs['steps']} updates add")
    axes[0].legend(loc="upper left")
    for name, dash in zip(mup.OPTIMIZERS, ("-", "--"), strict=True):
        change = dataset.whole.sel(optimizer=name, layer="output").isel(step=0)
        _draw_changes(axes[2], change, ("muP", *GROWING), linestyle=dash, prefix=f"{name}, ")
    axes[2].set_ylabel("RMS")
    axes[2].legend(fontsize=7)
    for ax, (name, kernels) in zip(axes[3:], (("Adam", 0), ("Adam", 1), ("SGD", 1)), strict=True):
        _draw_losses(ax, dataset.train.sel(optimizer=name, kernels=kernels, raced="muP"))
    axes[3].set_ylim(2.21, 2.34)
    axes[4].legend(title="width")
    fig.suptitle(
        "Rates of hidden biases must grow as n under SGD and stay under Adam; the best rate then stays, too\n"
        f"(mean of {dataset.sizes['seed']} seeds, bands: 95% intervals; "
        f"below: loss after {dataset.attrs['race_steps']} updates, dotted: chance)",
        fontsize=10,
    )
    return fig


def _draw_changes(
    ax: Any, change: xr.DataArray, rules: tuple[str, ...], *, prefix: str = "", linestyle: str = "-"
) -> None:
    for rule in rules:
        i = list(COLORED).index(rule)
        style = {"color": COLORED[rule], "marker": "osv^D"[i], "markersize": 3.5, "linestyle": linestyle}
        bj.plot.line(ax, change.sel(rule=rule), "width", over="seed", label=prefix + rule, **style)
    ax.set(xlabel="width", yscale="log")
    ax.set_xscale("log", base=2)


def _draw_losses(ax: Any, losses: xr.DataArray) -> None:
    losses = losses.fillna(np.inf).clip(max=1.1 * CHANCE)
    for width, color, marker in zip(losses.race_width.values, bj.plot.COLORS, "os^xD", strict=False):
        style = {"color": color, "marker": marker, "markersize": 3.5, "label": str(width)}
        bj.plot.line(ax, losses.sel(race_width=width), "multiplier", over="seed", **style)
    ax.axhline(CHANCE, color="grey", linewidth=0.8, linestyle=":")
    ax.set(xlabel="multiplier of hidden biases' rate", ylabel=f"loss, cut at {1.1 * CHANCE:.1f}")
    ax.set_xscale("log", base=2)
