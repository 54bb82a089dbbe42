"""Does a bias before batch norm matter, in training and at inference?

Answer: in training not at all: losses agree to round-off. At inference it can, for the running mean lags
behind it: .80 of accuracy is lost by a large bias under L2 with a slow mean.

Source: a forum thread on conv-relu-bn, 2019. Its answer: before batch norm a bias is cancelled, with ReLU
between it is not; its open comment asks about inference. On the 8x8 digits the experiment sweeps the order of
linear layer, norm and ReLU x bias on/off x initial bias x optimiser x weight decay x momentum of batch norm x
seeds.

Expected: before batch norm the training losses with and without the bias agree to round-off, yet the running
mean lags behind the bias, by b0 m^t if it is constant and by b0 r^t - (1 - m) b0 (r^t - m^t)/(r - m) under
SGD with L2, r = 1 - learning rate x weight decay. So at inference a large bias costs accuracy where decay is
strong and the mean slow, although training is identical. When that is so, `regime_map` says.

Measured, 10 seeds: losses agree to 1.4e-15 in float64. In float32 they part by 3e-7 (median) to 1e-3 (where a
ReLU switches for an example in one run alone), in every cell by no more than 3.9 times what two biases of 10
and 10.01 part by, which is rounding; behind ReLU it is 2e5 times. The lag follows the formulas to 3e-4 of b0.
Under SGD with L2, b0 = 10 and momentum .99 it costs .80 +- .03 of accuracy at inference; b0 = 0 costs none.

Cost: about 60 s on 2 CPU cores. Command: `python -m experiments norm_order`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import biasjax as bj
from experiments._parts import dead_bias
from experiments.claims import Claim, at_least, at_most

if TYPE_CHECKING:
    import xarray as xr

FORUM = "forum thread on conv-relu-bn, 2019"
NEARLY = 1.001
"""Another bias of almost the same size rounds alike, and would have almost the same effect if it had any."""
_PANELS = {
    "loss": "training loss",
    "accuracy_batch": "accuracy, batch statistics",
    "accuracy_running": "accuracy, running statistics",
}


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
    seeds: int = 10
    """Number of seeds of dense networks, whose accuracies are compared."""
    conv_seeds: int = 4
    """Number of seeds of convolutional ones, which only training losses and lags are taken from."""
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
    seeds=3,
    steps=60,
    adam_epsilons=(),
)


def run(config: Config) -> xr.Dataset:
    """Train the whole grid as vmapped programs, one for each order x optimiser x bias on/off."""
    import xarray as xr

    _check(config)
    train, dead = functools.partial(_train, config), _dead(config.orders)
    parts = [_grid(config, train, order) for order in config.orders]
    dataset = xr.concat(parts, "order", join="outer")  # seeds that convolutions lack are NaN
    train = functools.partial(train, weight_decay=0.0, bn_momentum=0.99)
    dataset["loss_float64"] = _exact_losses(train, dead, max(config.bias_values))
    if config.adam_epsilons:
        options = {"order": dead[0], "optimizer": "adam", "use_bias": True, "steps": config.drift_steps}
        axes = {"adam_epsilon": config.adam_epsilons}
        drift = bj.sweep.run(functools.partial(train, **options), axes, dims=bj.training.DIMS)
        dataset["adam_drift"] = drift.bias_drift.isel(report=-1).max("layer")
    reports = bj.training.default_reports(config.steps)
    dataset = dataset.assign_coords(report=list(reports), step=np.arange(config.steps))
    return dataset.assign_attrs(sgd_learning_rate=config.sgd_learning_rate)


def _dead(orders: Iterable[str]) -> list[str]:
    """Orders with batch norm right behind the linear layer."""
    return [str(order) for order in orders if order.endswith("bn-relu")]


def _grid(config: Config, train: Callable[..., dict], order: str) -> xr.Dataset:
    """Runs of one order with the bias, with one of nearly the greatest value, and their twins without it."""
    import xarray as xr

    axes = {
        "seed": np.arange(config.seeds if order.startswith("dense") else config.conv_seeds),
        "weight_decay": config.weight_decays,
        "bn_momentum": config.bn_momenta,
    }
    static = {"order": [order], "optimizer": config.optimizers}
    sweep = functools.partial(bj.sweep.run, train, dims=bj.training.DIMS)
    values = [*config.bias_values, NEARLY * max(config.bias_values)]
    runs = sweep({**axes, "bias_value": values}, static={**static, "use_bias": [True]})
    biased, other = runs.isel(bias_value=slice(-1)), runs.isel(bias_value=-1, use_bias=0, drop=True)
    twins = sweep(axes, static={**static, "use_bias": [False]})
    dataset = xr.concat([biased, twins.expand_dims(bias_value=biased.bias_value)], "use_bias", join="outer")
    dataset["loss_other"] = other.loss
    return dataset


def _exact_losses(train: Callable[..., dict], dead: list[str], bias_value: float) -> xr.DataArray:
    """Losses of a run with a large dead bias, and without it, in float64."""
    import jax

    static = {"order": dead, "optimizer": ["sgd"], "use_bias": [True, False], "dtype": ["float64"]}
    with jax.enable_x64(True):
        pair = bj.sweep.run(train, {"bias_value": [bias_value]}, static=static, dims=bj.training.DIMS)
    return pair.loss.rename(order="dead_order").squeeze(drop=True)


def _check(config: Config) -> None:
    """Raise unless the claims can be held to what the grid contains."""
    if "sgd" not in config.optimizers:
        bj.check.fail("optimizers", "sgd among them, whose lag has a formula", config.optimizers, "Add sgd.")
    if not _dead(config.orders):
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
    steps = steps or config.steps
    train = bj.training.make_train(network, optimizer, data, steps=steps, batch_size=config.batch_size)
    adaptive = optimizer.startswith("adam")
    hyperparams = bj.training.Hyperparams(
        learning_rate=config.adam_learning_rate if adaptive else config.sgd_learning_rate,
        weight_decay=weight_decay,
        bn_momentum=bn_momentum,
        adam_epsilon=adam_epsilon,
    )
    scales = bj.network.Scales(bias_mean=bias_value)
    return train(key, scales, hyperparams)[1]._asdict()


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Hold what the forum thread says, and what follows for inference, to numbers."""
    dead = _dead(dataset.order.values)
    return [
        *dead_bias.training_claims(dataset, dead, FORUM),
        *dead_bias.lag_claims(dataset, dead),
        *_accuracy_at_inference(dataset, dead[0]),
        *dead_bias.drift_claims(dataset, dead),
    ]


