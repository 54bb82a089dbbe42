"""Live controls of the page: small figures that the browser computes, as HTML with their state at first.

Without JavaScript a reader sees that state; `controls.js` enables the inputs and redraws from the data that
each fragment carries. The numbers are of `theory`, inputs and plots of `widgets`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments._parts import dead_bias
from experiments._report import theory, widgets
from experiments._report.macros import macro
from experiments._report.widgets import Axis, Mark, Number, Plot, Slider, listed, over_cells, part, ticks

if TYPE_CHECKING:
    import xarray as xr

BENDS = {
    "relu": "kink of the unit, −b/w",
    "tanh": "steepest point of the unit, −b/w",
    "sigmoid": "steepest point of the unit, −b/w",
    "gelu": "sharpest bend of the unit, −b/w",
    "softplus": "sharpest bend of the unit, −b/w",
}
"""Activations of the response curve, and what is at -b/w."""
DECAYS = (0.0, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 350, 500, 1000, 2000, 5000, 10000)
STDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""What sliders of the lag move on."""
TITLES = {
    "response": "What does a bias do to one unit?",
    "lag": "How far does the running mean lag, and what does that cost?",
    "theory": "How deep a network can be trained with such a bias?",
    "denoise": "What do biases do to a denoiser?",
}
CAPTIONS = {
    "response": (
        "A bias moves the bend of a unit to x = −b/w. Switch the biases off: all bends fall onto x = 0, and"
        " of a net of ReLUs two straight lines from the origin are left."
    ),
    "lag": (
        "Batch norm cancels a bias before it: in training exactly, at inference as far as the running mean"
        " has caught up. Raise decay or momentum until the point leaves the flat part of the second curve."
    ),
    "theory": (
        "Where the signals of wide random networks end up with depth. The fuller the colour, the more layers"
        " ξ (up to 1, 3, 10, or more) two inputs keep their distance; about 6 ξ layers can be trained. Take"
        " tanh and move the biases: the edge of chaos moves."
    ),
    "denoise": (
        "Two networks of one size were trained on noise of σ 0 to {trained_to:g} (of 255), and run here in"
        " the browser. Move σ beyond that: the one with biases takes off too little, the one without goes on."
    ),
}
START = {"b0": 10.0, "decay": 1e-3, "momentum": 0.99, "step": 500}
"""The lag's sliders at first, where the README's table loses most."""
_LAG = (START["b0"], START["momentum"], 1 - START["decay"])
SIGMA = 50  # noise at first
_UNIT = {"w": 1.5, "b": -1.5, "x": 2.0}
_NET = {"v1": 1.0, "w1": 1.0, "b1": 1.0, "v2": -2.0, "w2": 1.0, "b2": 0.0, "c": -0.5}
_SHIFTS = (-30, -10, -3, -1, 0, 1, 3, 10, 30)


class Control(NamedTuple):
    """One live control: its name, a title for it, and the fragment `<div class="control">`."""

    name: str
    title: str
    html: str


def controls(results: Path, grid: theory.Grid = theory.GRID) -> list[Control]:
    """Make all controls; those whose run is missing in ``results`` say so and how to make it."""
    return [
        _response(),
        _of_run(results, "lag", "regime_map", _lag),
        _phases(grid),
        _of_run(results, "denoise", "denoiser", _denoise),
    ]


def _of_run(results: Path, name: str, run: str, make: Any) -> Control:
    """Make a control of a run's dataset, or say that there is none."""
    from biasjax import store

    why = "cannot be read"
    try:
        return make(store.load(results / run / "dataset.nc"))
    except FileNotFoundError:
        why = "is missing"
    except (OSError, ValueError, TypeError, LookupError, AttributeError):  # half-written, by another version
        pass
    return Control(name, TITLES[name], macro("controls.html", "missing", name, TITLES[name], run, why))


def _control(name: str, data: dict[str, Any], **parts: Any) -> Control:
    caption = CAPTIONS[name].format(**{key: data[key] for key in ("trained_to",) if key in data})
    what: dict[str, Any] = dict.fromkeys(("numbers", "plots", "pictures", "note"), ())
    what |= {"name": name, "title": TITLES[name], "caption": caption, "data": data, **parts}
    return Control(name, TITLES[name], macro("controls.html", "control", what))


