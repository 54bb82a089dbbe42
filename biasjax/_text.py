"""Tables of text and short names of results, the same everywhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import jax
import jax.core
import numpy as np

# Arrays of so many entries are shown by value
_FEW = 8


def table(rows: Sequence[Sequence[str]], *, right: Collection[int] = (), footer: bool = False) -> str:
    """Align columns under a header and a rule.

    Parameters
    ----------
    rows
        Cells; the first row is the header.
    right
        Columns whose cells are aligned to the right.
    footer
        Whether a rule parts the last row from the others.

    Examples
    --------
    >>> print(table([("layer", "params"), ("dense", "8"), ("total", "8")], right=(1,), footer=True))
    layer  params
    -------------
    dense       8
    -------------
    total       8
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    body = [*lines[1:-1], rule, lines[-1]] if footer else lines[1:]
    return "\n".join([lines[0], rule, *body])


def brief(result: Any) -> str:
    """Short `repr` of a NamedTuple of arrays, nested or not: small ones by value, others by dtype and shape.

    Examples
    --------
    >>> import numpy as np
    >>> from collections import namedtuple
    >>> print(brief(namedtuple("Found", "q mean status")(np.float32(0.72176), np.zeros((3, 4)), None)))
    Found(q=0.7218, mean=float64[3,4], status=None)
    """
    fields = (f"{name}={_brief(getattr(result, name))}" for name in result._fields)
    return f"{type(result).__name__}({', '.join(fields)})"


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        parts = (f"{name!r}: {_brief(part)}" for name, part in cast(dict[Any, Any], value).items())
        return f"{{{', '.join(parts)}}}"
    if hasattr(value, "_fields"):
        return brief(value)
    if isinstance(value, tuple | list):
        parts = ", ".join(map(_brief, cast(Sequence[Any], value)))
        return f"[{parts}]" if isinstance(value, list) else f"({parts})"
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return repr(value)
    if isinstance(value, jax.core.Tracer) or np.prod(value.shape) > _FEW or value.dtype.kind not in "fiub":
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return np.array2string(np.asarray(value), precision=4, separator=", ")
