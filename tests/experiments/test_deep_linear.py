import pytest

from experiments import deep_linear
from experiments._parts import curves

CHANGED = ("distance", "log_q", "log_std")


@pytest.fixture(scope="module")
def dataset():
    return deep_linear.run(deep_linear.Config(seeds=10))


def test_claims_about_the_bias_fail_without_it(dataset):
    found = {claim.name: claim for claim in deep_linear.claims(dataset)}
    assert len(found) == 15
    assert all(len(name) <= 38 for name in found)
    off = {claim.name: claim for claim in deep_linear.claims(curves.at_bias(dataset, CHANGED, 0.0))}
    about = [name for name in found if name.startswith("Xavier, bias") and "gradient" not in name]
    assert len(about) == 6
    assert all(found[name].holds and off[name].verdict == "fails" for name in about)


def test_equal_gradients_are_no_blindness_of_the_measure(dataset):
    (claim,) = [claim for claim in deep_linear.claims(dataset) if claim.name.startswith("|ln gradient")]
    assert claim.measured == 0
    assert claim.null is not None
    assert claim.null > 10


def test_the_figure_has_a_panel_for_each_finding(dataset):
    assert len(deep_linear.figure(dataset).axes) == 4
