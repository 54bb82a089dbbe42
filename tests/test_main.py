"""The command line."""

import json
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from biasjax import adapters
from biasjax.__main__ import main
from biasjax.audit import audit_biases


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(2)(nn.relu(x))


def flax_model():
    x = jnp.ones((4, 3))
    return adapters.from_linen(Net(), Net().init(jax.random.key(0), x, False)), x


def plain_function():
    return (
        lambda p, x: x @ p["w"] + p["bias"],
        {"w": jnp.ones((3, 2)), "bias": jnp.zeros(2)},
        jnp.ones((4, 3)),
    )


def run(*arguments):
    return main(["audit", *arguments])


def test_audit_of_both_modes(tmp_path, capsys):
    path = tmp_path / "audit.json"
    status = run(f"{__name__}:flax_model", "--fail-on", "cancelled", "--json", str(path))
    assert status == 1
    shown = capsys.readouterr()
    assert "Dense_0/bias" in shown.out
    assert "1 found that fail: Dense_0/bias (cancelled, train)" in shown.err
    found = json.loads(path.read_text())
    assert set(found) == {"train", "eval"}
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("mode", "status"), [("train", 1), ("eval", 0)])
def test_one_mode(mode, status):
    assert run(f"{__name__}:flax_model", "--mode", mode, "--fail-on", "cancelled", "unused") == status


def test_plain_function(capsys):
    assert run(f"{__name__}:plain_function") == 0
    assert "needed" in capsys.readouterr().out


def raising():
    raise RuntimeError("no checkpoint")


def alone():
    return flax_model()[0]


MISTAKES = {
    "nowhere:model": "Check the name and the path",
    f"{__name__}": "Put a colon",
    ":model": "Put a colon",
    f"{__name__}:flax_modle": "Did you mean 'flax_model'?",
    f"{__name__}:raising": "RuntimeError: no checkpoint",
    f"{__name__}:alone": "a Pure alone",
    f"{__name__}:test_mistakes": "to run without arguments",
}


@pytest.mark.parametrize("factory", MISTAKES)
def test_mistakes(factory, capsys):
    assert run(factory) == 2
    assert MISTAKES[factory] in capsys.readouterr().err


