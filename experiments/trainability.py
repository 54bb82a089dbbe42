"""How deep a tanh network can be trained, and what does a bias do to that depth?

Answer: about 3 to 8 xi_c layers, as theory says. A bias takes depth away in the ordered phase and gives depth
beside the line that it moves.

Source: Schoenholz et al., arXiv 1611.01232: a random network can be trained only if it is no deeper than
about 6 xi_c, the depth over which two inputs keep their distance. Networks of many depths, weight and bias
scales are trained on the 8x8 digits by SGD whose rate goes with 1 / depth; of two rates the better one on
held-out training examples counts, and its accuracy on the test set.

Expected: networks up to 2 xi_c deep learn, and far beyond 6 xi_c they only guess. A bias moves the critical
line sigma_w(sigma_b), on which xi_c diverges, up: it takes depth away below the line, in the ordered phase,
and gives depth beside the new line.

Measured with 10 seeds: up to 2 xi_c accuracy is at least .56 ± .05, from 9 xi_c on at most .14 ± .04; half is
lost at 3.2 to 7.7 xi_c, less in the chaotic phase, where gradients explode faster than correlations settle:
of their scale xi_grad = 1 / |ln chi_1| it is 4.6 to 8.4. At sigma_w = 1.07 a bias of .7 takes .41 ± .03 of
the accuracy that .05 has, mean of depths.

A network within xi_c may fail all the same, by its learning rate: at sigma_w = 1.714, sigma_b = .7, depth 40
(.8 xi_c) accuracy is .11 at a rate of .1, .21 at .02, .43 ± .06 at .0025, and .75 there after 600 updates (a
trial with 2 seeds). With sigma_b = .05, where xi_c is 11 instead of 49, depth 40 is within 6 xi_c as well, so
the greater bias gives next to nothing there. At depth 80 it gives .13 ± .04: .23 instead of .10 (.78 instead
of .19 in a trial with 600 updates, width 200 and 2 seeds).

Scope: dense tanh layers of 64, 200 updates of SGD without momentum, the digits. The scale is a bound on
depth; within it, rate and number of updates decide.

Cost: about 110 s on 2 CPU cores. Command: `python -m experiments trainability`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import curves, trained
from experiments.claims import SCHOENHOLZ, Claim, at_least, at_most

if TYPE_CHECKING:
    import jax
    import xarray as xr

_LEARN, _GUESS = 2.0, 9.0  # depths in xi_c up to which all learn, and from which on none does
_HELD_OUT = 287  # a fifth of the training set, on which rates are chosen


@dataclass(frozen=True)
class Config:
    """The grid and the training."""

    sigma_w: tuple[float, ...] = (0.75, 1.07, 1.39, 1.714, 2.4)
    """Weight scales, increasing."""
    sigma_b: tuple[float, ...] = (0.05, 0.2236, 0.7)
    """Bias scales, increasing."""
    depths: tuple[int, ...] = (4, 8, 16, 32)
    """Hidden layers, increasing; a program each."""
    rates: tuple[float, ...] = (0.2, 1.0)
    """Learning rates of SGD, times the depth; the better one of a cell on held-out examples counts."""
    probe_sigma_w: float = 1.714
    """Weight scale at which deeper networks with the least and the greatest bias are trained."""
    probe_depths: tuple[int, ...] = (40, 80)
    """Their depths, increasing; () for none."""
    probe_rates: tuple[float, ...] = (0.03, 0.1, 0.8, 4.0)
    """Their learning rates, times the depth."""
    steps: int = 200
    """Updates."""
    width: int = 64
    """Features of every layer."""
    batch_size: int = 32
    """Examples in an update."""
    seeds: int = 10
    """Number of seeds."""


SMOKE = Config(
    sigma_w=(0.75, 1.07, 2.4),
    sigma_b=(0.05, 0.7),
    depths=(3, 8, 20),
    probe_depths=(),
    steps=150,
    width=32,
    seeds=5,
)


def run(config: Config) -> xr.Dataset:
    """Train the grid and the probe, and evaluate depth scales on them and along a fine line."""
    import xarray as xr

    sigma_w, sigma_b = np.asarray(config.sigma_w), np.asarray(config.sigma_b)
    dataset = _sweep(config, config.depths, config.rates, sigma_b, sigma_w)
    if config.probe_depths:
        ends, one = sigma_b[[0, -1]], [config.probe_sigma_w]
        probe = _sweep(config, config.probe_depths, config.probe_rates, ends, one)
        probe = probe.isel(sigma_w=0, drop=True).assign(_scales(one, ends).isel(sigma_w=0))
        own = ("validation", "test", "xi_c", "xi_grad", "depth", "rate", "sigma_b")
        dataset = dataset.merge(probe[list(own)].rename({name: f"probe_{name}" for name in own}))
        dataset["probe_sigma_w"] = config.probe_sigma_w
    fine = _scales(np.linspace(sigma_w[0], sigma_w[-1], 181), sigma_b).rename(sigma_w="sigma_w_line")
    dataset = dataset.merge(_scales(sigma_w, sigma_b)).merge(fine[["xi_c"]].rename(xi_c="xi_c_line"))
    line = bj.phases.critical_line("tanh", sigma_b).sigma_w[..., 0]
    return dataset.assign(critical=xr.DataArray(np.asarray(line), dims="sigma_b"))


def _scales(sigma_w: Any, sigma_b: Any) -> xr.Dataset:
    """Depth scales ``(sigma_b, sigma_w)`` of correlations and of gradients, in layers."""
    import xarray as xr

    found = bj.phases.order_parameters("tanh", np.asarray(sigma_w), np.asarray(sigma_b)[:, None])
    scales = {"xi_c": found.xi_c, "xi_grad": 1 / abs(np.log(found.chi_1))}
    dims = ("sigma_b", "sigma_w")
    arrays = {name: (dims, np.asarray(x)) for name, x in scales.items()}
    return xr.Dataset(arrays, {"sigma_b": sigma_b, "sigma_w": sigma_w})


def _sweep(config: Config, depths: Any, rates: Any, sigma_b: Any, sigma_w: Any) -> xr.Dataset:
    data = bj.data.flatten(bj.data.digits())
    axes = {"seed": np.arange(config.seeds), "rate": rates, "sigma_b": sigma_b, "sigma_w": sigma_w}
    one = functools.partial(_train, config, held_out(data), data)
    found = bj.sweep.run(one, axes, static={"depth": depths})
    # Coordinates as they were given, which sweeps round to float32
    return found.assign_coords(sigma_b=np.asarray(sigma_b), sigma_w=np.asarray(sigma_w))


def held_out(data: bj.data.Data) -> bj.data.Data:
    """Split a fifth off the training set, drawn with a fixed key, to choose on instead of the test set."""
    import jax

    order = jax.random.permutation(jax.random.key(0), data.train_y.shape[0])
    held, kept = order[:_HELD_OUT], order[_HELD_OUT:]
    return bj.data.Data(data.train_x[kept], data.train_y[kept], data.train_x[held], data.train_y[held])


def _train(
    config: Config, chosen_on: bj.data.Data, data: bj.data.Data, key, *, rate, sigma_b, sigma_w, depth: int
) -> dict[str, jax.Array]:
    import jax.numpy as jnp

    inputs = data.train_x.shape[-1]
    net = bj.network.Network(inputs=inputs, width=config.width, depth=depth, outputs=10, order="dense-tanh")
    options = {"steps": config.steps, "batch_size": config.batch_size, "report_at": (config.steps,)}
    train = bj.training.make_train(net, "sgd", chosen_on, **options)
    numbers = bj.training.Hyperparams(rate / depth)
    state, history = train(key, bj.network.Scales(sigma_w, sigma_b), numbers)
    logits, _ = bj.network.apply(net, state.params, state.state, data.test_x, train=False)
    hits = jnp.argmax(logits, -1).astype(data.test_y.dtype) == data.test_y
    return {"validation": history.accuracy_running[-1], "test": jnp.mean(hits)}


def lost(accuracy: xr.DataArray) -> xr.DataArray:
    """Accuracy that the greatest bias takes from the least, mean over depths; ``(seed, ...)``."""
    return (accuracy.isel(sigma_b=0) - accuracy.isel(sigma_b=-1)).mean("depth")


def off(values: xr.DataArray) -> xr.DataArray:
    """The null twin: the greatest bias does what the least does."""
    return values.isel(sigma_b=0, drop=True).broadcast_like(values)


def opposite(values: xr.DataArray) -> xr.DataArray:
    """The null twin: a bias does to the depth scale the opposite, the greatest what the least does."""
    return values.copy(data=values.isel(sigma_b=slice(None, None, -1)).values)


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold accuracies to the depth scale; in null twins a bias does nothing, or the opposite."""
    accuracy = trained.best(dataset.validation, dataset.test)
    mean, halves = accuracy.mean("seed"), bj.plot.confidence(accuracy, "seed")
    xi_c, other = dataset.xi_c, opposite(dataset.xi_c)
    made = []
    for builder, text, sign, inside in (
        (at_least, f"up to {_LEARN:g} xi_c: accuracy, least", -1, lambda xi: dataset.depth <= _LEARN * xi),
        (at_most, f"from {_GUESS:g} xi_c on: accuracy, greatest", 1, lambda xi: dataset.depth >= _GUESS * xi),
    ):
        value, half = curves.greatest(*(x.where(inside(xi_c)) for x in (sign * mean, halves)))
        null, _ = curves.greatest(*(x.where(inside(other)) for x in (sign * mean, halves)))
        made.append(builder(text, SCHOENHOLZ, 0.3, sign * value, interval=half, null=sign * null))
    for name in ("xi_c", "xi_grad"):
        ratios = [trained.reach(mean) / xi for xi in (dataset[name], opposite(dataset[name]))]
        spread, null = (float(ratio.max() / ratio.min()) for ratio in ratios)
        text = f"half lost, in {name}: most / least"
        made.append(at_most(text, SCHOENHOLZ, 3, spread, null=null))
    ordered = accuracy.sel(sigma_w=1.07, method="nearest")
    taken = lost(ordered)
    text = f"sigma_w = {float(ordered.sigma_w):.3g}: accuracy bias takes"
    numbers = {"interval": bj.plot.confidence(taken, "seed"), "null": lost(off(ordered)).mean()}
    made.append(at_least(text, SCHOENHOLZ, 0.2, taken.mean(), **numbers))
    return [*made, *_probe_claims(dataset)]


