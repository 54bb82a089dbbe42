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
        "interval": 0.0,
        "null": None,
        "verdict": "holds",
    }


def test_a_claim_that_holds_without_the_bias_is_empty():
    verdicts = {null: claims.at_least("", "", 1.0, 2.0, null=null).verdict for null in (0.9, 1.0, np.nan)}
    assert list(verdicts.values()) == ["holds", "empty", "empty"]
    assert claims.at_most("", "", 1.0, 0.5, null=1.1).holds
    assert claims.equal("", "", 1.0, 1.1, null=0.5, tolerance=0.2).holds
    assert claims.equal("", "", 1.0, 1.1, null=1.2, tolerance=0.2).verdict == "empty"


def test_all_of_an_interval_must_be_on_the_right_side():
    assert claims.at_least("", "", 1.0, 1.3, interval=0.2).holds
    assert claims.at_least("", "", 1.0, 1.1, interval=0.2).verdict == "fails"
    assert claims.at_most("", "", 1.0, 0.9, interval=0.2).verdict == "fails"
    # The null twin scatters alike, so it must miss the bound by as much
    assert claims.at_least("", "", 1.0, 1.3, interval=0.2, null=0.9).verdict == "empty"
    assert claims.at_least("", "", 1.0, 1.3, interval=0.2, null=0.7).holds
