"""Is the bias of the linear layer after a conditioning vector dead in a GAN?

Answer: yes where batch norm follows it, conditional or not; no under FiLM or concatenation without a norm,
where it is alive, though nothing is lost without it there either.

Source: a forum thread on bias=False, 2021. The question: authors of GANs leave the bias out of "the initial
linear layer after a conditioning vector"; why? The answer: "in the GANs' conditioning layer the data gets
re-centered, effectively cancelling the bias". A conditional GAN on the 8x8 digits is trained with that bias
and without, by four ways of conditioning: the class enters the linear layer before batch norm; makes batch
norm's scale and bias (arXiv 1707.00683); makes a scale and bias without a norm (FiLM, arXiv 1709.07871);
enters the linear layer before ReLU.

Expected: the answer holds where a norm follows: all entries are dead, their gradient is rounding, training
is the same without them. FiLM and concatenation re-center nothing: all entries are alive there.

Measured, 10 seeds: the audit calls all of it dead in training with batch norm, conditional or not, and none
of it with FiLM or concatenation. Its gradient is 4e-8 of the kernel's before a norm, about .4 elsewhere; the
generator's loss moves by 4e-5 at most in 20 updates, by .008 elsewhere. After 2000 updates rounding has grown
in GANs with batch norm, too, but nothing is lost without the bias: accuracy of samples by a classifier is
.962 to .971 with it and .963 to .975 without, differences -.002 ± .004 before a norm and .000 ± .005
elsewhere. Nor is the Fréchet distance in the classifier's features (2.3 to 3.7): paired differences are .03 ±
1.1, -.3 ± .6, 1.0 ± .9 (FiLM, better without) and -.4 ± .6.

So the answer is right of conditional batch norm and wrong of FiLM and of concatenation without a norm, where
the bias is alive; that nothing is lost there either has another reason: classes are one-hot, so that the
class's kernel, or FiLM's, can do what the bias does. Scope: one-hot classes, dense layers, Adam.

Cost: about 2 minutes on 2 CPU cores. Command: `python -m experiments conditioning`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from biasjax import _text
from experiments._parts import conditional_gan as gan
from experiments.claims import Claim, at_least, at_most

if TYPE_CHECKING:
    import xarray as xr

FORUM = "forum thread on bias=False, 2021"
NORMED = ["batch norm", "conditional batch norm"]
OTHERS = ["FiLM", "concatenation"]
SHORT = dict(zip(gan.MODES, ("batch norm", "cond. BN", "FiLM", "concat."), strict=True))


@dataclass(frozen=True)
class Config:
    """The networks, their training, and the judge."""

    latents: int = 16
    """Random inputs of the generator."""
    width: int = 96
    """Features of a hidden layer, of the generator and of the discriminator."""
    batch_size: int = 64
    """Examples of an update."""
    steps: int = 2000
    """Updates of each player."""
    learning_rate: float = 1e-3
    """Adam's, with b1 = .5."""
    early: int = 20
    """Updates over which the losses with and without the bias are compared."""
    samples: int = 1000
    """Samples that are judged, classes in turns."""
    features: int = 16
    """Features of the classifier that samples are compared in."""
    judge_steps: int = 600
    """Updates of the classifier."""
    seeds: int = 10
    """GANs of each kind."""
    modes: tuple[str, ...] = gan.MODES
    """What the condition does; one with a norm and one without are needed."""


SMOKE = Config(
    width=48,
    batch_size=32,
    steps=600,
    learning_rate=2e-3,
    samples=200,
    features=8,
    judge_steps=200,
    seeds=4,
    modes=("batch norm", "concatenation"),
)


def run(config: Config) -> xr.Dataset:
    """Audit the generators, train the GANs, and judge their samples."""
    data = bj.data.flatten(bj.data.digits())
    judge = gan.train_judge(config)
    square = ("feature", "other")
    dims = {"sample": ("digit", "row", "column"), "mean": ("feature",), "covariance": square}
    dims |= {"mean_start": ("feature",), "covariance_start": square}
    dims |= dict.fromkeys(("loss", "rival_loss"), ("step",))
    axes = {"seed": np.arange(config.seeds), "bias": [0.0, 1.0]}
    point = functools.partial(gan.point, config, judge)
    found = bj.sweep.run(point, axes, static={"mode": list(config.modes)}, dims=dims).drop_vars("status")
    features, logits = (np.asarray(part) for part in gan.judged(judge, data.test_x))
    truth = features.mean(0), np.cov(features.T, bias=True)
    lead = ("mode", "seed", "bias")
    dead = [_dead_share(mode) for mode in config.modes]
    found = found.assign(
        frechet=(lead, gan.frechet(found["mean"].values, found["covariance"].values, *truth)),
        dead=("mode", dead),
    )
    judged = float((logits.argmax(-1) == np.asarray(data.test_y)).mean())
    kept = found.drop_vars(["mean", "covariance"])
    return kept.assign_attrs(early=config.early, judge_accuracy=judged)


