"""Tables of text, the same everywhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence


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
