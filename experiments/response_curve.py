"""What do a weight and a bias do to a unit's input-output curve, and to that of a small network?

Answer: a bias shifts a unit's curve and leaves its slopes; the weight stretches it. Hidden biases place a
network's kinks: without them it fits no target that is not a line on either side of zero.

Source: a forum thread on the bias of a convolution: "When bias is changed, slope of the input-output curve is
changed keeping the shape constant. if you try to change the value of all weights (shifting weights), shape
itself changes". Units y = phi(w x + b) over a grid of weights and biases, which sliders can read, for all
activations of the library; networks of one hidden layer as drawn, and fitted to |x - 1| and to a tent.

Expected: the first half is wrong. A bias moves the curve of a unit by -b/w and leaves each of its slopes as
it is; the weight changes the slope, in proportion. In a network each hidden bias moves the kink of its own
unit to -b/w, which changes the shape; the bias of the output alone keeps it, and moves the curve up. Without
hidden biases all kinks stand at zero: a ReLU network is a line on either side of it, a tanh network is odd
but for the output's bias. What either cannot fit is known in advance: the least squared error of the two
slopes (and a constant), the mean square of the even part (its variance).

Measured: 15 activations, weights of .5 to 2 and biases up to 3 of either sign: where a unit's output passes
phi(0), the half-way point of a sigmoid and the kink of a ReLU, it is -b/w to 2e-7; the greatest slope moves
by at most .8% (SELU, which has it in a limit only) as the bias does, and is that of w = 1 times |w| to 6e-6.
At one fixed input the slope does change with the bias, as another part of the same curve comes to stand
there, which may be what the thread means; and the weight stretches the curve, so it does "change the shape".
All of a drawn ReLU network's changes of slope are where its units' -b/w are, without hidden biases at zero.

Mean squared errors of 10 networks of 32 units, the least possible one in brackets, of |x - 1| and the tent:
ReLU without biases .1923 (.1923), .0925 (.0925), with that of the output .1151 (.1151), .0647 (.0647), with
all at most 1e-5 and .003 +- .003; tanh without biases 3.2227 (3.2221), .0573 (.0555), with that of the output
.4449 (.4443), .0295 (.0277), with all at most 3e-4. An output's bias gives nothing to a network with hidden
ones, whose error is the same to all digits shown.

Scope: one input, one hidden layer. Fits are by Adam at one rate for all and on the inputs of the error: they
show what can be fitted, not what generalises.

Cost: about 25 s on 2 CPU cores. Command: `python -m experiments response_curve`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import line_fits
from experiments.claims import CLOSED_FORM, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import jax
    import xarray as xr

FORUM = "forum thread on a convolution's bias"
ACTIVATIONS = tuple(name for name in bj.activations.NAMES if name not in ("swish", "sin"))
"""All but a second name, and one that has its slopes again and again."""
FITTED = ("relu", "tanh")
BIASES = {"none": (0, 0), "output": (0, 1), "hidden": (1, 0), "both": (1, 1)}
"""Whether the hidden layer and the output have one."""
_REACH = 24.0  # of a unit's inputs, far enough that a softplus is as steep as it gets
_FINE = 256  # of them in an interval of 1


@dataclass(frozen=True)
class Config:
    """Grids of the sliders, and networks."""

    activations: tuple[str, ...] = ACTIVATIONS
    """Names of activations of single units."""
    weights: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
    """Weights of a unit; 1 is needed."""
    biases: tuple[float, ...] = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)
    """Biases of a unit; 0 is needed."""
    inputs: int = 193
    """Inputs from -6 to 6 of the curves that are kept."""
    sigma_b: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Standard deviations of the hidden biases of networks as drawn, over that of weights; the first is 0."""
    hidden: int = 32
    """Hidden units of a network."""
    steps: int = 3000
    """Updates of a fit, by Adam on all inputs at once."""
    rate: float = 0.02
    """Learning rate of Adam, which falls to 0."""
    seeds: int = 10
    """Networks of each kind."""


SMOKE = Config(activations=("sigmoid", "relu"), inputs=49, sigma_b=(0.0, 1.0), hidden=16, steps=400, seeds=3)


def run(config: Config) -> xr.Dataset:
    """Draw the curves of units and of networks, and fit networks."""
    unit = functools.partial(_unit, config)
    axes = {"weight": config.weights, "bias": config.biases}
    static = {"activation": list(config.activations)}
    units = bj.sweep.run(unit, axes, static=static, dims={"curve": ("input",)})
    drawn = functools.partial(_drawn, config)
    axes = {"seed": np.arange(config.seeds), "sigma_b": config.sigma_b}
    networks = bj.sweep.run(drawn, axes, dims={"network": ("position",)})
    fit = functools.partial(line_fits.fit, config)
    switches = {"hidden_bias": [0, 1], "output_bias": [0, 1]}
    axes = {"seed": np.arange(config.seeds), **switches, "target": np.arange(len(line_fits.TARGETS))}
    fits = bj.sweep.run(fit, axes, static={"fitted": list(FITTED)}, dims={"fit": ("position",)})
    fits = fits.assign_coords(target=list(line_fits.TARGETS))
    parts = [part.drop_vars("status") for part in (units, networks, fits)]
    found = parts[0].merge(parts[1]).merge(parts[2], join="exact")
    return found.assign_coords(input=_inputs(config), position=line_fits.positions()).assign(_theory())