def probe(dataset: xr.Dataset) -> xr.Dataset:
    """What was measured of deeper networks at one weight scale, by the names it has elsewhere."""
    names = [str(name) for name in dataset.variables if str(name).startswith("probe_")]
    return dataset[names].rename({name: name.removeprefix("probe_") for name in names})


def _probe_claims(dataset: xr.Dataset) -> list[Claim]:
    """Why networks within xi_c fail, and where a bias gives depth."""
    if "probe_test" not in dataset:
        return []
    found = probe(dataset)
    accuracy = trained.best(found.validation, found.test)
    one, at = accuracy.isel(sigma_b=-1, depth=0), found.test.isel(sigma_b=-1, depth=0)
    text = f"{float(one.depth / found.xi_c[-1]):.1g} xi_c, depth {int(one.depth)}: accuracy, rate {{:.1g}}"
    fast, made = at.isel(rate=-1), []
    for builder, bound, values in ((at_most, 0.2, fast), (at_least, 0.3, one)):
        name, half = text.format(float(values.rate / one.depth)), bj.plot.confidence(values, "seed")
        made.append(builder(name, "trial", bound, values.mean(), interval=half))
    deep = accuracy.isel(depth=[-1])
    given, nothing = (-lost(x) for x in (deep, off(deep)))
    text = f"depth {int(deep.depth[0])}: accuracy that bias gives"
    numbers = {"interval": bj.plot.confidence(given, "seed"), "null": nothing.mean()}
    return [*made, at_least(text, SCHOENHOLZ, 0.05, given.mean(), **numbers)]


