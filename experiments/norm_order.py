"""Does a bias before batch norm matter, in training and at inference?

Source: seed document 001. Its answer: before batch norm a bias is cancelled, with ReLU between it is not; its
open comment asks about inference. On the 8x8 digits the experiment sweeps the order of linear layer, norm and
ReLU x bias on/off x initial bias x optimiser x weight decay x momentum of batch norm x seeds.

Expected: before batch norm the training losses with and without the bias agree to round-off, yet the running
mean lags behind the bias, by b0 m^t if it is constant and by b0 r^t - (1 - m) b0 (r^t - m^t)/(r - m) under
SGD with L2, r = 1 - learning rate x weight decay. So at inference a large initial bias costs accuracy (a
trial saw .455 against .906 without the bias) although training is identical.

Cost: about 80 s on 2 CPU cores. Command: `python -m experiments norm_order`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from experiments.claims import Claim, at_least, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

SEED_001 = "seed document 001"
CLOSED_FORM = "closed form"
ONE_BIT = 2.0**-23  # the relative size of float32's last bit


@dataclass(frozen=True)
class Config:
    """What to sweep; every tuple is an axis of the grid."""

    orders: tuple[str, ...] = ("dense-bn-relu", "dense-relu-bn", "conv-bn-relu", "conv-relu-bn")
    """Order of linear layer, norm and activation in every hidden block."""
    optimizers: tuple[str, ...] = ("sgd", "adam")
    """Names from biasjax.training.OPTIMIZERS."""
    bias_values: tuple[float, ...] = (0.0, 1.0, 10.0)
    """Initial value of every hidden bias."""
    weight_decays: tuple[float, ...] = (0.0, 1e-2)
    """L2 coefficients, biases included."""
    bn_momenta: tuple[float, ...] = (0.9, 0.99)
    """Weights of the old running statistics."""
    seeds: int = 3
    """Number of seeds."""
    steps: int = 500
    """Updates of a run."""
    batch_size: int = 64
    """Examples in a batch."""
    depth: int = 1
    """Hidden layers."""
    dense_width: int = 64
    """Features of a dense hidden layer."""
    conv_width: int = 8
    """Channels of a convolutional hidden layer."""
    sgd_learning_rate: float = 0.1
    """Learning rate of SGD and momentum."""
    adam_learning_rate: float = 1e-3
    """Learning rate of Adam and AdamW."""
    adam_epsilons: tuple[float, ...] = (1e-8, 1e-3)
    """Epsilons compared in the drift of a dead bias under Adam."""
    drift_steps: int = 2000
    """Updates of that comparison."""


SMOKE = Config(
    orders=("dense-bn-relu", "dense-relu-bn"),
    optimizers=("sgd",),
    bias_values=(0.0, 10.0),
    weight_decays=(1e-2,),
    bn_momenta=(0.99,),
    seeds=1,
    steps=60,
    adam_epsilons=(),
)


def run(config: Config) -> xr.Dataset:
    """Train the whole grid as vmapped programs, one for each order x optimiser x bias on/off."""
    import jax
    import xarray as xr

    _check(config)
    axes = {
        "seed": np.arange(config.seeds),
        "weight_decay": config.weight_decays,
        "bn_momentum": config.bn_momenta,
    }
    static = {"order": config.orders, "optimizer": config.optimizers}
    train = functools.partial(_train, config)
    sweep = functools.partial(bj.sweep.run, dims=bj.training.DIMS)
    biased = sweep(train, {**axes, "bias_value": config.bias_values}, static={**static, "use_bias": [True]})
    nudge = max(config.bias_values) * ONE_BIT  # a bias of b0 rounds what it is added to by this much
    twins = sweep(train, {**axes, "nudge": [0.0, nudge]}, static={**static, "use_bias": [False]})
    twin = twins.isel(nudge=0, drop=True).expand_dims(bias_value=biased.bias_value)
    dataset = xr.concat([biased, twin], "use_bias", join="outer")
    dataset["loss_nudged"] = twins.loss.isel(nudge=1, use_bias=0, drop=True)

    fixed = {"weight_decay": 0.0, "bn_momentum": 0.99, "use_bias": True}
    dead = [order for order in config.orders if order.endswith("bn-relu")]
    if dead:
        with jax.enable_x64(True):
            exact = {"order": dead, "optimizer": ["sgd"], "use_bias": [True, False], "dtype": ["float64"]}
            pair = sweep(
                functools.partial(train, **fixed), {"bias_value": [max(config.bias_values)]}, static=exact
            )
        dataset["loss_float64"] = pair.loss.rename(order="dead_order").squeeze(drop=True)
    if dead and config.adam_epsilons:
        drift = sweep(
            functools.partial(train, order=dead[0], optimizer="adam", steps=config.drift_steps, **fixed),
            {"adam_epsilon": config.adam_epsilons},
        )
        dataset["adam_drift"] = drift.bias_drift.isel(report=-1).max("layer")
    reports = bj.training.default_reports(config.steps)
    dataset = dataset.assign_coords(report=list(reports), step=np.arange(config.steps))
    return dataset.assign_attrs(sgd_learning_rate=config.sgd_learning_rate)


def _check(config: Config) -> None:
    """Raise unless the claims can be held to what the grid contains."""
    if "sgd" not in config.optimizers:
        bj.check.fail("optimizers", "sgd among them, whose lag has a formula", config.optimizers, "Add sgd.")
    if not any(order.endswith("bn-relu") for order in config.orders):
        bj.check.fail("orders", "one that ends in bn-relu", config.orders, "Add dense-bn-relu.")
    if max(config.bias_values) <= 0:
        bj.check.fail("bias_values", "a positive one", config.bias_values, "Add 10, say.")
    if len(config.adam_epsilons) == 1:
        bj.check.fail("adam_epsilons", "none, or a small and a large one", config.adam_epsilons, "Add 1e-3.")


def _train(
    config: Config,
    key,
    *,
    order: str,
    optimizer: str,
    use_bias: bool,
    weight_decay,
    bn_momentum,
    bias_value=0.0,
    nudge=0.0,
    adam_epsilon=1e-8,
    steps: int | None = None,
    dtype: str = "float32",
) -> dict:
    """Run one point of the grid."""
    data = bj.data.digits(dtype)
    dense = order.startswith("dense")
    data = bj.data.flatten(data) if dense else data
    network = bj.network.Network(
        inputs=data.train_x.shape[-1],
        width=config.dense_width if dense else config.conv_width,
        depth=config.depth,
        outputs=10,
        order=order,
        linear_bias=use_bias,
    )
    train = bj.training.make_train(
        network, optimizer, data, steps=steps or config.steps, batch_size=config.batch_size
    )
    adaptive = optimizer.startswith("adam")
    hyperparams = bj.training.Hyperparams(
        learning_rate=config.adam_learning_rate if adaptive else config.sgd_learning_rate,
        weight_decay=weight_decay,
        bn_momentum=bn_momentum,
        adam_epsilon=adam_epsilon,
    )
    scales = bj.network.Scales(sigma_w=1 + nudge, bias_mean=bias_value)
    _, history = train(key, scales, hyperparams)
    return history._asdict()


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold what seed document 001 says, and what follows for inference, to numbers."""
    alive = [order for order in dataset.order.values if order.endswith("relu-bn")]
    dead = [order for order in dataset.order.values if order.endswith("bn-relu")]
    return [
        *(_dead_in_training(dataset, dead) if dead else []),
        *(_alive_in_training(dataset, alive) if alive else []),
        *(_lag_at_inference(dataset, dead) if dead else []),
        *(_accuracy_at_inference(dataset, dead) if dead else []),
        *(_drift(dataset, dead) if dead else []),
    ]


