"""Inputs, numbers and plots of the live controls, as `templates/controls.html` shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Slider(NamedTuple):
    """A range input; with ``values`` its position counts them."""

    id: str
    label: str
    low: float
    high: float
    step: float
    position: float
    values: tuple[float, ...] = ()

    @property
    def shown(self) -> str:
        """What is printed beside it."""
        return pretty(self.values[int(self.position)] if self.values else self.position)


class Number(NamedTuple):
    """A result: what a reader sees, and the whole number for those who check it."""

    id: str
    label: str
    value: float | None
    infinite: str = ""
    term: str = ""

    @property
    def full(self) -> str:
        """The number as JavaScript writes it."""
        return "Infinity" if self.value is None or math.isinf(self.value) else repr(float(self.value))

    @property
    def pretty(self) -> str:
        """Four digits, or the word for infinity."""
        return self.infinite if self.full == "Infinity" else pretty(float(self.full))


class Axis(NamedTuple):
    """One axis of a plot, which stays as it is, whatever moves."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str


class Mark(NamedTuple):
    """A path of a plot: how it looks (a CSS class), its ``d``, and the id by which the browser moves it."""

    look: str
    d: str
    id: str = ""


class Plot(NamedTuple):
    """A figure of 480 x 300, of which 408 x 240 are within the axes."""

    id: str
    label: str
    x: Axis
    y: Axis
    marks: Sequence[Mark] = ()
    groups: Sequence[dict[str, Any]] = ()
    keys: Sequence[tuple[str, str]] = ()

    def at_x(self, value: Any) -> Any:
        """Where a number is, in units of the picture."""
        return np.round(60 + 408 * (value - self.x.low) / (self.x.high - self.x.low), 1)

    def at_y(self, value: Any) -> Any:
        """Where a number is; the y of a picture grows downwards."""
        return np.round(250 - 240 * (value - self.y.low) / (self.y.high - self.y.low), 1)

    def curve(self, x: Any, y: Any) -> str:
        """Path through points; what is far outside is brought near, which clipping hides."""
        edge = self.y.high - self.y.low
        y = np.clip(y, self.y.low - edge, self.y.high + edge)
        points = zip(self.at_x(np.asarray(x)), self.at_y(y), strict=True)
        return "M" + "L".join(f"{a:g} {b:g}" for a, b in points)

    def dots(self, points: Any) -> str:
        """Path of strokes without length, which round ends make dots."""
        return "".join(f"M{self.at_x(a):g} {self.at_y(b):g}h0" for a, b in points)

    def cells(self, chosen: np.ndarray, x: Sequence[float], y: Sequence[float]) -> str:
        """Path around the chosen cells of a flat grid ``(y, x)``; neighbours in a row are one."""
        half_x, half_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
        d = ""
        for at, row in zip(y, np.reshape(chosen, (len(y), len(x))), strict=True):
            edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]])))
            low, high = self.at_y(at - half_y), self.at_y(at + half_y)
            for first, end in edges.reshape(-1, 2):
                left, right = self.at_x(x[first] - half_x), self.at_x(x[end - 1] + half_x)
                d += f"M{left:g} {low:g}V{high:g}H{right:g}V{low:g}z"
        return d

    def point(self, name: str, x: float, y: float) -> list[Mark]:
        """A dot on a rim, so that it is seen on any ground."""
        d = self.dots([(x, y)])
        return [Mark("point-rim", d, f"{name}-rim"), Mark("point", d, name)]


def pretty(value: float) -> str:
    """Four digits, as `controls.js` writes them."""
    if value and abs(value) < 1e-3:
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}".replace("-", "−")
    text = f"{float(f'{value:.4g}'):.10f}".rstrip("0").rstrip(".")
    return ("0" if text == "-0" else text).replace("-", "−")


def part(legend: str, sliders: Sequence[Slider], selects: Any = (), checks: Any = ()) -> dict[str, Any]:
    """A group of inputs, with a heading unless that is empty."""
    return {"legend": legend, "sliders": sliders, "selects": selects, "checks": checks}


def listed(id: str, label: str, values: Sequence[float], value: float) -> Slider:
    """A slider over a list, at the entry nearest to a value."""
    at = min(range(len(values)), key=lambda i: abs(values[i] - value))
    return Slider(id, label, 0, len(values) - 1, 1, at, tuple(float(x) for x in values))


def ticks(values: Sequence[float]) -> tuple[tuple[float, str], ...]:
    """Numbers along an axis, as they are."""
    return tuple((value, pretty(value)) for value in values)


def over_cells(values: Sequence[float], step: float, label: str) -> Axis:
    """Axis that holds cells about values, with a tick at every so many."""
    half = (values[1] - values[0]) / 2
    every = np.arange(values[0], values[-1] + half, step).round(9)
    return Axis(values[0] - half, values[-1] + half, ticks(every.tolist()), label)
