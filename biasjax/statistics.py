"""What running statistics do to a model at inference, and how to measure them anew.

A norm that learns running statistics computes one function in training and another at inference. They part
where the running mean lags behind (a bias that decays, a slow momentum), where few examples are in a batch,
and where statistics were never updated or those of the last batch alone. Nothing is done by name: the norms
are found in the traced program of the model's evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from biasjax import _text, check
from biasjax._statistics import batches as given_batches
from biasjax._statistics import judging
from biasjax._statistics.judging import Statistic
from biasjax._surgery.numbered import numbered
from biasjax._surgery.running import with_statistics
from biasjax.adapters import Pure

__all__ = ["Statistic", "StatisticsAudit", "audit_statistics", "reestimate"]


def __dir__() -> list[str]:
    return __all__


class StatisticsAudit(NamedTuple):
    """Findings of one audit; ``audit[path]`` is that of one norm.

    Attributes
    ----------
    statistics
        One per norm, in program order.
    gap
        Root mean square difference of the outputs in training and evaluation, relative to the outputs.
    """

    statistics: tuple[Statistic, ...]
    gap: float

    def __getitem__(self, path: str) -> Statistic:  # pyright: ignore[reportIncompatibleMethodOverride]
        for found in self.statistics:
            if found.path == path:
                return found
        known = ", ".join(found.path for found in self.statistics)
        raise KeyError(f"audit: expected one of {known}, got {path!r}. Give the path of a norm.")

    def __repr__(self) -> str:
        bad = sum(bool(found.problems) for found in self.statistics)
        norms = "1 norm" if len(self.statistics) == 1 else f"{len(self.statistics)} norms"
        return (
            f"StatisticsAudit({norms}, {bad} with problems; training and evaluation differ by {self.gap:.2g})"
        )

    def table(self) -> str:
        """One line per norm, then what is wrong with which."""
        cells = [("norm", "momentum", "window", "lag", "largest", "variance", "of the gap")]
        cells += [
            (
                found.path,
                f"{found.momentum:.4g}",
                f"{found.window:.3g}",
                f"{found.lag:.2g}",
                f"{found.largest_lag:.2g}",
                f"{found.ratio:.3g}",
                f"{found.share:.0%}",
            )
            for found in self.statistics
        ]
        wrong = [f"{found.path}: {'; '.join(found.problems)}." for found in self.statistics if found.problems]
        differ = f"Training and evaluation differ by {self.gap:.2g} of the outputs."
        return "\n".join([_text.table(cells, right=range(1, 7)), "", *wrong, differ, _LEGEND])

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values; numbers may be inf or nan."""
        plain = [found._asdict() | {"problems": list(found.problems)} for found in self.statistics]
        return {"gap": self.gap, "statistics": plain}


_LEGEND = """\
window: batches that the running statistics remember; lag: distance of the running mean from the mean over
all batches, in standard deviations (root mean square and largest over channels); variance: running one over
that of all batches; of the gap: how much less training and evaluation differ once this norm is right."""


def audit_statistics(pure: Pure, batches: Iterable[Any]) -> StatisticsAudit:
    """Find out what is wrong with the running statistics of a model.

    What they should be is measured as `reestimate` does. Then each norm alone is set right, to see how much
    of the difference between training and evaluation it makes.

    Parameters
    ----------
    pure
        From `biasjax.adapters`, or a `biasjax.adapters.Pure` of your own.
    batches
        Of the size used in training: arrays, or tuples of the model's arguments.

    Raises
    ------
    ValueError
        If there are no batches, if they differ in more than their size, or if evaluation has no norm that
        takes a running mean and a running variance.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from biasjax import norms
    >>> def apply(params, state, x, train):
    ...     return norms.batch_norm(params["norm"], state, x + params["bias"], train=train, momentum=0.9)
    >>> params = {"bias": jnp.array([3.0, 0.0]), "norm": norms.norm_init(2)}
    >>> pure = Pure(apply, params, norms.batch_stats_init(2))
    >>> found = audit_statistics(pure, [jnp.arange(8.0).reshape(4, 2)])["state"]
    >>> round(found.momentum, 3), round(found.largest_lag, 2), found.problems[0]
    (0.9, 2.68, 'never updated')
    """
    what = "audit_statistics"
    given, every = given_batches.checked(what, pure, batches)
    return StatisticsAudit(*judging.judged(what, given, every))


def reestimate(pure: Pure, batches: Iterable[Any], method: str = "exact") -> Pure:
    """Measure running statistics anew.

    Parameters
    ----------
    pure
        From `biasjax.adapters`, or a `biasjax.adapters.Pure` of your own.
    batches
        Arrays, or tuples of the model's arguments; of any size for "exact".
    method
        "exact": mean and variance over all batches, norm after norm, each with those before it set right
        (one pass for each norm behind another); "ema": training passes, whose momentum averages over few.

    Returns
    -------
    Pure
        The model with other running statistics; parameters and everything else stay.

    Raises
    ------
    ValueError
        As `audit_statistics`; and if statistics do not enter entry by entry.

    References
    ----------
    Wu & Johnson, arXiv 2105.07576 (PreciseBN); Singh & Shrivastava, arXiv 1904.06031 (EvalNorm).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from biasjax import norms
    >>> def apply(params, state, x, train):
    ...     return norms.batch_norm(norms.Norm(), state, x, train=train)
    >>> pure = Pure(apply, {}, norms.batch_stats_init(2))
    >>> reestimate(pure, [jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[5.0, 6.0]])]).state.mean
    Array([3., 4.], dtype=float32)
    """
    what = "reestimate"
    check.choice("method", method, ("exact", "ema"))
    given, every = given_batches.checked(what, pure, batches)
    if method == "ema":
        state = pure.state
        for batch in every:
            state = pure.apply(pure.params, state, *batch, train=True)[1]
        return pure._replace(state=state)
    model = numbered(given)
    values = judging.exact(what, given, model, judging.found_norms(what, model), every)[0]
    return with_statistics(given, model, values)
