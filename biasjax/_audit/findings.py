"""What an audit finds: types, verdicts, and their tables. Nothing here computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from biasjax import _text, check
from biasjax._audit import plan as planning
from biasjax._audit import tables, words
from biasjax._audit.plan import Plan

VERDICTS = ("unused", "cancelled", "partly cancelled", "absorbable", "partly absorbable", "needed", "alive")

# They say what other biases can do
COMPARED = ("absorbable", "partly absorbable", "needed")

# How far above round-off a change is one
_ALIVE = 50.0


class Death(NamedTuple):
    """An equation at which a shift dies.

    Attributes
    ----------
    primitive
        JAX primitive, e.g. "sub".
    module
        Name stack, e.g. "ResNet/BatchNorm_0"; empty for frameworks that set none.
    where
        "file:line (function)" of the model's or its library's code.
    """

    primitive: str
    module: str
    where: str


class Made(NamedTuple):
    """Where a bias enters the program, and what leaves it out.

    Attributes
    ----------
    where
        "file:line (function)" of the user's code that first calls for it, past the frames of frameworks; of a
        framework's layer if no line of the user's is known (a functional Keras model).
    layer
        Layer of a framework that it belongs to, e.g. "flax.linen.Dense"; empty for one of the user's own.
    flag
        Its argument that leaves the bias out, e.g. "use_bias=False"; empty if there is none.
    part
        Part of a layer whose flag serves several, e.g. "key"; empty if it serves this bias alone.
    step
        Number of the equation of the program that uses it first, or of the loop around that.
    """

    where: str
    layer: str
    flag: str
    part: str
    step: int = 0


class Shifted(NamedTuple):
    """Largest relative output change under finite shifts of a bias, and the round-off it is held against."""

    change: float
    noise: float

    @property
    def alive(self) -> bool:
        """Whether the change is more than round-off."""
        return self.change > _ALIVE * self.noise


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

    def __repr__(self) -> str:
        return _text.brief(self)


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
    made
        Where the bias enters the program; None if it is not used.
    compensation
        How far the farthest entry of others moves to make up for a shift of this bias whose farthest entry
        moves by one, at one draw: with thousands, float32 keeps few digits. None where they do nothing.
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
    deaths: tuple[Death, ...]
    made: Made | None = None
    compensation: float | None = None

    def __repr__(self) -> str:
        unique = "" if self.unique is None else f", unique {self.unique}"
        why = f"; {self.why()}" if self.why() else ""
        return f"Finding({self.path}: {self.verdict}, rank {self.rank} of {self.size}{unique}{why})"

    def why(self) -> str:
        """Reasons in a few words: which directions die where, and who absorbs the others."""
        return words.why(self)

    def remedy(self) -> str:
        """What to change in the model, in the words of its framework; empty for a bias that does something.

        Examples
        --------
        >>> made = Made("net.py:12 (Net.__call__)", "flax.linen.Conv", "use_bias=False", "")
        >>> Finding("conv/bias", 8, 0, 0, "cancelled", True, Shifted(0, 1e-16), None, (), (), made).remedy()
        'use_bias=False of flax.linen.Conv'
        """
        return words.remedy(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values; of the basis its name and dimension."""
        basis = self.basis and {"name": self.basis.name, "dimension": self.basis.vectors.shape[1]}
        made = self.made and self.made._asdict()
        plain = self._asdict() | {"evidence": self.evidence._asdict(), "basis": basis, "made": made}
        deaths = [death._asdict() for death in self.deaths]
        return plain | {"absorbed_by": list(self.absorbed_by), "deaths": deaths}