def _response() -> Control:
    """A unit, and a net of two, over their input."""
    names = {"v1": "v₁", "w1": "w₁", "b1": "b₁", "v2": "v₂", "w2": "w₂", "b2": "b₂", "c": "c"}
    select = ("response-activation", "activation φ", [(name, name) for name in BENDS], "relu")
    unit = [
        Slider("response-w", "weight w", -4, 4, 0.1, _UNIT["w"]),
        Slider("response-b", "bias b", -4, 4, 0.1, _UNIT["b"]),
    ]
    x, *bends = (
        np.asarray(at) for at in (_UNIT["x"], -_UNIT["b"] / _UNIT["w"], -_NET["b1"] / _NET["w1"], 0.0)
    )
    return _control(
        "response",
        {"bends": BENDS},
        parts=[
            part(
                "",
                [Slider("response-x", "input x", -3, 3, 0.1, float(x))],
                [select],
                [("response-biases", "biases on")],
            ),
            part("One unit: φ(w x + b)", unit),
            part(
                "Two-layer net: v₁ φ(w₁ x + b₁) + v₂ φ(w₂ x + b₂) + c",
                [Slider(f"response-{k}", names[k], -3, 3, 0.1, v) for k, v in _NET.items()],
            ),
        ],
        numbers=[
            Number("response-unit", "unit at x", float(_unit(x))),
            Number("response-net", "net at x", float(_net(x))),
            Number("response-bend", BENDS["relu"], float(bends[0]), "nowhere", "response-bend-term"),
            Number("response-bend1", "−b₁/w₁ of the net", float(bends[1]), "nowhere"),
            Number("response-bend2", "−b₂/w₂ of the net", float(bends[2]), "nowhere"),
        ],
        plots=[_response_plot(float(x), float(bends[0]))],
    )


def _unit(x: np.ndarray) -> np.ndarray:
    return theory.response("relu", _UNIT["w"] * x + _UNIT["b"])


def _net(x: np.ndarray) -> np.ndarray:
    one, two = (theory.response("relu", _NET[f"w{i}"] * x + _NET[f"b{i}"]) for i in "12")
    return _NET["v1"] * one + _NET["v2"] * two + _NET["c"]


def _response_plot(at: float, bend: float) -> Plot:
    axes = (Axis(-3, 3, ticks(range(-3, 4)), "input x"), Axis(-4, 4, ticks((-4, -2, 0, 2, 4)), "output y"))
    plot = Plot("response-plot", "Output of the unit and of the net over the input", *axes)
    x, here = np.linspace(-3, 3, 241), np.asarray(at)
    marks = [
        Mark("rule", f"M{plot.at_x(bend):g} 10V250", "response-bend-line"),
        Mark("curve-2", plot.curve(x, _net(x)), "response-net-curve"),
        Mark("curve-1", plot.curve(x, _unit(x)), "response-unit-curve"),
        *plot.point("response-net-point", at, float(_net(here))),
        *plot.point("response-unit-point", at, float(_unit(here))),
    ]
    keys = [("curve-1", "one unit"), ("curve-2", "two-layer net"), ("rule", "where w x + b = 0")]
    return plot._replace(marks=marks, keys=keys)


def _lag(dataset: xr.Dataset) -> Control:
    """A dead bias and its running mean over the steps, and what the regime map lost at such a lag."""
    data = theory.regimes(dataset)
    std = listed("lag-std", "std of what is normalised", STDS, data["std"])
    lag = float(dead_bias.lag_formula(*_LAG, START["step"]))
    shift = lag / std.values[int(std.position)]
    lost, held = float(np.interp(shift, data["shift"], data["lost"])), START["momentum"] ** START["step"]
    sliders = [
        Slider("lag-b0", "bias at first, b₀", -30, 30, 0.5, START["b0"]),
        listed("lag-decay", "learning rate × weight decay", DECAYS, START["decay"]),
        listed("lag-momentum", "batch norm's momentum", MOMENTA, START["momentum"]),
        listed("lag-step", "step", STEPS, START["step"]),
        std,
    ]
    note = (
        f"The curve holds once running statistics hold no more than {data['forgotten']:g} of their start."
        " Here they hold more: the running variance is off, too, so expect other losses."
    )
    return _control(
        "lag",
        data,
        parts=[part("", sliders)],
        numbers=[
            Number("lag-lag", "lag", lag),
            Number("lag-shift", "lag / std", shift),
            Number("lag-lost", "accuracy lost, by the curve", lost),
            Number("lag-held", "of their start, running statistics hold", held),
        ],
        plots=_lag_plots(data, lag, shift, lost),
        note={"text": note, "shown": held > data["forgotten"]},
    )


