"""From which size a bias that does nothing in exact arithmetic harms float32, bfloat16 or float16.

A bias b that a norm or softmax takes away again still passes through a sum x + b, whose rounding grows with b
while x does not. So each dead bias is made larger until the outputs of the model, run in a dtype, leave those
that it has without the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import DTypeLike

from biasjax import _text, check
from biasjax._audit.findings import BiasAudit, Finding
from biasjax._audit.model import Model, trace
from biasjax._audit.options import Options, checked
from biasjax._audit.points import rms
from biasjax._audit.rounding import Line, leaving, machine

_SIZES = """\
Root mean square of a dead bias from which outputs change by more than {within:g} of their size, and by more
than twice what the dtype's rounding does without one: {rounding}."""
# What a size means that is no number
ODD = "inf: no size does; nan: outputs without it are not finite either."


class Limit(NamedTuple):
    """From which sizes one dead bias does harm.

    Attributes
    ----------
    path
        Keys joined by "/".
    dead
        Number of its directions that do nothing in exact arithmetic.
    present
        Root mean square of what the given bias has along these.
    sizes
        By dtype the root mean square from which outputs leave the tolerance: 0 if the smallest does, of 1e-3,
        inf if none does, nan if outputs without the bias are not finite either.
    """

    path: str
    dead: int
    present: float
    sizes: dict[str, float]

    @property
    def harmed(self) -> tuple[str, ...]:
        """Dtypes in which the given bias does harm."""
        return tuple(dtype for dtype, size in self.sizes.items() if self.present > 0 and self.present >= size)


