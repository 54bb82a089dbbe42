"""What repairs running statistics that lag?

Answer: statistics measured anew on the training set; or the bias removed before training, kept from decay
(with patience), or removed later and trained on for 200 updates.

Source: `norm_order`: before batch norm a large bias under L2 leaves training as it is and costs .80 of
accuracy at inference, where the running mean lags behind it. Networks are trained on the 8x8 digits over
batch size x momentum of batch norm x decay of biases on/off x initial bias x seeds, then repaired.

Expected: statistics measured anew on the training set (arXiv 2105.07576) hold no lag. A bias without decay
has a lag of b0 m^t, which is gone after a few times 1/(1 - m) updates. Removing a cancelled bias keeps what
the network computes: from a trained one the lag goes into the running mean and is forgotten as training goes
on; from a new one -b0 does, so that b0 m^t is left as without decay.

Measured, SGD with L2 1e-2, b0 = 10, momentum .99, batches of 64, 500 updates, 10 seeds; accuracy lost to the
twin without the bias, which reaches .966 (.971 with batch statistics): .80 +- .03 as it is; .003 +- .004
after `remove_biases` before training; -.004 +- .004 after `statistics.reestimate`, by which the twin gains
too; .005 +- .004 without decay of biases, but .71 +- .06 at 100 updates, where m^t is .37; -.002 +- .003
after removal at the end, which changes no accuracy, and 200 more updates. The gap between batch and running
statistics is .16 at batches of 2 and .7 to .8 from 8 on; of it re-estimation closes .97 or more, removal and
200 updates too, no decay .70 at batches of 2 and .98 or more from 8 on. At momentum .9 there is no gap.

Without a bias small batches leave little to repair: at batches of 2 and momentum .99 a gap of .00 +- .02, and
at .9 running statistics are better by .03 than those of the test set. So lag is repaired here, not the noise
of small batches. Training by batches of 2 multiplies rounding: another build of the same run, whose norms
rounded otherwise, had gaps of .04 +- .02 there, and of .09 with the bias.

Scope: one hidden layer of 64 units. Within the sweep statistics are measured anew, and biases removed, by
hand; a test holds both to the library's functions, which are called themselves at batches of 64.

Cost: about 2 minutes on 2 CPU cores. Command: `python -m experiments statistics_repair`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from biasjax import _text
from experiments._parts import repairs
from experiments.claims import Claim, at_least, at_most

if TYPE_CHECKING:
    import xarray as xr

SOURCE = "experiment"
GAP = 0.05
"""Difference of accuracy in training and evaluation from which on a share of it says something."""
_MEASURED: tuple[str, ...] = (
    "accuracy_running",
    "accuracy_batch",
    "accuracy_reestimated",
    "accuracy_removed",
)
REPAIRS = {
    "running": "running statistics, as they are",
    "reestimated": "re-estimated on the training set",
    "undecayed": "no decay of biases",
    "bias_free": "no bias",
    "removed": "bias removed after training, then more",
}
"""Accuracies at inference after each repair, beside that of what is repaired."""


@dataclass(frozen=True)
class Config:
    """What to sweep; every tuple is an axis of the grid."""

    batch_sizes: tuple[int, ...] = (2, 8, 64, 128)
    """Examples in a batch; the library's own functions are tried at `cell_batch_size`, which is added."""
    bn_momenta: tuple[float, ...] = (0.9, 0.99)
    """Weights of the old running statistics."""
    bias_values: tuple[float, ...] = (0.0, 10.0)
    """Initial values of every hidden bias; the first is 0."""
    seeds: int = 10
    """Number of seeds of the sweep."""
    cell_seeds: int = 10
    """Number of seeds on which the library's own functions are tried."""
    cell_batch_size: int = 64
    """Examples in a batch there, at the greatest bias and momentum."""
    weight_decay: float = 1e-2
    """L2 coefficient."""
    learning_rate: float = 0.1
    """Learning rate of SGD."""
    early: int = 100
    """Updates after which the running mean has not caught up yet."""
    steps: int = 500
    """Updates of a run."""
    more: int = 200
    """Updates after a bias was removed from the trained network."""
    width: int = 64
    """Features of the hidden layer."""


