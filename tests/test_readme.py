"""The README is short, and its code runs."""

import ast
import importlib
import re
from pathlib import Path

import biasjax

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_is_short():
    assert len(README.splitlines()) <= 150


def test_every_name_exists():
    for name, attribute in re.findall(r"`?bj\.(\w+)(?:\.(\w+))?", README):
        module = importlib.import_module(f"biasjax.{name}")
        assert name in biasjax.__all__
        assert not attribute or attribute in module.__all__


def test_the_table_names_the_public_modules():
    table = README.split("## What is where")[1].split("##")[0]
    named = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in re.findall(r"\| `.*", table))))
    assert named == set(biasjax.__all__) - {"__version__"}


def test_the_code_runs(standard_promotion, capsys):
    namespace = {}
    for block in BLOCKS:
        exec(compile(ast.parse(block), "README.md", "exec"), namespace)
    shown = capsys.readouterr().out
    assert re.search(r"linear/bias +8 +cancelled +0 +absorbable", shown)
    assert "-> use_bias=False of flax.nnx.Linear" in shown
    assert "0.721" in shown
    assert namespace["dataset"].accuracy_running.dims == ("seed", "learning_rate", "bias", "depth", "report")