class Tolerances(NamedTuple):
    """Limits of all dead biases; ``tolerances[path]`` is one of them.

    Attributes
    ----------
    limits
        One per bias that is cancelled, wholly or partly, in tree order.
    within
        Change of the outputs that is tolerated, relative to their size.
    rounding
        By dtype the relative error of the outputs, without dead biases, against float64.
    """

    limits: tuple[Limit, ...]
    within: float
    rounding: dict[str, float]

    def __getitem__(self, path: str) -> Limit:  # pyright: ignore[reportIncompatibleMethodOverride]
        for limit in self.limits:
            if limit.path == path:
                return limit
        known = ", ".join(limit.path for limit in self.limits) or "none"
        raise KeyError(f"tolerance: expected one of {known}, got {path!r}. Give the path of a dead bias.")

    def __repr__(self) -> str:
        harmful = sum(bool(limit.harmed) for limit in self.limits)
        lowest = (f"{name} from {min(sizes):.3g}" for name, sizes in self._by_dtype() if sizes)
        biases = "1 dead bias" if len(self.limits) == 1 else f"{len(self.limits)} dead biases"
        return f"Tolerances({'; '.join([f'{biases}, {harmful} harmful as given', *lowest])})"

    def _by_dtype(self) -> list[tuple[str, list[float]]]:
        return [(name, [limit.sizes[name] for limit in self.limits]) for name in self.rounding]

    def table(self) -> str:
        """One line per bias: path, dead directions, size as given, and from which size each dtype suffers."""
        cells = [("bias", "dead", "given", *self.rounding)]
        for limit in self.limits:
            sizes = [f"{size:.3g}{'*' * (name in limit.harmed)}" for name, size in limit.sizes.items()]
            cells.append((limit.path, str(limit.dead), f"{limit.present:.3g}", *sizes))
        table = _text.table(cells, right=range(1, len(cells[0])))
        return f"{table}\n\n{sizes_of(self)}\n*: the given bias is larger; {ODD}"

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values; sizes may be inf or nan."""
        limits = [limit._asdict() | {"harmed": list(limit.harmed)} for limit in self.limits]
        return {"within": self.within, "rounding": dict(self.rounding), "limits": limits}


def sizes_of(tolerances: Tolerances) -> str:
    """Say what the sizes of a table are."""
    rounding = ", ".join(f"{name} {error:.2g}" for name, error in tolerances.rounding.items())
    return _SIZES.format(within=tolerances.within, rounding=rounding)


def tolerance(
    audit: BiasAudit,
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    dtypes: Sequence[DTypeLike] = ("float32", "bfloat16", "float16"),
    within: float = 1e-2,
    excess_precision: bool = False,
    seed: int = 0,
) -> Tolerances:
    """Measure from which size each dead bias harms a machine of finite precision.

    Floating parameters and arguments are cast to a dtype; what ``fn`` casts itself or closes over keeps its
    own. The given values of all other parameters count, and the given inputs.

    Parameters
    ----------
    audit
        Of ``fn``: says which biases, or directions of them, are dead. A result holds neither function nor
        parameters.
    fn, params, args
        As `audit_biases` had them; other values, say trained ones, are welcome.
    dtypes
        Floating dtypes, each compiled once for all biases.
    within
        Tolerated root mean square of the change of an output, relative to its own; and twice its error
        against float64 where that is more, for any shift leads to other rounding.
    excess_precision
        False: every operation rounds to its dtype. True: as `jax.jit` compiles by default, which leaves out
        the rounding of a sum that is cast to float32 at once. That does less harm or none, but whether it
        happens depends on the backend and on what is fused.
    seed
        Of the direction of each bias: a random dead one, and its opposite; the smaller size counts.

    Returns
    -------
    Tolerances
        Sizes are found to 4%, by halving after steps of ten, from 1e-3 to the dtype's largest number.

    Examples
    --------
    >>> from biasjax.audit import audit_biases
    >>> def fn(params, x):
    ...     y = x + params["bias"]
    ...     return y - y.mean(0)
    >>> params, x = {"bias": np.full(2, 100.0)}, np.random.default_rng(0).random((64, 2))
    >>> found = tolerance(audit_biases(fn, params, x), fn, params, x)
    >>> found["bias"].harmed
    ('bfloat16', 'float16')
    """
    dead, how = _dead(audit), machine(dtypes, within, excess_precision)
    checked(Options(seed=seed))
    if not how.dtypes:
        check.fail("dtypes", "at least one dtype", dtypes, 'Give e.g. ("bfloat16",).')
    if not dead:
        return Tolerances((), how.within, {})
    model = trace(fn, params, *args, is_bias=lambda path, leaf: path in dead)
    _check_same(model, dead)
    lines, present = _lines(model, [dead[path] for path in model.names], seed)
    found, errors = leaving(how, fn, params, args, model, lines)
    limits = [
        Limit(path, dead[path].size - dead[path].rank, size, dict(zip(how.dtypes, sizes, strict=True)))
        for path, size, sizes in zip(model.names, present, found.tolist(), strict=True)
    ]
    return Tolerances(tuple(limits), how.within, dict(zip(how.dtypes, errors.tolist(), strict=True)))


def _dead(audit: Any) -> dict[str, Finding]:
    if not isinstance(audit, BiasAudit):
        fix = "Take one mode of audit_modes: modes.train, with the function that in_mode makes."
        check.fail("tolerance", "a BiasAudit", type(audit).__name__, fix, TypeError)
    # An unused bias enters no sum
    return {f.path: f for f in audit.findings if f.rank < f.size and f.verdict != "unused"}


def _check_same(model: Model, dead: dict[str, Finding]) -> None:
    sizes = dict(zip(model.names, model.biases.sizes, strict=True))
    for path, finding in dead.items():
        if sizes.get(path) != finding.size:
            got = f"{sizes[path]}" if path in sizes else "no such leaf"
            fix = "Give the parameters that were audited, or others like them."
            check.fail("tolerance", f"{finding.size} entries at {path!r}", got, fix)


def _lines(model: Model, found: Sequence[Finding], seed: int) -> tuple[list[Line], list[float]]:
    """For each bias a random line of dead shifts, from where it has none of them; and how much it has."""
    lines, present = [], []
    for i, finding in zip(model.biases.indices, found, strict=True):
        given = model.leaf(i).ravel()
        direction = np.random.default_rng([seed, i]).standard_normal(given.size)
        part = given
        if finding.basis:
            vectors = finding.basis.vectors
            part, direction = (vectors @ (vectors.T @ one) for one in (given, direction))
        shape = model.given[i].shape
        start = np.zeros(shape) if part is given else (given - part).reshape(shape)
        lines.append(Line(i, start, (direction / rms(direction)).reshape(shape)))
        present.append(rms(part))
    return lines, present
