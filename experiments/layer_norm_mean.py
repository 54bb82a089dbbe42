"""Is the mean that layer norm subtracts redundant, and which bias does that subtraction remove?

Answer: redundant in the residual stream, where nothing puts a mean; not behind ReLU, where trained networks
rely on it. It removes a constant bias: one direction out of n.

Source: "Re-Introducing LayerNorm" (arXiv 2409.12951): layer norm removes what lies along the vector of ones,
and language models keep away from that vector, trained with layer or RMS norm, so that removing it is
redundant. Residual networks learn the 8x8 digits with either, in the stream (before each branch and the head)
or behind the ReLU of each branch, without biases, with zeros, and with an embedding's bias of 3, which is
random or constant, i.e. along the ones.

Expected: a random vector of n features has a squared cosine of 1/n with the ones, what comes from ReLU 1/pi.
Layer norm cancels one direction of a bias in the stream, RMS norm and norms behind ReLU none. What reads the
stream through layer norm has no gradient along the ones, so SGD adds nothing there; Adam, whose steps are no
multiples of gradients, does. A constant bias is nothing to layer norm, a random one as bad as for RMS norm.

Measured, 10 seeds (95% intervals). New: n cos² is .95 ± .07 without biases and .97 ± .12 with a random one,
57 with a constant one; behind ReLU cos² is .324 ± .002. After training it is .036 at most in the stream
without biases or with zeros, under either norm. Of what training adds to what writes to the stream, times n,
4e-12 lies along the ones with SGD and layer norm, .105 ± .01 with Adam, and about 1 (at random) with RMS.

Test accuracy, zeros: layer norm .973 (SGD) and .967 (Adam), RMS .952 ± .040 (one of 10 seeds at .79 by a rate
at the edge) and .967; behind ReLU .967 and .966, RMS .961 and .968. A constant bias costs layer norm nothing,
RMS norm 2.5 times the errors with SGD (.891 right) and 1.3 with Adam (.954). A random one costs both as
much: .912 and .893 with SGD. Leave the mean in at inference, and 1 to 2% of a trained network's answers
change in the stream, but 7 to 19% behind ReLU, and 80% with a constant bias.

So the paper's redundancy holds for the stream: nothing puts a mean there, and with SGD nothing could. It does
not hold behind ReLU, where trained networks rely on the subtraction, although networks trained without it are
as accurate. What it buys is safety from one bias out of n. Gradients tell the two apart behind ReLU, too:
they grow by pi/(pi - 1) per layer with layer norm and not with RMS norm (`layer_norm_bias`).

Scope: three branches of 64 features, 150 updates, no weight decay, rates chosen on a part of the training
set; a bias of 3 is some eight times the rest of the embedding, and a stress test. No attention.

Cost: about 70 s on 2 CPU cores. Command: `python -m experiments layer_norm_mean`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from biasjax import _text
from experiments._parts import mean_part
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

PAPER = "arXiv 2409.12951"
CLOSE = 0.75
"""Log2 of a factor of errors that counts as none: less than half of what a constant bias costs RMS norm."""
PLAIN = ["none", "zeros"]
"""Networks without biases and with those that people start from."""
WORDS = {"none": "no bias", "zeros": "zeros", "random": "random bias", "constant": "constant bias"}


@dataclass(frozen=True)
class Config:
    """Networks, and runs."""

    width: int = 64
    """Features of the stream and of each branch."""
    depth: int = 3
    """Residual branches."""
    bias: float = 3.0
    """Constant bias of the embedding, and standard deviation of a random one."""
    batch: int = 64
    """Examples in a batch."""
    steps: int = 150
    """Updates of a run."""
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    """Learning rates of Adam to choose from; those of SGD are ten times as large."""
    tuning_seeds: int = 6
    """Seeds that a rate is chosen by, for each kind of network."""
    seeds: int = 10
    """Seeds of a run."""
    drawn: int = 400
    """New networks whose alignment is measured."""


SMOKE = Config(depth=2, steps=80, rates=(0.005,), drawn=200)


def run(config: Config) -> xr.Dataset:
    """Measure new networks, choose a rate for each kind, train, and audit the embedding's bias."""
    labels = (mean_part.PLACES, mean_part.OPTIMIZERS, mean_part.NORMS, mean_part.BIASES)
    numbers = [np.arange(len(label)) for label in labels]
    numbers[2] = numbers[2].astype(float)  # what the mean is multiplied by
    kinds = dict(zip(mean_part.Kind._fields, numbers, strict=True))
    branch, axes = ("branch",), {"seed": np.arange(config.drawn), **kinds}
    axes.pop("optimizer")
    new = bj.sweep.run(functools.partial(mean_part.initial, config), axes, dims={"initial": branch})
    rates = _tune(config, kinds)
    train, axes = functools.partial(mean_part.trained, config, rates), {"seed": np.arange(config.seeds)}
    found = _over_kinds(train, axes, kinds, dims={"aligned": branch})
    found = found.merge(new.drop_vars("status").rename(seed="drawn"))
    dead = [[mean_part.dead(behind, centred) for centred in (0, 1)] for behind in (0, 1)]
    found = found.assign(dead=(("place", "centred"), dead), rate=(tuple(kinds), rates))
    names = {name: list(label) for name, label in zip(kinds, labels, strict=True)}
    found = found.assign_coords(names | {"branch": 1 + np.arange(config.depth)})
    return found.rename(centred="norm", start="bias").assign_attrs(width=config.width, steps=config.steps)


