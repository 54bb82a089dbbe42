import numpy as np
import pytest
import xarray as xr

from biasjax import data
from experiments import trainability


def _accuracy(depth, xi_c, shape):
    """Accuracies that fall with depth / xi_c as measured ones do, over ten seeds."""
    noise = 0.01 * np.random.default_rng(0).standard_normal((*shape, 10))
    return (
        0.1
        + 0.85 / (1 + (depth / xi_c / 5) ** 6)
        + xr.DataArray(noise, dims=(*depth.dims, *xi_c.dims, "seed"))
    )


@pytest.fixture(scope="module")
def dataset():
    sigma_w, sigma_b, depths = np.array([0.75, 1.07, 2.4]), np.array([0.05, 0.7]), [3, 8, 16, 40]
    xi_c = xr.DataArray([[1.7, 51, 5.8], [0.8, 1.7, 4.7]], {"sigma_b": sigma_b, "sigma_w": sigma_w})
    depth = xr.DataArray(depths, {"depth": depths})
    good = _accuracy(depth, xi_c, (4, 2, 3))
    test = xr.concat([good, good - 0.1], "rate").assign_coords(rate=[0.2, 1.0])
    deep = xr.DataArray([40, 80], {"depth": [40, 80]})
    probe = _accuracy(deep, xr.DataArray([7.0, 50], {"sigma_b": sigma_b}), (2, 2))
    probe = xr.concat([probe, 0 * probe + 0.1], "rate").assign_coords(rate=[0.1, 4.0])
    names = {name: f"probe_{name}" for name in ("depth", "rate", "sigma_b")}
    probe = xr.Dataset({"probe_test": probe, "probe_validation": probe}).rename(names)
    probe["probe_xi_c"] = "probe_sigma_b", [7.0, 50]
    return xr.Dataset({"test": test, "validation": test, "xi_c": xi_c, "xi_grad": xi_c}).merge(probe)


def test_claims_about_the_bias_fail_where_it_does_nothing(dataset):
    found = trainability.claims(dataset)
    assert [claim.name for claim in found if claim.verdict != "holds"] == []
    accuracies = {name: trainability.off(dataset[name]) for name in ("test", "validation")}
    probes = {
        f"probe_{name}": dataset[f"probe_{name}"]
        .isel(probe_sigma_b=[0, 0])
        .assign_coords(dataset.probe_sigma_b.coords)
        for name in ("test", "validation")
    }
    off = dataset.assign(accuracies).assign(probes)
    assert not any(claim.holds for claim in trainability.claims(off) if claim.null is not None)


def test_the_rate_is_chosen_on_validation_alone(dataset):
    swapped = dataset.validation.copy(data=dataset.validation.values[::-1])
    chosen = trainability.trained.best(swapped, dataset.test)
    assert bool((chosen == dataset.test.isel(rate=1, drop=True)).all())


def test_examples_to_choose_on_are_neither_trained_nor_tested_on():
    whole = data.flatten(data.digits())
    part = trainability.held_out(whole)
    assert part.train_y.size + part.test_y.size == whole.train_y.size
    assert bool((part.test_x == trainability.held_out(whole).test_x).all())
    both = np.concatenate([part.train_x, part.test_x])
    assert np.array_equal(np.sort(both.sum(1)), np.sort(np.asarray(whole.train_x).sum(1)))
