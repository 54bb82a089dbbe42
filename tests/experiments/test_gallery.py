import pytest

from experiments import audit_tour, gallery


def test_a_tour_of_one_network():
    dataset = audit_tour.run(audit_tour.Config(models=("pre_norm",), width=4))
    found = audit_tour.claims(dataset)
    assert len(found) == 3
    assert all(claim.holds for claim in found)
    # Four of the key, one each of the output and the second dense bias
    assert dataset.parameters.sel(fate="cancelled").values.tolist() == [[6, 6]]
    assert "| pre_norm | 1 / " in audit_tour.table(dataset)
    # Softmax cancels the key's without any norm
    assert [claim.null for claim in found] == [4, dataset.parameters.sel(fate="needed")[0, 0], 1]
    counts = dataset.parameters.where(dataset.fate != "cancelled", dataset.unnormed)
    assert audit_tour.claims(dataset.assign(parameters=counts))[0].verdict == "fails"


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'pre_norm'"):
        audit_tour.run(audit_tour.Config(models=("prenorm",)))


def test_every_model_is_toured_and_has_rules_for_its_biases():
    assert set(audit_tour.Config().models) == set(gallery.GALLERY)
    assert gallery.by_hand("mobilenet", "bottleneck_stem/bias", 8, 8, True) == 8
    assert gallery.by_hand("mobilenet", "bottleneck_stem/bias", 8, 8, False) == 0
    assert gallery.by_hand("pre_norm", "down/bias", 8, 8, False) == 1
    assert gallery.by_hand("pre_norm_rotary", "heads/key/bias", 8, 8, True) == 0
