"""The docstring of an experiment as a page shows it: question, answer, paragraphs that start with a word."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple


class Paragraph(NamedTuple):
    """A part of a docstring.

    Attributes
    ----------
    label
        Word that it starts with, e.g. "Source"; empty if none.
    parts
        Its text, every second one set as code.
    is_table
        Whether its lines and spaces stay.
    """

    label: str
    parts: tuple[str, ...]
    is_table: bool


class Words(NamedTuple):
    """A docstring taken apart: the first line, the paragraph "Answer", and the others."""

    question: str
    answer: str
    paragraphs: tuple[Paragraph, ...]


_LABEL = re.compile(r"(Answer|Source|Expected|Measured|Scope|Cost)(?=[:, ])")
_CODE = re.compile(r"`([^`]*)`")


def parse(text: str) -> Words:
    """Take a docstring apart.

    Examples
    --------
    >>> words = parse('''Does it?
    ...
    ... Answer: no, never.
    ...
    ... Source: a thread, `run` it.
    ... ''')
    >>> words.question, words.answer
    ('Does it?', 'No, never.')
    >>> words.paragraphs
    (Paragraph(label='Source', parts=('a thread, ', 'run', ' it.'), is_table=False),)
    """
    first, *others = [part for part in text.strip("\n").split("\n\n") if part.strip()] or [""]
    found = [_paragraph(part) for part in others]
    answer = "".join(part for one in found if one.label == "Answer" for part in one.parts)
    rest = tuple(one for one in found if one.label != "Answer")
    return Words(_joined(first), answer[:1].upper() + answer[1:], rest)


def _paragraph(text: str) -> Paragraph:
    if text.startswith("    "):
        return Paragraph("", (textwrap.dedent(text).rstrip(),), True)
    text = _joined(text)
    label = found[1] if (found := _LABEL.match(text)) else ""
    return Paragraph(label, tuple(_CODE.split(text[len(label) :].lstrip(":, "))), False)


def _joined(text: str) -> str:
    return " ".join(text.split())