def _loss_gap(dataset: xr.Dataset) -> xr.DataArray:
    """Largest difference of training losses with and without the bias, over a whole run."""
    return abs(dataset.loss.sel(use_bias=True) - dataset.loss.sel(use_bias=False)).max("step")


def _dead_in_training(dataset: xr.Dataset, dead: list[str]) -> list[Claim]:
    gap = _loss_gap(dataset).sel(order=dead)
    exact = abs(dataset.loss_float64.sel(use_bias=True) - dataset.loss_float64.sel(use_bias=False))
    nudged = abs(dataset.loss_nudged - dataset.loss.isel(use_bias=1, bias_value=0)).max("step")
    dense = gap.sel(order=dead[0], optimizer="sgd")
    times = gap.max() / nudged.sel(order=dead).max()
    same = "before BN: |loss with - without bias|"
    return [
        at_most(f"{same}, whole run, float64", SEED_001, 1e-12, exact.max()),
        at_most(f"{same}, whole run, float32, median of {dead[0]} under SGD", SEED_001, 1e-5, dense.median()),
        at_most(f"{same}, worst run / what rounding at b0 does", "control run", 20, times),
    ]


def _alive_in_training(dataset: xr.Dataset, alive: list[str]) -> list[Claim]:
    gap = _loss_gap(dataset).sel(order=alive).sel(bias_value=dataset.bias_value > 0)
    return [at_least("ReLU before BN: |loss with - without bias|, least run", SEED_001, 0.05, gap.min())]


