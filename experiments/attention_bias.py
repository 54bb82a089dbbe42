"""Which biases of a transformer do anything, in attention, dense layers and norms?

Answer: in attention key biases do nothing, and value biases nothing that an output bias could not do, unless
there is rotary embedding (keys) or a sink or sigmoid (both); without any bias no accuracy is lost here.

Source: a forum thread on bias=False, 2021, which asks about "certain layers in an attention architecture" and
is answered that layer norm cancels biases before it; BitFit (arXiv 2106.10199), which tunes biases alone, and
BEFT (arXiv 2509.15974), by which value biases are those to tune. Blocks are audited; small transformers that
read the 8x8 digits row by row are trained without kinds of bias, or trained on digits 0-4 and tuned by one
kind of bias on 128 of digits 5-9. A new head is tuned in every arm, so that arms differ in the body alone.

Expected: softmax cancels a key bias, which shifts all scores of a query alike, unless there is rotary
embedding, query-key norm, a sink or sigmoid. Weights that add up to one pass a value bias on as W_out b_v, so
that an output bias does the same, unless there is a sink or sigmoid. Layer norm cancels the mean of what is
added before it, one direction. A norm's bias does a query's. Tuning a key bias alone gives what a frozen body
gives, tuning a value bias what an output bias could. Value biases would be the best to tune.

Measured, by audit, all as expected, of 8 directions each: a key bias has 0 or 8, a value bias 0 or 8 of its
own; layer norm cancels 1 of what is added before a post-norm, and before a pre-norm leaves 1 of it to others.

One block of 16 features, Adam, 10 seeds: a key bias has 2e-7 of a query bias's gradient, and though it does
nothing, Adam moves it by .045 and more, up to an eighth of a query bias; set to zero it moves no logit by
more than 6e-7 of their spread (rotary: .11 and more). Accuracy, pre-norm LN .879, RMS .880, post-norm .887,
.883, rotary .799, .786: outside rotary no run without key bias differs at all; with no bias .002 ± .004 are
lost.

Beside frozen kernels biases are worth something: all of them .072 ± .054 over the head's .698, with rotary
.077 ± .038 over .628 (everything tuned: .186 and .173). Tuned alone without rotary: query .051 ± .036, norms
.054 ± .036, up .022 ± .013, value .011 ± .024, down .008 ± .007, out .004 ± .019, key 0: its logits are the
frozen body's to 1e-6, with rotary they are not, and it gains .037 ± .021. A tuned value bias folded into the
output bias leaves logits to 6e-7.

So the thread's answer is right of one direction of a bias before layer norm only. That value biases are best
to tune is wrong here: query biases beat them by .045 ± .025. Scope: these digits, few examples, one block,
and vectors by position, which are biases too, in all but rotary; other sizes may change accuracies.

Cost: about 100 s on 2 CPU cores. Command: `python -m experiments attention_bias`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from biasjax import _text
from experiments._parts import attention_panels, bias_tuning, transformers
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

FORUM = "forum thread on bias=False, 2021"
BITFIT, BEFT = "arXiv 2106.10199", "arXiv 2509.15974"
KINDS = transformers.KINDS
SHIFT_FREE = ("pre LN", "post LN", "pre RMS", "post RMS")
"""Variants in which softmax sees each key bias as a shift of all scores of a query."""
_NORMED = "norm biases"
_LOGITS = ("example", "class")


@dataclass(frozen=True)
class Config:
    """What to audit, train and tune."""

    audited: tuple[str, ...] = (*transformers.VARIANTS, _NORMED)
    """Names from experiments._parts.transformers.VARIANTS, all without biases of norms, and "norm biases",
    pre LN with them."""
    audited_features: int = 8
    """Width of an audited block, with as many features between its dense layers; 2 heads."""
    layouts: tuple[str, ...] = ("pre", "post", "rotary")
    """Pre-norm, post-norm, and pre-norm with rotary embedding in place of vectors by position."""
    tuned: tuple[str, ...] = ("pre LN", "rotary")
    """Variants that are tuned by single kinds of bias."""
    learning_rates: tuple[float, ...] = (1e-2,)
    """Rates of Adam to choose from, cell by cell, on the validation split, which of .003, .01 and .03 chooses
    .01 in pre-norm and rotary layouts. The first is that of training on digits 0-4."""
    tuning_rates: tuple[float, ...] = (1e-2, 3e-2)
    """Rates of what is tuned, chosen for each arm on the validation split."""
    head_rate: float = 0.1
    """Rate of the new head, in every arm."""
    seeds: int = 10
    """Draws of parameters and batches."""
    steps: int = 150
    """Updates of a training run."""
    tuning_steps: int = 100
    """Updates of a tuning run."""
    examples: int = 128
    """Of digits 5-9, to tune on."""
    batch_size: int = 32
    """Examples in a batch."""
    width: int = 16
    """Features of the stream."""
    hidden: int = 32
    """Features between the dense layers."""
    heads: int = 2
    """Attention heads."""
    blocks: int = 1
    """Transformer blocks."""


SMOKE = Config(
    audited=("pre LN", "sigmoid"),
    audited_features=4,
    layouts=("pre",),
    tuned=("pre LN",),
    tuning_rates=(3e-2,),
    seeds=4,
    steps=100,
    tuning_steps=50,
)


def run(config: Config) -> xr.Dataset:
    """Audit blocks, train with some of the biases, tune by some of the biases."""
    found = _audits(config)
    axes = {
        "seed": np.arange(config.seeds),
        "rms": [0, 1],
        "learning_rate": list(config.learning_rates),
        "arm": np.arange(len(bias_tuning.TRAINED)),
    }
    lone = [f"without_{kind}" for kind in bias_tuning.PROJECTIONS]
    dims = dict.fromkeys(["logits", "folded", "undone", *lone], _LOGITS)
    train = functools.partial(bias_tuning.trained, config)
    runs = bj.sweep.run(train, axes, static={"layout": list(config.layouts)}, dims=dims)
    # A logit's change is told in standard deviations of the logits
    effects = {
        f"effect_{kind}": _gap(runs[f"without_{kind}"], runs.logits) for kind in bias_tuning.PROJECTIONS
    }
    runs = runs.assign(effects).drop_vars(["logits", *lone, "status"])
    runs = runs.assign_coords(arm=list(bias_tuning.TRAINED), rms=["LN", "RMS"]).rename(rms="norm")
    del axes["rms"]
    axes |= {"learning_rate": list(config.tuning_rates), "arm": np.arange(len(bias_tuning.TUNED))}
    tune = functools.partial(bias_tuning.tuned, config)
    tuned = bj.sweep.run(tune, axes, static={"variant": list(config.tuned)}, dims=dims)
    gaps = {"from_frozen": _gap(tuned.logits, tuned.logits.isel(arm=0))}
    gaps |= {f"{name}_gap": _gap(tuned[name], tuned.logits) for name in ("folded", "undone")}
    tuned = tuned[["accuracy", "validation"]].assign(gaps).assign_coords(arm=list(bias_tuning.TUNED))
    renamed = {"learning_rate": "tuning_rate", "arm": "tuned", "accuracy": "tuned_accuracy"}
    both = found.merge(runs).merge(tuned.rename(renamed | {"validation": "tuned_validation"}))
    return both.assign_attrs(audited_features=config.audited_features)


def _gap(logits: xr.DataArray, others: xr.DataArray) -> xr.DataArray:
    """Largest difference of logits in standard deviations of the others."""
    return abs(logits - others).max(_LOGITS) / others.std(_LOGITS)


def _audits(config: Config) -> xr.Dataset:
    """Ranks of every kind of bias in a block, and what of them no other bias can do."""
    import xarray as xr

    sizes = np.full((2, len(config.audited), len(KINDS)), np.nan)
    for i, name in enumerate(config.audited):
        for finding in _audit(name, config.audited_features).findings:
            kind = finding.path.split("/")[-2]
            if kind != "inner_norm":
                sizes[:, i, KINDS.index(kind)] = finding.rank, finding.unique
    coords = {"audited": list(config.audited), "kind": list(KINDS)}
    dims = ("audited", "kind")
    return xr.Dataset({"effective": (dims, sizes[0]), "unique": (dims, sizes[1])}, coords)


def _audit(name: str, features: int) -> bj.audit.BiasAudit:
    """Audit a block with all biases but the norms', or with these too."""
    import jax

    kinds = KINDS if name == _NORMED else KINDS[:-1]
    variant = transformers.VARIANTS["pre LN" if name == _NORMED else name]
    options = {"use_bias": kinds, "qk_norm": variant.qk_norm, "sink": variant.sink}
    params = bj.transformer.block_init(jax.random.key(0), features, 2, hidden=features, **options)
    x = jax.random.normal(jax.random.key(1), (2, 4, features))

    def fn(params, x):
        options = transformers.mixing(variant, 2) | {"norm": transformers.norm_of(variant)}
        return bj.transformer.block(params, x, pre_norm=variant.pre_norm, **options)

    return bj.audit.audit_biases(fn, params, x, draws=4)


