"""Training behind batch norm with a bias, and what a lag of the running mean costs at inference."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import biasjax as bj
from biasjax import _text

if TYPE_CHECKING:
    import xarray as xr

REPORTS = (20, 50, 100, 200, 350, 500)
"""Updates after which runs report; the last is the end."""
SHIFTS = np.sinh(np.linspace(-4.5, 4.5, 61))
"""Shifts behind the norm, in its standard deviations, at which twins without the bias are evaluated."""
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.03, "adamw": 1e-3}
BETA = 0.9
"""Momentum of "momentum", and decay of AdamW's first moment."""


class Setting(NamedTuple):
    """What a framework or its examples train with; ``sigma_b`` 1 is PyTorch's uniform bias, 0 none."""

    name: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    bn_momentum: float
    sigma_b: float

    @property
    def decay(self) -> float:
        """Share of a bias without gradient that an update takes away, at the full learning rate."""
        return self.learning_rate * self.weight_decay / (1 - BETA if self.optimizer == "momentum" else 1)


DEFAULTS = (
    Setting("PyTorch ImageNet", "momentum", 0.1, 1e-4, 0.9, 1.0),
    Setting("PyTorch CIFAR", "momentum", 0.1, 5e-4, 0.9, 1.0),
    Setting("Flax ImageNet", "momentum", 0.1, 1e-4, 0.9, 0.0),
    Setting("Keras SGD", "momentum", 0.01, 0.0, 0.99, 0.0),
    Setting("PyTorch AdamW", "adamw", 1e-3, 1e-2, 0.9, 1.0),
    Setting("Keras AdamW", "adamw", 1e-3, 4e-3, 0.99, 0.0),
    Setting("AdamW, decay .1", "adamw", 1e-3, 0.1, 0.99, 1.0),
)
"""SGD has momentum .9. Keras and Flax start biases at 0, PyTorch at U(+-1/sqrt(fan_in))."""


def weight_decay(optimizer: str, decay: Any) -> Any:
    """Weight decay under which a bias without gradient shrinks by ``decay`` in each update; see `Setting`."""
    return decay / LEARNING_RATES[optimizer] * (1 - BETA if optimizer == "momentum" else 1)


def train(
    key,
    *,
    optimizer: str,
    schedule: str,
    learning_rate,
    weight_decay,
    bn_momentum,
    bias_value=0.0,
    sigma_b=0.0,
    use_bias: bool = True,
    width: int = 64,
    steps: int = REPORTS[-1],
    dtype: str = "float32",
) -> dict:
    """Train one network on the digits; follow its lag, and without a bias what any lag would cost.

    Returns
    -------
    dict
        Of a `training.History`; with the bias ``lag_formula``, what the optimiser does to a number without
        gradient; without it ``moved_accuracy`` and ``moved_loss``, ``(reports, shifts)``.
    """
    import jax
    import jax.numpy as jnp

    data = bj.data.flatten(bj.data.digits(dtype))
    features = data.train_x.shape[-1]
    options = {"order": "dense-bn-relu", "linear_bias": use_bias, "bias_init": "torch_uniform"}
    net = bj.network.Network(inputs=features, width=width, depth=1, outputs=10, **options)
    reports = reports_of(steps)
    rate = None if schedule == "constant" else schedule
    options = {"steps": steps, "batch_size": 64, "report_at": reports, "schedule": rate}
    stages = bj.training.make_steps(net, optimizer, data, **options)
    hyperparams = bj.training.Hyperparams(learning_rate, weight_decay, BETA, bn_momentum=bn_momentum)
    numbers = (key, bj.network.Scales(1.0, sigma_b, bias_value), hyperparams)

    def advance(carry, _) -> tuple[Any, Any]:
        carry = stages.advance(carry, *numbers)
        return carry, () if use_bias else _moved(net, carry.train_state, data)

    carry, moved = jax.lax.scan(advance, stages.start(*numbers), length=len(reports))
    found = stages.finish(carry, *numbers)[1]._asdict()
    if not use_bias:
        return found | {"moved_accuracy": moved[0], "moved_loss": moved[1]}
    lag = decayed_lag(optimizer, rate, hyperparams, bias_value, steps)
    return found | {"lag_formula": lag[jnp.asarray(reports) - 1]}