def test_a_module_that_does_not_import(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_module.py").write_text("import no_such_dependency\n")
    monkeypatch.chdir(tmp_path)
    assert run("broken_module:model") == 2
    shown = capsys.readouterr().err
    assert "No module named 'no_such_dependency'" in shown
    assert "traceback stands above" in shown


def line_of(text):
    """Number of the only line of this file that is so."""
    (number,) = [i for i, line in enumerate(LINES, 1) if line.strip() == text]
    return number


LINES = Path(__file__).read_text().splitlines()
DENSE = line_of("x = nn.Dense(4)(x)")


def test_github(capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    status = run(f"{__name__}:flax_model", "--mode", "train", "--format", "github", "--fail-on", "cancelled")
    assert status == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        f"::error file=test_main.py,line={DENSE},title=BJ001 cancelled bias::Dense_0/bias "
    )
    assert line.endswith("To do: use_bias=False of flax.linen.Dense.")


def test_sarif_and_junit(tmp_path):
    sarif, junit = tmp_path / "audit.sarif", tmp_path / "audit.xml"
    ask = (f"{__name__}:flax_model", "--mode", "train", "--fail-on", "cancelled", "--output")
    assert run(*ask, str(sarif), "--format", "sarif") == 1
    (result,) = json.loads(sarif.read_text())["runs"][0]["results"]
    (place,) = result["locations"]
    assert place["physicalLocation"]["region"] == {"startLine": DENSE}
    related = result["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert related.endswith("flax/linen/normalization.py")
    assert run(*ask, str(junit), "--format", "junit") == 1
    case = ElementTree.parse(junit).find(".//testcase[failure]")
    assert case is not None
    assert (case.attrib["name"], case.attrib["line"]) == ("Dense_0/bias", str(DENSE))


def test_baseline(tmp_path, capsys):
    known = tmp_path / "known.json"
    ask = (f"{__name__}:flax_model", "--mode", "train", "--format", "github", "--fail-on", "cancelled")
    assert run(*ask, "--write-baseline", str(known)) == 0
    assert run(*ask, "--baseline", str(known)) == 0
    capsys.readouterr()
    held = json.loads(known.read_text())
    held["known"] += [{"mode": "train", "bias": "gone/bias", "rule": "BJ001"}]
    known.write_text(json.dumps(held))
    assert run(*ask, "--baseline", str(known)) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "1 of the baseline not found any more: gone/bias\n")


def test_text(capsys):
    assert run(f"{__name__}:flax_model") == 0
    text = capsys.readouterr().out
    assert "-> use_bias=False of flax.linen.Dense" in text
    assert "can go together" in text
    assert f"made at tests/test_main.py:{DENSE}" in text
    assert run(f"{__name__}:flax_model", "--mode", "train", "--all") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["BatchNorm_0/bias", "Dense_0/bias", "Dense_1/bias"]


def test_html(tmp_path, capsys, monkeypatch):
    joint = []

    def ask(model, *args, **options):
        joint.append(options["joint"])
        return audit_biases(model, *args, **options)

    monkeypatch.setattr("biasjax.audit.audit_biases", ask)
    path = tmp_path / "audit.html"
    arguments = (f"{__name__}:flax_model", "--mode", "train", "--format", "html", "--output", str(path))
    assert run(*arguments, "--fail-on", "cancelled") == 1
    assert "1 found that fail" in capsys.readouterr().err
    page = path.read_text()
    assert joint == [True]
    assert f"<title>Biases of {__name__}:flax_model in training</title>" in page
    assert f"test_main.py:{DENSE} " in page
    assert str(Path.cwd()) not in page
    assert run(f"{__name__}:flax_model", "--format", "html") == 0
    assert "do nothing in evaluation" in capsys.readouterr().out


def other_names():
    return (
        lambda p, x: x @ p["w"] + p["drift"],
        {"w": jnp.ones((3, 2)), "drift": jnp.zeros(2)},
        jnp.ones((4, 3)),
    )


def test_which_are_biases(capsys):
    assert run(f"{__name__}:other_names", "--is-bias", "dri", "--draws", "2", "--no-joint") == 0
    assert "drift" in capsys.readouterr().out
    assert run(f"{__name__}:other_names", "--format", "json", "--is-bias", "^drift$") == 0
    assert json.loads(capsys.readouterr().out)["audit"]["findings"][0]["verdict"] == "needed"


OPTIONS = {
    ("--is-bias", "("): "--is-bias: expected a regular expression",
    ("--draws", "0"): "draws: expected an integer of at least 1",
    ("--baseline", "nowhere.json"): "--baseline: expected a file of --write-baseline",
    ("--output", "nowhere/audit.txt"): "Make the folder",
    ("--fail-on", "needed", "--no-joint"): "an audit with joint=True",
    ("--fail-on", "canceled"): "Did you mean 'cancelled'?",
    ("--fail-on", "absorbable", "--no-joint"): "an audit with joint=True",
    ("--json", "nowhere/audit.json"): "Make the folder",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options_are_refused_before_the_audit(options, capsys):
    assert run(f"{__name__}:{'plain_function' if '--draws' in options else 'raising'}", *options) == 2
    assert OPTIONS[options] in capsys.readouterr().err


def test_a_link_beside_the_findings_is_not_followed(tmp_path):
    path, victim = tmp_path / "audit.json", tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "audit.json.part").symlink_to(victim)
    assert run(f"{__name__}:plain_function", "--json", str(path)) == 0
    assert victim.read_text() == "mine"
    assert json.loads(path.read_text())


def test_a_safe_path_leaves_the_working_directory_out(tmp_path, monkeypatch, capsys):
    (tmp_path / "left_out.py").write_text("def model(): return 1\n")
    monkeypatch.chdir(tmp_path)
    for safe, message in ((True, "No module named 'left_out'"), (False, "to return (fn, params, *args)")):
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
        flags = types.SimpleNamespace(safe_path=safe)
        own = types.SimpleNamespace(path=sys.path, stderr=sys.stderr, flags=flags)
        monkeypatch.setattr("biasjax._audit.commands.sys", own)
        assert run("left_out:model") == 2
        assert message in capsys.readouterr().err