def best(accuracy: xr.DataArray, validation: xr.DataArray, rate: str) -> xr.DataArray:
    """Accuracy at the rate whose mean validation accuracy is best, cell by cell."""
    return accuracy.isel({rate: validation.mean("seed").argmax(rate)}).drop_vars(rate)


def _gains(dataset: xr.Dataset) -> xr.DataArray:
    """Test accuracy of each arm, less that with all biases, by seed."""
    accuracy = best(dataset.accuracy, dataset.validation, "learning_rate")
    return accuracy - accuracy.sel(arm="all", drop=True)


def _tuned_gains(dataset: xr.Dataset) -> xr.DataArray:
    """Test accuracy of each tuned arm, less that of the head alone, by seed."""
    accuracy = best(dataset.tuned_accuracy, dataset.tuned_validation, "tuning_rate")
    return accuracy - accuracy.sel(tuned="frozen", drop=True)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold audits to what is counted by hand, and trained networks to what the audits say."""
    parts = (_audit_claims, _training_claims, _tuning_claims, _accuracy_claims)
    return [claim for part in parts for claim in part(dataset)]


def _audit_claims(dataset: xr.Dataset) -> list[Claim]:
    names, size = set(dataset.audited.values.tolist()), float(dataset.effective.max())

    def kept(values: str, kind: str, *audited: str) -> Any:
        return dataset[values].sel(kind=kind, audited=[name for name in audited if name in names])

    alive = ("rotary", "QK norm", "sink", "sigmoid")
    plain, other = kept("effective", "key", *SHIFT_FREE), kept("effective", "key", *alive)
    made = [
        at_most("audit: what a key bias can do", CLOSED_FORM, 0, plain.max(), null=other.min()),
        at_least("audit: the same, not mere softmax", CLOSED_FORM, size, other.min(), null=plain.max()),
    ]
    summed, not_summed = (*SHIFT_FREE, "rotary", "QK norm"), ("sink", "sigmoid")
    both = kept("unique", "value", *summed).max(), kept("unique", "value", *not_summed).min()
    text = "audit: what only value bias can do"
    made.append(at_most(text, CLOSED_FORM, 0, both[0], null=both[1]))
    made.append(at_least("audit: the same, sink or sigmoid", CLOSED_FORM, size, both[1], null=both[0]))
    if {"post LN", "post RMS"} <= names:
        dead = size - kept("effective", "down", "post LN", "post RMS")
        text = "audit: cancelled of down bias, post LN"
        made.append(equal(text, FORUM, 1, dead[0], tolerance=0, null=dead[1]))
    if {"pre LN", _NORMED} <= names:
        free, normed = (kept("unique", "query", name).max() for name in ("pre LN", _NORMED))
        text = "audit: only query can, norm biases"
        made.append(equal(text, CLOSED_FORM, 0, normed, tolerance=0, null=free))
    return made


def _training_claims(dataset: xr.Dataset) -> list[Claim]:
    full = dataset.sel(arm="all")
    plain = full.sel(layout=_not_rotary(dataset))
    ratio, value = (plain[f"gradient_{kind}"] / plain.gradient_query for kind in ("key", "value"))
    moved = plain.size_key.min()
    off = dataset.sel(arm="no key").size_key.max()
    effect, other = plain.effect_key.max(), plain.effect_query.min()
    made = [
        at_most("gradient: key bias / query bias", CLOSED_FORM, 1e-4, ratio.max(), null=value.min()),
        at_least("yet Adam moves it: norm", "rounding", 1e-3, moved, null=off),
        at_most("trained key bias to 0: logits move", CLOSED_FORM, 1e-3, effect, null=other),
    ]
    if "rotary" in dataset.layout.values:
        turned = full.sel(layout="rotary")
        text = "rotary: key bias to 0, logits move"
        made.append(at_least(text, CLOSED_FORM, 0.01, turned.effect_key.min(), null=effect))
    return made


def _tuning_claims(dataset: xr.Dataset) -> list[Claim]:
    plain = dataset.sel(variant="pre LN")
    key, query = (plain.from_frozen.sel(tuned=kind).max() for kind in ("key", "query"))
    value = plain.sel(tuned="value")
    folded, undone = value.folded_gap.max(), value.undone_gap.min()
    made = [
        at_most("tuned key bias - frozen: logits", BITFIT, 1e-3, key, null=query),
        at_most("tuned value bias folded into out", CLOSED_FORM, 1e-3, folded, null=undone),
    ]
    if "rotary" in dataset.variant.values:
        turned = dataset.from_frozen.sel(variant="rotary", tuned="key")
        made.append(at_least("rotary: tuned key bias - frozen", CLOSED_FORM, 0.05, turned.min(), null=key))
    return made


def _accuracy_claims(dataset: xr.Dataset) -> list[Claim]:
    """What biases are worth: nothing beside trained kernels, something beside frozen ones."""
    plain = abs(_gains(dataset).sel(layout=_not_rotary(dataset)))
    key, query = (plain.sel(arm=f"no {kind}").max() for kind in ("key", "query"))
    made = [at_most("no key bias: |accuracy moved|, any run", CLOSED_FORM, 0.003, key, null=query)]
    if dataset.sizes["seed"] < 10:
        return made
    lost = -_gains(dataset).sel(arm="none").mean(("layout", "norm"))
    gains = _tuned_gains(dataset).mean("variant")
    every, value = gains.sel(tuned="all biases"), gains.sel(tuned="value") - gains.sel(tuned="query")
    half = bj.plot.confidence(lost, "seed")
    text = "trained with no bias: accuracy lost"
    made.append(at_most(text, FORUM, 0.01, lost.mean(), interval=half, null=every.mean()))
    for text, source, claim, gain in (
        ("tuned: all biases - head alone", BITFIT, at_least, every),
        ("tuned: value - query bias", BEFT, at_most, value),
    ):
        half = bj.plot.confidence(gain, "seed")
        made.append(claim(text, source, 0.0, gain.mean(), interval=half, null=-gain.mean()))
    return made


def _not_rotary(dataset: xr.Dataset) -> list[str]:
    return [name for name in dataset.layout.values if name != "rotary"]


def table(dataset: xr.Dataset) -> str:
    """What each kind of bias of a block can do, and of that what no other bias can."""
    rows: list[tuple[str, ...]] = [("block", *KINDS)]
    for name in dataset.audited.values:
        one = dataset.sel(audited=name)
        pairs = zip(one.effective.values, one.unique.values, strict=True)
        rows.append((name, *("-" if np.isnan(all_) else f"{all_:.0f}/{own:.0f}" for all_, own in pairs)))
    counts = _text.table(rows, right=range(1, len(rows[0])))
    size = dataset.attrs["audited_features"]
    return f"{counts}\ndirections of {size} in which a bias does something / that no other bias can do"


def figure(dataset: xr.Dataset):
    """Audits; trained biases taken out; accuracies without kinds of bias; accuracies of tuned kinds."""
    titles = ["what each bias of a block can do", "one trained bias set to zero"]
    titles += ["trained without a kind of bias", "tuned on other digits: one kind of bias, and a head"]
    fig, axes = bj.plot.panels(titles, size=(5.2, 3.5))
    attention_panels.audits(axes[0], dataset)
    attention_panels.effects(axes[1], dataset)
    attention_panels.accuracies(axes[2], _gains(dataset))
    attention_panels.tuned(axes[3], _tuned_gains(dataset))
    fig.suptitle(
        "Softmax cancels the key's bias, and the output's does what the value's does\n"
        f"{dataset.sizes['seed']} seeds; below: means and 95% intervals of paired differences",
        fontsize=10,
    )
    return fig
