"""How should a bias be initialised, in hidden layers and at the output of a rare class?

Answer: with zeros, or anything small: it makes no difference. Ones and N(0, 1) start slowly and lose .006 to
.016; the log prior of a rare class is ahead for some 10 updates only.

Source: a tutorial on Keras: bias_initializer is "zeros", or ones, random numbers, "we could even initialize
the biases with Xavier", and after training "the values for the weights and biases would likely be very
different". For the output RetinaNet (arXiv 1708.02002): b = -log((1 - p) / p), p = .01, so that a detector
starts from what is common. Networks of 3 hidden layers without norms learn the 8x8 digits, by SGD at rates
chosen on held-out examples; and one digit of MNIST, thinned out to 1 in 100, against the rest.

Expected: a bias is a vector of n, of which Xavier's rule makes a standard deviation of 1/sqrt(n), PyTorch's
one of 1/sqrt(3 fan_in); ReLU units may be linear from ones and dead from -1. Training moves biases by what
the rate and the gradient are worth, not by what they were. At the output the first loss is that of a
constant logit, p log(1 + e^-b) + (1 - p) log(1 + e^b): .056 from the log prior and log 2 from zero; the
gradient of the bias is sigmoid(b) - p, 0 and .49.

Measured, 10 seeds. Digits, 250 updates, test accuracies paired with those from zeros: .1, N(0, .05²), Xavier
and PyTorch move them by at most .006 +- .006, with ReLU, tanh and GELU. Ones and N(0, 1) cost .006 to .016
and a slow start: with tanh the loss of updates 10 to 30 is 2.28 from ones, 1.42 from zeros, at a rate of .1
for both. From ones .61 of the ReLU units are linear on the whole training set, from -1 .90 are dead, the
network with them, and it never learns: .08; tanh learns from either. Training moves a hidden bias by .04 to
.07 whatever it was, so the tutorial's "very different" is right for biases from zeros, of which it makes a
spread of .07, and wrong for those from N(0, 1), which stay what they were, up to .06.

Rare class, 300 updates, output kernel of .01: the first loss is .0561 from the log prior, .695 from zero, the
gradient of the output's bias 8e-6 and .49. After 10 updates the log prior is ahead by .07 +- .01, after 50 it
is .002 behind. At the end its area under the ROC curve is .967, from zero .978 (.011 +- .003 apart); with a
kernel of .125 .971 and .975. It starts in a flat place, with a gradient of .002 against .67. At a rate of
.03, too small for both, it is ahead: .83 against .70. Nothing was unstable that it could have mended: a start
from zero at RetinaNet's depth, batch and loss is another matter.

Scope: dense networks of 64 features and SGD (momentum .9 for the rare class), a few hundred updates.

Cost: about 60 s on 2 CPU cores. Command: `python -m experiments bias_initialization`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import curves
from experiments._parts import initial_bias_panels as panels
from experiments._parts import initial_biases as parts
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most, equal
from experiments.trainability import held_out

if TYPE_CHECKING:
    import xarray as xr

TUTORIAL = "tutorial on biases in Keras"
RETINANET = "arXiv 1708.02002"
SMALL = ["0.1", "N(0, .05²)", "Xavier", "PyTorch"]
"""Initial biases that are small beside pre-activations, whose variance is about 1."""
STARTS = {"zero": 0.0, "log prior": 1.0, "opposite": -1.0}
"""Initial biases of the output over the log of the prior odds."""


@dataclass(frozen=True)
class Config:
    """Both halves; tuples of numbers are axes of the grid."""

    activations: tuple[str, ...] = ("relu", "tanh", "gelu")
    """Names of activations; "relu" is needed."""
    rates: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    """Learning rates of SGD on the digits, increasing; the best one on held-out examples counts."""
    width: int = 64
    """Features of a hidden layer."""
    depth: int = 3
    """Hidden layers."""
    steps: int = 250
    """Updates on the digits."""
    batch_size: int = 32
    """Examples in them."""
    digit: int = 8
    """The rare class."""
    share: float = 0.01
    """Its share of the training set, and the prior of the output's bias."""
    rare_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Learning rates, increasing, chosen likewise."""
    head_scales: tuple[float, ...] = (0.01, 0.125)
    """Standard deviations of the output's kernel: RetinaNet's, and 1/sqrt(fan_in)."""
    early: tuple[int, ...] = (10, 50, 100)
    """Updates after which to report; 10 and 50 are needed."""
    rare_steps: int = 300
    """Updates on the rare class."""
    rare_batch_size: int = 128
    """Examples in them."""
    seeds: int = 10
    """Networks of each kind."""


SMOKE = Config(
    activations=("relu",),
    rates=(0.3,),
    steps=200,
    rare_rates=(0.03, 0.3),
    head_scales=(0.01,),
    early=(10, 50),
    seeds=6,
)


def run(config: Config) -> xr.Dataset:
    """Train both grids."""
    data = bj.data.flatten(bj.data.digits())
    point = functools.partial(parts.point, config, data, held_out(data))
    axes = {"seed": np.arange(config.seeds), "rate": config.rates, "init": np.arange(len(parts.INITS))}
    own = {"dead": ("when",), "always_on": ("when",), "biases": ("when", "layer", "unit")}
    static = {"activation": list(config.activations)}
    digits = bj.sweep.run(point, axes, static=static, dims={"loss": ("step",), **own}, batching=40)
    digits = digits.assign_coords(init=list(parts.INITS), when=list(parts.WHEN))
    # MNIST at 7 by 7; there are too few of the 8x8 digits to thin them out
    data = bj.data.flatten(bj.data.pooled(bj.data.mnist5k(), 4))
    thinned = [bj.data.imbalanced(one, config.digit, config.share) for one in (data, held_out(data))]
    axes = {
        "seed": np.arange(config.seeds),
        "rare_rate": config.rare_rates,
        "start": list(STARTS.values()),
        "head_scale": config.head_scales,
    }
    dims: dict[str, Any] = dict.fromkeys(("rare_loss", "gradient", "bias_gradient"), ("report",))
    rare = functools.partial(parts.rare, config, *thinned)
    rare = bj.sweep.run(rare, axes, dims=dims, batching=40)
    rare = rare.assign_coords(
        start=list(STARTS), report=parts.reports(config), head_scale=list(config.head_scales)
    )
    positive = float(np.asarray(thinned[1].train_y).mean())
    found = digits.drop_vars("status").merge(rare.drop_vars("status"))
    return found.assign_attrs(prior=config.share, share=positive, width=config.width)


def chosen(dataset: xr.Dataset) -> xr.Dataset:
    """What was measured at the rates that are best on held-out examples, mean of seeds, of each cell."""
    at = dataset.validation.mean("seed").argmax("rate")
    own = [str(name) for name in dataset if "rate" in dataset[name].dims]
    rare = [str(name) for name in dataset if "rare_rate" in dataset[name].dims]
    rare_at = dataset.chosen_loss.mean("seed").argmin("rare_rate")
    return dataset[own].isel(rate=at).merge(dataset[rare].isel(rare_rate=rare_at), compat="override")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Closed forms of initial biases, what they do to units and to accuracy; and the rare class."""
    best = chosen(dataset)
    hidden = _hidden_claims(best, dataset.attrs["width"])
    return [*hidden, *_early_claim(dataset), *_rare_claims(dataset, best)]


