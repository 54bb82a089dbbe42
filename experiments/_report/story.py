"""The story in ten lines: what the experiments say together, each line with the numbers of its claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from experiments._report.runs import Record


class Line(NamedTuple):
    """A sentence, with `{}` where what the claims measured stands."""

    experiment: str
    text: str
    claims: tuple[str, ...]


class Told(NamedTuple):
    """A line as these runs tell it.

    Attributes
    ----------
    experiment
        That it rests on.
    text
        With numbers; those that were not measured are "?".
    state
        "holds", "fails" (a claim of it does), or "not shown" (no whole run has these claims).
    """

    experiment: str
    text: str
    state: str


LINES = (
    Line(
        "deep_linear",
        "At initialisation a bias keeps the variance of a deep network up, but what it keeps is its own "
        "noise: at layer 20 two inputs are alike to {}, and gradients vanish as if there were no bias.",
        ("Xavier, bias: 1 - c, layer 20",),
    ),
    Line(
        "phase_diagram",
        "Weights have a critical scale at which two inputs stay apart, and a bias moves it, up for tanh and "
        "down for GELU; measured within {} of mean-field theory at worst.",
        ("line: sigma_w / theory - 1, worst",),
    ),
    Line(
        "trainability",
        "That decides how deep one can train: below the line a bias of .7 takes {} of the accuracy that one "
        "of .05 leaves.",
        ("sigma_w = 1.07: accuracy bias takes",),
    ),
    Line(
        "norm_order",
        "Before batch norm a bias changes nothing in training: losses with and without it differ by {} over "
        "whole runs in float64. With ReLU in between it does.",
        ("BN first: loss gap, float64", "ReLU first: loss gap, least run"),
    ),
    Line(
        "norm_order",
        "At inference it can cost {} of accuracy all the same, as the running mean lags behind a large bias "
        "that weight decay shrinks.",
        ("SGD + L2, b0 = 10: accuracy lost",),
    ),
    Line(
        "regime_map",
        "One number says when, the lag in standard deviations: it explains {} of the variance of what is "
        "lost. People's defaults lose {} at worst.",
        ("accuracy lost: R² of one curve", "people's defaults: lost, worst"),
    ),
    Line(
        "parameter_count",
        "{} bias entries of a ResNet-50 with biases everywhere are dead in training, half of all.",
        ("ResNet-50: dead in training",),
    ),
    Line(
        "attention_bias",
        "Softmax cancels key biases: set to zero after training, they move logits by {} of their spread. With"
        " rotary embedding by {}.",
        ("trained key bias to 0: logits move", "rotary: key bias to 0, logits move"),
    ),
    Line(
        "bias_initialization",
        "How hidden biases are drawn hardly matters as long as they are small: accuracy moves by {} at most.",
        ("small biases: accuracy moved, most",),
    ),
    Line(
        "denoiser",
        "Where inputs are larger than any in training, biases hurt: a denoiser without them gains {} dB at "
        "five times its training noise; within it, it loses {} on a photograph unlike those it learned from.",
        ("dB gained without, same, at 50", "dB lost without, other, at 10"),
    ),
)


def told(records: Mapping[str, Record]) -> list[Told]:
    """Each line with the numbers of the runs there are."""
    return [_told(line, records.get(line.experiment)) for line in LINES]


def _told(line: Line, record: Record | None) -> Told:
    whole = record is not None and record.state == "whole"
    claims = {claim.name: claim for claim in record.claims} if record and whole else {}
    found = [claims.get(name) for name in line.claims]
    numbers = ["?" if claim is None else claim.cells()[3] for claim in found]
    text = line.text.format(*numbers)
    if None in found:
        return Told(line.experiment, text, "not shown")
    return Told(line.experiment, text, "holds" if all(c and c.holds for c in found) else "fails")
