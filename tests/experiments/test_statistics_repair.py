import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr

from biasjax import statistics, surgery
from experiments import statistics_repair
from experiments._parts import repairs

TINY = dataclasses.replace(statistics_repair.SMOKE, width=8, early=5, steps=10, more=5)


@pytest.fixture(scope="module")
def trained():
    network, data, run = repairs.setting(TINY, 64)
    numbers = repairs.numbers_of(TINY, jax.random.key(0), 0.97, 10.0)
    now = jax.jit(lambda: repairs.to_the_end(run, run.start(*numbers), numbers).train_state)()
    return network, data, now


def _assert_same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_sweep_re_estimates_as_the_library_does(trained):
    network, data, now = trained
    found = statistics.reestimate(repairs.pure(network, now), np.array_split(data.train_x, 3))
    _assert_same(repairs.put_back(now, found), repairs.reestimated(network, now, data.train_x))


def test_the_sweep_removes_biases_as_the_library_does(trained):
    network, data, now = trained
    found, _ = surgery.remove_biases(repairs.pure(network, now), data.train_x[:8])
    _assert_same(repairs.put_back(now, found), repairs.removed(now))


def test_shares_are_those_of_the_gap_and_nothing_where_there_is_none():
    dims = ("batch_size", "decay_biases", "seed", "bn_momentum", "bias_value", "report")
    ones = xr.DataArray(np.ones((1, 2, 3, 1, 2, 3)), dims=dims)
    running = (
        ones * xr.DataArray([0.9, 0.5], dims="bias_value") * xr.DataArray([1.0, 1.4], dims="decay_biases")
    )
    measured = {"running": running, "batch": 0.9 * ones, "reestimated": 0.7 * ones, "removed": 0.5 * ones}
    dataset = xr.Dataset({f"accuracy_{name}": values for name, values in measured.items()})
    dataset = dataset.assign_coords(
        decay_biases=[True, False], bias_value=[0.0, 10.0], report=[5, 10, 15]
    ).assign_attrs(steps=10)
    found = statistics_repair.shares(dataset).squeeze()
    assert {name: round(float(found[name]), 6) for name in found} == {
        "reestimated": 0.5,
        "undecayed": 0.5,
        "bias_free": 1.0,
        "removed": 0.0,
        "gap": 0.4,
    }
    dataset["accuracy_batch"] = 0.54 * ones
    assert np.isnan(float(statistics_repair.shares(dataset).reestimated.squeeze()))


def test_grids_that_no_claim_fits_are_refused():
    for change, fix in (({"bias_values": (10.0,)}, "Write 0 10"), ({"early": 500}, "Report before")):
        with pytest.raises(ValueError, match=fix):
            statistics_repair.run(dataclasses.replace(TINY, **change))
