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
            "Config": Config,
            "SMOKE": Config(),
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
    for word in ("Answer:", "Source:", "Expected:", "Measured", "Cost:", f"python -m experiments {name}"):
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
    names = {"dataset.nc", "claims.json", "fake.png", "fake.svg", "run.json"}
    assert {file.name for file in run.folder.iterdir()} == names
    (written,) = json.loads((run.folder / "claims.json").read_text())
    assert written == run.module.claims(store.load(run.folder / "dataset.nc"))[0].to_dict()
    assert json.loads(store.load(run.folder / "dataset.nc").attrs["config"]) == {"value": 1.0}
    shown = capsys.readouterr().out
    assert "a table" in shown
    for sign, meaning in main.MARKS.items():
        assert (f"{sign}  {meaning}" in shown) == (sign != "empty")


def test_what_was_computed_outlives_a_claim_or_figure_that_raises(tmp_path, monkeypatch, capsys):
    for name, left in (("claims", {"dataset.nc"}), ("figure", {"dataset.nc", "claims.json"})):
        left = left | {"run.json"}
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
    assert not main.show_claims([claims.at_most("", "", 1.0, 2.0), claims.at_most("", "", 1.0, 0.5)])
    assert main.show_claims([claims.at_most("", "", 1.0, 0.5)])


def test_tables_have_a_line_for_each_claim_and_fit_a_pipe(capsys):
    found = [
        claims.equal("q" * n, "", -0.123456, 0.1, tolerance=0.01, interval=0.001, null=0.0) for n in (9, 90)
    ]
    assert not main.show_claims(found)
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["claim", "expected", "measured", "null"]
    assert [line.split()[0] for line in lines[:3]] == ["fails", "fails", "±"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("stop", [_raise, lambda config: 1 / 0])
def test_what_stops_one_of_several_does_not_stop_the_others(stop, tmp_path, monkeypatch, capsys):
    done = []
    runs = iter(
        _fake(tmp_path / str(i), run=stop if i == 0 else lambda config: done.append(1) or xr.Dataset())
        for i in range(len(NAMES))
    )
    monkeypatch.setattr(main, "parse", lambda *_: next(runs)._replace(name="fake"))
    assert main.main(["all"]) == 2
    assert len(done) == len(NAMES) - 1
    assert "Error: " in capsys.readouterr().err
