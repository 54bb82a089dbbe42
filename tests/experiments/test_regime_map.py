import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from biasjax.training import Hyperparams
from experiments import regime_map
from experiments._parts import dead_bias, regimes

TINY = dataclasses.replace(
    regime_map.SMOKE,
    steps=60,
    width=16,
    seeds=2,
    decays=(0.0, 3e-3),
    bn_momenta=(0.9,),
    bias_values=(1.0, 30.0),
    precisions=(),
)


@pytest.fixture(scope="module")
def dataset():
    return regime_map.run(TINY)


def _verdicts(dataset):
    return {claim.name: claim.verdict for claim in regime_map.claims(dataset)}


def test_one_curve_explains_what_is_lost_and_not_without_the_bias(dataset):
    text = "accuracy lost: R² of one curve"
    assert _verdicts(dataset)[text] == "holds"
    off = dataset.assign(accuracy_lost=dataset.accuracy_lost * 0 + dataset.accuracy_lost.isel(bias_value=0))
    assert _verdicts(off)[text] != "holds"
    flipped = dataset.assign(lag_formula=-dataset.lag_formula)
    assert _verdicts(flipped)[text] != "holds"


def test_the_lag_is_that_of_the_running_mean(dataset):
    text = "lag: formula off by, share of greatest"
    assert _verdicts(dataset)[text] == "holds"
    assert _verdicts(dataset.assign(lag_measured=-dataset.lag_measured))[text] != "holds"


def test_the_figure_has_a_panel_for_each_message(dataset):
    assert len([ax for ax in regime_map.figure(dataset).axes if ax.get_title(loc="left")]) == 6


@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_the_optimiser_moves_a_dead_bias_by_the_closed_form(decay):
    hyperparams = Hyperparams(0.1, decay / 0.1, bn_momentum=jnp.float32(0.9))
    found = regimes.decayed_lag("sgd", None, hyperparams, 3.0, 40)
    expected = dead_bias.lag_formula(3.0, 0.9, 1 - decay, np.arange(1, 41))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


def test_weight_decay_takes_its_share_of_a_bias_in_each_update():
    for optimizer in regimes.LEARNING_RATES:
        rate, weight_decay = regimes.LEARNING_RATES[optimizer], regimes.weight_decay(optimizer, 1e-3)
        setting = regimes.Setting("", optimizer, rate, weight_decay, 0.9, 0.0)
        assert setting.decay == pytest.approx(1e-3)
