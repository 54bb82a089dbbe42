"""Findings of an audit, and their tables.

`biasjax.audit` makes them; nothing here computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from biasjax import check
from biasjax._audit import deaths
from biasjax._audit.shifts import Shifted

VERDICTS = ("unused", "cancelled", "partly cancelled", "absorbable", "partly absorbable", "needed")


_LEGEND = (
    "rank: directions that change an output; unique: those that no other bias can stand in for. "
    "Of biases that absorb each other one must stay."
)


class Basis(NamedTuple):
    """Directions of a bias that do nothing.

    Attributes
    ----------
    name
        "uniform" (all entries alike), "per group" (alike within consecutive groups), "entries" (some
        entries), or "other".
    vectors
        Orthonormal, float64 (size, dimension), the bias flattened in C order.
    """

    name: str
    vectors: np.ndarray


class Finding(NamedTuple):
    """What one bias leaf can do.

    Attributes
    ----------
    path
        Keys joined by "/".
    size
        Number of entries.
    rank
        Dimension of the shifts that change an output, at some draw.
    unique
        Dimension of the shifts that no shift of the other biases reproduces; None without ``joint``.
    verdict
        One of `VERDICTS`.
    is_zero
        Whether the given value is zero, apart from what the bias could do.
    evidence
        Largest relative output change under finite shifts of the whole bias, and the round-off level.
    basis
        The directions that do nothing if there are some but not all, else None.
    absorbed_by
        Paths of a smallest set of biases found that reproduces all that can be reproduced.
    deaths
        Equations at which the shifts that do nothing die, in program order.
    """

    path: str
    size: int
    rank: int
    unique: int | None
    verdict: str
    is_zero: bool
    evidence: Shifted
    basis: Basis | None
    absorbed_by: tuple[str, ...]
    deaths: tuple[deaths.Death, ...]


class BiasAudit(NamedTuple):
    """Findings of one audit.

    Attributes
    ----------
    findings
        One per bias leaf, in tree order.
    exact
        Whether ``unique`` took all biases into account at once; otherwise it is an upper bound.
    """

    findings: tuple[Finding, ...]
    exact: bool = True

    def __getitem__(self, path: str) -> Finding:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Finding of one bias by its path."""
        for finding in self.findings:
            if finding.path == path:
                return finding
        known = ", ".join(f.path for f in self.findings)
        raise KeyError(f"audit: expected one of {known}, got {path!r}. Give the path of a bias.")

    def table(self) -> str:
        """One line per bias: path, size, rank, unique, verdict, and why."""
        cells = [("bias", "size", "rank", "unique", "verdict", "why")]
        for f in self.findings:
            unique = "-" if f.unique is None else str(f.unique)
            cells.append((f.path, str(f.size), str(f.rank), unique, f.verdict, _why(f)))
        return "\n".join([_columns(cells, right=(1, 2, 3)), self.summary(), _LEGEND])

    def to_dict(self) -> dict:
        """Findings as plain Python values, fit for JSON."""
        return {"exact": self.exact, "findings": [_plain(finding) for finding in self.findings]}

    def summary(self, mode: str = "") -> str:
        """Count the biases, and the parameters in them, that do nothing."""
        dead = [f for f in self.findings if f.rank == 0]
        entries, total = sum(f.size - f.rank for f in self.findings), sum(f.size for f in self.findings)
        where = f" in {mode}" if mode else ""
        return (
            f"{len(dead)} of {len(self.findings)} biases, {entries:,} of {total:,} parameters, "
            f"do nothing{where}."
        )

    def check(self, *verdicts: str) -> None:
        """Raise `AssertionError` with the table if any finding has one of the verdicts.

        One line in your own tests: ``audit_biases(fn, params, x).check("cancelled")``.

        Parameters
        ----------
        verdicts
            Of `VERDICTS`; "cancelled" and "unused" if none is given.

        Raises
        ------
        AssertionError
            If a bias is found to be so.
        ValueError
            If a verdict is unknown, or was not asked for (absorbable, without ``joint``).
        """
        wanted = verdicts or ("cancelled", "unused")
        found = self.having(*wanted)
        if found:
            raise AssertionError(
                f"expected no {' or '.join(wanted)} bias, got {len(found)}: "
                f"{', '.join(f.path for f in found)}. {_remedy(found)}\n{self.table()}"
            )

    def having(self, *verdicts: str) -> tuple[Finding, ...]:
        """Findings with one of the verdicts; raises as `check` does."""
        check_verdicts("verdict", verdicts, all(f.unique is not None for f in self.findings))
        return tuple(f for f in self.findings if f.verdict in verdicts)


