"""How many biases of well-known architectures do nothing, and how many could another bias replace?

Answer: before batch norm all that reach the output through it alone, in transformers the key's; and every
value bias can be replaced. A rule "convolution before batch norm" misses two kinds that the audit finds.

Source: the issues that people file against model after model: "the bias before this norm is redundant"
(tensorflow#37365, timm#357, torchvision#4914, CycleGAN#431, transformers#43838), and the forum question on
bias=False, which asks when bias=False is right. The gallery (`experiments/gallery.py`) has small versions of
fourteen networks, a bias in every layer; `biasjax.audit` sees each as a plain function, in training and in
evaluation.

Expected: what can be counted by hand. In training batch norm cancels every conv bias that reaches the output
through it alone, also along a residual stream, and in MobileNet v2 the bias of the batch norm at a linear
bottleneck; in evaluation it cancels none. Group norm cancels one direction per group, layer norm one of each
bias that is added to the stream. Key biases are cancelled, unless rotary embedding or query-key norm stands
between them and the scores. A value bias can always be replaced by the output bias.

Measured: every count, cancelled / absorbable / needed; absorbable means that other biases, if they stay, can
do the same. Networks without running statistics are one program in either mode. Where nothing sees the batch,
in evaluation or with the norms taken out, none of these are cancelled but the 8 entries of a key bias.

    model             biases, training  evaluation  parameters, training  evaluation
    vgg_bn            2 / 0 / 4         0 / 4 / 2   24 / 0 / 45           0 / 48 / 21
    resnet_v1         6 / 2 / 5         0 / 12 / 1  72 / 32 / 45          0 / 144 / 5
    resnet_v2         6 / 0 / 6         0 / 11 / 1  72 / 0 / 61           0 / 128 / 5
    mobilenet         8 / 0 / 5         0 / 12 / 1  88 / 0 / 61           0 / 144 / 5
    unet              0 / 0 / 8         0 / 0 / 8   12 / 0 / 63           12 / 0 / 63
    pre_norm          1 / 7 / 2         1 / 7 / 2   10 / 52 / 23          10 / 52 / 23
    pre_norm_rotary   0 / 8 / 2         0 / 8 / 2   2 / 60 / 23           2 / 60 / 23
    pre_norm_qk_norm  0 / 8 / 2         0 / 8 / 2   2 / 60 / 23           2 / 60 / 23
    post_norm         1 / 6 / 2         1 / 6 / 2   10 / 43 / 24          10 / 43 / 24
    post_norm_rotary  0 / 6 / 3         0 / 6 / 3   2 / 43 / 32           2 / 43 / 32
    post_norm_qk_norm 0 / 6 / 3         0 / 6 / 3   2 / 43 / 32           2 / 43 / 32
    dcgan             2 / 0 / 5         0 / 5 / 2   24 / 0 / 51           0 / 48 / 27
    conditional_bn    3 / 0 / 7         0 / 3 / 7   32 / 0 / 163          0 / 24 / 171
    film              2 / 0 / 5         0 / 2 / 5   16 / 0 / 37           0 / 16 / 37

A rule "a convolution followed by batch norm" misses two: biases added to ResNet v2's residual stream, which
only batch norms read, and those of MobileNet v2's batch norms at linear bottlenecks, which a 1x1 convolution
and a batch norm read. In evaluation a conv bias before batch norm can be folded into the norm's own, but not
before conditional batch norm or FiLM, where a scale that depends on the input lies in between.

Cost: about 115 s on 2 CPU cores, nearly all of it compiling. Command: `python -m experiments audit_tour`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments.claims import Claim, equal

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

    from biasjax.adapters import Pure
    from biasjax.audit import BiasAudit

MODES = ("train", "eval")
# A bias is needed if it can do anything that no other bias can. Absorbable is said of one at a time: of two
# biases that can stand in for each other, one must stay
FATES = ("cancelled", "absorbable", "needed")
PROJECTIONS = ("value", "query")


@dataclass(frozen=True)
class Config:
    """What to audit."""

    models: tuple[str, ...] = (
        "vgg_bn",
        "resnet_v1",
        "resnet_v2",
        "mobilenet",
        "unet",
        "pre_norm",
        "pre_norm_rotary",
        "pre_norm_qk_norm",
        "post_norm",
        "post_norm_rotary",
        "post_norm_qk_norm",
        "dcgan",
        "conditional_bn",
        "film",
    )
    """Names from experiments.gallery.GALLERY."""
    width: int = 8
    """Channels of the first layer, a multiple of 4."""
    seed: int = 0
    """Of the draws of parameters and inputs."""


SMOKE = Config(models=("film", "pre_norm"), width=4)


def run(config: Config) -> xr.Dataset:
    """Audit model after model; a loop, for every one is another program."""
    import xarray as xr

    from experiments import gallery

    for name in config.models:
        bj.check.choice("models", name, gallery.GALLERY)
    found = [_audit(name, config) for name in config.models]
    counted, once = ("model", "mode", "fate"), ("model",)
    variables = {
        "biases": (counted, "biases by verdict; needed: at least in part"),
        "parameters": (counted, "directions of all biases, by what becomes of a shift along them"),
        "by_hand": (("model", "mode"), "cancelled directions that the architecture leads one to expect"),
        "unnormed": (
            once,
            "directions cancelled where no norm sees the batch: in evaluation, or without norms",
        ),
        "has_modes": (once, "whether training and evaluation are different programs"),
        "value_unique": (once, "directions of value biases that no other bias reproduces"),
        "elsewhere": (("model", "projection"), "attention biases that the output bias alone does not absorb"),
    }
    dataset = xr.Dataset(
        {
            name: (dims, np.array([one[name] for one in found]), {"description": text})
            for name, (dims, text) in variables.items()
        }
    )
    why = [gallery.GALLERY[name].why for name in config.models]
    coords = {"model": list(config.models), "mode": list(MODES), "fate": list(FATES)}
    return dataset.assign_coords(**coords, projection=list(PROJECTIONS), why=("model", why))


def _audit(name: str, config: Config) -> dict[str, Any]:
    """Audit one model, and its twin without norms if it has no modes, and count."""
    from experiments import gallery

    pure, *args = gallery.GALLERY[name].factory(width=config.width)
    audits = _modes(pure, args, config.seed)
    hand = [
        sum(gallery.by_hand(name, f.path, f.size, config.width, mode == "train") for f in audit.findings)
        for mode, audit in zip(MODES, audits, strict=True)
    ]
    unnormed = audits[1] if audits[0] is not audits[1] else _without_norms(name, config)
    values = [f for f in audits[0].findings if f.path.endswith("value/bias")]
    return {
        "biases": [_of_biases(audit) for audit in audits],
        "parameters": [_of_parameters(audit) for audit in audits],
        "by_hand": hand,
        "has_modes": audits[0] is not audits[1],
        "unnormed": _of_parameters(unnormed)[0],
        "value_unique": sum(f.unique or 0 for f in values),
        "elsewhere": [_elsewhere(audits[0], projection) for projection in PROJECTIONS],
    }


def _without_norms(name: str, config: Config) -> BiasAudit:
    """Audit a model whose norms return what they are given."""
    import flax.linen as nn

    from experiments import gallery

    with nn.intercept_methods(_skip_norms):
        pure, *args = gallery.GALLERY[name].factory(width=config.width)
        return _modes(pure, args, config.seed)[0]


def _skip_norms(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    import flax.linen as nn

    if isinstance(context.module, (nn.BatchNorm, nn.GroupNorm, nn.LayerNorm)):
        return args[0]
    return call(*args, **kwargs)


def _elsewhere(audit: BiasAudit, projection: str) -> int:
    """Biases of a projection that the output bias alone does not absorb."""
    found = [f for f in audit.findings if f.path.endswith(f"{projection}/bias")]
    outs = [(f.path.replace(f"{projection}/bias", "out/bias"),) for f in found]
    return sum(f.absorbed_by != out for f, out in zip(found, outs, strict=True))


def _modes(pure: Pure, args: list, seed: int) -> tuple[BiasAudit, BiasAudit]:
    """Audit in training and in evaluation, which are one program without running statistics."""
    import jax

    from biasjax.audit import audit_biases, audit_modes

    if jax.tree.leaves(pure.state):
        modes = audit_modes(pure, *args, seed=seed)
        return modes.train, modes.eval

    def fn(params, *args):
        return pure.apply(params, pure.state, *args, train=False)[0]

    one = audit_biases(fn, pure.params, *args, seed=seed)
    return one, one


def _of_biases(audit: BiasAudit) -> list[int]:
    fates = {"unused": "cancelled", "cancelled": "cancelled", "absorbable": "absorbable"}
    found = [fates.get(f.verdict, "needed") for f in audit.findings]
    return [found.count(fate) for fate in FATES]


def _of_parameters(audit: BiasAudit) -> list[int]:
    cancelled = sum(f.size - f.rank for f in audit.findings)
    needed = sum(f.unique or 0 for f in audit.findings)
    return [cancelled, sum(f.size for f in audit.findings) - cancelled - needed, needed]


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold what the auditor finds to what can be counted by hand.

    Null twins: of directions cancelled in training, those in evaluation, and the other way round; where there
    are no modes, those of the same network with its norms taken out. Of what only value biases can do, what
    only some bias can; of value biases that the output bias does not absorb, query biases.
    """
    cancelled = dataset.parameters.sel(fate="cancelled")
    found = []
    for name in dataset.model.values:
        one = dataset.sel(model=name, mode="train")
        claim = f"{name}: cancelled" + (" in training" if one.has_modes else "")
        both = {"measured": cancelled.sel(model=name, mode="train"), "null": one.unnormed}
        found.append(equal(claim, str(one.why.values), one.by_hand, **both, tolerance=0))
    moded = dataset.model[dataset.has_modes.values]
    if moded.size:
        train, evaluation = (cancelled.sel(mode=mode, model=moded).sum() for mode in MODES)
        expected, source = dataset.by_hand.sel(mode="eval", model=moded).sum(), "running statistics"
        text = "batch norm: cancelled in evaluation"
        found.append(equal(text, source, expected, evaluation, tolerance=0, null=train))
    attends = [name for name in dataset.model.values if name.startswith(("pre_norm", "post_norm"))]
    if attends:
        source, one = "attention weights sum to 1", dataset.sel(model=attends, mode="train")
        unique, needed = one.value_unique.sum(), one.parameters.sel(fate="needed").sum()
        value, query = one.elsewhere.sum("model")
        text = "value biases: {}".format
        found.append(equal(text("what only they can do"), source, 0, unique, tolerance=0, null=needed))
        found.append(equal(text("not the output bias's"), source, 0, value, tolerance=0, null=query))
    return found