def _over_kinds(fn: Any, axes: dict[str, Any], kinds: dict[str, np.ndarray], **options: Any) -> xr.Dataset:
    """Sweep over axes and all kinds, whose axes are one: XLA's CPU backend aborts at products of rank 8."""
    grid = np.meshgrid(*kinds.values(), indexing="ij")
    points = {name: values.ravel() for name, values in zip(kinds, grid, strict=True)}
    found = bj.sweep.run(fn, axes, points=points, **options).drop_vars("status")
    return found.drop_vars("point", errors="ignore").set_index(point=list(kinds)).unstack("point")


def _tune(config: Config, kinds: dict[str, np.ndarray]) -> np.ndarray:
    """Rate of the best accuracy on what is held out, for each kind; nothing is trained for a single one."""
    rates = np.asarray(config.rates, np.float32)
    if len(rates) == 1:
        return np.broadcast_to(rates, [len(values) for values in kinds.values()])
    axes = {"seed": np.arange(config.tuning_seeds), "rate": rates}
    tuned = _over_kinds(functools.partial(mean_part.tune, config), axes, kinds).held_out.mean("seed")
    return rates[tuned.argmax("rate").transpose(*kinds).values]


def claims(dataset: xr.Dataset) -> list[Claim]:
    """What the mean is at first and after training, what removes it, and what accuracy thinks of it."""
    made = [*_initial_claims(dataset), *_audit_claims(dataset), *_learning_claims(dataset)]
    for name in mean_part.OPTIMIZERS:
        made += [
            *_accuracy_claims(dataset, name),
            *_swap_claims(dataset.sel(optimizer=name, norm="LN"), name),
        ]
    return made


def _initial_claims(dataset: xr.Dataset) -> list[Claim]:
    """Squared cosines with the ones: 1/n at random, 1/pi behind ReLU; times n in the stream."""
    each = dataset.initial.mean(("branch", "norm"))
    stream, behind = (each.sel(place=place) for place in mean_part.PLACES)
    n, made = dataset.attrs["width"], []
    for bias in ("none", "random"):
        own, null = n * stream.sel(bias=bias), n * stream.sel(bias="constant").mean()
        half, text = bj.plot.confidence(own, "drawn"), f"new, n cos², {WORDS[bias]}"
        made.append(equal(text, CLOSED_FORM, 1.0, own.mean(), tolerance=0.3, interval=half, null=null))
    own, null = behind.sel(bias="none"), stream.sel(bias="none").mean()
    half = bj.plot.confidence(own, "drawn")
    text = "new, behind ReLU, cos², no bias"
    made.append(equal(text, CLOSED_FORM, 1 / np.pi, own.mean(), tolerance=0.02, interval=half, null=null))
    return made


def _audit_claims(dataset: xr.Dataset) -> list[Claim]:
    """Directions of the embedding's bias that all norms of the network together cancel."""
    stream, behind = (dataset.dead.sel(place=place) for place in mean_part.PLACES)
    text = "dead directions of a bias, {}"
    return [
        equal(
            text.format("LN"), CLOSED_FORM, 1, stream.sel(norm="LN"), tolerance=0, null=stream.sel(norm="RMS")
        ),
        equal(
            text.format("behind ReLU"),
            CLOSED_FORM,
            0,
            behind.sel(norm="LN"),
            tolerance=0,
            null=stream.sel(norm="LN"),
        ),
    ]