class ModesAudit(NamedTuple):
    """The same biases in training and in evaluation."""

    train: BiasAudit
    eval: BiasAudit

    @property
    def differing(self) -> tuple[str, ...]:
        """Paths of the biases whose verdicts differ."""
        pairs = zip(self.train.findings, self.eval.findings, strict=True)
        return tuple(a.path for a, b in pairs if a.verdict != b.verdict)

    def table(self) -> str:
        """Both modes side by side, a star where they differ."""
        cells = [("bias", "size", "training", "rank", "evaluation", "rank", "")]
        for a, b in zip(self.train.findings, self.eval.findings, strict=True):
            star = "*" if a.verdict != b.verdict else ""
            cells.append((a.path, str(a.size), a.verdict, str(a.rank), b.verdict, str(b.rank), star))
        return "\n".join([_columns(cells, right=(1, 3, 5)), self.summary()])

    def summary(self) -> str:
        """Counts in both modes."""
        return f"{self.train.summary('training')} {self.eval.summary('evaluation')}"

    def to_dict(self) -> dict:
        """Both audits as plain Python values."""
        return {"train": self.train.to_dict(), "eval": self.eval.to_dict(), "differing": list(self.differing)}

    def check(self, *verdicts: str) -> None:
        """Raise `AssertionError` if a bias has one of the verdicts in training; see `BiasAudit.check`.

        In evaluation a bias is rarely cancelled; ask ``modes.eval.check`` for more.
        """
        self.train.check(*verdicts)


def check_verdicts(what: str, verdicts: Sequence[str], joint: bool) -> None:
    """Raise if a verdict is unknown, or asks for a comparison of biases that an audit has not made."""
    for verdict in verdicts:
        check.choice(what, verdict, VERDICTS)
        if "absorbable" in verdict and not joint:
            check.fail(what, "an audit with joint=True", f"{verdict!r} without", "Let it compare biases.")


def _remedy(found: Sequence[Finding]) -> str:
    verdicts = {f.verdict for f in found}
    if verdicts <= {"cancelled", "unused"}:
        return "Leave them out (use_bias=False), or keep them at zero."
    if "absorbable" in verdicts:
        return "Of biases that absorb each other one must stay: leave out one at a time."
    return "See which directions, and where they die, in the table."


def verdict_of(used: bool, size: int, rank: int, unique: int | None) -> str:
    """Verdict of `VERDICTS` for a bias, from whether an output depends on it and its ranks."""
    if not used:
        return "unused"
    if rank == 0:
        return "cancelled"
    if unique == 0:
        return "absorbable"
    if rank < size:
        return "partly cancelled"
    return "partly absorbable" if unique is not None and unique < rank else "needed"


def basis_name(vectors: np.ndarray) -> str:
    """Name of a subspace by its projector, which does not depend on the basis."""
    n, k = vectors.shape
    projector = vectors @ vectors.T
    if n % k == 0:
        group = np.arange(n) // (n // k)
        alike = (group[:, None] == group) * (k / n)
        if np.allclose(projector, alike, atol=1e-6):
            return "uniform" if k == 1 else "per group"
    entries = np.diag(projector).round()
    return "entries" if np.allclose(projector, np.diag(entries), atol=1e-6) else "other"


def _why(f: Finding) -> str:
    parts = []
    if f.deaths:
        module = f" in {f.deaths[0].module}" if f.deaths[0].module else ""
        parts.append(f"dies at {f.deaths[0].primitive}{module}, {_short(f.deaths[0].where)}")
    if f.basis:
        parts.insert(0, f"{f.basis.name} ({f.size - f.rank})")
    if f.absorbed_by:
        parts.append("absorbed by " + ", ".join(f.absorbed_by))
    return "; ".join(parts)


def _short(where: str) -> str:
    return "/".join(where.split("/")[-2:])


def _plain(f: Finding) -> dict:
    basis = None if f.basis is None else {"name": f.basis.name, "dimension": f.basis.vectors.shape[1]}
    plain = f._asdict() | {"evidence": f.evidence._asdict(), "basis": basis}
    return plain | {"absorbed_by": list(f.absorbed_by), "deaths": [death._asdict() for death in f.deaths]}


def _columns(cells: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    rule = "-" * min(max(len(line.rstrip()) for line in lines), 100)
    return "\n".join([lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:]), rule])