class BiasAudit(NamedTuple):
    """Findings of one audit; ``audit[path]`` is one of them.

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
        for finding in self.findings:
            if finding.path == path:
                return finding
        known = ", ".join(f.path for f in self.findings)
        raise KeyError(f"audit: expected one of {known}, got {path!r}. Give the path of a bias.")

    def __repr__(self) -> str:
        bound = "" if self.exact else "; unique is an upper bound"
        counts = Counter(f.verdict for f in self.findings)
        found = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        biases = "1 bias" if len(self.findings) == 1 else f"{len(self.findings)} biases"
        return f"BiasAudit({biases}: {found}; {self._dead_entries()} do nothing{bound})"

    def _dead_entries(self) -> str:
        dead, total = sum(f.size - f.rank for f in self.findings), sum(f.size for f in self.findings)
        return f"{dead:,} of {total:,} parameters"

    def table(self, width: int | None = None, all: bool = False) -> str:
        """Draw a table for people: biases of one pattern in one row, the worst first, and what to do.

        Parameters
        ----------
        width
            Of the lines at most, from 60; by default the terminal's.
        all
            A row for each bias in tree order, as wide as it gets.
        """
        return tables.of_audit(self, width, all)

    def plan(self) -> Plan:
        """Say which biases can be left out together, and how.

        Those that do nothing, and of those that absorb each other as many as the others can make up for.

        Examples
        --------
        >>> still = Finding("conv/bias", 8, 0, 0, "cancelled", True, Shifted(0, 1e-16), None, (), ())
        >>> absorbed = still._replace(path="value/bias", verdict="absorbable", absorbed_by=("out/bias",))
        >>> other = absorbed._replace(path="out/bias", absorbed_by=("value/bias",))
        >>> BiasAudit((still, absorbed, other)).plan()
        Plan(2 biases can go, 16 parameters; 1 stay for them)
        """
        return planning.plan(self.findings)

    def _repr_html_(self) -> str:
        return tables.html_of_audit(self)

    def to_dict(self) -> dict[str, Any]:
        """Findings as plain Python values, fit for JSON."""
        return {"exact": self.exact, "findings": [finding.to_dict() for finding in self.findings]}

    def summary(self, mode: str = "") -> str:
        """Count the biases, and the parameters in them, that do nothing."""
        dead = sum(f.rank == 0 for f in self.findings)
        where = f" in {mode}" if mode else ""
        return f"{dead} of {len(self.findings)} biases, {self._dead_entries()}, do nothing{where}."

    def check(self, *verdicts: str) -> None:
        """Raise `AssertionError` with the table if any finding has one of the verdicts.

        One line in your own tests: ``audit_biases(fn, params, x).check("cancelled")``.

        Parameters
        ----------
        verdicts
            Of `VERDICTS`; "cancelled" and "unused" if none is given. `ValueError` if one is unknown, or was
            not asked for (absorbable, without ``joint``).
        """
        __tracebackhide__ = True  # pytest shows the line that asks
        wanted = verdicts or ("cancelled", "unused")
        found = self.having(*wanted)
        if found:
            raise AssertionError(
                f"expected no {' or '.join(wanted)} bias, got {len(found)}: "
                f"{', '.join(f.path for f in found)}. {_remedy(found)}\n{self.table()}"
            )

    def having(self, *verdicts: str) -> tuple[Finding, ...]:
        """Findings with one of the verdicts; raises `ValueError` as `check` does."""
        check_verdicts("verdict", verdicts, all(f.unique is not None for f in self.findings))
        return tuple(f for f in self.findings if f.verdict in verdicts)


def check_verdicts(what: str, verdicts: Sequence[str], joint: bool) -> None:
    """Raise if a verdict is unknown, or asks for a comparison of biases that an audit has not made."""
    check.flags(joint=joint)
    if isinstance(verdicts, str) or not isinstance(verdicts, Sequence):
        got = type(verdicts).__name__
        check.fail(what, "a sequence of verdicts", got, 'Write it as a list, e.g. ["cancelled"].', TypeError)
    for verdict in verdicts:
        check.choice(what, verdict, VERDICTS)
        if verdict in COMPARED and not joint:
            check.fail(what, "an audit with joint=True", f"{verdict!r} without", "Let it compare biases.")


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
    if unique is None:
        return "alive"
    return "partly absorbable" if unique < rank else "needed"


def _remedy(found: Sequence[Finding]) -> str:
    verdicts = {f.verdict for f in found}
    if verdicts <= {"cancelled", "unused"}:
        return "Leave them out (use_bias=False), or keep them at zero."
    if "absorbable" in verdicts:
        return "Of biases that absorb each other one must stay: leave out one at a time."
    return "See which directions, and where they die, in the table."