def _hidden_claims(best: xr.Dataset, width: int) -> list[Claim]:
    relu, made = best.sel(activation="relu"), []
    before, after = (relu.biases.sel(when=when) for when in parts.WHEN)
    size, moved = panels.root_mean_square(before), panels.root_mean_square(after - before)
    for name, theory in (("Xavier", width**-0.5), ("PyTorch", (3 * width) ** -0.5)):
        ratio, null = (size.sel(init=init).mean() / theory for init in (name, "zeros"))
        made.append(equal(f"{name}: std / closed form", CLOSED_FORM, 1.0, ratio, tolerance=0.1, null=null))
    dead, on = (relu[name].sel(when="before").mean("seed") for name in ("dead", "always_on"))
    made.append(
        at_least(
            "ReLU from -1: share of dead units",
            "trial",
            0.5,
            dead.sel(init="-1"),
            null=dead.sel(init="zeros"),
        )
    )
    made.append(
        at_least(
            "from ones: share of linear units", "trial", 0.3, on.sel(init="ones"), null=on.sel(init="-1")
        )
    )
    share = (moved / size.where(size > 0)).mean("seed")
    made.append(
        at_most(
            "from N(0, 1): moved / initial size",
            TUTORIAL,
            0.1,
            share.sel(init="N(0, 1)"),
            null=share.sel(init="N(0, .05²)"),
        )
    )
    # Paired: seeds share kernels and batches
    lost = best.test.sel(init="zeros") - best.test
    moved = abs(lost.mean("seed"))
    most, half = curves.greatest(moved.sel(init=SMALL), bj.plot.confidence(lost, "seed").sel(init=SMALL))
    null = moved.sel(activation="relu", init="-1")
    text = "small biases: accuracy moved, most"
    return [*made, at_most(text, TUTORIAL, 0.03, most, interval=half, null=null)]


