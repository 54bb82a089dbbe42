"""Why two checkpoints differ: in what does nothing, what makes up for each other, or what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from biasjax import _text, check
from biasjax._audit import checkpoints, exchange
from biasjax._audit.exchange import Part
from biasjax._audit.findings import BiasAudit
from biasjax._audit.model import Model, trace
from biasjax._audit.options import Options, checked
from biasjax._audit.points import Varies, rms
from biasjax._audit.rounding import Line, Machine, leaving, machine

_WHAT = "explain_difference"
_KINDS = ("dead", "rounding", "absorbed", "real")

_LEGEND = """\
change: of an output in float64, relative to the largest, if this alone is exchanged.
dead: none, but for the rounding of what is stored; rounding: so is the difference itself;
absorbed: none if those named are exchanged with it; real: all others."""
_HARM = """\
{dtypes}: root mean square of a dead difference from which outputs change by more than
{within:g} of their size, and by more than twice what the dtype's rounding does.
*: the difference is larger."""


class Difference(NamedTuple):
    """What the difference of one leaf, or of a part of it, does.

    Attributes
    ----------
    path
        Keys joined by "/".
    part
        "" for the whole leaf; else of a bias that is partly cancelled "dead" directions or the "rest".
    size
        Root mean square of the difference; nan where it is none of numbers.
    kind
        "dead" (no output changes, but for round-off or what rounding the stored values does), "rounding" (nor
        is the difference more than such rounding), "absorbed" (none changes if others are exchanged with it)
        or "real".
    change
        Largest change of an output, relative to the largest, if this alone is exchanged, in float64.
    absorbed_by
        Paths of the others that make up for it.
    sizes
        Of a dead difference of floats, by dtype the size from which it does harm; see `Limit`.
    """

    path: str
    part: str
    size: float
    kind: str
    change: float
    absorbed_by: tuple[str, ...]
    sizes: dict[str, float]

    @property
    def harmed(self) -> tuple[str, ...]:
        """Dtypes in which a dead difference is large enough to change outputs."""
        return tuple(dtype for dtype, size in self.sizes.items() if self.size >= size)


class Differences(NamedTuple):
    """All differences of two sets of parameters, in tree order.

    Attributes
    ----------
    differences
        One per leaf that differs, or two where an audit says that some of its directions are dead.
    change
        Largest change of an output between the two, relative to the largest, in float64.
    within
        Change that counts as no harm to a dtype.
    """

    differences: tuple[Difference, ...]
    change: float
    within: float

    def __repr__(self) -> str:
        counts = Counter(found.kind for found in self.differences)
        kinds = [f"{counts[kind]} {kind}" for kind in _KINDS if counts[kind]] or ["none"]
        return f"Differences({', '.join(kinds)}; outputs differ by {self.change:.2g})"

    def having(self, kind: str) -> tuple[Difference, ...]:
        """Differences of one kind: "dead", "rounding", "absorbed" or "real"."""
        check.choice("kind", kind, _KINDS)
        return tuple(found for found in self.differences if found.kind == kind)

    def table(self) -> str:
        """One line per difference."""
        if not self.differences:
            return "The parameters are equal."
        dtypes = list(dict.fromkeys(name for found in self.differences for name in found.sizes))
        cells = [("leaf", "size", "change", "difference", *dtypes, "absorbed by")]
        for found in self.differences:
            sizes = [_shown(found, name) for name in dtypes]
            path = f"{found.path} ({found.part})" if found.part else found.path
            numbers = f"{found.size:.3g}", f"{found.change:.2g}"
            cells.append((path, *numbers, found.kind, *sizes, ", ".join(found.absorbed_by)))
        table = _text.table(cells, right=[1, 2, *range(4, 4 + len(dtypes))])
        harm = [_HARM.format(dtypes=", ".join(dtypes), within=self.within)] if dtypes else []
        return "\n".join([table, "", f"Outputs differ by {self.change:.2g}.", _LEGEND, *harm])

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values; sizes may be inf or nan."""
        plain = [
            found._asdict() | {"absorbed_by": list(found.absorbed_by), "harmed": list(found.harmed)}
            for found in self.differences
        ]
        return {"change": self.change, "within": self.within, "differences": plain}


