"""The biases of a model in the order in which its program uses them, with what was found in every mode."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from biasjax import check
from biasjax._audit.findings import BiasAudit, Finding
from biasjax._audit.modes import ModesAudit

if TYPE_CHECKING:
    from markupsafe import Markup

# How a verdict looks without its colour; read by the style, too
SIGNS = {
    "cancelled": "×",
    "unused": "0",
    "partly cancelled": "÷",
    "absorbable": "=",
    "partly absorbable": "~",
    "needed": "•",
    "alive": "+",
}


class Bias(NamedTuple):
    """One bias: its number in the program's order, from 1, and a finding for each mode."""

    number: int
    findings: tuple[Finding, ...]

    @property
    def path(self) -> str:
        """Keys joined by "/"."""
        return self.findings[0].path

    @property
    def id(self) -> str:
        """What links name it by."""
        return f"bias-{self.number}"


class Biases(NamedTuple):
    """All biases of a model.

    Attributes
    ----------
    modes
        "training" and "evaluation", or "" alone if there are none.
    audits
        One for each mode.
    each
        In the order of the program; unused ones last.
    """

    modes: tuple[str, ...]
    audits: tuple[BiasAudit, ...]
    each: tuple[Bias, ...]

    @property
    def compared(self) -> bool:
        """Whether it was asked what biases can do for each other."""
        return any(f.unique is not None for f in self.audits[0].findings)


class Part(NamedTuple):
    """Biases that follow each other in one part of the model."""

    name: str
    biases: tuple[Bias, ...]


def read(audit: BiasAudit | ModesAudit) -> Biases:
    """Biases of an audit by depth."""
    fix = "Give what audit_biases or audit_modes returns."
    if not isinstance(audit, (BiasAudit, ModesAudit)):
        check.fail("report.model", "a BiasAudit or ModesAudit", type(audit).__name__, fix, TypeError)
    modes = ("training", "evaluation") if isinstance(audit, ModesAudit) else ("",)
    audits = tuple(audit) if isinstance(audit, ModesAudit) else (audit,)
    paths = [[f.path for f in one.findings] for one in audits]
    if paths[0] != paths[-1]:
        got = f"{len(paths[0])} and {len(paths[-1])} that differ"
        check.fail("report.model", "the same biases in both modes", got, fix)
    both = sorted(zip(*(one.findings for one in audits), strict=True), key=_depth)
    return Biases(modes, audits, tuple(Bias(i, found) for i, found in enumerate(both, 1)))


def parts(biases: Sequence[Bias]) -> list[Part]:
    """Biases in order, those of one part that follow each other together.

    A part is named by the first key in which paths differ, and by the number behind it.
    """
    keys = [bias.path.split("/") for bias in biases]
    shared = 0
    while keys and len({tuple(one[: shared + 1]) for one in keys}) == 1 and len(keys[0]) > shared + 2:
        shared += 1
    named = [(_part(one[shared:-1]), bias) for one, bias in zip(keys, biases, strict=True)]
    return [
        Part(name, tuple(bias for _, bias in some)) for name, some in groupby(named, key=lambda one: one[0])
    ]


def verdict(finding: Finding) -> Markup:
    """Verdict with its sign."""
    from markupsafe import Markup

    return Markup('<span class="verdict"><i class="sign {}"></i>{}</span>').format(
        kind(finding), finding.verdict
    )


def kind(finding: Finding) -> str:
    """Class of a finding's verdict in the style."""
    return kind_of(finding.verdict)


def kind_of(verdict: str) -> str:
    """Class of a verdict in the style.

    Examples
    --------
    >>> kind_of("partly cancelled")
    'v-partly-cancelled'
    """
    return f"v-{verdict.replace(' ', '-')}"


def _depth(found: tuple[Finding, ...]) -> tuple[bool, int]:
    """Equation that uses a bias first, in training if it is used there; ties stay as in the tree."""
    made = next((f.made for f in found if f.made), None)
    return made is None, made.step if made else 0


def _part(keys: Sequence[str]) -> str:
    return "/".join(keys[: 2 if keys[1:] and keys[1].isdigit() else 1])
