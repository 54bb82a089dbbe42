"""The page on a model: what it says, that names stay text and links lead somewhere, and how large it is."""

import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from pages import HOSTILE, finding, modes, outline, receipt, tolerances

from biasjax import adapters, audit, report, surgery
from biasjax._audit import tables
from biasjax._audit.findings import VERDICTS, BiasAudit
from biasjax._report import depths


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, name="z_first")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(2, name="a_last")(nn.relu(x))


def text(html):
    """Text of a page as it is read."""
    return " ".join("".join(outline(html).text).split())


def test_a_model_in_both_modes(standard_promotion):
    x = jax.random.normal(jax.random.key(0), (6, 3))
    pure = adapters.from_linen(Net(), Net().init(jax.random.key(0), x, False))
    found = audit.audit_modes(pure, x)
    fn, keys = audit.in_mode(pure.apply, pure.state, True)
    harm = audit.tolerance(found.train, fn, pure.params, x, keys, dtypes=("bfloat16",))
    _, done = surgery.remove_biases(pure, x, audit=found)
    html = report.model(found, title="Biases of Net", tolerances=harm, receipts=[done])
    said = text(html)
    assert "1 of 3 biases can go, 4 of 10 parameters; outputs stay what they are, once others make up" in said
    line = next(i for i, one in enumerate(Path(__file__).read_text().splitlines(), 1) if "z_first" in one)
    place = rf"tests/test_report_model.py:{line} \(Net.__call__\)"
    assert re.search(rf"use_bias=False of flax.linen.Dense at {place} \(1 bias, 4 parameters\)", said)
    assert "dies at sub in Net/norm, linen/normalization.py:" in said
    # Where the program uses them, not the alphabet
    assert re.findall(r'title="([^"]*)"', html) == [
        "z_first/bias: cancelled in training, absorbable in evaluation",
        "norm/bias: needed in training, absorbable in evaluation",
        "a_last/bias: needed in training, needed in evaluation",
    ]
    assert "1 in training" in said
    assert "harms none" in said
    assert "zeroed" in said
    assert "4 numbers no longer do anything" in said
    assert str(Path.cwd()) not in html
    assert html == report.model(found, title="Biases of Net", tolerances=harm, receipts=[done])


def test_one_mode_without_comparison():
    def fn(params, x):
        y = x @ params["w"] + params["bias"]
        return y - y.mean(0), params["out_bias"]

    params = {
        "w": jnp.ones((3, 2)),
        "bias": jnp.zeros(2),
        "out_bias": jnp.zeros(2),
        "spare_bias": jnp.zeros(2),
    }
    found = audit.audit_biases(fn, params, jnp.ones((4, 3)), joint=False)
    html = report.model(found)
    said = text(html)
    assert "2 of 3 biases can go, 4 of 6 parameters; outputs stay what they are." in said
    assert "drop it where it is added at tests/test_report_model.py:" in said
    assert "drop it: nothing uses it (1 bias, 2 parameters)" in said
    assert "unique" not in said
    assert "training" not in said
    assert "remove_biases" not in said
    assert re.findall(r'title="([^"]*)"', html)[-1] == "spare_bias: unused"


def test_nothing_to_say():
    assert "The model has no biases." in text(report.model(BiasAudit(())))
    needed = BiasAudit((finding(0),))
    assert "0 of 1 bias can go: without any of them the outputs would be others." in text(
        report.model(needed)
    )
    assert "No bias is dead." in text(report.model(needed, tolerances=tolerances(needed)))


def test_a_large_model():
    found = modes(300)
    html = report.model(found, tolerances=tolerances(found.train), receipts=[receipt(found.train)])
    assert len(html.encode()) <= 500_000
    page = outline(html)
    assert [link for link in page.links if link.startswith("#bias-")][:300] == [
        f"#bias-{i}" for i in range(1, 301)
    ]
    said = text(html)
    assert "encoder_with_a_long_name/transformer_block_*/mlp/dense/bias x50" in said
    assert "harms bfloat16" in said
    assert "do harm as given50 of 100 dead ones" in said
    assert "a gain is <0>" in said
    assert "2.0e-16" in said
    assert "/somewhere" not in html
    parts = depths.parts(depths.read(found).each)
    assert [part.name for part in parts] == [f"transformer_block_{i}" for i in range(50)]
    assert {len(part.biases) for part in parts} == {6}


NAMES = [
    HOSTILE,
    "<script>alert(1)</script>",
    "a\nb",
    '"x" onload="y"',
    "ü\u202eb",
    "</style>",
    "&amp;",
    "\0",
    "/",
    "",
]


def test_hostile_names():
    found = BiasAudit(tuple(finding(i)._replace(path=path) for i, path in enumerate(NAMES)))
    html = report.model(found, title=HOSTILE, tolerances=tolerances(found), receipts=[receipt(found)])
    page = outline(html)
    assert page.tags.count("script") == page.tags.count("style") == 1
    assert {f"bias-{i}" for i in range(1, len(NAMES) + 1)} <= set(page.ids)
    assert all(re.fullmatch(r"[\w-]+", name) for name in page.ids)
    said = text(html)
    for name in NAMES[1:7]:
        assert " ".join(name.split()) in said
    assert "\0" not in html


def test_parts_are_named_where_paths_differ():
    def names(*paths):
        biases = [depths.Bias(i, (finding(0)._replace(path=path),)) for i, path in enumerate(paths)]
        return [part.name for part in depths.parts(biases)]

    assert names("bias") == [""]
    assert names("net/layers/0/a/bias", "net/layers/0/b/bias", "net/layers/1/a/bias") == ["0", "1"]
    assert names("layers/0/bias", "layers/1/bias", "head/bias") == ["layers/0", "layers/1", "head"]
    assert names("a/bias", "b/bias", "a/other/bias") == ["a", "b", "a"]


def test_every_verdict_has_a_sign():
    assert set(depths.SIGNS) == set(VERDICTS) == set(tables.MEANING)
    assert len(set(depths.SIGNS.values())) == len(VERDICTS)
    style = (Path(depths.__file__).parent / "model.css").read_text()
    assert all(f".{depths.kind_of(verdict)} {{" in style for verdict in VERDICTS)


AUDIT = modes(6)
WRONG: Any = report  # called with what a checker would refuse
REFUSED = {
    "no audit": (
        lambda: WRONG.model(None),
        "report.model: expected a BiasAudit or ModesAudit, got NoneType",
    ),
    "title": (lambda: WRONG.model(AUDIT, title=3), "title: expected text, got 3"),
    "tolerances": (lambda: WRONG.model(AUDIT, tolerances=[]), "tolerances: expected Tolerances or None"),
    "one receipt": (
        lambda: WRONG.model(AUDIT, receipts=receipt(AUDIT.train)),
        "receipts: expected a sequence of Receipt.* Put it into a list",
    ),
    "others": (lambda: WRONG.model(AUDIT, receipts=["zeroed"]), "'zeroed' among them"),
    "other biases": (
        lambda: WRONG.model(AUDIT._replace(eval=modes(5).eval)),
        "the same biases in both modes, got 6 and 5 that differ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()