def _dead_share(mode: str) -> float:
    """Share of the first linear layer's bias that the audit calls dead in training; widths do not matter."""
    import jax

    draw, condition = jax.random.key(0), jax.nn.one_hot(np.arange(8) % gan.CLASSES, gan.CLASSES)
    params, state = gan.generator_init(draw, mode, 4, 6)

    def images(params, latents, condition):
        return gan.generate(params, state, latents, condition, train=True)[0]

    audited = bj.audit.audit_biases(images, params, jax.random.normal(draw, (8, 4)), condition, joint=False)
    (first,) = (finding for finding in audited.findings if finding.path.startswith("first"))
    return 1 - first.rank / first.size


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Dead where a norm follows, alive elsewhere; and neither makes the samples better."""
    parts = [dataset.mode.isin(modes) for modes in (NORMED, OTHERS)]
    normed, others = (dataset.sel(mode=part) for part in parts)
    on = {"bias": 1.0}
    early = {"step": slice(0, dataset.attrs["early"])}
    apart = abs(dataset.loss.diff("bias")).isel(bias=0, **early).max("step")
    moved = [apart.sel(mode=part) for part in parts]
    shares = [part.gradient_share.sel(on) for part in (normed, others)]
    made = [
        at_least("norm follows: share of it dead", FORUM, 1.0, normed.dead.min(), null=others.dead.max()),
        at_most("FiLM, concatenation: share dead", FORUM, 0.0, others.dead.max(), null=normed.dead.min()),
        at_most("norm: gradient over the kernel's", FORUM, 1e-4, shares[0].max(), null=shares[1].median()),
        at_most("norm: loss moved by it, early", FORUM, 1e-3, moved[0].max(), null=moved[1].median()),
    ]
    lost = dataset.accuracy.sel(bias=1.0) - dataset.accuracy.sel(bias=0.0)
    random = (dataset.accuracy.sel(bias=1.0) - dataset.accuracy_others.sel(bias=0.0)).mean()
    for words, part in zip(("norm follows", "FiLM, concatenation"), parts, strict=True):
        own = lost.sel(mode=part).mean("mode")
        half = bj.plot.confidence(own, "seed")
        made.append(at_most(f"{words}: accuracy lost", FORUM, 0.05, own.mean(), interval=half, null=random))
    return made


def table(dataset: xr.Dataset) -> str:
    """Accuracy and Fréchet distance by way of conditioning, with the bias and without."""
    rows = [("the condition", "dead", "accuracy with", "without", "Fréchet with", "without")]
    for mode in dataset.mode.values:
        one = dataset.sel(mode=mode)
        cells = [mode, f"{float(one.dead):.0%}"]
        for values in (one.accuracy, one.frechet):
            for bias in (1.0, 0.0):
                chosen = values.sel(bias=bias)
                cells.append(f"{float(chosen.mean()):.3g} ± {float(bj.plot.confidence(chosen, 'seed')):.2g}")
        rows.append(tuple(cells))
    return _text.table(rows, right=(1, 2, 3, 4, 5))


def figure(dataset: xr.Dataset):
    """Samples of one seed with and without the bias, accuracies, and how far losses part."""
    fig, axes = bj.plot.panels(
        [
            "samples of seed 0",
            "early losses, with and without the bias",
            "accuracy of a classifier",
            "Fréchet distance",
        ],
        size=(4.9, 3.9),
    )
    _draw_samples(axes[0], dataset)
    _draw_apart(axes[1], dataset)
    for ax, name in zip(axes[2:], ("accuracy", "frechet"), strict=True):
        _draw_judged(ax, dataset[name])
    return fig


def _draw_samples(ax: Any, dataset: xr.Dataset) -> None:
    """A row of digits for each way and each of with and without."""
    shown = dataset.sample.isel(seed=0).sel(bias=[1.0, 0.0])
    shown = shown.stack(line=("mode", "bias")).transpose("line", "row", "digit", "column")
    shown = shown.pad(row=1, column=1, constant_values=0)
    n, side = shown.sizes, shown.sizes["row"]
    ax.imshow(shown.values.reshape(n["line"] * side, n["digit"] * side), cmap="gray_r", aspect="auto")
    words = {1.0: "with", 0.0: "without"}
    labels = [
        f"{mode.replace('conditional batch norm', 'cond. BN')}, {words[bias]}"
        for mode, bias in shown.line.values
    ]
    ax.set_yticks((np.arange(n["line"]) + 0.5) * side, labels, fontsize=7)
    ax.set_xticks((np.arange(n["digit"]) + 0.5) * side, range(n["digit"]), fontsize=7)
    ax.grid(False)


def _draw_apart(ax: Any, dataset: xr.Dataset) -> None:
    apart = abs(dataset.loss.diff("bias")).isel(bias=0, drop=True)
    apart = apart.isel(step=slice(1, 10 * dataset.attrs["early"])).median("seed")
    for mode, color in zip(dataset.mode.values, bj.plot.COLORS, strict=False):
        ax.plot(apart.step + 1, apart.sel(mode=mode), color=color, label=mode)
    ax.set(xlabel="update", ylabel="|loss with - without|, median", yscale="log", xscale="log")
    ax.legend(fontsize=7)


def _draw_judged(ax: Any, values: xr.DataArray) -> None:
    at = np.arange(values.sizes["mode"])
    for bias, label, color, offset in ((1.0, "with the bias", 0, -0.1), (0.0, "without", 1, 0.1)):
        own = values.sel(bias=bias)
        half = bj.plot.confidence(own, "seed")
        ax.errorbar(at + offset, own.mean("seed"), half, fmt="o", color=bj.plot.COLORS[color], label=label)
    ax.set_xticks(at, [SHORT[mode] for mode in values["mode"].values])
    ax.set_ylim(0, 1.05 if values.name == "accuracy" else None)
    ax.legend(fontsize=7)