def _learning_claims(dataset: xr.Dataset) -> list[Claim]:
    """What training does to the mean: nothing under SGD with layer norm, which has no gradient there."""
    stream = dataset.sel(place="stream")
    ones = stream.ones.sel(bias="zeros")
    kept, free, leak = (
        ones.sel(optimizer=name, norm=norm) for name, norm in (("SGD", "LN"), ("SGD", "RMS"), ("Adam", "LN"))
    )
    half = bj.plot.confidence(leak, "seed")
    made = [
        at_most("SGD, LN: n * share of ones in updates", CLOSED_FORM, 1e-6, kept.max(), null=free.min()),
        at_least("Adam, LN: the same", CLOSED_FORM, 0.02, leak.mean(), interval=half, null=kept.mean()),
    ]
    for name in mean_part.OPTIMIZERS:
        aligned = stream.aligned.sel(optimizer=name)
        own, null = aligned.sel(bias=["none", "zeros"]), aligned.sel(bias="constant").mean("seed").max()
        upper = own.mean("seed") + bj.plot.confidence(own, "seed")
        made.append(at_most(f"{name}, trained: cos², upper end", PAPER, 0.125, upper.max(), null=null))
    return made


def _accuracy_claims(dataset: xr.Dataset, name: str) -> list[Claim]:
    """Layer norm against RMS norm, and by what factor either errs more because of a bias of the embedding."""
    every, made = log2_shares(1 - dataset.accuracy), []
    gains = every.sel(norm="RMS") - every.sel(norm="LN")  # paired by seed
    null = abs(gains.sel(optimizer="SGD", place="stream", bias="constant").mean())
    for place, text in zip(mean_part.PLACES, ("stream", "ReLU"), strict=True):
        gain = gains.sel(optimizer=name, place=place, bias=PLAIN).mean("bias")
        half, text = bj.plot.confidence(gain, "seed"), f"{name}, {text}: |log2 RMS / LN errors|"
        made.append(at_most(text, PAPER, CLOSE, abs(gain.mean()), interval=half, null=null))
    errors = every.sel(optimizer=name, place="stream")
    more = errors - errors.sel(bias="zeros")
    constant, random = (more.sel(bias=bias, norm="LN") for bias in ("constant", "random"))
    value, half = abs(constant.mean()), bj.plot.confidence(constant, "seed")
    text, null = f"{name}, LN, constant: |log2 errors|", more.sel(bias="constant", norm="RMS").mean()
    made.append(at_most(text, CLOSED_FORM, 0.2, value, interval=half, null=null))
    if name == "SGD":  # Adam gets over it
        half, text = bj.plot.confidence(random, "seed"), "SGD, LN, random: log2 errors"
        made.append(at_least(text, CLOSED_FORM, 0.7, random.mean(), interval=half, null=constant.mean()))
    return made


def _swap_claims(one: xr.Dataset, name: str) -> list[Claim]:
    """Answers that change where a network trained with layer norm leaves the mean in at inference."""
    stream, behind = (one.changed.sel(place=place) for place in mean_part.PLACES)
    plain, null = stream.sel(bias=PLAIN).mean("bias"), stream.sel(bias="constant").mean()
    half, text = bj.plot.confidence(plain, "seed"), f"{name}, mean left in: changed"
    made = [at_most(f"{text}, stream", PAPER, 0.05, plain.mean(), interval=half, null=null)]
    more = (log2_shares(behind) - log2_shares(stream)).sel(bias=PLAIN).mean("bias")
    half, text = bj.plot.confidence(more, "seed"), f"{name}, the same, log2 ReLU / stream"
    return [*made, at_least(text, CLOSED_FORM, 1.2, more.mean(), interval=half, null=0.0)]


def log2_shares(shares: xr.DataArray) -> Any:
    """Logs of shares of the 360 examples to test on, half an example more so that none has one, too."""
    return np.log2(shares + 0.5 / 360)


