import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from biasjax.linear import Linear
from experiments import width_scaling
from experiments._parts import mup

TINY = dataclasses.replace(
    width_scaling.SMOKE,
    widths=(32, 128),
    race_widths=(16, 32),
    rates=(0.1,),
    log4_multipliers=(0, 2, 4),
    race_steps=4,
    batch=16,
    seeds=3,
)


@pytest.fixture(scope="module")
def dataset():
    return width_scaling.run(TINY)


def test_a_tiny_run_holds_what_no_size_matters_to(dataset):
    claims = {claim.name: claim for claim in width_scaling.claims(dataset)}
    assert all(len(name) <= 38 for name in claims)
    sure = ("initial bias", "Adam, bias of logits", "SGD, bias of logits")
    held = [claim for name, claim in claims.items() if name.startswith(sure)]
    assert len(held) == 7
    assert all(claim.holds for claim in held), held
    assert len(width_scaling.figure(dataset).axes) == 6
    assert len(width_scaling.table(dataset).splitlines()) == 2 + 8 + 1


def test_rates_of_biases_are_those_of_the_rule_by_hand(dataset):
    # Adam's first update is the rate times a sign
    change = dataset.bias.sel(optimizer="Adam", step=1)
    rate = float(dataset.rate_chosen.sel(optimizer="Adam"))
    for rule, layer, power in (
        ("muP", "hidden 2", 0),
        ("standard", "output", 0),
        ("bias rate / n", "hidden 1", -1),
        ("bias rate * n", "hidden 2", 1),
        ("output bias rate / n", "output", -1),
    ):
        expected = rate * (dataset.width / TINY.base_width) ** float(power)
        found = change.sel(rule=rule, layer=layer)
        # A unit that is dead for the whole batch has no gradient
        assert bool((found <= expected * 1.0001).all()), rule
        assert bool((found >= expected * 0.7).all()), rule


def test_multipliers_are_those_of_a_rule_by_construction():
    """A rate over n with a multiplier of n is the rate of muP."""
    key, names = jax.random.key(0), list(mup.RULES)
    options = {"optimizer": jnp.array(1), "width": 128}
    over_n = {"rule": jnp.array(names.index("bias rate / n")), "multiplier": jnp.array(2.0)}
    race = jax.jit(lambda **numbers: mup.race(TINY, (0.1, 0.1), key, **options, **numbers)["train"])
    np.testing.assert_allclose(race(**over_n), race(rule=jnp.array(0), multiplier=jnp.array(1.0)), rtol=1e-5)


@pytest.mark.parametrize("optimizer", mup.OPTIMIZERS)
def test_a_first_update_is_that_of_numpy_in_float64(optimizer):
    """Gradients by hand; a rate for each kind of parameter as the table of the paper has it."""
    rule = mup.powers(optimizer, mup.Rule())
    assert rule.rates.tolist() == {"SGD": [1, 0, -1, 1, 0], "Adam": [0, -1, -1, 0, 0]}[optimizer]
    width, ratio, rate = 48, 0.75, 0.1
    params = mup.draw(TINY, jax.random.key(1), width, rule)
    data = mup.digits()
    x, y = np.asarray(data.train_x[:16], float), np.asarray(data.train_y[:16])
    (w1, b1), (w2, b2), (w3, b3) = (tuple(np.asarray(a, float) for a in layer) for layer in params)
    z1 = x @ w1 + b1
    z2 = np.maximum(z1, 0) @ w2 + b2
    logits = np.maximum(z2, 0) @ w3 + b3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    g3 = (p - np.eye(10)[y]) / 16
    g2 = (g3 @ w3.T) * (z2 > 0)
    g1 = (g2 @ w2.T) * (z1 > 0)
    gradients = [
        x.T @ g1,
        np.maximum(z1, 0).T @ g2,
        np.maximum(z2, 0).T @ g3,
        *(g.sum(0) for g in (g1, g2, g3)),
    ]
    tree = tuple(Linear(*map(jnp.float32, pair)) for pair in zip(gradients[:3], gradients[3:], strict=True))
    tx = mup.optimizer(jnp.array(mup.OPTIMIZERS.index(optimizer)), rate, ratio, rule, bias=2.0)
    with jax.numpy_dtype_promotion("standard"):  # optax wants it
        steps, _ = tx.update(tree, tx.init(params), params)
    found = [layer.kernel for layer in steps] + [layer.bias for layer in steps]
    scales = [ratio**power for power in rule.rates]
    scales = [*scales[:3], 2 * scales[3], 2 * scales[3], scales[4]]
    for step, gradient, scale in zip(found, gradients, scales, strict=True):
        direction = gradient if optimizer == "SGD" else np.sign(gradient)
        np.testing.assert_allclose(step, -rate * scale * direction, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(mup.forward(params, data.train_x[:16])[-1], logits, rtol=1e-4, atol=1e-5)


def test_changes_are_told_apart_by_what_made_them():
    params: Any = mup.draw(TINY, jax.random.key(2), 16, mup.powers("SGD", mup.Rule()))
    x = mup.digits().train_x[:8]
    moved = (params[0], params[1]._replace(bias=params[1].bias + 0.5), params[2])
    found = {name: np.asarray(value) for name, value in mup.changes(params, moved, x).items()}
    np.testing.assert_allclose(found["bias"], [0, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(found["kernel"], 0)
    np.testing.assert_allclose(found["whole"][:2], [0, 0.5], atol=1e-6)
    assert found["whole"][2] > 0
    np.testing.assert_allclose(
        mup.share(params, x)[0],
        np.sqrt(np.mean(params[0].bias ** 2) / np.mean((x @ params[0].kernel) ** 2)),
        rtol=1e-5,
    )


def test_powers_and_multipliers_are_found_where_they_are_known():
    width = xr.DataArray([1.0, 2.0, 8.0], dims="width", coords={"width": [32, 64, 256]})
    assert float(width_scaling.slope(3.0 * width**1.0)) == pytest.approx(1.0)
    logs = np.arange(-1, 6)
    at: Any = xr.DataArray(4.0**logs, dims="multiplier", coords={"multiplier": 4.0**logs})
    bowl: Any = 1 + (np.log2(at) - 3) ** 2 / 100
    assert float(width_scaling.best(bowl)) == pytest.approx(8.0)
    assert float(width_scaling.best(bowl.where(at < 100))) == pytest.approx(8.0)
    cliff: Any = xr.where(at < 20, 0.3, np.inf)  # from 16 to 64 the loss rises to twice chance
    middle, top = (0.3 + np.log(10)) / 2, 2 * np.log(10)
    expected = 2 ** (4 + 2 * (middle - 0.3) / (top - 0.3))
    assert float(width_scaling.harmful(cliff)) == pytest.approx(expected)
    assert np.isnan(width_scaling.harmful(xr.full_like(at, 0.3)))
