"""Critical lines of many activations: where theory has them, and what networks beside them do."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import curves
from experiments.claims import POOLE, Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

FACTORS = (0.95, 1.0, 1.05)
"""Weight scales of the networks, in those of the critical line."""
MOVED = ("tanh", "gelu", "silu")
"""Activations whose line a bias moves most: up, down and down."""
_START = 1e-8  # variance of the first layer where the critical one is zero
_GAIN_OVER = 10  # layers over which q of ReLU grows


def theory(names: Sequence[str], sigma_b: np.ndarray) -> xr.Dataset:
    """Critical lines: ``sigma_w``, ``q`` and ``unstable``, ``(activation, sigma_b)``; NaN where is none.

    Of `phases.critical_line` it needs an infinite ``sigma_w`` where there is no point, the variance ``q``
    there and V'(q) as ``slope``, in any order; of several points it takes that of the least weight scale.
    A point is unstable if V'(q) > 1: networks leave it for another fixed point, or for ever.
    """
    import jax
    import xarray as xr

    found = []
    for name in names:
        line = jax.jit(functools.partial(bj.phases.critical_line, name))(np.asarray(sigma_b, np.float32))
        first = np.argmin(line.sigma_w, -1)[..., None]
        three = (line.sigma_w, line.q, line.slope)
        one = [np.take_along_axis(np.asarray(x), first, -1)[..., 0] for x in three]
        found.append([np.where(np.isfinite(one[0]), x, np.nan) for x in one])
    sigma_w, q, slope = np.swapaxes(found, 0, 1)
    dims = ("activation", "sigma_b")
    # At q = 0, where the line begins, V' is 1 but for rounding
    arrays = {"sigma_w": (dims, sigma_w), "q": (dims, q), "unstable": (dims, slope > 1 + 1e-3)}
    return xr.Dataset(arrays, {"activation": list(names), "sigma_b": sigma_b})


def measure(lines: xr.Dataset, *, width: int, depth: int, seeds: int) -> xr.Dataset:
    """Send inputs of the critical variance through networks on the lines and 5% off, with and without bias.

    Where a bias leaves no critical point (ReLU), networks have the weight scale that is critical without.

    Returns
    -------
    xr.Dataset
        ``chi_1``, growth of the squared gradient per layer, mean of the layers, and
        ``gain``, what q gains per layer at first:
        ``(activation, seed, sigma_b, use_bias, factor)``; and ``lines``.
    """
    lines = lines.assign(exists=np.isfinite(lines.sigma_w))
    sent = lines[["sigma_w", "q"]].fillna(lines[["sigma_w", "q"]].isel(sigma_b=0))
    axes = {
        "seed": np.arange(seeds),
        "place": np.arange(lines.sizes["sigma_b"]),
        "use_bias": np.arange(2.0),
        "factor": np.asarray(FACTORS),
    }
    static = {"activation": tuple(lines.activation.values.tolist())}
    found = bj.sweep.run(functools.partial(_send, sent, width, depth), axes, static=static)
    found = found.drop_vars("status").rename(place="sigma_b").assign_coords(sigma_b=lines.sigma_b)
    return found.merge(lines.rename({name: f"{name}_theory" for name in ("sigma_w", "q")}))


def _send(sent: xr.Dataset, width: int, depth: int, key, *, activation: str, place, use_bias, factor) -> dict:
    import jax
    import jax.numpy as jnp

    at = (jnp.asarray(x.sel(activation=activation).values, "float32") for x in (sent.sigma_w, sent.q))
    sigma_w, q = (x[place] for x in at)
    sigma_b = jnp.asarray(sent.sigma_b.values, "float32")[place] * use_bias
    net_key, x_key = jax.random.split(key)
    net = bj.network.Network(inputs=width, width=width, depth=depth, order=f"dense-{activation}")
    x = jax.random.normal(x_key, (1, width))
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
    # The first layer brings the input to the critical variance
    first = jnp.sqrt(jnp.maximum(jnp.maximum(q, _START) - sigma_b**2, 0))
    scales = bj.network.Scales(jnp.full(depth, sigma_w * factor).at[0].set(first), sigma_b)
    found = bj.propagation.propagate(net_key, net, scales, x)
    logs: Any = found.log_grad_features
    growth = jnp.exp(-jnp.diff(logs))
    gain = (found.q[_GAIN_OVER] - found.q[0]) / _GAIN_OVER
    return {"chi_1": jnp.mean(growth), "gain": gain}


def crossing(chi_1: xr.DataArray, along: str) -> xr.DataArray:
    """Coordinate at which chi_1 first passes 1, by linear interpolation of its log; NaN if it does not.

    Examples
    --------
    >>> import xarray as xr
    >>> chi_1 = xr.DataArray(np.exp([-0.1, 0.3]), coords={"sigma_w": [1.0, 1.4]}, dims="sigma_w")
    >>> float(crossing(chi_1, "sigma_w").round(6))
    1.1
    """
    import xarray as xr

    x = chi_1[along].values

    def one(logs):
        at = int(np.argmax(logs > 0))
        if at == 0 or not np.isfinite(logs[at - 1 : at + 1]).all():
            return np.nan
        low, high = logs[at - 1 : at + 1]
        return x[at - 1] - low / (high - low) * (x[at] - x[at - 1])

    return xr.apply_ufunc(one, np.log(chi_1), input_core_dims=[[along]], vectorize=True)


def off(chi_1: xr.DataArray, moved: float = 1.0) -> tuple[xr.DataArray, xr.DataArray]:
    """How far chi_1 = 1 is off the lines, relative, and half of its 95% interval; infinite if beyond 5%.

    ``moved`` multiplies the lines, for a control: what theory would be off by, were it wrong so far.
    """
    away = abs(crossing(chi_1.mean("seed"), "factor") / moved - 1).fillna(np.inf)
    logs: Any = np.log(chi_1)
    steep = logs.mean("seed").differentiate("factor").sel(factor=1)
    return away, abs(bj.plot.confidence(logs.sel(factor=1), "seed") / steep)


def claims(found: xr.Dataset) -> list[Claim]:
    """Hold networks to the critical lines; null twins have the same weights, and no bias."""
    chi_1 = found.chi_1.where(found.exists & (found.sigma_b > 0))
    with_bias, without = (chi_1.sel(use_bias=use) for use in (1, 0))
    made = [
        at_least("lines: 1 within chi_1 at ±5%, share", POOLE, 1, _within(with_bias), null=_within(without))
    ]
    stable = found.exists & ~found.unstable & (found.sigma_b > 0)
    value, half = curves.greatest(*(x.where(stable) for x in off(with_bias)))
    wrong = [off(with_bias, moved)[0] for moved in (0.95, 1.05)] + [off(without)[0]]
    null = min(float(x.where(stable).max()) for x in wrong)
    made.append(at_most("stable: sigma_w / theory - 1, worst", POOLE, 0.03, value, interval=half, null=null))
    return [*made, *_moves(found), *_relu(found)]


def _within(chi_1: xr.DataArray) -> xr.DataArray:
    """Share of the lines' points with chi_1 below 1 at 5% less, and above at 5% more, intervals included."""
    mean, half = chi_1.mean("seed"), bj.plot.confidence(chi_1, "seed")
    below, above = (mean + half).sel(factor=FACTORS[0]) < 1, (mean - half).sel(factor=FACTORS[-1]) > 1
    return (below & above).where(np.isfinite(mean.sel(factor=1))).mean()


