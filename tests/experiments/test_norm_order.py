import dataclasses

import pytest

from experiments import norm_order


def test_a_tiny_run_holds_what_no_size_matters_to():
    config = dataclasses.replace(norm_order.SMOKE, steps=20, dense_width=8, orders=("dense-bn-relu",))
    dataset = norm_order.run(config)
    holds = {claim.name: claim.holds for claim in norm_order.claims(dataset)}
    assert holds["BN first: loss gap, float64"]
    assert holds["dense-bn-relu: (lag - L2 formula) / b0"]
    assert len(norm_order.figure(dataset).axes) == 4


def test_grids_that_no_claim_fits_are_refused():
    for change, fix in (
        ({"optimizers": ("adam",)}, "Add sgd"),
        ({"orders": ("dense-relu-bn",)}, "Add dense-bn-relu"),
        ({"bias_values": (0.0,)}, "Add 10"),
        ({"adam_epsilons": (1e-8,)}, "Add 1e-3"),
    ):
        with pytest.raises(ValueError, match=fix):
            norm_order.run(dataclasses.replace(norm_order.SMOKE, **change))
