"""Claims held to numbers: what was expected, what was measured, and whether it holds."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

SEED_004 = "seed document 004"
POOLE = "arXiv 1606.05340"
SCHOENHOLZ = "arXiv 1611.01232"
CLOSED_FORM = "closed form"
"""Sources that several experiments name."""


class Claim(NamedTuple):
    """One claim and its measurement.

    Attributes
    ----------
    name
        The claim in a sentence.
    source
        Where it stands: paper, seed document, closed form.
    relation
        "=", "<=" or ">=".
    expected, measured
        Numbers to compare.
    tolerance
        Absolute, of "="; 0 otherwise.
    """

    name: str
    source: str
    relation: str
    expected: float
    measured: float
    tolerance: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the measurement bears the claim out; a NaN never does."""
        if self.relation == "<=":
            return self.measured <= self.expected
        if self.relation == ">=":
            return self.measured >= self.expected
        return math.isfinite(self.measured) and abs(self.measured - self.expected) <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return what `claims.json` holds."""
        return {**self._asdict(), "holds": self.holds}


def equal(name: str, source: str, expected: Any, measured: Any, *, tolerance: Any) -> Claim:
    """Claim that a number is the expected one.

    Examples
    --------
    >>> equal("a plateau", "closed form", 1.0335, 1.02, tolerance=0.03).holds
    True
    """
    return Claim(name, source, "=", float(expected), float(measured), float(tolerance))


def at_most(name: str, source: str, bound: Any, measured: Any) -> Claim:
    """Claim that a number does not exceed a bound.

    Examples
    --------
    >>> at_most("round-off", "float32", 1e-5, float("nan")).holds
    False
    """
    return Claim(name, source, "<=", float(bound), float(measured))


def at_least(name: str, source: str, bound: Any, measured: Any) -> Claim:
    """Claim that a number reaches a bound."""
    return Claim(name, source, ">=", float(bound), float(measured))