def _moves(found: xr.Dataset) -> list[Claim]:
    """Where the greatest bias moves the lines to; without bias they stay."""
    line = crossing(found.chi_1.sel(use_bias=1).mean("seed"), "factor") * found.sigma_w_theory
    made = []
    for name in MOVED:
        if name in found.activation.values:
            one, expected = (x.sel(activation=name) for x in (line, found.sigma_w_theory))
            expected, measured = (float(x[-1] / x[0]) for x in (expected, one))
            text = f"{name}: critical sigma_w, bias / none"
            made.append(equal(text, POOLE, expected, measured, tolerance=0.05, null=one[0] / one[0]))
    return made


def _relu(found: xr.Dataset) -> list[Claim]:
    """Without a fixed point q grows by sigma_b² a layer."""
    if "relu" not in found.activation.values:
        return []
    gain = found.gain.sel(activation="relu", factor=1).isel(sigma_b=-1) / found.sigma_b[-1] ** 2
    on, null = (gain.sel(use_bias=use).mean("seed") for use in (1, 0))
    half = bj.plot.confidence(gain.sel(use_bias=1), "seed")
    text = "relu, sigma_w²=2: q gain / sigma_b²"
    return [equal(text, "closed form", 1, on, tolerance=0.25, interval=half, null=null)]


