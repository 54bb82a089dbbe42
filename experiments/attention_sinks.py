"""When does attention sink into the first token, and do biases or a learned sink take its place?

Answer: it sinks where there is nothing to copy. A learned sink takes attention of its own but next to none of
the first token's; biases hardly matter, and sigmoid does away with it in the second block only.

Source: arXiv 2410.10781: sinks come with softmax, sink tokens act as key biases, a learnable key without a
value takes their place, and with sigmoid attention they do not appear; arXiv 2410.13835: heads that have
nothing to do at most tokens make a sink of the first one, in Bigram-Backcopy, where a token is to be copied
behind triggers and follows from the last one elsewhere. Two blocks learn that language with and without query
and key biases, by softmax, softmax with a sink (a learned score of a key without value), and sigmoid; no norm
or value bias, which could do what others do.

Expected: where there is nothing to copy the first token has more weight than even attention gives it (.108),
less with a sink and with sigmoid, and its value is drained; under softmax a key bias does nothing.

Measured, 10 seeds, 300 updates, 16 features, first and second block; of what is to be copied .94 and more is.
Weight of the first token without these biases, 95% intervals:

                    nothing to copy          to be copied             its value / others'
    softmax         .261 ± .043, .178 ± .050 .039 ± .080, .073 ± .045 .98 ± .17, .84 ± .10
    softmax, sink   .261 ± .042, .147 ± .050 .008 ± .013, .045 ± .024 1.07 ± .27, .98 ± .12
    sigmoid         .385 ± .047, .134 ± .091 .120 ± .222, .054 ± .043 1.39 ± .22, 1.12 ± .10

Sinks emerge where nothing is to be copied, at twice the even weight, far from the near 1 of large models.
Their values are drained in the second block only. A learned sink takes .027 ± .022 and .144 ± .056 of all
weight, yet next to nothing of it from the first token, against the source: .14 ± .24 of what that has beyond
even weight. A key bias does nothing under softmax (without it weights move by 3e-6 at most); beside a sink
it lets the sink take .073 ± .037 more. A query bias gives the first token .016 ± .015 and .016 ± .019 more
under softmax.

Sigmoid does not do away with the first token's weight in the first block, where it is .124 ± .059 more than
by softmax, against the source; in the second its share of all weight is no more than even, .088 ± .026. But
its value is larger than by softmax, relative to others' by .35 ± .13 on average, which speaks for a vector
that is added, a bias, and not for a way to be rid of weight.

Scope: this language and size, and a sink whose score is the same for all queries, where the source's
learnable key makes scores that depend on the query. What large models do is not shown by it.

Cost: about 75 s on 2 CPU cores. Command: `python -m experiments attention_sinks`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from biasjax import _text
from experiments._parts import backcopy
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

GU, GUO = "arXiv 2410.10781", "arXiv 2410.13835"
WEIGHTINGS = {"softmax": "pre LN", "softmax, sink": "sink", "sigmoid": "sigmoid"}
"""Variants of experiments._parts.transformers, by what weighs the values."""
_CELLS = ((0, 0), (1, 0), (0, 1), (1, 1))
_OFF_ON = ("-", "yes")
_LABELS = {(0, 0): "neither bias", (1, 0): "query bias", (0, 1): "key bias", (1, 1): "both"}
_BY_BLOCK: tuple[str, ...] = ("first_idle", "first_busy", "total_idle", "total_busy", "value")


@dataclass(frozen=True)
class Config:
    """Language, transformer and training."""

    weightings: tuple[str, ...] = tuple(WEIGHTINGS)
    """What makes weights of scores: softmax, softmax with a sink, sigmoid."""
    tokens: int = 16
    """Tokens, the first of which begins every sequence."""
    triggers: int = 2
    """Tokens behind which the one before them comes again."""
    length: int = 17
    """Tokens of a sequence."""
    first: int = 4
    """First position whose attention is measured."""
    sequences: int = 2048
    """Sequences to train on."""
    tested: int = 256
    """Other sequences, to measure on."""
    seeds: int = 10
    """Draws of parameters and batches."""
    steps: int = 300
    """Updates by Adam."""
    batch_size: int = 32
    """Sequences in a batch."""
    learning_rate: float = 1e-2
    """Rate of Adam; of .005 and .01 it has the lower loss on held-out sequences, a mean of all weightings."""
    width: int = 16
    """Features of the stream."""
    hidden: int = 32
    """Features between the dense layers."""
    heads: int = 2
    """Attention heads."""
    blocks: int = 2
    """Transformer blocks."""


SMOKE = Config(weightings=("softmax", "sigmoid"), sequences=1024, tested=128, seeds=4, steps=100, blocks=1)


def run(config: Config) -> xr.Dataset:
    """Train with every way to weigh values, with and without biases of queries and keys."""
    axes = {"seed": np.arange(config.seeds), "query": [0, 1], "key_bias": [0, 1]}
    train = functools.partial(backcopy.trained, config)
    dims = dict.fromkeys(_BY_BLOCK, ("block",))
    variants = [WEIGHTINGS[bj.check.choice("weightings", name, WEIGHTINGS)] for name in config.weightings]
    found = bj.sweep.run(train, axes, static={"variant": variants}, dims=dims)
    found = found.drop_vars("status").rename(variant="weighting", key_bias="key")
    # What the first token has where a query looks at all that it sees alike
    even = float(np.mean(1 / np.arange(config.first + 1, config.length)))
    coords = {"weighting": list(config.weightings), "block": np.arange(config.blocks) + 1}
    return found.assign_coords(**coords).assign(even=even)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold the first token's weight to what the sources say, or to what is seen here instead."""
    plain, effect = dataset.sel(query=0, key=0), dataset.key_effect.sel(key=1)
    others = [name for name in dataset.weighting.values if name != "softmax"]
    same, moved = effect.sel(weighting="softmax").max(), effect.sel(weighting=others).min()
    made = [at_most("softmax: key bias to 0, weights move", CLOSED_FORM, 1e-4, same, null=moved)]
    if dataset.sizes["seed"] < 10 or set(WEIGHTINGS) > set(dataset.weighting.values):
        return made  # too few to tell
    first = [plain[f"first_{where}"].sel(weighting="softmax").mean("block") for where in ("idle", "busy")]
    idle, busy = (weight / dataset.even for weight in first)
    half, text = bj.plot.confidence(idle, "seed"), "softmax: first weight / even, idle"
    made.append(at_least(text, GUO, 1.1, idle.mean(), interval=half, null=busy.mean()))
    return [*made, *_sink_claims(dataset), *_sigmoid_claims(plain)]


