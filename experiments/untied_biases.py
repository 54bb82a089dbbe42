"""Why does a convolution have one bias for each channel, and not one for each position?

Answer: for none of the reasons that people guess: biases of positions are cheap and overfit little. They tell
a layer where things stand, and a shared bias keeps its answer independent of that.

Source: a forum thread on the 64 biases of VGG16's first layer: "is there a special reason why that makes more
sense than just adding a different number to all the 64x224x224 numbers of the output?" Its guesses: the model
overfits ("very very biased"), training takes more time and memory, as "for every additional parameter, the
network needs to cache the forward pass results", and shared weights are harder to learn. A small network with
biases tied and untied learns a few digits of MNIST, at 14 by 14, and is tested on others, in place and moved.

Expected: untied, the convolutions of VGG16 have 13,547,520 biases instead of 4,224, a tenth of its parameters
more. A sum needs no input for its gradient, so a bias keeps nothing for the backward pass; a scale would. An
untied bias tells a layer where it is. Nothing is gained or lost where the dense layer behind sees positions
anyway; before a mean over positions it gives what the network cannot know otherwise, and takes away that it
answers alike wherever the digit stands.

Measured, 10 seeds, 100 to 1600 examples. Memory: the parameters themselves, and no value kept for the
backward pass (0 for each bias, where an untied scale keeps 33 in batches of 32): that guess is wrong. Time:
an update took 1.53 ms instead of 1.52, in another run 3.94 instead of 3.74, on a CPU that was in use.

Dense layer on all positions: untying moves test accuracy, .76, .87 and .92, by .002 +- .003, and neither
training minus test nor what moved digits cost by more than .005: no overfitting, nothing harder to learn.
Mean over positions: untied biases add .38 +- .03 of test accuracy (.30 to .66 of 100 examples, .37 to .78 of
1600), and the training loss falls to a fifth: shared weights become easier to learn. Here they overfit more
as well, training minus test is .32 instead of .17 of 100 examples, and the same, .04, of 1600; but test
accuracy is twice as high. What was gained is lost where digits move by up to 4 of 28 pixels: .29 to .34, tied
.26 to .31.

So the reason is none of the guesses: biases of positions are cheap, and learn where things stand; a bias is
shared so that what a layer answers does not depend on that.

Scope: two convolutions with ReLU, 1568 untied or 20 tied biases, 7850 or 170 parameters in the dense layer;
Adam at rates chosen on held-out examples, 150 updates. A trial by SGD with momentum .9 agreed (2 seeds, 8 and
8 channels, dense layer on all positions, the best rates): test accuracies within .005 of each other.

Cost: about 90 s on 2 CPU cores. Command: `python -m experiments untied_biases`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import trained, untied, untied_costs
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

FORUM = "forum thread on a convolution's bias"
_HELD_OUT = 800
_MEASURED = ("train", "train_loss", "test", "moved", "loss")
HEADS = {"flatten": "dense layer on all positions", "mean": "mean over positions"}


@dataclass(frozen=True)
class Config:
    """The grid and the training."""

    sizes: tuple[int, ...] = (100, 400, 1600)
    """Training examples, increasing."""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    """Learning rates of Adam at first, three times as large before a mean; the best one of each cell on
    held-out examples counts."""
    pixels: int = 4
    """Greatest move of a test image, in pixels of 28."""
    steps: int = 150
    """Updates."""
    batch_size: int = 32
    """Examples in them."""
    repeats: int = 100
    """Updates that are timed."""
    seeds: int = 10
    """Networks of each kind, each with kernels, examples and batches of its own, the same for both biases."""


SMOKE = Config(sizes=(100,), rates=(0.02,), steps=100, repeats=20, seeds=6)


def run(config: Config) -> xr.Dataset:
    """Train the grid, and measure what untied biases cost."""
    whole = bj.data.mnist5k()
    data, moved = (
        bj.data.pooled(one, 2) for one in (whole, bj.data.shifted(whole, seed=0, pixels=config.pixels))
    )
    x, y = data.train_x, data.train_y
    pool = bj.data.Data(x[_HELD_OUT:], y[_HELD_OUT:], x[:_HELD_OUT], y[:_HELD_OUT])
    tests = {"test": (data.test_x, data.test_y), "moved": (moved.test_x, moved.test_y)}
    point = functools.partial(untied.point, config, pool, tests)
    axes = {"seed": np.arange(config.seeds), "size": config.sizes, "rate": config.rates}
    static = {"head": list(HEADS), "biases": list(untied.BIASES)}
    # One network at a time: a convolutional one fits into a core's cache, several do not
    found = bj.sweep.run(point, axes, static=static, dims={"loss": ("step",)}, batching=1)
    costs = untied_costs.measure(pool, config.batch_size, config.repeats)
    return found.drop_vars("status").merge(costs).assign_attrs(pixels=config.pixels)


def chosen(dataset: xr.Dataset) -> xr.Dataset:
    """What was measured at the rates that are best on held-out examples, mean of seeds, of each cell."""
    best = {name: trained.best(dataset.validation, dataset[name]) for name in _MEASURED}
    found = dataset[[]].assign(best)
    return found.assign(gap=found.train - found.test, lost=found.test - found.moved)


def untying(values: xr.DataArray) -> xr.DataArray:
    """What untying adds, paired by seed: means over sizes, ``(head, seed)``."""
    return (values.sel(biases="untied") - values.sel(biases="tied")).mean("size")


def claims(dataset: xr.Dataset) -> list[Claim]:
    """What untied biases cost, and what they do before a mean over positions and before a dense layer."""
    best = chosen(dataset)
    counts, kept = dataset.vgg16_biases, dataset.kept_values
    expected = sum(channels * side**2 * layers for channels, side, layers in untied_costs.VGG16)
    made = [
        equal(
            "VGG16: biases of convolutions, untied",
            CLOSED_FORM,
            expected,
            counts.sel(biases="untied"),
            tolerance=0,
            null=counts.sel(biases="tied"),
        ),
        at_most(
            "kept for backward per untied bias",
            CLOSED_FORM,
            0.5,
            kept.sel(kind="untied"),
            null=kept.sel(kind="untied scale"),
        ),
    ]
    test, lost = untying(best.test), untying(best.lost)
    flat, mean = test.sel(head="flatten"), test.sel(head="mean")
    half = float(bj.plot.confidence(flat, "seed"))
    text = "flatten: test accuracy moved"
    made.append(at_most(text, FORUM, 0.03, abs(flat.mean()), interval=half, null=abs(mean.mean())))
    for text, values, bound in (
        ("mean: test accuracy untying adds", test, 0.1),
        ("mean: lost to moves, untying adds", lost, 0.08),
    ):
        own, null = (values.sel(head=head) for head in ("mean", "flatten"))
        half = bj.plot.confidence(own, "seed")
        made.append(at_least(text, FORUM, bound, own.mean(), interval=half, null=null.mean()))
    logs = best.train_loss.copy(data=np.log(best.train_loss.values))
    harder = untying(logs).sel(head="mean")
    half = bj.plot.confidence(harder, "seed")
    text = "mean: log training loss untying adds"
    made.append(at_most(text, FORUM, -0.2, harder.mean(), interval=half, null=-harder.mean()))
    return made


def table(dataset: xr.Dataset) -> str:
    """Accuracies by head, size and biases; time of an update."""
    from biasjax import _text

    best, names = chosen(dataset), ("train", "test", "moved", "gap")
    rows: list[tuple[str, ...]] = [("head", "examples", "biases", "rate", *names, "loss, train")]
    at = dataset.validation.mean("seed").idxmax("rate")
    for head in HEADS:
        for size in best["size"].values:
            for biases in untied.BIASES:
                where = {"head": head, "size": size, "biases": biases}
                one = best.sel(where)
                cells = [
                    f"{float(one[n].mean()):.3f} ± {float(bj.plot.confidence(one[n], 'seed')):.3f}"
                    for n in names
                ]
                loss = f"{float(one.train_loss.mean()):.3g}"
                rows.append(
                    (
                        head,
                        str(size),
                        biases,
                        f"{float(at.sel(where)) * untied.RATES[head]:.2g}",
                        *cells,
                        loss,
                    )
                )
    times = dataset.milliseconds.median("repeat")
    told = ", ".join(f"{b} {float(times.sel(biases=b)):.2f} ms" for b in untied.BIASES)
    return f"{_text.table(rows, right=range(1, len(rows[0])))}\nan update, median: {told}"


def figure(dataset: xr.Dataset):
    """Test accuracy in place and moved, what is overfitted, and training losses, for both heads."""
    kinds = ("test accuracy", "training minus test", "training loss")
    titles = [f"{kind}: {head}" for head in HEADS.values() for kind in kinds]
    fig, axes = bj.plot.panels(titles, columns=3, size=(4.2, 3.0))
    best = chosen(dataset)
    for row, head in enumerate(HEADS):
        one = best.sel(head=head)
        for biases, color in zip(untied.BIASES, bj.plot.COLORS, strict=False):
            _draw(axes[3 * row : 3 * row + 3], one.sel(biases=biases, drop=True), biases, color)
    axes[0].legend(loc="center", bbox_to_anchor=(0.5, 0.57), ncols=2, fontsize=7, handlelength=3.5)
    axes[2].legend()
    fig.suptitle(
        "Untied biases tell a layer where it is: a help before a mean over positions, until digits move\n"
        f"({dataset.sizes['seed']} seeds: means and 95% intervals; moves of up to "
        f"{dataset.attrs['pixels']} of 28 pixels)",
        fontsize=10,
    )
    return fig


def _draw(axes: Any, one: xr.Dataset, biases: str, color: str) -> None:
    style = {"over": "seed", "color": color, "marker": "o", "markersize": 3.5}
    bj.plot.line(axes[0], one.test, "size", label=biases, **style)
    bj.plot.line(axes[0], one.moved, "size", label=f"{biases}, digits moved", linestyle="--", **style)
    bj.plot.line(axes[1], one.gap, "size", **style)
    for ax in axes[:2]:
        ax.set(xlabel="training examples", xscale="log")
        ax.set_xticks(one["size"].values, [str(size) for size in one["size"].values])
        ax.set_xticks([], minor=True)
    axes[0].set_ylim(0, 1)
    loss = (
        one.loss.isel(size=-1)
        .rolling(step=10, min_periods=1)
        .mean()
        .assign_coords(step=np.arange(one.sizes["step"]))
    )
    bj.plot.line(
        axes[2], loss, "step", over="seed", color=color, label=f"{biases}, {int(one['size'][-1])} examples"
    )
    axes[2].set(xlabel="update", yscale="log", ylim=(0.03, 4))
