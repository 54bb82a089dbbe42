"""The same biases in training and in evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

from biasjax._audit import plan as planning
from biasjax._audit import tables
from biasjax._audit.findings import BiasAudit
from biasjax._audit.plan import Plan


class ModesAudit(NamedTuple):
    """Findings of both modes."""

    train: BiasAudit
    eval: BiasAudit

    def __repr__(self) -> str:
        differ = "1 verdict differs" if len(self.differing) == 1 else f"{len(self.differing)} verdicts differ"
        return f"ModesAudit({differ}\n  train={self.train}\n  eval={self.eval})"

    @property
    def differing(self) -> tuple[str, ...]:
        """Paths of the biases whose verdicts differ."""
        pairs = zip(self.train.findings, self.eval.findings, strict=True)
        return tuple(a.path for a, b in pairs if a.verdict != b.verdict)

    def table(self, width: int | None = None, all: bool = False) -> str:
        """Both modes side by side, a star where they differ; see `BiasAudit.table`."""
        return tables.of_modes(self, width, all)

    def plan(self) -> Plan:
        """Say which biases can be left out together in training, without a loss in evaluation."""
        return planning.of_modes(self.train.findings, self.eval.findings)

    def _repr_html_(self) -> str:
        return tables.html_of_modes(self)

    def summary(self) -> str:
        """Counts in both modes."""
        return f"{self.train.summary('training')} {self.eval.summary('evaluation')}"

    def to_dict(self) -> dict[str, Any]:
        """Both audits as plain Python values."""
        return {"train": self.train.to_dict(), "eval": self.eval.to_dict(), "differing": list(self.differing)}

    def check(self, *verdicts: str) -> None:
        """Raise `AssertionError` if a bias has one of the verdicts in training; see `BiasAudit.check`.

        In evaluation a bias is rarely cancelled; ask ``modes.eval.check`` for more.
        """
        __tracebackhide__ = True  # pytest shows the line that asks
        self.train.check(*verdicts)
