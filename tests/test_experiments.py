import dataclasses
import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from biasjax import store
from experiments import audit_tour, claims, norm_order

main = importlib.import_module("experiments.__main__")
NAMES = list(main.experiments())


def _cli(*arguments, cwd=None):
    command = [sys.executable, "-m", "experiments", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)


def test_listed_with_a_line_each():
    assert "norm_order" in NAMES
    assert all(main.experiments().values())
    listed = _cli()
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name):
    module = importlib.import_module(f"experiments.{name}")
    for config in (module.Config(), module.SMOKE):
        assert json.loads(json.dumps(dataclasses.asdict(config)))
        hash(config)
    for word in ("Source:", "Expected:", "Cost:", f"python -m experiments {name}"):
        assert word in module.__doc__


def test_help_names_the_options_without_importing_jax():
    code = (
        "import sys; from experiments.__main__ import main\n"
        "try: main(['norm_order', '--help'])\n"
        "except SystemExit: print('jax' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--bias-values" in shown
    assert "--smoke" in shown
    assert shown.rstrip().endswith("False")


def test_unknown_names_and_options_are_refused():
    unknown = _cli("norm_oder")
    assert unknown.returncode == 2
    assert "expected one of" in unknown.stdout
    assert _cli("norm_order", "--stpes", "3").returncode == 2


def test_a_tiny_run_writes_dataset_claims_and_figures(tmp_path):
    config = dataclasses.replace(norm_order.SMOKE, steps=20, dense_width=8, orders=("dense-bn-relu",))
    common = main.Common(smoke=False, output=tmp_path)
    main.execute("norm_order", norm_order, config, common)
    folder = tmp_path / "norm_order"
    assert {file.name for file in folder.iterdir()} == {
        "dataset.nc",
        "claims.json",
        "norm_order.png",
        "norm_order.svg",
    }
    written = json.loads((folder / "claims.json").read_text())
    assert written
    assert set(written[0]) == {"name", "source", "relation", "expected", "measured", "tolerance", "holds"}
    dataset = store.load(folder / "dataset.nc")
    assert json.loads(dataset.attrs["config"])["steps"] == 20
    assert [claim.to_dict() for claim in norm_order.claims(dataset)] == written


def test_a_tour_of_one_network():
    assert "gallery" not in NAMES
    dataset = audit_tour.run(audit_tour.Config(models=("pre_norm",), width=4))
    found = audit_tour.claims(dataset)
    assert len(found) == 3
    assert all(claim.holds for claim in found)
    # Four of the key, one each of the output and the second dense bias
    assert dataset.parameters.sel(fate="cancelled").values.tolist() == [[6, 6]]
    assert "| pre_norm | 1 / " in audit_tour.table(dataset)
    with pytest.raises(ValueError, match="Did you mean 'pre_norm'"):
        audit_tour.run(audit_tour.Config(models=("prenorm",)))


def test_lag_formula_is_the_recursion_of_the_running_mean():
    b, share, lags = 7.0, 0.0, []
    for _ in range(50):
        lags.append(b - share)
        share, b = 0.9 * share + 0.1 * b, 0.98 * b
    np.testing.assert_allclose(norm_order.lag_formula(7.0, 0.9, 0.98, np.arange(50)), lags, rtol=1e-12)
    np.testing.assert_allclose(norm_order.lag_formula(7.0, 0.9, 1.0, 9), 7.0 * 0.9**9)


def test_claims_hold_or_fail():
    assert claims.equal("", "", 1.0, 1.1, tolerance=0.2).holds
    assert not claims.equal("", "", 1.0, 1.3, tolerance=0.2).holds
    assert not claims.equal("", "", 1.0, np.nan, tolerance=0.2).holds
    assert claims.at_least("", "", 1.0, 2.0).holds
    assert not claims.at_least("", "", 1.0, np.nan).holds
    assert not main.report([claims.at_most("", "", 1.0, 2.0)])
    assert main.report([claims.at_most("", "", 1.0, 0.5)])