def explain_difference(
    fn: Callable[..., Any],
    params_a: Any,
    params_b: Any,
    *args: Any,
    audit: BiasAudit | None = None,
    vary_inputs: Varies = True,
    dtypes: Sequence[DTypeLike] = ("float32", "bfloat16", "float16"),
    within: float = 1e-2,
    excess_precision: bool = False,
    seed: int = 0,
) -> Differences:
    """Say which differences of two checkpoints do nothing, make up for each other, or are real.

    Each leaf that differs, bias or not, is exchanged in either checkpoint, with all other leaves as they are
    there, and outputs are compared in float64 at the given inputs and at two draws of them. Then sets of
    leaves that change outputs one by one are exchanged together.

    A leaf is judged as a whole: one that has been moved in part, and differs in earnest in another, is real.
    Sets are sought by derivatives, which finds biases moved into each other wherever they are. Of what is
    left (rescaled kernels) all sets are tried of up to six leaves, and of more those that are neighbours in
    the tree: others come out as real. Dead is said of these inputs: where a unit is off at every one of them
    its bias does nothing.

    Parameters
    ----------
    fn
        ``fn(params, *args)``, pure.
    params_a, params_b
        Two pytrees of the same structure and shapes.
    args
        Inputs.
    audit
        Of ``fn``, if there is one: differences of partly cancelled biases are then parted into "dead" and
        "rest".
    vary_inputs, seed
        As of `audit_biases`.
    dtypes, within, excess_precision
        As of `tolerance`: for dead differences, from which size along them outputs of ``params_a`` suffer.
        No dtypes: do not ask.

    Examples
    --------
    >>> def fn(params, x):
    ...     y = x + params["first_bias"]
    ...     return (y - y.mean(0)) @ params["w"] + params["bias"] + params["last_bias"]
    >>> params = {"w": np.eye(2), "first_bias": np.zeros(2), "bias": np.ones(2), "last_bias": np.zeros(2)}
    >>> moved = params | {"first_bias": np.ones(2), "bias": np.zeros(2), "last_bias": np.ones(2)}
    >>> found = explain_difference(fn, params, moved, np.eye(2))
    >>> [(one.path, one.kind, one.absorbed_by) for one in found.differences]
    [('bias', 'absorbed', ('last_bias',)), ('first_bias', 'dead', ()), ('last_bias', 'absorbed', ('bias',))]
    """
    how = machine(dtypes, within, excess_precision)
    checked(Options(seed=seed, vary_inputs=vary_inputs))
    others, rounding = checkpoints.differing(params_a, params_b)
    if not others:
        return Differences((), 0.0, how.within)
    model = trace(fn, params_a, *args, is_bias=lambda path, leaf: True)
    parts, labels = checkpoints.parts(model, others, rounding, _dead(audit))
    with jax.enable_x64(True):
        swap = exchange.prepare(model, parts, vary_inputs, seed)
        changes = [exchange.change(swap, [i]) for i in range(len(parts))]
        nothing = [exchange.is_stored(swap, i, change) for i, change in enumerate(changes)]
        sets = exchange.groups(swap, changes, [i for i, dead in enumerate(nothing) if not dead])
    total = max(float(np.abs(b - a).max()) for a, b in swap.ends)
    small = [
        c > swap.round_off and checkpoints.is_rounding(model, p) for c, p in zip(changes, parts, strict=True)
    ]
    dead = [i for i in range(len(parts)) if nothing[i] and not small[i]]
    sizes = _harm(how, fn, params_a, args, model, {i: parts[i] for i in dead})
    absorbers = {i: [j for j in group if j != i] for group in sets for i in group}
    kinds = dict.fromkeys(range(len(parts)), "real") | dict.fromkeys(absorbers, "absorbed")
    kinds |= {i: "rounding" if small[i] else "dead" for i in range(len(parts)) if nothing[i]}
    names = [model.paths[part.leaf] for part in parts]
    found = [
        Difference(
            path=names[i],
            part=labels[i],
            size=_size(part, model),
            kind=kinds[i],
            change=change,
            absorbed_by=tuple(dict.fromkeys(names[j] for j in absorbers.get(i, ()))),
            sizes=sizes.get(i, {}),
        )
        for i, (part, change) in enumerate(zip(parts, changes, strict=True))
    ]
    return Differences(tuple(found), total, how.within)


def _dead(audit: Any) -> dict[str, np.ndarray]:
    """Dead directions of the biases that have others, too."""
    if audit is None:
        return {}
    if not isinstance(audit, BiasAudit):
        fix = "Take one mode of audit_modes: modes.train."
        check.fail(_WHAT, "a BiasAudit", type(audit).__name__, fix, TypeError)
    return {found.path: found.basis.vectors for found in audit.findings if found.basis}


def _harm(
    how: Machine, fn: Callable, params: Any, args: Any, model: Model, dead: dict[int, Part]
) -> dict[int, dict[str, float]]:
    """For each dead part of a real leaf, by dtype, the size from which outputs of ``params`` suffer."""
    real = {i: part for i, part in dead.items() if part.added and np.isrealobj(part.value)}
    if not real or not how.dtypes:
        return {}
    lines = [Line(p.leaf, model.leaf(p.leaf), p.value / rms(p.value)) for p in real.values()]
    sizes, _ = leaving(how, fn, params, args, model, lines)
    return {i: dict(zip(how.dtypes, row, strict=True)) for i, row in zip(real, sizes.tolist(), strict=True)}


def _size(part: Part, model: Model) -> float:
    if part.added:
        return rms(np.abs(part.value))
    leaf = model.leaf(part.leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return float("nan")
    with np.errstate(invalid="ignore"):
        return rms(np.abs(part.value.astype(float) - leaf.astype(float)))


def _shown(found: Difference, dtype: str) -> str:
    if dtype not in found.sizes:
        return ""
    return f"{found.sizes[dtype]:.3g}{'*' * (dtype in found.harmed)}"