def figure(dataset: xr.Dataset):
    """Accuracy over weight scale and depth for each bias, over the depth scale, and over the rate."""
    biases = dataset.sigma_b.values
    titles = [f"test accuracy, $\\sigma_b$ = {sigma_b:.2g}" for sigma_b in biases]
    titles += [r"accuracy falls with depth / $\xi_c$"]
    probed = [int(depth) for depth in probe(dataset).depth] if "probe_test" in dataset else []
    say = "$\\sigma_w$ = {:.3g}, depth {}: first the rate decides".format
    titles += [say(float(dataset.probe_sigma_w), depth) for depth in probed]
    fig, axes = bj.plot.panels(titles)
    accuracy = trained.best(dataset.validation, dataset.test)
    for ax, sigma_b in zip(axes, biases, strict=False):
        at = {"sigma_b": sigma_b}
        trained.draw_accuracy(ax, accuracy.mean("seed").sel(at), dataset.sel(at))
    trained.draw_scaled(axes[len(biases)], accuracy, dataset, (_LEARN, _GUESS))
    for ax, depth in zip(axes[len(biases) + 1 :], probed, strict=True):
        trained.draw_rates(ax, probe(dataset).sel(depth=depth))
    title = "A bias moves the critical line: depth is lost below it, and gained beside the new one"
    maps = r"maps: $6\,\xi_c$ in orange, critical line dashed"
    seeds = f"{dataset.sizes['seed']} seeds; bars and bands: 95% intervals of means"
    fig.suptitle(f"{title}\n{maps}; {seeds}", fontsize=10)
    return fig
