"""Claims held to numbers: what was expected, what was measured, what the same gives without the bias."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

NOTEBOOK = "notebook on Xavier and the bias"
POOLE = "arXiv 1606.05340"
SCHOENHOLZ = "arXiv 1611.01232"
CLOSED_FORM = "closed form"
"""Sources that several experiments name."""

SIGNS = {"=": "=", "<=": "≤", ">=": "≥"}


class Claim(NamedTuple):
    """One claim and its measurement.

    Attributes
    ----------
    name
        The claim in a few words, at most 38 characters, so that a table of claims fits a terminal.
    source
        Where it stands: paper, forum thread, closed form.
    relation
        "=", "<=" or ">=".
    expected, measured
        Numbers to compare.
    tolerance
        Absolute, of "="; 0 otherwise.
    interval
        Half of the 95% confidence interval of ``measured``, all of which must be on the right side of a
        bound; 0 where nothing scatters. null Of a claim about a bias: what the same measure gives where the
        bias is off, or its effect has the other sign. The claim must fail for it; None for a claim about no
        bias.
    """

    name: str
    source: str
    relation: str
    expected: float
    measured: float
    tolerance: float = 0.0
    interval: float = 0.0
    null: float | None = None

    @property
    def verdict(self) -> str:
        """Either "holds", "fails", or "empty": it would hold without the bias, too."""
        if not self._bears(self.measured, self.interval):
            return "fails"
        return "holds" if self.null is None or self._refutes(self.null) else "empty"

    @property
    def holds(self) -> bool:
        """Whether the measurement, and that alone, bears the claim out; a NaN never does."""
        return self.verdict == "holds"

    def _bears(self, value: float, interval: float) -> bool:
        if self.relation == "<=":
            return value + interval <= self.expected
        if self.relation == ">=":
            return value - interval >= self.expected
        return math.isfinite(value) and abs(value - self.expected) <= self.tolerance

    def _refutes(self, null: float) -> bool:
        """Whether the claim fails for its null twin, all of its interval included; a NaN shows nothing."""
        return not math.isnan(null) and not self._bears(null, -self.interval)

    def cells(self) -> tuple[str, ...]:
        """Verdict, name, and what was expected, measured, and given by the null twin, for a table.

        Examples
        --------
        >>> equal("a plateau", "closed form", 1.0335, 1.02, tolerance=0.03, null=0.0).cells()
        ('holds', 'a plateau', '= 1.03±0.03', '1.02', '0')
        """
        expected = f"{SIGNS[self.relation]} {_number(self.expected)}"
        expected += f"±{self.tolerance:.1g}" if self.tolerance else ""
        measured = _number(self.measured) + (f"±{self.interval:.1g}" if self.interval else "")
        return self.verdict, self.name, expected, measured, "" if self.null is None else _number(self.null)

    def to_dict(self) -> dict[str, Any]:
        """Return what `claims.json` holds."""
        return {**self._asdict(), "verdict": self.verdict}


def equal(
    name: str,
    source: str,
    expected: Any,
    measured: Any,
    *,
    tolerance: Any,
    interval: Any = 0.0,
    null: Any = None,
) -> Claim:
    """Claim that a number is the expected one.

    Examples
    --------
    >>> equal("a plateau", "closed form", 1.0335, 1.02, tolerance=0.03).verdict
    'holds'
    """
    return _claim(name, source, "=", expected, measured, tolerance, interval, null)


def at_most(
    name: str, source: str, bound: Any, measured: Any, *, interval: Any = 0.0, null: Any = None
) -> Claim:
    """Claim that a number does not exceed a bound.

    Examples
    --------
    >>> at_most("accuracy with the bias", "trial", 0.5, 0.17, null=0.4).verdict
    'empty'
    """
    return _claim(name, source, "<=", bound, measured, 0.0, interval, null)


def at_least(
    name: str, source: str, bound: Any, measured: Any, *, interval: Any = 0.0, null: Any = None
) -> Claim:
    """Claim that a number reaches a bound.

    Examples
    --------
    >>> at_least("steeper with the bias", "experiment", 1.0, 1.1, interval=0.2).verdict
    'fails'
    """
    return _claim(name, source, ">=", bound, measured, 0.0, interval, null)


def _number(value: float) -> str:
    """Three digits, or all of a count's."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 and value == round(value) else f"{value:.3g}"


def _claim(
    name: str,
    source: str,
    relation: str,
    expected: Any,
    measured: Any,
    tolerance: Any,
    interval: Any,
    null: Any,
) -> Claim:
    expected, measured, tolerance, interval = map(float, (expected, measured, tolerance, interval))
    return Claim(
        name, source, relation, expected, measured, tolerance, interval, None if null is None else float(null)
    )
