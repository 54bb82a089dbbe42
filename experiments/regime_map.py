"""When does a bias before batch norm matter, at inference and in low precision?

Answer: at inference when the running mean lags behind by more than about one standard deviation; the defaults
of PyTorch, Keras and Flax stay far below. In bfloat16 from a bias of 100 on.

Source: the open comment of a forum thread on conv-relu-bn, 2019 ("and at inference time?"). Batch norm
cancels a bias b before it in training, but the running mean m' = m m' + (1 - m) x follows late. Networks are
trained on the 8x8 digits over optimiser x schedule x decay of the bias x momentum of batch norm x initial
bias x seed; twins without the bias are evaluated with their running mean shifted on purpose.

Expected: what is lost is a function of one number, lag/std: how far the running mean is behind the bias, in
standard deviations of what is normalised. Without noise the lag is what the optimiser does to a number
without gradient: at first b m^t, later b r/(1 - m) for a bias that decay shrinks by r = learning rate x
weight decay per update. So b r / ((1 - m) std) must pass about 1, and people's defaults should lie far below.

Measured on the whole map (5,400 runs with a bias, 900 without, 560 of people's defaults): one curve
explains .98 of the variance of the accuracy lost and .95 of the loss's (.84 of AdamW's with cosine alone,
whose logits are larger). At lag/std = -1 accuracy falls by .02, at -1.5 by .08, at -2 by .32, at -3 by .79:
units go silent; at +1 by .01, at +3 by .12, at +10 by .65. The formula's lag is off by 1.6e-4 of the
greatest. Seven defaults (PyTorch, Keras, Flax; SGD, AdamW; constant, cosine) lose less than .001 at the end,
and .004 with a bias of 10; there a transient remains while the running mean forgets its start (Keras AdamW:
.70 at step 100, .24 at 200, 0 at the end). Before that, at m^t > .05, the curve does not hold: the running
variance is off, too. In bfloat16 a bias of 100 raises the training loss from .082 to .127, one of 10 by .001;
in float32 by nothing. That is with `--xla_allow_excess_precision=false`: XLA's default on this CPU fuses the
bias into the norm in float32, and then it does nothing in bfloat16 either.

Scope: one hidden layer of 64 units, batches of 64, 500 updates. The whole map, 5,400 runs with the bias:
`python -m experiments regime_map --optimizers sgd momentum adamw --schedules constant cosine`.

Cost: about 90 s on 2 CPU cores. Command: `python -m experiments regime_map`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import regime_panels as panels
from experiments._parts import regimes
from experiments.claims import Claim, at_least, at_most

if TYPE_CHECKING:
    import xarray as xr

FORGOTTEN = 0.05
"""Weight of their start in running statistics, above which they are not those of the network yet."""


@dataclass(frozen=True)
class Config:
    """The map, people's defaults, and precision."""

    optimizers: tuple[str, ...] = ("sgd", "adamw")
    """Of the map: sgd, momentum, adamw; SGD adds weight decay to the gradient."""
    schedules: tuple[str, ...] = ("constant",)
    """Of the map's learning rate: constant, or a name from biasjax.training.SCHEDULES."""
    decays: tuple[float, ...] = (0.0, 1e-4, 3e-4, 1e-3, 3e-3)
    """Shares of a bias without gradient that an update takes away."""
    bn_momenta: tuple[float, ...] = (0.9, 0.97, 0.99)
    """Weights of the old running statistics."""
    bias_values: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    """Initial biases."""
    defaults: bool = True
    """Whether to train with people's defaults, with and without a schedule, also with a bias of 10."""
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    """Dtypes in which to train; none leaves precision out."""
    precision_bias_values: tuple[float, ...] = (0.0, 1.0, 10.0, 100.0)
    """Initial biases to train with in each of them, beginning with 0."""
    seeds: int = 10
    """Number of seeds."""
    steps: int = 500
    """Updates of a run."""
    width: int = 64
    """Features of the hidden layer."""


SMOKE = Config(
    optimizers=("sgd",),
    decays=(0.0, 1e-3, 3e-3),
    bn_momenta=(0.9, 0.97),
    bias_values=(1.0, 10.0, 30.0),
    defaults=False,
    precisions=("float32", "bfloat16"),
    precision_bias_values=(0.0, 100.0),
    seeds=4,
    steps=150,
    width=32,
)


def run(config: Config) -> xr.Dataset:
    """Train the map and its twins, people's defaults, and in each precision."""
    import xarray as xr

    parts = [_map(config)]
    if config.defaults:
        parts.append(_defaults(config))
    if config.precisions:
        parts.append(_precisions(config))
    coords = {"report": list(regimes.reports_of(config.steps)), "moved": regimes.SHIFTS}
    return xr.merge(parts).assign_coords(coords)