def table(dataset: xr.Dataset) -> str:
    """Counts of cancelled / absorbable / needed biases and bias parameters, as Markdown."""
    lines = [
        "| model | biases, training | biases, evaluation | parameters, training | parameters, evaluation |",
        "|---|---|---|---|---|",
    ]
    for name in dataset.model.values:
        one = dataset.sel(model=name)
        cells = [
            " / ".join(str(n) for n in counts.sel(mode=mode).values)
            for counts in (one.biases, one.parameters)
            for mode in MODES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Each cell: cancelled / absorbable (by other biases that stay) / needed."])


def figure(dataset: xr.Dataset):
    """Shares of the bias parameters that are cancelled, absorbable and needed, in training and evaluation."""
    names = [
        name.replace("_", " ") + ("" if moded else " *")
        for name, moded in zip(dataset.model.values, dataset.has_modes.values, strict=True)
    ]
    total = dataset.parameters.sum("fate")
    titles, size = ["in training", "in evaluation"], (4.6, 1.5 + 0.28 * len(names))
    fig, axes = bj.plot.panels(titles, size=size)
    for ax, mode in zip(axes, MODES, strict=True):
        left = np.zeros(len(names))
        for fate, color in zip(FATES, ("#D55E00", "#E69F00", "#56B4E9"), strict=True):
            share = 100 * (dataset.parameters.sel(fate=fate) / total).sel(mode=mode).values
            ax.barh(names, share, left=left, color=color, label=fate, height=0.75)
            left += share
        ax.set(xlim=(0, 100), xlabel="% of the bias parameters")
        ax.margins(y=0.02)
        ax.invert_yaxis()
        ax.grid(False)
    axes[1].set_yticklabels([])
    fig.suptitle("Batch norm cancels biases in training and none in evaluation")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    axes[0].set_ylabel("network (*: one program in either mode)")
    return fig
