import dataclasses

import numpy as np
import pytest
import xarray as xr

from experiments import conv_propagation as experiment
from experiments._parts import curves, spectra

CONFIG = dataclasses.replace(experiment.SMOKE, seeds=16)
BIASED = {
    "circular: q, standard errors off",
    "circular: covariances, likewise",
    "zero padding: q, likewise",
    "zero padding: covariances, likewise",
    "tanh: gradients, rms, likewise",
    "q of border / middle, sigma_b = 0.5",
}


def _like(activations, kernels, prefix=""):
    coords = {f"{prefix}activation": list(activations), f"{prefix}kernel": list(kernels)}
    return xr.Dataset(coords={**coords, "sigma_b": list(CONFIG.sigma_b)})


@pytest.fixture(scope="module")
def ideal():
    """Networks whose layers do what theory says, half of the seeds a trifle above, half below."""
    circular = experiment.theory(CONFIG, "CIRCULAR", _like(CONFIG.activations, CONFIG.kernels))
    zeros = experiment.theory(CONFIG, "SAME", _like(CONFIG.zero_padded, experiment.BOTH, "zeros_"))
    found = xr.merge([circular, zeros]).assign_coords(layer=np.arange(1, CONFIG.depth + 1))
    noise = xr.DataArray(np.resize([1e-6, -1e-6], CONFIG.seeds), dims="seed")
    found = found.assign({name: found[f"{name}_theory"] + noise for name in experiment.MEASURED})
    many = xr.DataArray(np.resize([1e-6, -1e-6], CONFIG.many), dims="many")
    first = found.covariance_theory.sel(activation="linear", kernel="gaussian", sigma_b=0.0, drop=True)
    border = found.zeros_q_theory.sel(zeros_activation="linear", zeros_kernel="gaussian", drop=True)
    tops = xr.DataArray(np.log([4.0, 8 / 3, 1.0]) / 2, {"net_kernel": list(spectra.KERNELS)})
    return found.assign(
        first_covariance=first.rename(layer="first_layer") * (1 + many),
        border_q=border.isel(layer=0).sel(sigma_b=[0.0, 0.5]).rename(sigma_b="border_sigma_b") + many,
        log_singular=tops.expand_dims(net_depth=[1], value=4),
    ).assign_attrs(width=CONFIG.width)


def _verdicts(dataset):
    return {claim.name: claim.verdict for claim in experiment.claims(dataset)}


def test_claims_hold_for_ideal_networks(ideal):
    found = _verdicts(ideal)
    assert set(found.values()) == {"holds"}
    assert set(found) >= BIASED
    assert max(map(len, found)) <= 38


def test_claims_about_a_bias_fail_where_it_is_off(ideal):
    off = curves.at_bias(ideal, experiment.MEASURED, 0.0)
    still = ideal.border_q.sel(border_sigma_b=0.0, drop=True).broadcast_like(ideal.border_q)
    found = _verdicts(off.assign(border_q=still))
    # Where no gradient knows a bias, tanh's do not tell from those of linear networks
    lost = {"linear, ReLU: gradients, likewise": "empty"}
    assert {name: verdict for name, verdict in found.items() if verdict != "holds"} == (
        dict.fromkeys(BIASED, "fails") | lost
    )


def test_a_bias_that_moves_all_but_one_combination_is_told(ideal):
    # One combination without the bias would be hidden by the worst of all others, were it the null
    off = curves.at_bias(ideal, experiment.MEASURED, 0.0)
    one = (ideal.activation == "tanh") & (ideal.kernel == "gaussian")
    blind = ideal.assign(covariance_theory=off.covariance.mean("seed").where(one, ideal.covariance_theory))
    blind = blind.assign(covariance=off.covariance.where(one, ideal.covariance))
    assert _verdicts(blind)["circular: covariances, likewise"] == "empty"


def test_kernels_are_each_others_twins(ideal):
    names = ["covariance", "zeros_q"]
    swapped = ideal[names].isel(kernel=[1, 0], zeros_kernel=[1, 0])
    swapped = swapped.assign_coords(kernel=ideal.kernel, zeros_kernel=ideal.zeros_kernel)
    found = _verdicts(ideal.assign(swapped))
    assert found["delta-orthogonal: waves change by"] == "fails"
    assert found["delta-orthogonal, padded: |q - 1|"] == "fails"


def test_the_figure_labels_every_axis(ideal):
    figure = experiment.figure(ideal)
    assert len(figure.axes) == 6
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title("left") for ax in figure.axes)