def lag_formula(bias_value, momentum, decay_rate, t):
    """Lag of the running mean behind a bias that shrinks by ``decay_rate`` each step, after t steps.

    b0 r^t - (1 - m) b0 (r^t - m^t)/(r - m), which is b0 m^t for a constant bias (r = 1).
    """
    r, m = decay_rate, momentum
    return bias_value * (r**t - (1 - m) * (r**t - m**t) / (r - m))


def _lags(dataset: xr.Dataset, order: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Lag under SGD: measured against the bias-free twin's running mean, and by the formula."""
    runs = dataset.sel(order=order, optimizer="sgd").isel(layer=0)
    biased, twin = runs.sel(use_bias=True), runs.sel(use_bias=False)
    measured = biased.bias_mean - (biased.running_mean - twin.running_mean)
    rate = 1 - dataset.attrs["sgd_learning_rate"] * runs.weight_decay.astype(float)
    numbers = (runs.bias_value.astype(float), runs.bn_momentum.astype(float), rate, runs.report)
    return measured, lag_formula(*numbers)


def _lag_at_inference(dataset: xr.Dataset, dead: list[str]) -> list[Claim]:
    found = []
    for order in dead:
        measured, formula = _lags(dataset, order)
        # Relative error where there is a lag: above a hundredth of the initial bias
        error = abs(measured / formula - 1).where(abs(formula) > 0.01 * dataset.bias_value)
        decayed = dataset.weight_decay > 0
        for name, chosen in (("b0 m^t", ~decayed), ("formula under L2", decayed)):
            if chosen.any():
                text = f"{order}: lag at inference / {name} - 1, worst"
                found.append(at_most(text, CLOSED_FORM, 0.01, error.sel(weight_decay=chosen).max()))
    return found


def _accuracy_at_inference(dataset: xr.Dataset, dead: list[str]) -> list[Claim]:
    chosen = {"order": dead[0], "optimizer": "sgd", "weight_decay": dataset.weight_decay.max()}
    last = dataset.sel(chosen).sel(bn_momentum=dataset.bn_momentum.max()).isel(report=-1).mean("seed")
    twin = last.accuracy_running.sel(use_bias=False).isel(bias_value=0)
    biased = last.accuracy_running.sel(use_bias=True)
    large = float(dataset.bias_value.max())
    decay = "SGD + L2" if dataset.weight_decay.max() > 0 else "SGD"
    text = f"accuracy at inference, {decay}, b0 = {large:g}; without the bias it is {float(twin):.3f}"
    found = [at_most(text, "a trial: .455, .906", twin - 0.3, biased.sel(bias_value=large))]
    if 0.0 in dataset.bias_value:
        text = f"accuracy at inference, {decay}, b0 = 0; without the bias it is the same"
        found.append(equal(text, SEED_001, twin, biased.sel(bias_value=0.0), tolerance=0.02))
    return found


def _drift(dataset: xr.Dataset, dead: list[str]) -> list[Claim]:
    last = dataset.sel(order=dead, optimizer="sgd", use_bias=True).isel(report=-1)
    rate = 1 - dataset.attrs["sgd_learning_rate"] * last.weight_decay.astype(float)
    shrunk = last.bias_mean / last.bias_value / rate**last.report - 1
    shrunk = abs(shrunk.sel(bias_value=dataset.bias_value > 0)).max()
    found = [at_most("dead bias: b/b0 under SGD + L2 over (1 - lr wd)^T, - 1", CLOSED_FORM, 1e-3, shrunk)]
    still = last.sel(weight_decay=dataset.weight_decay == 0)
    if still.weight_decay.size:
        found.append(at_most("dead bias: drift under SGD, rms", "round-off", 1e-5, still.bias_drift.max()))
    if "adam_drift" in dataset:
        small, large = dataset.adam_drift.isel(adam_epsilon=[0, -1]).values
        epsilons = dataset.adam_epsilon.values[[0, -1]]
        found.append(
            at_least(f"dead bias: drift under Adam, epsilon {epsilons[0]:.0e}", "round-off", 1e-3, small)
        )
        found.append(
            at_most(f"dead bias: drift under Adam, epsilon {epsilons[1]:.0e}", "round-off", 1e-6, large)
        )
    return found


def figure(dataset: xr.Dataset):
    """Loss, accuracy in train and eval mode, and lag or gradient over steps, for both dense orders."""
    runs = dataset.sel(optimizer="sgd", weight_decay=dataset.weight_decay.max())
    runs = runs.sel(bn_momentum=dataset.bn_momentum.max()).isel(layer=0)
    orders = [order for order in dataset.order.values if order.startswith("dense")] or list(
        dataset.order.values
    )
    names = {
        "loss": "training loss",
        "accuracy_batch": "accuracy, batch statistics",
        "accuracy_running": "accuracy, running statistics",
    }
    last = {
        order: "lag of running mean" if order.endswith("bn-relu") else "|gradient| of bias"
        for order in orders
    }
    titles = [f"{order}: {title}" for order in orders for title in (*names.values(), last[order])]
    fig, axes = bj.plot.panels(titles, columns=4, size=(3.9, 3.0))
    for order, row in zip(orders, np.reshape(axes, (len(orders), 4)), strict=True):
        for ax, name in zip(row, names, strict=False):
            _draw(ax, runs[name].sel(order=order), "step" if name == "loss" else "report")
        row[0].set_yscale("log")
        for ax in row[1:3]:
            ax.set_ylim(0, 1.02)
        if order.endswith("bn-relu"):
            _draw_lag(row[3], dataset, order)
        else:
            _draw_gradients(row[3], runs, orders)
        for ax in row:
            ax.set_xlabel("step")
    axes[0].legend()
    numbers = f"weight decay {float(runs.weight_decay):g}, momentum of batch norm {float(runs.bn_momentum):g}"
    fig.suptitle(
        f"{str(runs.optimizer.values).upper()}, {numbers}; bands: {dataset.sizes['seed']} seeds", fontsize=10
    )
    return fig


def _draw(ax, runs: xr.DataArray, x: str) -> None:
    """Draw one quantity over steps, a colour for each initial bias and dashes for the bias-free twin."""
    for color, value in zip(bj.plot.COLORS, runs.bias_value.values, strict=False):
        biased = runs.sel(use_bias=True, bias_value=value)
        bj.plot.line(ax, biased, x, over="seed", color=color, label=f"$b_0$ = {value:g}")
    twin = runs.sel(use_bias=False).isel(bias_value=0)
    bj.plot.line(ax, twin.mean("seed"), x, color="black", linestyle="--", label="no bias")


def _draw_lag(ax, dataset: xr.Dataset, order: str) -> None:
    """Draw the lag under SGD, measured as dots on the formula's lines."""
    where = {"weight_decay": dataset.weight_decay.max(), "bn_momentum": dataset.bn_momentum.max()}
    measured, formula = (lag.sel(where) for lag in _lags(dataset, order))
    for color, value in zip(bj.plot.COLORS, dataset.bias_value.values, strict=False):
        bj.plot.line(ax, formula.sel(bias_value=value), "report", color=color, label="formula")
        dots = measured.sel(bias_value=value).mean("seed")
        bj.plot.line(
            ax, dots, "report", color=color, linestyle="", marker="o", markersize=3, label="measured"
        )
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[-2:], labels[-2:])


def _draw_gradients(ax, runs: xr.Dataset, orders: list[str]) -> None:
    """Draw the norm of the bias' gradient at the least initial bias, for each order.

    At a large one ReLU never cuts, so that the bias is cancelled in either order.
    """
    least = runs.sel(use_bias=True, bias_value=runs.bias_value.min())
    gradients = least.bias_gradient.isel(report=slice(1, None))
    for color, order in zip(bj.plot.COLORS[3:], orders, strict=False):
        bj.plot.line(ax, gradients.sel(order=order), "report", over="seed", color=color, label=order)
    ax.set_yscale("log")
    ax.legend()