def _accuracy_at_inference(dataset: xr.Dataset, order: str) -> list[Claim]:
    """A large bias under L2 costs accuracy at inference, with a slow running mean, and none costs nothing."""
    chosen = {"order": order, "optimizer": "sgd", "weight_decay": dataset.weight_decay.max()}
    last = dataset.sel(chosen).sel(bn_momentum=dataset.bn_momentum.max()).isel(report=-1).accuracy_running
    lost = last.sel(use_bias=False) - last.sel(use_bias=True)  # paired: a twin shares its run's draws
    mean, half = lost.mean("seed"), bj.plot.confidence(lost, "seed")
    largest, least = ({"bias_value": index} for index in (-1, 0))
    decay = "SGD + L2" if dataset.weight_decay.max() > 0 else "SGD"
    text = f"{decay}, b0 = {{:g}}: accuracy lost".format
    numbers = {"interval": half.isel(largest), "null": mean.isel(least)}
    found = [at_least(text(float(mean.bias_value[-1])), "a trial: .451", 0.3, mean.isel(largest), **numbers)]
    if float(mean.bias_value[0]) == 0:
        numbers = {"interval": half.isel(least), "null": mean.isel(largest)}
        found.append(at_most(text(0.0), FORUM, 0.02, mean.isel(least), **numbers))
    return found


def figure(dataset: xr.Dataset):
    """Loss, accuracy in train and eval mode, and lag or gradient over steps, for both dense orders."""
    largest = {name: dataset[name].max() for name in ("weight_decay", "bn_momentum")}
    runs = dataset.sel(optimizer="sgd").sel(largest).isel(layer=0)
    every = [str(order) for order in dataset.order.values]
    orders = [order for order in every if order.startswith("dense")] or every
    last = dict.fromkeys(orders, "|gradient| of bias")
    last |= dict.fromkeys(_dead(orders), "lag of running mean")
    titles = [f"{order}: {title}" for order in orders for title in (*_PANELS.values(), last[order])]
    fig, axes = bj.plot.panels(titles, columns=4, size=(3.9, 3.0))
    for order, row in zip(orders, np.array(axes, object).reshape(-1, 4), strict=True):
        for ax, name in zip(row, _PANELS, strict=False):
            _draw(ax, runs[name].sel(order=order), "step" if name == "loss" else "report")
            ax.set_ylabel("cross-entropy (nats)" if name == "loss" else "test accuracy")
        row[0].set_yscale("log")
        for ax in row[1:3]:
            ax.set_ylim(0, 1.02)
        if order in _dead(orders):
            dead_bias.draw_lag(row[3], dataset, order, largest)
            row[3].set_ylabel("bias - share in running mean")
        else:
            _draw_gradients(row[3], runs, orders)
            row[3].set_ylabel("largest norm since report")
    for ax in axes:
        ax.set_xlabel("step")
    axes[0].legend()
    numbers = f"weight decay {float(runs.weight_decay):g}, momentum of batch norm {float(runs.bn_momentum):g}"
    message = "Before batch norm a large bias leaves training alone, and costs accuracy at inference"
    fig.suptitle(
        f"{message} (SGD, {numbers}; bands: 95% intervals of {dataset.sizes['seed']} seeds)", fontsize=11
    )
    return fig


def _draw(ax, runs: xr.DataArray, x: str) -> None:
    """Draw one quantity over steps, a colour for each initial bias and dashes for the bias-free twin."""
    for color, value in zip(bj.plot.COLORS, runs.bias_value.values, strict=False):
        biased = runs.sel(use_bias=True, bias_value=value)
        bj.plot.line(ax, biased, x, over="seed", color=color, label=f"$b_0$ = {value:g}")
    twin = runs.sel(use_bias=False).isel(bias_value=0)
    bj.plot.line(ax, twin.mean("seed"), x, color="black", linestyle="--", label="no bias")


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
