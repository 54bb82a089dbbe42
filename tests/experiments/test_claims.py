import numpy as np

from experiments import claims


def test_claims_hold_or_fail():
    assert claims.equal("", "", 1.0, 1.1, tolerance=0.2).holds
    assert not claims.equal("", "", 1.0, 1.3, tolerance=0.2).holds
    assert not claims.equal("", "", 1.0, np.nan, tolerance=0.2).holds
    assert claims.at_least("", "", 1.0, 2.0).holds
    assert not claims.at_least("", "", 1.0, np.nan).holds
    assert claims.at_most("", "", 1.0, 1.0).holds
    assert not claims.at_most("", "", 1.0, 1.1).holds


def test_what_is_written_says_whether_it_holds():
    written = claims.equal("one", "closed form", np.float32(1), np.float64(1.5), tolerance=1).to_dict()
    assert written == {
        "name": "one",
        "source": "closed form",
        "relation": "=",
        "expected": 1.0,
        "measured": 1.5,
        "tolerance": 1.0,
        "holds": True,
    }