def _inputs(config: Config) -> np.ndarray:
    return np.linspace(-6, 6, config.inputs)


def _unit(config: Config, key, *, weight, bias, activation: str) -> dict[str, jax.Array]:
    """Curve of one unit, where it passes phi(0), and its greatest slope."""
    import jax
    import jax.numpy as jnp

    act = bj.activations.get(activation)

    def y(x):
        return act(weight * x + bias)

    fine = jnp.linspace(-_REACH, _REACH, 2 * int(_REACH) * _FINE + 1)
    curve = y(jnp.asarray(_inputs(config), jnp.float32))
    steepest = jnp.max(jnp.abs(jax.vmap(jax.grad(y))(fine)))
    return {
        "curve": curve,
        "passes": _passes(y, act(jnp.float32(0.0)), jnp.sign(weight)),
        "steepest": steepest,
    }


def _passes(y: Any, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Last input, in the direction in which a unit rises, whose output is not above a level, by bisection.

    Half-way point of a sigmoid, kink of a ReLU; the unit's formula is not used.
    """
    import jax
    import jax.numpy as jnp

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        above = y(sign * middle) > level
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, 40, halve, (jnp.float32(-_REACH), jnp.float32(_REACH)))
    return sign * (low + high) / 2


def _drawn(config: Config, key, *, sigma_b) -> dict[str, jax.Array]:
    """Curve of a random ReLU network, and the shares of its changes of slope by where they are.

    Changes are those between neighbouring inputs; shares are those in cells with a point -b/w, b/w, and 0.
    """
    import jax
    import jax.numpy as jnp

    hidden, output = line_fits.draw(key, config.hidden)
    bias = sigma_b * jnp.asarray(hidden.bias)
    hidden = hidden._replace(bias=bias)

    def f(x):
        return bj.linear.dense(output, jax.nn.relu(bj.linear.dense(hidden, x[None])))[0]

    x = jnp.asarray(line_fits.positions(), jnp.float32)
    kinks = -bias / hidden.kernel[0]
    change = jnp.abs(jnp.diff(jax.vmap(jax.grad(f))(x)))

    def share(at):
        inside = (x[:-1, None] < at) & (at <= x[1:, None])
        return jnp.sum(change, where=inside.any(1)) / jnp.sum(change)

    shares = {"at_kinks": share(kinks), "at_mirrored": share(-kinks), "at_zero": share(jnp.zeros(1))}
    return {"network": jax.vmap(f)(x), **shares}


def _theory() -> dict[str, Any]:
    """Least error without hidden biases, ``(fitted, output_bias, target)``."""
    least = [
        [[line_fits.least_error(name, t, bias) for t in line_fits.TARGETS] for bias in (False, True)]
        for name in FITTED
    ]
    return {"least": (("fitted", "output_bias", "target"), np.array(least)), "output_bias": [0, 1]}


def claims(dataset: xr.Dataset) -> list[Claim]:
    """What moves and what turns, of units and of networks; what cannot be fitted."""
    return [*_unit_claims(dataset), *_drawn_claims(dataset), *_fit_claims(dataset)]


def _unit_claims(dataset: xr.Dataset) -> list[Claim]:
    shift = -dataset.bias / dataset.weight
    biased = dataset.bias != 0
    apart, off = abs(dataset.passes - shift), abs(dataset.passes.sel(bias=0.0) - shift)
    by_bias = abs(dataset.steepest / dataset.steepest.sel(bias=0.0) - 1)
    unit = dataset.steepest.sel(bias=0.0)
    by_weight = abs(unit / unit.sel(weight=1.0) - 1).where(abs(dataset.weight) != 1)
    proportional = abs(unit / abs(dataset.weight) / unit.sel(weight=1.0) - 1)
    return [
        at_most(
            "a unit's curve moves to -b/w: apart",
            CLOSED_FORM,
            1e-3,
            apart.max(),
            null=off.where(biased).min(),
        ),
        at_most("bias: change of greatest slope", CLOSED_FORM, 0.01, by_bias.max(), null=by_weight.min()),
        at_most("weight: |greatest slope / |w| - 1|", CLOSED_FORM, 0.02, proportional.max()),
    ]


def _drawn_claims(dataset: xr.Dataset) -> list[Claim]:
    biased, free = dataset.isel(sigma_b=slice(1, None)), dataset.isel(sigma_b=0)
    kinks, mirrored = biased.at_kinks.min(), biased.at_mirrored.max()
    return [
        at_least("ReLU network: slope changes at -b/w", CLOSED_FORM, 0.99, kinks, null=mirrored),
        at_least(
            "the same, no biases: at zero", CLOSED_FORM, 0.99, free.at_zero.min(), null=biased.at_zero.max()
        ),
    ]


def _fit_claims(dataset: xr.Dataset) -> list[Claim]:
    """Errors over the least one without hidden biases, of the worst or best of all seeds."""
    made, over = [], dataset.error / dataset.least
    for output_bias, word in enumerate(("no bias", "output bias alone")):
        without, with_hidden = (over.sel(output_bias=output_bias, hidden_bias=on) for on in (0, 1))
        ratio, null = (part.sel(fitted="relu").mean(("seed", "target")) for part in (without, with_hidden))
        text = f"ReLU, {word}: error / least"
        made.append(equal(text, CLOSED_FORM, 1.0, ratio, tolerance=0.02, null=null))
        odd, null = (part.sel(fitted="tanh").min(("seed", "target")) for part in (without, with_hidden))
        made.append(at_least(f"tanh, {word}: error / least", CLOSED_FORM, 0.999, odd, null=null))
    return made


def table(dataset: xr.Dataset) -> str:
    """Errors of fits by activation, biases and target, beside the least one without hidden biases."""
    from biasjax import _text

    rows = [("activation", "biases", *(f"{t}  least" for t in line_fits.TARGETS))]
    half = bj.plot.confidence(dataset.error, "seed")
    for fitted in FITTED:
        for kind, (hidden_bias, output_bias) in BIASES.items():
            cells = []
            for target in line_fits.TARGETS:
                at = {"fitted": fitted, "target": target, "output_bias": output_bias}
                both = (dataset.error.mean("seed"), half)
                mean, spread = (float(x.sel(at).sel(hidden_bias=hidden_bias)) for x in both)
                least = float(dataset.least.sel(at))
                cells.append(f"{mean:.4f} ± {spread:.1g}  " + ("    -" if hidden_bias else f"{least:.4f}"))
            rows.append((fitted, kind, *cells))
    return f"{_text.table(rows)}\nmean squared errors, means and 95% intervals"


def figure(dataset: xr.Dataset):
    """Curves of a unit over its bias and over its weight, random networks, and fits."""
    names = [name for name in ("sigmoid", "relu") if name in dataset.activation.values]
    panels = [(f"{name}(x + b)", f"{name}(w x)") for name in names]
    titles = [title for both in panels for title in both]
    titles += [
        f"{name} network fitted to {target if '|' in target else 'a tent'}"
        for name in FITTED
        for target in line_fits.TARGETS
    ]
    fig, axes = bj.plot.panels(titles, size=(4.6, 2.7))
    for (over_bias, over_weight), name in zip(zip(axes[::2], axes[1::2], strict=True), names, strict=False):
        curve = dataset.curve.sel(activation=name)
        _draw_units(over_bias, curve.sel(weight=1.0), "bias", [-2.0, -1.0, 0.0, 1.0, 2.0], "b")
        _draw_units(over_weight, curve.sel(bias=0.0), "weight", [-1.0, 0.5, 1.0, 2.0], "w")
    left = axes[2 * len(names) :]
    for ax, (name, target) in zip(left, [(n, t) for n in FITTED for t in line_fits.TARGETS], strict=True):
        _draw_fits(ax, dataset.sel(fitted=name, target=target))
    left[0].legend(loc="upper right")
    fig.suptitle(
        "A bias moves a unit's curve, the weight turns it; without hidden biases all kinks stand at zero\n"
        f"(fits by {dataset.sizes['seed']} networks: means and 95% intervals)",
        fontsize=10,
    )
    return fig


def _draw_units(ax: Any, curves: xr.DataArray, name: str, values: list[float], letter: str) -> None:
    for value, color in zip(values, bj.plot.COLORS, strict=False):
        bj.plot.line(ax, curves.sel({name: value}), "input", color=color, label=f"{letter} = {value:g}")
    ax.set(xlabel="x", ylabel="y", xlim=(-6, 6))
    ax.legend(loc="best" if name == "weight" else "upper left", fontsize=7)


def _draw_fits(ax: Any, dataset: xr.Dataset) -> None:
    target = line_fits.targets(dataset.position)[line_fits.TARGETS.index(str(dataset.target.values))]
    bj.plot.line(ax, target, "position", color="0.75", linewidth=5, label="target")
    words = {"none": "no bias", "output": "output bias alone", "both": "hidden and output biases"}
    for (kind, label), color in zip(words.items(), bj.plot.COLORS, strict=False):
        fit = dataset.fit.sel(dict(zip(("hidden_bias", "output_bias"), BIASES[kind], strict=True)))
        style = {"color": color, "label": label, "linestyle": "--" if kind == "both" else "-"}
        bj.plot.line(ax, fit, "position", over="seed", **style)
    ax.set(xlabel="x", ylabel="f(x)")