SMOKE = Config(
    batch_sizes=(64,),
    bn_momenta=(0.97,),
    seeds=4,
    cell_seeds=1,
    weight_decay=3e-2,
    early=30,
    steps=200,
    more=100,
    width=32,
)


def run(config: Config) -> xr.Dataset:
    """Train the grid, repair what it leaves, and try the library's own functions in one cell."""
    import xarray as xr

    _check(config)
    axes = {
        "seed": np.arange(config.seeds),
        "bn_momentum": config.bn_momenta,
        "bias_value": config.bias_values,
    }
    sizes = sorted({*config.batch_sizes, config.cell_batch_size})
    static = {"batch_size": sizes, "decay_biases": [True, False]}
    dims = dict.fromkeys(_MEASURED, ("report",))
    grid = bj.sweep.run(functools.partial(repairs.point, config), axes, static=static, dims=dims)
    reports = [config.early, config.steps, config.steps + config.more]
    grid = grid.drop_vars("status").assign_coords(report=reports)
    both = xr.merge([grid, repairs.cell(config)], combine_attrs="drop_conflicts")
    return both.assign_attrs(steps=config.steps, cell_batch_size=config.cell_batch_size)


def _check(config: Config) -> None:
    """Raise unless the claims can be held to what the grid contains."""
    values = config.bias_values
    if len(values) < 2 or values[0] != 0 or max(values) != values[-1]:
        bj.check.fail("bias_values", "0 first and the greatest last", values, "Write 0 10, say.")
    if not 0 < config.early < config.steps:
        fix = "Report before the end."
        bj.check.fail("early", f"updates from 1 to {config.steps - 1}", config.early, fix)


def _repaired(dataset: xr.Dataset) -> xr.Dataset:
    """Accuracies at inference, of the greatest bias, after each repair, and that of batch statistics."""
    end, later = dataset.sel(report=dataset.steps), dataset.isel(report=-1)
    biased, twin = {"decay_biases": True, "bias_value": -1}, {"decay_biases": True, "bias_value": 0}
    chosen = {
        "running": _at(end.accuracy_running, **biased),
        "reestimated": _at(end.accuracy_reestimated, **biased),
        "undecayed": _at(end.accuracy_running, decay_biases=False, bias_value=-1),
        "bias_free": _at(end.accuracy_running, **twin),
        "removed": _at(later.accuracy_removed, **biased),
        "batch": _at(end.accuracy_batch, **biased),
    }
    return dataset[[]].assign(chosen)


def _at(values: xr.DataArray, *, decay_biases: bool, bias_value: int) -> xr.DataArray:
    """Select by whether biases decay, and by the number of the initial bias."""
    return values.sel(decay_biases=decay_biases).isel(bias_value=bias_value).reset_coords(drop=True)