def _early_claim(dataset: xr.Dataset) -> list[Claim]:
    """A layer of tanh from ones is slow to begin with, at the least rate for all."""
    if "tanh" not in dataset.activation or dataset.sizes["step"] < 30:
        return []
    loss = dataset.loss.sel(activation="tanh").isel(rate=0, step=slice(10, 30)).mean("step")
    raised, null = (loss.sel(init=init) - loss.sel(init="zeros") for init in ("ones", "0.1"))
    numbers = {"interval": bj.plot.confidence(raised, "seed"), "null": null.mean()}
    return [at_least("tanh from ones: loss raised, 10-30", "trial", 0.5, raised.mean(), **numbers)]


def _rare_claims(dataset: xr.Dataset, best: xr.Dataset) -> list[Claim]:
    small = best.isel(head_scale=0)
    first = small.isel(report=0).mean("seed")
    loss, slope = first.rare_loss, abs(first.bias_gradient)
    prior = parts.log_prior(dataset.attrs["prior"])
    made = []
    for start, other in (("log prior", "zero"), ("zero", "log prior")):
        expected = parts.first_loss(STARTS[start] * prior, dataset.attrs["share"])
        text = f"rare class: first loss, {start}"
        made.append(
            equal(
                text, RETINANET, expected, loss.sel(start=start), tolerance=0.01, null=loss.sel(start=other)
            )
        )
    text, null = "the same: |gradient of output bias|", slope.sel(start="zero")
    made.append(at_most(text, CLOSED_FORM, 0.01, slope.sel(start="log prior"), null=null))
    saved = small.rare_loss.sel(start="zero") - small.rare_loss.sel(start="log prior")
    at10, at50 = saved.sel(report=10), saved.sel(report=50)
    half = bj.plot.confidence(at10, "seed")
    text, null = "the same: saved after 10 updates", at50.mean()
    made.append(at_least(text, RETINANET, 0.03, at10.mean(), interval=half, null=null))
    gained = small.test_area.sel(start="log prior") - small.test_area.sel(start="zero")
    slow = dataset.test_area.isel(head_scale=0, rare_rate=0).mean("seed")
    null = abs(slow.sel(start="log prior") - slow.sel(start="zero"))
    half = bj.plot.confidence(gained, "seed")
    text, moved = "the same: area under ROC moved, end", abs(gained.mean())
    made.append(at_most(text, RETINANET, 0.05, moved, interval=half, null=null))
    return made


def table(dataset: xr.Dataset) -> str:
    """Each initial bias, in hidden layers and at the output of the rare class, at its rate."""
    return panels.tables(chosen(dataset))


def figure(dataset: xr.Dataset):
    """Losses and accuracies by initial bias; biases before and after; the rare class."""
    best = chosen(dataset)
    titles = ["first updates, ReLU", "accuracy lost to zero biases", "hidden biases, ReLU"]
    titles += ["rare class: loss", "rare class: norm of the gradient", "rare class: area under ROC, by rate"]
    fig, axes = bj.plot.panels(titles, columns=3, size=(4.2, 3.3))
    panels.draw_losses(axes[0], best.sel(activation="relu"))
    panels.draw_lost(axes[1], best)
    panels.draw_biases(axes[2], best.sel(activation="relu"))
    small = best.isel(head_scale=0)
    for ax, name in zip(axes[3:5], ("rare_loss", "gradient"), strict=True):
        for start, color in zip(STARTS, bj.plot.COLORS, strict=False):
            one = small[name].sel(start=start, drop=True)
            bj.plot.line(ax, one, "report", over="seed", color=color, marker="o", markersize=3, label=start)
        ax.set(xlabel="updates", yscale="log")
        ax.set_xscale("symlog", linthresh=10)
        ax.set_xlim(left=0)
    axes[3].set_ylabel("loss on the training set")
    axes[3].legend(title="output bias")
    for start, color in zip(STARTS, bj.plot.COLORS, strict=False):
        one = dataset.test_area.isel(head_scale=0).sel(start=start, drop=True)
        bj.plot.line(axes[5], one, "rare_rate", over="seed", color=color, marker="o", markersize=3)
    axes[5].set(xlabel="learning rate", xscale="log", ylabel="on the test set, at the end")
    fig.suptitle(
        "Small biases all do; -1 kills ReLU units. The log prior saves a rare class's first ten updates\n"
        f"({dataset.sizes['seed']} seeds: means and 95% intervals; rates chosen on held-out examples)",
        fontsize=10,
    )
    return fig