def _lag_plots(data: dict[str, Any], lag: float, shift: float, lost: float) -> list[Plot]:
    """The lag over steps, and the regime map's curve; both on an axis that is linear only around 0."""
    steps = np.unique(np.round(np.logspace(0, 4, 161)).astype(int))
    lags = dead_bias.lag_formula(*_LAG, steps) * shift / lag
    shifts = Axis(-4.6, 4.6, tuple((float(np.arcsinh(x)), widgets.pretty(x)) for x in _SHIFTS), "lag / std")
    log_steps = Axis(0, 4, tuple(enumerate(("1", "10", "100", "1k", "10k"))), "step")
    fractions = Axis(-0.05, 1, ticks((0, 0.2, 0.4, 0.6, 0.8, 1)), "accuracy lost")
    over = Plot("lag-plot", "Lag over standard deviation after each step", log_steps, shifts)
    fall = Plot("lag-lost-plot", "Accuracy lost over lag by standard deviation", shifts, fractions)
    at = float(np.arcsinh(shift))
    first = [
        Mark("curve-1", over.curve(np.log10(steps), np.arcsinh(lags)), "lag-curve"),
        *over.point("lag-point", float(np.log10(START["step"])), at),
    ]
    second = [
        Mark("dots", fall.dots([(float(np.arcsinh(x)), y) for x, y in data["runs"]])),
        Mark("curve-2", fall.curve(np.arcsinh(data["shift"]), data["lost"])),
        *fall.point("lag-lost-point", at, lost),
    ]
    keys = [
        ("curve-2", "regime_map: networks whose mean was shifted"),
        ("dots", "trained with a bias, at the end"),
    ]
    return [
        over._replace(marks=first, keys=[("curve-1", "lag by the closed form")]),
        fall._replace(marks=second, keys=keys),
    ]


def _phases(grid: theory.Grid) -> Control:
    """The phase map: depth scales over weight and bias scale."""
    sigma_w, sigma_b = grid.sigma_w.tolist(), grid.sigma_b.tolist()
    tables = {name: theory.phases(name, grid.sigma_w, grid.sigma_b) for name in grid.activations}
    w, b = sigma_w.index(1.5), sigma_b.index(0.3)
    data = {"sigma_w": sigma_w, "sigma_b": sigma_b, "trains": theory.TRAINS}
    data |= {"words": list(theory.WORDS.values()), "tables": tables}
    at = {name: values[b * len(sigma_w) + w] for name, values in tables["tanh"].items() if name != "line"}
    select = ("theory-activation", "activation φ", [(name, name) for name in tables], "tanh")
    sliders = [
        listed("theory-sigma_w", "weights σ_w", sigma_w, sigma_w[w]),
        listed("theory-sigma_b", "biases σ_b", sigma_b, sigma_b[b]),
    ]
    depth = None if at["xi_c"] is None else theory.TRAINS * at["xi_c"]
    return _control(
        "theory",
        data,
        parts=[part("", sliders, [select])],
        numbers=[
            Number("theory-q", "variance q* that is approached", at["q"], "grows without end"),
            Number("theory-chi", "χ₁, factor of squared gradients a layer", at["chi_1"], "infinite"),
            Number("theory-xi", "depth scale ξ, layers", at["xi_c"], "infinite"),
            Number("theory-depth", "depth that trains, about 6 ξ", depth, "not limited by ξ"),
        ],
        plots=[_phase_plot(tables, sigma_w, sigma_b, (sigma_w[w], sigma_b[b]))],
        note={"text": data["words"][at["phase"]], "shown": True},
    )


def _phase_plot(tables: Any, sigma_w: list[float], sigma_b: list[float], at: tuple[float, float]) -> Plot:
    axes = (
        over_cells(sigma_w, 0.5, "scale of weights, σ_w"),
        over_cells(sigma_b, 0.2, "scale of biases, σ_b"),
    )
    plot = Plot("theory-plot", "Phase map: depth scale over the scales of weights and biases", *axes)
    groups = []
    for name, table in tables.items():
        looks = theory.looks(table)
        marks = [Mark(look, plot.cells(looks == look, sigma_w, sigma_b)) for look in np.unique(looks)]
        if len(table["line"]) > 1:
            marks.append(Mark("critical", plot.curve(*np.transpose(table["line"]))))
        elif table["line"]:
            marks.append(Mark("critical-point", plot.dots(table["line"])))
        groups.append({"name": name, "shown": name == "tanh", "marks": marks})
    keys = [
        ("ordered-2", "ordered"),
        ("chaotic-2", "chaotic"),
        ("diverges", "variance without end"),
        ("critical", "edge of chaos"),
    ]
    return plot._replace(groups=groups, marks=plot.point("theory-point", *at), keys=keys)


def _denoise(dataset: xr.Dataset) -> Control:
    """One image at noise of any size, denoised by a network with biases and by one without."""
    data = theory.denoiser(dataset)
    found, clean = theory.denoised(data, SIGMA), theory.denoised(data, 0)["noisy"].image
    pictures: list[tuple[Any, ...]] = [
        ("clean", "as it was", theory.png(clean), "Part of a photograph of a flower", None)
    ]
    for name, text in (("noisy", "noisy"), ("with", "with biases"), ("without", "without biases")):
        number = Number(f"denoise-{name}-psnr", "", found[name].psnr, "∞")
        pictures.append((name, text, theory.png(found[name].image), f"The same part, {text}", number))
    return _control(
        "denoise",
        data,
        parts=[part("", [Slider("denoise-sigma", "noise σ, of 255", 0, 100, 1, SIGMA)])],
        pictures=pictures,
        sigma=SIGMA,
    )
