from typing import Any

import numpy as np
import pytest
import xarray as xr

from biasjax import phases
from experiments import phase_diagram
from experiments._parts import critical

NAMES, BIASES = ["tanh", "gelu", "relu"], np.array([0.0, 0.5, 1.0])


@pytest.fixture(scope="module")
def lines():
    """Lines as theory has them, and what ideal networks beside them do."""
    sigma_w = [[1.0, 1.55, 1.86], [2.0, 1.40, 1.41], [1.41, np.nan, np.nan]]
    dims = ("activation", "sigma_b")
    found = xr.Dataset({"sigma_w_theory": (dims, sigma_w)}, {"activation": NAMES, "sigma_b": BIASES})
    found = found.assign(exists=np.isfinite(found.sigma_w_theory), unstable=found.sigma_w_theory < 0)
    factor = xr.DataArray(list(critical.FACTORS), {"factor": list(critical.FACTORS)})
    sent = found.sigma_w_theory.fillna(1.41)
    own = xr.concat([sent.isel(sigma_b=0, drop=True).broadcast_like(sent), sent], "use_bias").assign_coords(
        use_bias=[0, 1]
    )
    noise = xr.DataArray(1e-3 * np.random.default_rng(0).standard_normal(10), dims="seed")
    chi_1 = factor * sent / own + noise
    gain = found.sigma_b**2 * chi_1.use_bias + 0 * chi_1
    return found.assign(chi_1=chi_1, gain=gain)


@pytest.fixture(scope="module")
def plane():
    """The plane of ideal networks: their layers do what theory says."""
    sigma_w, sigma_b = np.linspace(0.5, 2.5, 17), np.array([0, 0.2, 0.6, 1.0])
    theory = phases.order_parameters("tanh", *np.meshgrid(sigma_w, sigma_b, indexing="ij"))
    grid, layer = ("sigma_w", "sigma_b"), xr.DataArray(np.arange(50), dims="layer")
    found = xr.Dataset(coords={"sigma_w": sigma_w, "sigma_b": sigma_b})
    for name in ("q", "c", "chi_1", "xi_c"):
        found[f"{name}_theory"] = grid, np.asarray(getattr(theory, name), float)
    one = xr.DataArray([1.0, 1.0], dims="seed") + 0 * layer
    line = phases.critical_line("tanh", sigma_b).sigma_w[:, 0]
    return found.assign(
        q=found.q_theory * one,
        correlation=found.c_theory * one,
        distance=0.04 * np.exp(-layer / found.xi_c_theory.where(sigma_b > 0, np.inf)) * one,
        log_grad_features=-layer * np.log(found.chi_1_theory) * one,
        line_theory=("sigma_b", np.asarray(line)),
    )


def _verdicts(claims):
    return {claim.name: claim.verdict for claim in claims}


def test_claims_about_lines_fail_where_the_bias_is_off(lines):
    assert set(_verdicts(critical.claims(lines)).values()) == {"holds"}
    names = ["chi_1", "gain"]
    off = lines.assign(lines[names].sel(use_bias=[0, 0]).assign_coords(use_bias=[0, 1]))
    assert "holds" not in _verdicts(critical.claims(off)).values()


@pytest.mark.parametrize("moved", [0.95, 1.05])
@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_one_line_that_is_off_by_5_percent_is_noticed(lines, name, moved):
    wrong = lines.chi_1 * xr.where(lines.activation == name, moved, 1)
    claims = _verdicts(critical.claims(lines.assign(chi_1=wrong.transpose(*lines.chi_1.dims))))
    assert claims["stable: sigma_w / theory - 1, worst"] == "fails"


def test_claims_about_the_plane_fail_where_the_bias_is_off(plane):
    assert set(_verdicts(phase_diagram.plane_claims(plane)).values()) == {"holds"}
    off = phase_diagram.without_bias(plane)
    assert "holds" not in _verdicts(phase_diagram.plane_claims(off)).values()


def test_lines_are_found_in_any_order_and_unstable_points_are_marked(monkeypatch):
    columns: list[Any] = [np.array([[a, b]]) for a, b in ((np.inf, 1.5), (np.inf, 0.5), (0.0, 1.2))]
    others: list[Any] = [None] * (len(phases.CriticalLine._fields) - len(columns))
    line = phases.CriticalLine(*columns, *others)
    monkeypatch.setattr(phases, "critical_line", lambda name, sigma_b: line)
    monkeypatch.setattr("jax.jit", lambda fn: fn)
    found = critical.theory(["gelu"], np.array([0.2])).isel(activation=0, sigma_b=0)
    assert (float(found.sigma_w), float(found.q), bool(found.unstable)) == (1.5, 0.5, True)