def shares(dataset: xr.Dataset) -> xr.Dataset:
    """Share of the gap between batch and running statistics that each repair closes, of means over seeds.

    NaN where the gap is no more than `GAP`.
    """
    means = _repaired(dataset).mean("seed")
    gap = means.batch - means.running
    names = [name for name in REPAIRS if name != "running"]
    return ((means[names] - means.running) / gap).where(gap > GAP).assign(gap=gap)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold each repair to the twin without the bias; the null is the accuracy lost without the repair."""
    found = [*_cell_claims(dataset), *_grid_claims(dataset)]
    if int(dataset.batch_size.min()) == 2:
        found.append(_small_batches(dataset))
    return found


def _cell_claims(dataset: xr.Dataset) -> list[Claim]:
    null = (dataset.cell_twin - dataset.cell_as_is).mean()
    texts = {"removed_first": "remove_biases before training: lost", "reestimated": "reestimate: lost"}
    # Paired: a twin shares its run's draws
    losts = {text: dataset.cell_twin - dataset[f"cell_{name}"] for name, text in texts.items()}
    return [_lost(text, lost, "cell_seed", null) for text, lost in losts.items()]


def _lost(text: str, lost: xr.DataArray, over: str, null: Any) -> Claim:
    half = bj.plot.confidence(lost, over) if lost.sizes[over] > 1 else 0.0
    return at_most(text, SOURCE, 0.01, lost.mean(), interval=half, null=null)


def _grid_claims(dataset: xr.Dataset) -> list[Claim]:
    """No decay, once the mean has caught up and before; a bias removed after training, at once and later."""
    cell = dataset.sel(batch_size=dataset.cell_batch_size, bn_momentum=dataset.bn_momentum.max())
    biased = {"decay_biases": True, "bias_value": -1}
    running, removed = (_at(cell[f"accuracy_{name}"], **biased) for name in ("running", "removed"))
    twin = _at(cell.accuracy_running, decay_biases=True, bias_value=0)
    undecayed = twin - _at(cell.accuracy_running, decay_biases=False, bias_value=-1)
    early, end, later = (int(report) for report in dataset.report)
    before, after = undecayed.sel(report=early), undecayed.sel(report=end)
    null = (twin - running).mean("seed")
    moved = removed - running.sel(report=end)
    at_once, half = abs(moved.sel(report=end)).max(), bj.plot.confidence(before, "seed")
    text, stays = f"no decay, {early} updates: lost", moved.sel(report=later).mean()
    left = (twin - removed).sel(report=later)
    return [
        _lost(f"no decay, {end} updates: lost", after, "seed", null.sel(report=end)),
        at_least(text, SOURCE, 0.3, before.mean(), interval=half, null=after.mean()),
        at_most("removed at the end: accuracy moved", SOURCE, 0.005, at_once, null=stays),
        _lost(f"the same, {later - end} updates later: lost", left, "seed", null.sel(report=later)),
    ]


def _small_batches(dataset: xr.Dataset) -> Claim:
    """Without a bias re-estimation gains little at batches of two; the null is what it gains with one."""
    runs = dataset.sel(report=dataset.steps, bn_momentum=dataset.bn_momentum.max(), decay_biases=True)
    gained = runs.accuracy_reestimated - runs.accuracy_running
    own = gained.sel(batch_size=2).isel(bias_value=0)
    null = gained.sel(batch_size=dataset.cell_batch_size).isel(bias_value=-1).mean()
    half = bj.plot.confidence(own, "seed")
    text = "no bias, batches of 2: |gain|"
    return at_most(text, SOURCE, 0.1, abs(own.mean()), interval=half, null=null)


def table(dataset: xr.Dataset) -> str:
    """Gap and the share of it that each repair closes, by momentum and batch size."""
    found = shares(dataset)
    names = [name for name in REPAIRS if name != "running"]
    rows = [("momentum", "batch", "gap", *names)]
    for momentum in found.bn_momentum:
        for size in found.batch_size.values:
            one = found.sel(bn_momentum=momentum, batch_size=size)
            cells = (f"{float(one[name]):.2f}" for name in names)
            rows.append((f"{float(momentum):.2f}", str(size), f"{float(one.gap):.3f}", *cells))
    return f"{_text.table(rows, right=range(len(rows[0])))}\nshares of the gap; nan where it is within {GAP}"


def figure(dataset: xr.Dataset):
    """Accuracy at inference over batch size, as it is and after each repair, a panel for each momentum."""
    momenta = [float(value) for value in dataset.bn_momentum]
    fig, axes = bj.plot.panels([f"momentum of batch norm {value:.2g}" for value in momenta], size=(4.8, 3.6))
    found = _repaired(dataset)
    styles = dict(zip(REPAIRS, ("o-", "s-", "^--", "x:", "v-."), strict=True))
    for index, ax in enumerate(axes):
        for color, (name, label) in zip(bj.plot.COLORS[1:], REPAIRS.items(), strict=False):
            if name == "removed":
                continue
            one, style = found[name].isel(bn_momentum=index), styles[name]
            line = {"marker": style[0], "linestyle": style[1:], "color": color, "label": label}
            bj.plot.line(ax, one, "batch_size", over="seed", markersize=4, **line)
        ax.set_xscale("log", base=2)
        ticks = dataset.batch_size.values
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.set(xlabel="batch size", ylabel="test accuracy at inference", ylim=(0, 1.02))
    axes[0].legend(loc="lower right")
    bias = float(dataset.bias_value[-1])
    fig.suptitle(
        f"Re-estimating statistics, or no decay of a cancelled bias of {bias:g} at first, repairs inference\n"
        f"(SGD + L2, {dataset.steps} updates; bands: 95% intervals of {dataset.sizes['seed']} seeds)",
        fontsize=10,
    )
    return fig