def reports_of(steps: int) -> tuple[int, ...]:
    """When a run of so many updates reports."""
    return tuple(sorted({max(1, round(at * steps / REPORTS[-1])) for at in REPORTS}))


def decayed_lag(optimizer: str, schedule: str | None, hyperparams: Any, bias_value: Any, steps: int):
    """Bias minus its share of the running mean after each update, if it sees nothing but its decay.

    The running mean is linear in what it averages: s' = m s + (1 - m) b from 0. For SGD with a constant
    rate that is `dead_bias.lag_formula`; here the optimiser itself moves b, whatever it is.
    """
    import jax
    import jax.numpy as jnp

    if schedule is not None:
        rate = bj.training.SCHEDULES[schedule](hyperparams, steps)
        hyperparams = hyperparams._replace(learning_rate=rate)
    tx, momentum = bj.training.OPTIMIZERS[optimizer](hyperparams, None), hyperparams.bn_momentum

    def update(carry, _):
        bias, share, state = carry
        share = momentum * share + (1 - momentum) * bias
        change, new = tx.update(jnp.zeros_like(bias), state, bias)
        new = jax.tree.map(lambda old, now: jnp.asarray(now, old.dtype), state, new)
        bias = bias + jnp.asarray(change, bias.dtype)
        return (bias, share, new), bias - share

    bias = jnp.asarray(bias_value, jnp.float32)
    return jax.lax.scan(update, (bias, jnp.zeros_like(bias), tx.init(bias)), length=steps)[1]


def _moved(net, state, data):
    """Test accuracy and loss if the norm's output were shifted by each of `SHIFTS`."""
    import jax
    import jax.numpy as jnp
    import optax

    def shift(by, stats):
        return stats._replace(mean=stats.mean - by * jnp.sqrt(stats.var.mean(-1, keepdims=True)))

    def one(by):
        moved = jax.tree.map(
            functools.partial(shift, by),
            state.state,
            is_leaf=lambda node: isinstance(node, bj.norms.BatchStats),
        )
        logits, _ = bj.network.apply(net, state.params, moved, data.test_x, train=False)
        right = jnp.argmax(logits, -1).astype(data.test_y.dtype) == data.test_y
        loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), data.test_y)
        return jnp.mean(right), jnp.mean(loss)

    return jax.lax.map(one, jnp.asarray(SHIFTS, data.test_x.dtype))


class Curve(NamedTuple):
    """What is lost at inference as a function of the shift alone."""

    shift: np.ndarray
    lost: np.ndarray

    def __call__(self, shift):
        """Interpolate; beyond its ends the curve stays what it is there."""
        import xarray as xr

        return xr.apply_ufunc(lambda x: np.interp(x, self.shift, self.lost), shift)


def explained(predicted, measured) -> float:
    """Share of the variance of what was measured that a prediction explains (R²)."""
    return float(1 - ((measured - predicted) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())


_LAGS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 3.0, 10.0)
"""lag/std that a table shows."""


def table(accuracy: Curve, loss: Curve, defaults: xr.Dataset | None) -> str:
    """What is lost at some lags, and where people's defaults end: greatest of constant rate and cosine."""
    rows = [("lag/std", "accuracy lost", "loss gained")]
    rows += [(f"{lag:+g}", f"{float(accuracy(lag)):.3f}", f"{float(loss(lag)):.2f}") for lag in _LAGS]
    text = _text.table(rows, right=(0, 1, 2))
    if defaults is None:
        return text
    end = defaults.isel(report=-1).mean("seed").max("default_schedule")
    rows = [("people's defaults, at the end", "lag/std", "accuracy lost", "with a bias of 10")]
    for name in end.setting.values:
        one = end.sel(setting=name)
        shift, lost, large = one.default_shift[0], one.default_lost[0], one.default_lost[1]
        rows.append((str(name), f"{float(shift):.4f}", f"{float(lost):.4f}", f"{float(large):.4f}"))
    return f"{text}\n\n{_text.table(rows, right=(1, 2, 3))}"
