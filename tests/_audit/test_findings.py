"""Findings made by hand: verdicts, tables, short names, and the check for tests of one's own."""

import json

import numpy as np
import pytest

from biasjax._audit import findings
from biasjax._audit.findings import Basis, BiasAudit, Death, Finding, Shifted
from biasjax._audit.modes import ModesAudit

ALIVE, STILL = Shifted(0.1, 1e-16), Shifted(1e-16, 1e-16)
SUB = Death("sub", "Net/BatchNorm_0", "/site/flax/linen/normalization.py:12 (_normalize)")


def finding(path, size, rank, unique=None, **more):
    verdict = findings.verdict_of(True, size, rank, unique)
    found = Finding(path, size, rank, unique, verdict, True, ALIVE if rank else STILL, None, (), ())
    return found._replace(**more)


AUDIT = BiasAudit(
    (
        finding("conv/bias", 8, 0, 0, deaths=(SUB,)),
        finding("key/bias", 4, 3, 3, basis=Basis("uniform", np.full((4, 1), 0.5)), deaths=(SUB,)),
        finding("value/bias", 1000, 1000, 0, absorbed_by=("out/bias",)),
        finding("out/bias", 8, 8, 8),
    )
)
# In evaluation the first is absorbed
MODES = ModesAudit(
    AUDIT, BiasAudit((finding("conv/bias", 8, 8, 0, absorbed_by=("out/bias",)), *AUDIT.findings[1:]))
)


@pytest.mark.parametrize(
    ("verdict", "used", "size", "rank", "unique"),
    [
        ("unused", False, 4, 0, 0),
        ("cancelled", True, 4, 0, 0),
        ("cancelled", True, 4, 0, None),
        ("partly cancelled", True, 4, 3, 3),
        ("partly cancelled", True, 4, 3, None),
        ("absorbable", True, 4, 3, 0),
        ("absorbable", True, 4, 4, 0),
        ("partly absorbable", True, 4, 4, 2),
        ("needed", True, 4, 4, 4),
        ("alive", True, 4, 4, None),
    ],
)
def test_verdicts(verdict, used, size, rank, unique):
    assert findings.verdict_of(used, size, rank, unique) == verdict
    assert verdict in findings.VERDICTS


def test_a_change_is_one_above_round_off():
    assert Shifted(1e-10, 1e-13).alive
    assert not Shifted(1e-10, 1e-11).alive
    assert Shifted(np.inf, 1e-16).alive


def test_a_bound_is_said_to_be_one():
    bound = "unique is an upper bound"
    assert bound not in AUDIT.table() + repr(AUDIT)
    assert bound in AUDIT._replace(exact=False).table()
    assert bound in repr(AUDIT._replace(exact=False))


def test_differing_modes():
    assert (MODES.differing, ModesAudit(AUDIT, AUDIT).differing) == (("conv/bias",), ())


def test_short_names():
    assert repr(AUDIT) == (
        "BiasAudit(4 biases: 1 cancelled, 1 partly cancelled, 1 absorbable, 1 needed; "
        "9 of 1,020 parameters do nothing)"
    )
    assert (
        repr(BiasAudit(AUDIT.findings[:1])) == "BiasAudit(1 bias: 1 cancelled; 8 of 8 parameters do nothing)"
    )
    assert repr(AUDIT["value/bias"]) == (
        "Finding(value/bias: absorbable, rank 1000 of 1000, unique 0; absorbed by out/bias)"
    )
    assert repr(finding("b", 2, 2)) == "Finding(b: alive, rank 2 of 2)"
    assert repr(Basis("other", np.zeros((64, 3)))) == "Basis(name='other', vectors=float64[64,3])"
    assert repr(MODES).splitlines() == [
        "ModesAudit(1 verdict differs",
        f"  train={AUDIT!r}",
        f"  eval={MODES.eval!r})",
    ]


def test_plain_values():
    plain = json.loads(json.dumps(MODES.to_dict()))
    assert plain["differing"] == ["conv/bias"]
    assert plain["train"]["exact"] is True
    conv, key, value, _ = plain["train"]["findings"]
    assert conv["deaths"] == [SUB._asdict()]
    assert conv["evidence"] == {"change": 1e-16, "noise": 1e-16}
    assert (conv["basis"], key["basis"]) == (None, {"name": "uniform", "dimension": 1})
    assert value["absorbed_by"] == ["out/bias"]


def test_by_path():
    assert AUDIT["out/bias"] is AUDIT.findings[3]
    with pytest.raises(KeyError, match="expected one of conv/bias, key/bias, value/bias, out/bias, got 'w'"):
        AUDIT["w"]


def test_check():
    with pytest.raises(
        AssertionError, match=r"expected no cancelled or unused bias, got 1: conv/bias\. Leave"
    ):
        AUDIT.check()
    with pytest.raises(
        AssertionError, match=r"expected no absorbable bias.*leave out one at a time.*\nbias "
    ):
        AUDIT.check("absorbable")
    with pytest.raises(AssertionError, match="See which directions"):
        MODES.check("partly cancelled")
    with pytest.raises(AssertionError, match="conv/bias, value/bias"):
        MODES.eval.check("absorbable")
    AUDIT.check("unused", "partly absorbable")
    MODES.eval.check("cancelled")
    with pytest.raises(ValueError, match="Did you mean 'cancelled'"):
        AUDIT.check("canceled")


def test_what_was_not_asked_for():
    alone = BiasAudit((finding("conv/bias", 8, 8),))
    assert alone.having("alive") == alone.findings
    assert alone.table().splitlines()[2].split() == ["conv/bias", "8", "8", "-", "alive"]
    with pytest.raises(ValueError, match="expected an audit with joint=True"):
        alone.having("partly absorbable")
    findings.check_verdicts("--fail-on", ["cancelled", "absorbable"], joint=True)


@pytest.mark.parametrize("verdicts", [None, 3, "cancelled", np.array("cancelled")])
def test_verdicts_that_are_no_list(verdicts):
    with pytest.raises(TypeError, match=f"x: expected a sequence of verdicts, got {type(verdicts).__name__}"):
        findings.check_verdicts("x", verdicts, joint=True)
