import numpy as np
import pytest

from experiments import activations_by_depth
from experiments._parts import curves

SEEDS = 64


@pytest.fixture(scope="module")
def dataset():
    """Theory, and networks that scatter around it as theory says."""
    sigma_b = np.array([0.0, 0.25, 0.5])
    theory = activations_by_depth.theory(activations_by_depth.SMOKE, sigma_b)
    noise = np.random.default_rng(0).standard_normal((SEEDS, *theory.q_theory.shape))
    noise = theory.q_theory.expand_dims(seed=range(SEEDS)).copy(data=noise)
    scatter = np.sqrt(np.log1p(theory.q_scatter_theory**2))
    drawn = {
        "q": theory.q_theory * np.exp(scatter * noise - scatter**2 / 2),
        "distance": theory.distance_theory * (1 + 0.1 * noise),
        "log_grad_features": theory.log_gradient_theory + theory.log_gradient_scatter_theory * noise / 2,
    }
    dataset = theory.assign(drawn).assign_attrs(width=64)
    return dataset.assign_coords(layer=np.arange(1, dataset.sizes["layer"] + 1))


def test_claims_hold_for_what_scatters_around_theory(dataset):
    found = activations_by_depth.claims(dataset)
    assert [claim.name for claim in found if not claim.holds] == []
    assert all(len(claim.name) <= 38 and claim.null is not None for claim in found)


@pytest.mark.parametrize(("sigma_b", "about"), [(0.0, "bias"), (0.5, "no bias")])
def test_claims_fail_for_the_other_bias(dataset, sigma_b, about):
    off = curves.at_bias(dataset, activations_by_depth.MEASURED, sigma_b)
    found = activations_by_depth.claims(off)
    told = [claim for claim in found if claim.name.startswith(about)]
    assert len(told) == {"bias": 5, "no bias": 4}[about]
    assert all(claim.verdict == "fails" for claim in (*told, *found[:4]))


def test_the_figure_says_which_lines_coincide(dataset):
    axes = activations_by_depth.figure(dataset).axes
    assert len(axes) == 6
    assert [ax.get_title("left") for ax in axes[2:4]] == [
        "ReLU; no bias: one curve",
        "tanh; no bias: one curve, at 1",
    ]
