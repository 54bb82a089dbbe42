"""Checks of what a page is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from biasjax import check

Kind = TypeVar("Kind")

_NAME = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_LONGEST = 80  # characters of a value in a message


def text(what: str, value: Any) -> str:
    """Return ``value`` if it is text, HTML or not, else raise.

    Examples
    --------
    >>> text("title", 3)
    Traceback (most recent call last):
    TypeError: title: expected text, got 3. Give a str.
    """
    if not isinstance(value, str):
        check.fail(what, "text", shown(value), "Give a str.", TypeError)
    return value


def name(what: str, value: Any) -> str:
    """Return ``value`` if a link can name a place by it, else raise.

    Examples
    --------
    >>> name("table", "all biases")
    Traceback (most recent call last):
    ValueError: table: expected a name of letters, digits, _ and -, got 'all biases'. Begin with a letter.
    """
    if not _NAME.fullmatch(text(what, value)):
        expected = "a name of letters, digits, _ and -"
        check.fail(what, expected, shown(value), "Begin with a letter.")
    return value


def several(what: str, values: Any, kind: type[Kind]) -> Sequence[Kind]:
    """Return ``values`` if it is a sequence of a kind, else raise.

    Examples
    --------
    >>> several("header", "bias", str)
    Traceback (most recent call last):
    TypeError: header: expected a sequence of str, got 'bias'. Put it into a list.
    """
    expected, fix = f"a sequence of {kind.__name__}", "Put it into a list."
    # A NamedTuple is a sequence, of its fields
    single = isinstance(values, (str, bytes)) or hasattr(values, "_fields")
    if single or not isinstance(values, Sequence):
        check.fail(what, expected, shown(values), fix, TypeError)
    for value in cast(Sequence[Any], values):
        if not isinstance(value, kind):
            check.fail(what, expected, f"{shown(value)} among them", "Leave it out.", TypeError)
    return cast(Sequence[Kind], values)


def shown(value: Any) -> str:
    """Value in a message, short."""
    found = repr(value)
    return found if len(found) <= _LONGEST else f"{found[: _LONGEST - 3]}..."