def _sink_claims(dataset: xr.Dataset) -> list[Claim]:
    """A sink alone takes little from the first token, of all that is more than even; a key bias helps it."""
    first = dataset.first_idle.sel(query=0, key=0).mean("block")
    lost = first.sel(weighting="softmax") - first.sel(weighting="softmax, sink")
    # All of what is more than even is what the sink would take by the source
    share = lost / (first.sel(weighting="softmax").mean() - dataset.even)
    total = dataset.total_idle.sel(weighting="softmax, sink").mean(("block", "query"))
    taken = total.sel(key=0) - total.sel(key=1)
    half, text = bj.plot.confidence(share, "seed"), "sink: share of the first's excess taken"
    return [
        at_most(text, "experiment", 0.5, share.mean(), interval=half, null=1.0),
        _more("sink: it takes more with a key bias", GU, taken),
    ]


def _sigmoid_claims(plain: xr.Dataset) -> list[Claim]:
    """More weight by sigmoid in the first block, a lesser share in the last, and a larger value."""
    gap = {}
    for name, values in (("first", plain.first_idle), ("share", plain.first_idle / plain.total_idle)):
        gap[name] = values.sel(weighting="sigmoid") - values.sel(weighting="softmax")
    value = plain.value.sel(weighting="sigmoid") - plain.value.sel(weighting="softmax")
    made = [
        _more("sigmoid - softmax: weight, block 1", "experiment", gap["first"].isel(block=0)),
        _more("sigmoid - softmax: first value", "experiment", value.mean("block")),
    ]
    if plain.sizes["block"] > 1:
        made.append(_more("softmax - sigmoid: share, last block", GU, -gap["share"].isel(block=-1)))
    return made


def _more(text: str, source: str, gain: xr.DataArray) -> Claim:
    """Claim that a paired difference is positive; null: its effect reversed."""
    half = bj.plot.confidence(gain, "seed")
    return at_least(text, source, 0.0, gain.mean(), interval=half, null=-gain.mean())


def table(dataset: xr.Dataset) -> str:
    """First token's weight where nothing is to be copied, by block, with what all weights add up to."""
    rows: list[tuple[str, ...]] = [("weights", "query bias", "key bias", "first token", "all", "copied")]
    means = dataset.mean("seed")
    for name in dataset.weighting.values:
        for query, key in _CELLS:
            one = means.sel(weighting=name, query=query, key=key)
            numbers = (", ".join(f"{x:.2f}" for x in one[of].values) for of in ("first_idle", "total_idle"))
            rows.append((name, _OFF_ON[query], _OFF_ON[key], *numbers, f"{float(one.copied):.2f}"))
    return (
        f"{_text.table(rows)}\nmeans of {dataset.sizes['seed']} seeds; even weight {float(dataset.even):.3f}"
    )


def figure(dataset: xr.Dataset):
    """First token's weight with nothing and something to copy, all weights, and the first token's value."""
    shown = {
        "first_idle": "first token's weight, nothing to copy",
        "first_busy": "first token's weight, to be copied",
        "total_idle": "sum of all weights, nothing to copy",
        "value": "first token's value / the others'",
    }
    fig, axes = bj.plot.panels(list(shown.values()), size=(5.2, 3.2))
    for ax, name in zip(axes, shown, strict=True):
        _draw(ax, dataset[name])
    for ax in axes[:2]:
        ax.axhline(dataset.even, color="grey", linewidth=0.8, linestyle=":")
        ax.set_ylabel("weight (dotted: of even attention)")
    for ax in axes[2:]:
        ax.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    fig.suptitle(
        "The first token gets weight where nothing is to be copied, also beside a learned sink\n"
        f"means and 95% intervals of {dataset.sizes['seed']} seeds",
        fontsize=10,
    )
    return fig


def _draw(ax: Axes, values: xr.DataArray) -> None:
    """Mean and interval of each cell, in groups by weighting and block."""
    groups = [(name, block) for name in values.weighting.values for block in values.block.values]
    for i, ((query, key), color) in enumerate(zip(_CELLS, bj.plot.COLORS, strict=False)):
        one = values.sel(query=query, key=key)
        mean, half = one.mean("seed"), bj.plot.confidence(one, "seed")
        y, error = (np.array([float(x.sel(weighting=n, block=b)) for n, b in groups]) for x in (mean, half))
        label = _LABELS[query, key]
        at = np.arange(len(groups)) + 0.15 * (i - 1.5)
        ax.errorbar(at, y, error, fmt="o", markersize=3, elinewidth=1, color=color, label=label)
    names = [f"{name}\nblock {block}".replace(", ", " with\n") for name, block in groups]
    ax.set_xticks(range(len(groups)), names, fontsize=7)