def _sweep(config: Config, fn, static: dict, axes: dict, points: Any = None) -> xr.Dataset:
    dims = bj.training.DIMS | {"lag_formula": ("report",)}
    dims |= dict.fromkeys(("moved_accuracy", "moved_loss"), ("report", "moved"))
    fn = functools.partial(fn, width=config.width, steps=config.steps)
    axes = {"seed": np.arange(config.seeds), **axes}
    return bj.sweep.run(fn, axes, points=points, static=static, dims=dims).drop_vars("status")


def _map(config: Config) -> xr.Dataset:
    """What runs lose against their twins without the bias, and their lag/std, measured and by the formula."""
    axes = {"decay": config.decays, "bn_momentum": config.bn_momenta}
    static = {"optimizer": config.optimizers, "schedule": config.schedules, "use_bias": [True]}
    on = _sweep(config, _train, static, axes | {"bias_value": config.bias_values}).squeeze(
        "use_bias", drop=True
    )
    off = _sweep(config, _train, static | {"use_bias": [False]}, axes).squeeze("use_bias", drop=True)
    # Training does not know the momentum; the least one's running statistics are closest to the batches'
    quick = off.sel(bn_momentum=min(config.bn_momenta), drop=True)
    std = quick.running_std.isel(layer=0)
    lag = (on.bias_mean - (on.running_mean - off.running_mean)).isel(layer=0)
    return on[[]].assign(
        accuracy_lost=off.accuracy_running - on.accuracy_running,
        loss_gained=on.loss_running - off.loss_running,
        lag_measured=lag / std,
        lag_formula=on.lag_formula / std,
        batch_std=std,
        curve_accuracy=quick.accuracy_running - quick.moved_accuracy,
        curve_loss=quick.moved_loss - quick.loss_running,
    )


def _train(key, *, optimizer: str, decay, **options) -> dict:
    """Train at one point of the map."""
    rates = {"learning_rate": regimes.LEARNING_RATES[optimizer]}
    rates["weight_decay"] = regimes.weight_decay(optimizer, decay)
    return regimes.train(key, optimizer=optimizer, **rates, **options)


def _defaults(config: Config) -> xr.Dataset:
    """What people's defaults lose, as they are and with a large bias."""
    import xarray as xr

    found = []
    for optimizer in dict.fromkeys(one.optimizer for one in regimes.DEFAULTS):
        chosen = [one for one in regimes.DEFAULTS if one.optimizer == optimizer]
        names = ("learning_rate", "weight_decay", "bn_momentum", "sigma_b")
        points = {name: [getattr(one, name) for one in chosen] for name in names}
        static = {"optimizer": [optimizer], "schedule": ["constant", "cosine"], "use_bias": [True, False]}
        both = _sweep(config, regimes.train, static, {"bias_value": [0.0, 10.0]}, points).squeeze("optimizer")
        on, off = both.sel(use_bias=True), both.sel(use_bias=False)
        lost = off.accuracy_running - on.accuracy_running
        std = off.running_std.isel(layer=0)
        one = xr.Dataset(
            {"default_lost": lost, "default_shift": on.lag.isel(layer=0) / std, "default_std": std}
        )
        one = one.drop_vars([name for name in one.coords if name not in one.dims])
        found.append(one.assign_coords(point=[one.name for one in chosen]))
    renamed = {"point": "setting", "schedule": "default_schedule", "bias_value": "default_bias"}
    return xr.concat(found, "point").rename(renamed)


