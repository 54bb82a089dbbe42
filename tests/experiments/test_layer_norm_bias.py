import dataclasses

import numpy as np
import pytest
import xarray as xr

from experiments import layer_norm_bias as experiment

CONFIG = dataclasses.replace(experiment.SMOKE, depth=24)


@pytest.fixture(scope="module")
def ideal():
    """Networks whose layers do what theory says: where gradients decay so does 1 - c."""
    coords = {
        "order": list(CONFIG.orders),
        "sigma_w": list(CONFIG.sigma_w),
        "ratio": np.linspace(*CONFIG.ratio),
    }
    found = experiment.with_theory(xr.Dataset(coords=coords), CONFIG).assign_attrs(width=CONFIG.width)
    noise = np.random.default_rng(0).normal(0, 1e-3, (10, CONFIG.depth))
    noise = xr.DataArray(noise, dims=("seed", "layer"))
    decay = found.rate_theory.where(found.rate_theory < 1, 1.0)
    return found.assign(
        log_grad_features=-found.layer * np.log(found.rate_theory) + noise,
        correlation=found.correlation_theory + noise,
        distance=0.04 * decay**found.layer * (1 + noise),
    )


def _verdicts(dataset):
    return {claim.name: claim.verdict for claim in experiment.claims(dataset)}


def test_claims_hold_for_ideal_networks(ideal):
    found = _verdicts(ideal)
    assert set(found.values()) == {"holds"}
    assert max(map(len, found)) <= 36


def test_claims_fail_where_the_bias_is_off(ideal):
    assert "holds" not in _verdicts(experiment.without_bias(ideal)).values()


def test_a_rate_that_stays_above_1_has_the_end_of_the_grid_for_a_critical_bias(ideal):
    off = experiment.without_bias(ideal)
    found = experiment.critical(experiment.growth(off).mean(("layer", "seed")))
    assert (found == CONFIG.ratio[1]).all()
