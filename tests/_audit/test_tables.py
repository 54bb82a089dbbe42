"""Tables of findings made by hand: grouped, worst first, as wide as asked, escaped."""

from xml.etree import ElementTree

import numpy as np
import pytest

from biasjax._audit import findings, tables
from biasjax._audit.findings import Basis, BiasAudit, Death, Finding, Made, Shifted
from biasjax._audit.modes import ModesAudit


def finding(path, size, rank, unique=None, **more):
    verdict = findings.verdict_of(True, size, rank, unique)
    found = Finding(path, size, rank, unique, verdict, True, Shifted(0.0, 1e-16), None, (), ())
    return found._replace(**more)


def normed(layer):
    death = Death("sub", f"Net/layer_{layer}/norm", "/site/flax/linen/normalization.py:12 (_normalize)")
    made = Made("/project/src/net.py:7 (Net.__call__)", "flax.linen.Conv", "use_bias=False", "")
    return finding(f"layer_{layer}/conv2d/bias", 8, 0, 0, deaths=(death,), made=made)


KEY = finding("key/bias", 4, 3, 3, basis=Basis("uniform", np.full((4, 1), 0.5)))
VALUE = finding("value/bias", 1000, 1000, 0, absorbed_by=("out/bias",))
OUT = finding("out/bias", 8, 8, 8)
AUDIT = BiasAudit((OUT, VALUE, KEY, *map(normed, range(12))))
# In evaluation other biases stand in for those before norms
MODES = ModesAudit(
    AUDIT,
    AUDIT._replace(
        findings=(
            *(OUT, VALUE, KEY),
            *(finding(f.path, 8, 8, 0, absorbed_by=("out/bias",), made=f.made) for f in AUDIT.findings[3:]),
        )
    ),
)


def test_table():
    assert AUDIT.table(width=80).splitlines() == [
        "bias                     size  rank  unique  verdict",
        "-" * 75,
        "layer_*/conv2d/bias x12    96     0       0  cancelled",
        "    made at src/net.py:7 (Net.__call__)",
        "    dies at sub in Net/layer_*/norm, linen/normalization.py:12 (_normalize)",
        "    -> use_bias=False of flax.linen.Conv",
        "key/bias                    4     3       3  partly cancelled",
        "    uniform (1)",
        "    -> keep it: only a shift of all entries alike does nothing",
        "value/bias               1000  1000       0  absorbable",
        "    -> drop it where it is added, while out/bias stays",
        "out/bias                    8     8       8  needed",
        "",
        "12 of 15 biases, 97 of 1,108 parameters, do nothing.",
        "cancelled: no shift of it changes an output.",
        "partly cancelled: some shifts of it change no output.",
        "absorbable: other biases can do all that it does, as long as these stay.",
        "needed: only it can do what it does.",
        "xN: N biases whose paths differ in a number (*); their entries are added up.",
        "rank: directions that change an output.",
        "unique: directions that no other bias can stand in for.",
    ]


def test_table_of_modes():
    assert MODES.table(width=80).splitlines()[:12] == [
        "bias                     size  training          rank  evaluation        rank",
        "-" * 80,
        "layer_*/conv2d/bias x12    96  cancelled            0  absorbable          96  *",
        "    in training: made at src/net.py:7 (Net.__call__)",
        "    dies at sub in Net/layer_*/norm, linen/normalization.py:12 (_normalize)",
        "    -> use_bias=False of flax.linen.Conv",
        "key/bias                    4  partly cancelled     3  partly cancelled     3",
        "    uniform (1)",
        "    -> keep it: only a shift of all entries alike does nothing",
        "value/bias               1000  absorbable        1000  absorbable        1000",
        "    -> drop it where it is added, while out/bias stays",
        "out/bias                    8  needed               8  needed               8",
    ]
    assert MODES.table(width=80).endswith("*: another verdict in training than in evaluation.")
    assert "*: another" not in ModesAudit(AUDIT, AUDIT).table()


def test_what_training_needs_is_kept():
    modes = ModesAudit(
        BiasAudit((finding("b", 2, 2, 2),)), BiasAudit((finding("b", 2, 2, 0, absorbed_by=("c",)),))
    )
    assert "->" not in modes.table()


@pytest.mark.parametrize("width", [60, 72, 100])
def test_no_line_is_wider_than_asked(width):
    names = ["a_rather_long_encoder_name", "with_an_even_longer_block", "and_attention"]
    far = finding("/".join([*names, *names, "bias"]), 8, 0, 0)
    for audit in (AUDIT, BiasAudit((far, OUT))):
        for table in (audit.table(width=width), ModesAudit(audit, audit).table(width=width)):
            assert max(map(len, table.splitlines())) <= width


def test_the_terminal_is_asked_for_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "66")
    assert max(map(len, AUDIT.table().splitlines())) <= 66
    monkeypatch.setenv("COLUMNS", "20")
    assert AUDIT.table() == AUDIT.table(width=60)


def test_a_width_that_is_none():
    with pytest.raises(ValueError, match="width: expected an integer of at least 60, got 10"):
        AUDIT.table(width=10)


def test_the_long_form():
    lines = AUDIT.table(all=True).splitlines()
    assert lines[0].split() == [
        "bias",
        "size",
        "rank",
        "unique",
        "verdict",
        "why",
        "made",
        "what",
        "to",
        "do",
    ]
    assert [line.split()[0] for line in lines[2:17]] == [f.path for f in AUDIT.findings]
    assert "absorbed by out/bias" in lines[3]
    assert lines[5].endswith("src/net.py:7 (Net.__call__)  use_bias=False of flax.linen.Conv")
    of_modes = MODES.table(all=True).splitlines()
    assert [line.split()[0] for line in of_modes[2:17]] == [f.path for f in AUDIT.findings]
    assert of_modes[5].split() == ["layer_0/conv2d/bias", "8", "cancelled", "0", "absorbable", "8", "*"]


def test_several_places_and_reasons():
    one, other = (
        normed(0),
        normed(1)._replace(
            made=Made("/project/src/net.py:9 (Net.__call__)", "flax.linen.Dense", "use_bias=False", "")
        ),
    )
    table = BiasAudit((one, other)).table(width=80)
    assert "made at src/net.py:7 (Net.__call__), src/net.py:9 (Net.__call__)" in table
    assert "-> use_bias=False of flax.linen.Conv (and 1 more)" in table


def test_groups_have_one_verdict():
    audit = BiasAudit((finding("l/0/b", 2, 2, 2), finding("l/1/b", 2, 0, 0), finding("l/2/b", 2, 2, 2)))
    assert [row.split()[:2] for row in audit.table(width=80).splitlines()[2:5:2]] == [
        ["l/1/b", "2"],
        ["l/*/b", "x2"],
    ]


def test_for_notebooks():
    bad = finding("<script>/b&b", 2, 0, 0)
    for shown, rows in (
        (BiasAudit((bad, OUT)), 3),
        (ModesAudit(*[BiasAudit((bad, OUT))] * 2), 3),
        (AUDIT, 5),
    ):
        text = shown._repr_html_()
        assert "<script>" not in text
        table = ElementTree.fromstring(text.replace("<br>", "<br/>"))
        assert len({len(row) for row in table.iter("tr")}) == 1
        assert len(list(table.iter("tr"))) == rows
    assert "&lt;script&gt;/b&amp;b" in BiasAudit((bad,))._repr_html_()


def test_every_verdict_has_its_meaning():
    assert set(tables.MEANING) == set(findings.VERDICTS)