def draw(ax: Any, lines: xr.Dataset, found: xr.Dataset, names: Sequence[str], note: str) -> None:
    """Draw lines relative to their start without bias, dashed where unstable, and what was measured.

    A ``note`` heads the legend.
    """
    line = crossing(found.chi_1.sel(use_bias=1).mean("seed"), "factor") * found.sigma_w_theory
    halves = off(found.chi_1.sel(use_bias=1))[1] * found.sigma_w_theory
    for color, name in zip(bj.plot.COLORS, names, strict=False):
        one = lines.sel(activation=name)
        start = one.sigma_w.isel(sigma_b=0)
        for chosen, style in ((one.unstable, "--"), (~one.unstable, "-")):
            ax.plot(one.sigma_b, (one.sigma_w / start).where(chosen), style, color=color, linewidth=1)
        measured, half, jumps = (
            x.sel(activation=name) for x in (line / start, halves / start, found.unstable)
        )
        bars = {"color": color, "linestyle": "", "marker": "o", "markersize": 3.5}
        ax.errorbar(found.sigma_b, measured.where(~jumps), half.where(~jumps), label=name, **bars)
        ax.plot(found.sigma_b, measured.where(jumps), markerfacecolor="white", **bars)
    ax.set(xlabel=r"$\sigma_b$", ylabel=r"critical $\sigma_w$ / that at $\sigma_b$ = 0")
    for style, label in (("-", "stable"), ("--", "unstable")):
        ax.plot([], [], style, color="grey", linewidth=1, label=label)
    ax.set_xlim(right=1.8 * float(found.sigma_b[-1]))
    ax.legend(loc="center right", fontsize=7, title=note, title_fontsize=7)


def draw_beside(ax: Any, found: xr.Dataset) -> None:
    """Draw chi_1 on the lines and 5% off them, a row for each activation and a dot for each bias."""
    mean, rows = found.chi_1.sel(use_bias=1).mean("seed"), np.arange(found.sizes["activation"])
    for color, factor in zip(bj.plot.COLORS, FACTORS, strict=False):
        text = f"$\\sigma_w$ {factor - 1:+.0%}" if factor != 1 else "on the line"
        for i, shift in enumerate(np.linspace(-0.25, 0.25, found.sizes["sigma_b"])):
            values = mean.sel(factor=factor).isel(sigma_b=i)
            ax.plot(values, rows + shift, ".", color=color, markersize=4, label=text if i == 0 else None)
    ax.axvline(1, color="grey", linewidth=0.8)
    ax.set_yticks(rows, found.activation.values, fontsize=7)
    ax.set(xlabel=r"$\chi_1$, measured; dots of a row: $\sigma_b$ increasing downwards")
    ax.invert_yaxis()
    ax.set_xlim(right=ax.get_xlim()[1] + 0.2)
    ax.legend(loc="lower right", fontsize=7)