def table(dataset: xr.Dataset) -> str:
    """Chosen rates of Adam's scale, accuracies and changed answers, by kind of network."""
    rows: list[tuple[str, ...]] = [("norm is in", "optimiser", "bias", "RMS", "LN", "LN changed")]
    for place in mean_part.PLACES:
        for name in mean_part.OPTIMIZERS:
            for bias in mean_part.BIASES:
                one = dataset.sel(place=place, optimizer=name, bias=bias)
                values = (
                    one.accuracy.sel(norm="RMS"),
                    one.accuracy.sel(norm="LN"),
                    one.changed.sel(norm="LN"),
                )
                cells = (
                    f"{float(x.mean()):.3f} ± {float(bj.plot.confidence(x, 'seed')):.3f}" for x in values
                )
                rows.append((place, name, bias, *cells))
    text = "accuracies, and share of answers that change where the mean is left in at inference"
    return f"{_text.table(rows, right=range(3, 6))}\n{text}"


def figure(dataset: xr.Dataset):
    """Alignment with the ones when new and after training, accuracies, and changed answers."""
    titles = ["new networks, layer norm", "after training, last branch", "accuracy, norm in the stream"]
    titles.append("the mean left in at inference")
    fig, axes = bj.plot.panels(titles, size=(4.8, 3.3))
    _draw_new(axes[0], dataset)
    stream = dataset.sel(place="stream")
    for i, norm in enumerate(mean_part.NORMS):
        for j, name in enumerate(mean_part.OPTIMIZERS):
            one, style = stream.sel(norm=norm, optimizer=name), {"color": bj.plot.COLORS[i], "fmt": "os"[j]}
            options = {"shift": 0.1 * (2 * i + j - 1.5), "label": f"{norm}, {name}", **style}
            _dots(axes[1], one.aligned.isel(branch=-1), **options)
            _dots(axes[2], one.accuracy, **options)
    for i, place in enumerate(mean_part.PLACES):
        for j, name in enumerate(mean_part.OPTIMIZERS):
            one, where = dataset.sel(norm="LN", place=place, optimizer=name), ("stream", "behind ReLU")[i]
            style = {"color": bj.plot.COLORS[2 + i], "fmt": "os"[j], "label": f"{where}, {name}"}
            _dots(axes[3], one.changed, shift=0.1 * (2 * i + j - 1.5), **style)
    axes[1].set(yscale="log", ylabel="cos² with the ones")
    axes[1].axhline(1 / dataset.attrs["width"], color="grey", linewidth=0.8, linestyle=":")
    axes[2].set(ylabel="test accuracy", ylim=(0, 1.02))
    axes[3].set(ylabel="share of answers that change", ylim=(-0.02, 1.02))
    for ax in axes[2:]:
        ax.legend(loc="lower left" if ax is axes[2] else "upper left")
    fig.suptitle(
        "The stream has no mean to subtract unless a bias along the ones makes one; behind ReLU it has\n"
        f"(mean of {dataset.sizes['seed']} seeds and 95% intervals; {dataset.attrs['steps']} updates)",
        fontsize=10,
    )
    return fig


def _draw_new(ax: Any, dataset: xr.Dataset) -> None:
    new, width = dataset.initial.sel(norm="LN"), dataset.attrs["width"]
    lines = [("stream", "none"), ("stream", "random"), ("stream", "constant"), ("ReLU", "none")]
    for (place, bias), color, marker in zip(lines, bj.plot.COLORS, "os^D", strict=False):
        label = WORDS[bias] if place == "stream" else f"behind ReLU, {WORDS[bias]}"
        style = {"color": color, "marker": marker, "markersize": 3.5, "label": label}
        bj.plot.line(ax, new.sel(place=place, bias=bias), "branch", over="drawn", **style)
    for value in (1 / width, 1 / np.pi):
        ax.axhline(value, color="grey", linewidth=0.8, linestyle=":")
    ax.set(yscale="log", xlabel=f"branch (dotted: 1/{width}, 1/pi)", ylabel="cos² with the ones")
    ax.locator_params(axis="x", integer=True)
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.42))


def _dots(ax: Any, values: xr.DataArray, *, shift: float, **style: Any) -> None:
    """Draw means and intervals, by how biases start."""
    at, half = np.arange(values.sizes["bias"]), bj.plot.confidence(values, "seed")
    ax.errorbar(at + shift, values.mean("seed"), half, markersize=4, **style)
    ax.set_xticks(at, [WORDS[str(bias)] for bias in values.bias.values])
    ax.set_xlim(-0.4, len(at) - 0.6)
