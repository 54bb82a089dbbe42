import dataclasses
import importlib
import json
import subprocess
import sys
import types

import pytest
import xarray as xr

from biasjax import plot, store
from experiments import claims

main = importlib.import_module("experiments.__main__")
NAMES = list(main.experiments())


@dataclasses.dataclass(frozen=True)
class Config:
    """Of the experiment below."""

    value: float = 1.0


def _fake(tmp_path, **others):
    """Make a run of an experiment that computes nothing."""
    module = types.ModuleType("fake", "Is one one?")
    module.__dict__.update(
        {
            "run": lambda config: xr.Dataset({"value": config.value}),
            "claims": lambda dataset: [claims.equal("c* is one", "", 1.0, dataset.value, tolerance=0.1)],
            "figure": lambda dataset: plot.panels(["one"])[0],
            **others,
        }
    )
    return main.Run("fake", module, Config(), main.Common(output=tmp_path))


def _raise(*_):
    raise ValueError("no such curve")


def test_listed_with_a_line_each(capsys):
    assert "norm_order" in NAMES
    assert not {"claims", "gallery"} & set(NAMES)
    assert main.main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and line in listed for name, line in main.experiments().items())


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name):
    module = importlib.import_module(f"experiments.{name}")
    for config in (module.Config(), module.SMOKE):
        assert json.loads(json.dumps(dataclasses.asdict(config)))
        hash(config)
    for word in ("Source:", "Expected:", "Measured", "Cost:", f"python -m experiments {name}"):
        assert word in (module.__doc__ or "")


@pytest.mark.parametrize("name", NAMES)
def test_help_heads_its_options_by_what_they_are_for(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main([name, "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "experiment options" in shown
    assert "common options" in shown
    assert "0 options" not in shown


def test_help_needs_neither_jax_nor_matplotlib():
    code = (
        "import sys; from experiments.__main__ import main\n"
        "try: main(['norm_order', '--help'])\n"
        "except SystemExit: print({'jax', 'matplotlib', 'rich'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--bias-values" in shown
    assert "--smoke" in shown
    assert shown.rstrip().endswith("set()")


def test_unknown_names_and_options_are_refused(capsys):
    assert main.main(["norm_oder"]) == 2
    assert "Did you mean 'norm_order'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main.main(["norm_order", "--stpes", "3"])
    assert stopped.value.code == 2


def test_a_run_writes_dataset_claims_and_figures(tmp_path, capsys):
    run = _fake(tmp_path, table=lambda dataset: "a table")
    main.check_output([run])
    assert main.execute(run)
    names = {"dataset.nc", "claims.json", "fake.png", "fake.svg"}
    assert {file.name for file in run.folder.iterdir()} == names
    (written,) = json.loads((run.folder / "claims.json").read_text())
    assert written == run.module.claims(store.load(run.folder / "dataset.nc"))[0].to_dict()
    assert json.loads(store.load(run.folder / "dataset.nc").attrs["config"]) == {"value": 1.0}
    shown = capsys.readouterr().out
    assert "a table" in shown
    for sign, meaning in main.MARKS.items():  # both are in the table of this claim
        assert f"{sign}  {meaning}" in shown


def test_what_was_computed_outlives_a_claim_or_figure_that_raises(tmp_path, monkeypatch, capsys):
    for name, left in (("claims", {"dataset.nc"}), ("figure", {"dataset.nc", "claims.json"})):
        run = _fake(tmp_path / name, **{name: _raise})
        monkeypatch.setattr(main, "parse", lambda *_, run=run: run)
        assert main.main(["norm_order"]) == 2
        assert {file.name for file in run.folder.iterdir()} == left
        told = capsys.readouterr().err
        assert "ValueError: no such curve" in told
        assert str(run.folder / "dataset.nc") in told


def test_what_would_stop_a_run_is_said_before_it(tmp_path, monkeypatch, capsys):
    def never(config):
        pytest.fail("was run")

    monkeypatch.setattr(main, "parse", lambda *_: _fake(tmp_path / "file", run=never))
    (tmp_path / "file").touch()
    assert main.main(["norm_order"]) == 2
    assert "expected a folder that can be written to" in capsys.readouterr().err
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: None if name == "sklearn" else name)
    assert main.main(["norm_order"]) == 2
    assert (
        "got no sklearn. In the repository's root: pip install -e '.[experiments]'" in capsys.readouterr().err
    )


def test_claims_that_fail_fail_the_run():
    assert not main.report([claims.at_most("", "", 1.0, 2.0), claims.at_most("", "", 1.0, 0.5)])
    assert main.report([claims.at_most("", "", 1.0, 0.5)])