def _precisions(config: Config) -> xr.Dataset:
    """Training loss of the last tenth of a run in each dtype."""
    static = {"optimizer": ["sgd"], "schedule": ["constant"], "dtype": config.precisions}
    train = functools.partial(regimes.train, learning_rate=0.1, weight_decay=0.0, bn_momentum=0.9)
    found = _sweep(config, train, static, {"bias_value": config.precision_bias_values})
    last = found.loss.isel(step=slice(-(config.steps // 10), None)).mean("step")
    last = last.squeeze(("optimizer", "schedule"), drop=True).rename(bias_value="precision_bias")
    return last.to_dataset(name="precision_loss")


def settled(dataset: xr.Dataset) -> xr.DataArray:
    """Whether running statistics have forgotten their start, m^t."""
    return dataset.bn_momentum.astype(float) ** dataset.report <= FORGOTTEN


def curve(dataset: xr.Dataset, name: str) -> regimes.Curve:
    """The one curve: mean over all twins without a bias, once they have forgotten their start."""
    known = dataset[f"curve_{name}"].sel(report=dataset.report[settled(dataset).any("bn_momentum")])
    return regimes.Curve(
        dataset.moved.values, known.mean([dim for dim in known.dims if dim != "moved"]).values
    )


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold the collapse, its formula, the threshold, people's defaults and precision to numbers."""
    found = [*_collapse(dataset), *_threshold(dataset)]
    if "default_lost" in dataset:
        found += _default_claims(dataset)
    if "precision_loss" in dataset:
        found += _precision_claims(dataset)
    return found


def _collapse(dataset: xr.Dataset) -> list[Claim]:
    known, made = settled(dataset), []
    for name, lost in (("accuracy", dataset.accuracy_lost), ("loss", dataset.loss_gained)):
        at, lost = curve(dataset, name), lost.where(known)
        signs = (at(sign * dataset.lag_formula).where(known) for sign in (1, -1))
        share, null = (regimes.explained(predicted, lost) for predicted in signs)
        made.append(at_least(f"{name} lost: R² of one curve", "formula", 0.9, share, null=null))
    off = abs(dataset.lag_measured - dataset.lag_formula) / abs(dataset.lag_formula).max()
    flipped = abs(dataset.lag_measured + dataset.lag_formula) / abs(dataset.lag_formula).max()
    made.append(
        at_most("lag: formula off by, share of greatest", "formula", 0.01, off.max(), null=flipped.max())
    )
    return made


def _threshold(dataset: xr.Dataset) -> list[Claim]:
    """Little is lost below half a standard deviation, most beyond two if the bias shrinks."""
    lost, shift = dataset.accuracy_lost.where(settled(dataset)), dataset.lag_formula
    small, large = lost.where(abs(shift) < 0.5), lost.where(shift < -2)
    cells = [small.mean("seed"), bj.plot.confidence(small, "seed")]
    worst = (cells[0] + cells[1].fillna(0)).max()
    return [
        at_most("|lag|/std < 1/2: accuracy lost, worst", "experiment", 0.05, worst, null=large.mean()),
        at_least("lag/std < -2: accuracy lost, mean", "experiment", 0.5, large.mean(), null=small.mean()),
    ]


def _default_claims(dataset: xr.Dataset) -> list[Claim]:
    end, source = dataset.default_lost.isel(report=-1), "experiment"
    worst, half = end.mean("seed"), bj.plot.confidence(end, "seed")
    upper = (worst + half).max(("setting", "default_schedule"))
    keras = dataset.default_lost.sel(
        setting="Keras AdamW", default_schedule="constant", report=dataset.report[3]
    )
    headline = panels.headline(dataset).isel(report=-1).mean()
    early, lost = keras.sel(default_bias=10.0), upper.sel(default_bias=0.0)
    return [
        at_most("people's defaults: lost, worst", source, 0.02, lost, null=headline),
        at_most(
            "the same, bias of 10, at the end",
            source,
            0.02,
            upper.sel(default_bias=10.0),
            null=headline,
        ),
        at_least(
            f"Keras AdamW, bias 10: lost at step {int(dataset.report[3])}",
            source,
            0.1,
            early.mean(),
            interval=bj.plot.confidence(early, "seed"),
            null=keras.sel(default_bias=0.0).mean(),
        ),
    ]


def _precision_claims(dataset: xr.Dataset) -> list[Claim]:
    rise = dataset.precision_loss - dataset.precision_loss.sel(precision_bias=0.0)
    largest = rise.isel(precision_bias=-1)
    low, high = largest.sel(dtype="bfloat16"), largest.sel(dtype="float32")
    text = f"bfloat16: loss with b0 = {float(largest.precision_bias):g} - 0"
    half = bj.plot.confidence(low, "seed")
    return [at_least(text, "experiment", 0.03, low.mean(), interval=half, null=high.mean())]


def table(dataset: xr.Dataset) -> str:
    """The one curve at some lags, and people's defaults."""
    defaults = dataset if "default_lost" in dataset else None
    return regimes.table(curve(dataset, "accuracy"), curve(dataset, "loss"), defaults)


def figure(dataset: xr.Dataset):
    """The collapse on one curve, its formula, the plane, transients, and precision."""
    titles = ["accuracy lost at inference", "loss gained at inference", "the formula for the lag"]
    titles += ["lost at the end, SGD, constant rate", "lost over time", "training loss, SGD, no decay"]
    fig, axes = bj.plot.panels(titles, columns=3, size=(4.4, 3.3))
    known = settled(dataset)
    for ax, name, lost in zip(
        axes, ("accuracy", "loss"), (dataset.accuracy_lost, dataset.loss_gained), strict=False
    ):
        unit = "accuracy, without - with bias" if name == "accuracy" else "loss, with - without bias (nats)"
        panels.collapse(ax, dataset, lost.where(known), curve(dataset, name), unit)
    if "default_lost" in dataset:
        panels.marks(axes[0], dataset)
    axes[1].set_yscale("symlog", linthresh=0.3)
    panels.formula(axes[2], dataset)
    fig.colorbar(panels.plane(axes[3], dataset), ax=axes[3], label="accuracy lost")
    panels.transients(axes[4], dataset)
    if "precision_loss" in dataset:
        panels.precision(axes[5], dataset)
    axes[0].legend(loc="center", fontsize=7, handlelength=1)
    fig.suptitle(
        "At inference a cancelled bias costs what its lag says; people's defaults have next to none"
        f" (bands: 95% intervals of {dataset.sizes['seed']} seeds)",
        fontsize=11,
    )
    return fig
