"""Imports run one way and cost little, names are public or private, and what is imported is declared."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import biasjax

ROOT = Path(biasjax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Each module imports from rows above its own only. A room's modules are named "room.part"; the order within a
# room stands here too.
ROWS = (
    ("biasjax", "check", "_status", "_text", "_varying"),
    ("_files", "_programs", "_jaxpr.interpret", "_jaxpr.convolutions", "_jaxpr.layouts", "_linear.faces"),
    (
        "_jaxpr.double",
        "_jaxpr.kinks",
        "_jaxpr.copies",
        "_jaxpr.meetings",
        "_jaxpr.constant",
        "_jaxpr.shifted",
        "_jaxpr.unrolled",
    ),
    (
        "tree",
        "activations",
        "initializers",
        "data",
        "stepwise",
        "_linear.windows",
        "_linear.form",
        "_theory.implicit",
    ),
    ("_theory.arguments", "_theory.compiling", "_theory.labelling", "_theory.quadrature", "_theory.roots"),
    ("_theory.sines",),
    ("gaussian", "linear", "norms"),
    ("_theory.moments", "_theory.batches"),
    ("_theory.correlation", "_theory.variance"),
    ("meanfield", "attention", "embedding", "recurrent", "conditional", "_network.architecture"),
    ("phases", "normrates", "transformer", "_network.parameters"),
    ("network",),
    ("_training.records", "_training.plan", "_propagation.units", "_propagation.bidiagonal"),
    ("_training.optimizers", "_training.updates", "_propagation.layerwise"),
    ("_training.reports", "_training.descent", "_propagation.statistics"),
    ("_training.stages", "propagation"),
    ("training",),
    ("jacobian",),
    ("_audit.words",),
    ("_audit.tables",),
    ("_audit.plan",),
    (
        "_audit.findings",
        "_audit.compiling",
        "_audit.budget",
        "_audit.drawing",
        "_audit.spans",
        "_audit.progress",
    ),
    ("_audit.pure",),
    ("_audit.evidence", "_audit.model", "_audit.nullspaces", "_audit.invariances"),
    ("_audit.deaths", "_audit.origins", "_audit.modes", "_audit.points", "_audit.patterns"),
    ("_audit.rows", "_audit.options"),
    ("_audit.shifts", "_audit.frontiers", "_audit.entering", "_audit.stretches"),
    ("_audit.cancellation", "_audit.absorption"),
    ("_audit.standins",),
    ("_audit.proving",),
    ("_audit.judging", "_audit.verdicts", "_audit.rounding", "_audit.exchange"),
    ("_audit.tolerance", "_audit.checkpoints"),
    ("_audit.differences",),
    ("audit", "adapters", "_audit.reports"),
    ("_audit.pytest_plugin",),
    ("_surgery.whole",),
    ("_surgery.proofs", "_surgery.numbered"),
    ("_surgery.receipts", "_surgery.folding", "_surgery.centring", "_surgery.tying", "_surgery.running"),
    ("_surgery.delivering", "_surgery.folds", "_surgery.removal"),
    ("_statistics.batches", "_statistics.judging"),
    ("surgery", "statistics"),
    ("_report.checks",),
    ("_report.pages", "_report.figures", "_report.depths"),
    ("_report.biases",),
    ("_report.models",),
    ("report",),
    ("_audit.commands",),
    (
        "_sweep.grid",
        "_sweep.progress",
        "_sweep.checkpoints",
        "_sweep.leases",
        "_sweep.spec",
        "_sweep.sampling",
        "_sweep.agreement",
    ),
    ("_sweep.frames", "_sweep.lazy", "_sweep.points", "_sweep.workers"),
    ("_sweep.manifest", "_sweep.execute"),
    ("_sweep.loop", "_sweep.stages"),
    ("_sweep.chunks", "_sweep.gathering", "_sweep.rungs", "_sweep.trials"),
    ("_sweep.reading",),
    ("store",),
    ("_sweep.halving", "_sweep.summary", "_sweep.export"),
    ("sweep",),
    ("submit", "_plot.planes", "_sweep.commands"),
    ("plot",),
    ("__main__",),
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
ROOMS = {name.split(".")[0] for name in RANK if "." in name}

# What only an extra brings, or the user's own framework
BROUGHT_BY = {
    "plot": {"matplotlib"},
    "_sweep.progress": {"rich"},
    "submit": {"submitit"},
    "adapters": {"equinox"},
    "_audit.pytest_plugin": {"pytest"},
    "data": {"sklearn", "mlxtend"},
}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts) if parts != ("__init__",) else "biasjax"


def _imported(path: Path) -> set[str]:
    """Modules and names that a file imports at run time, anywhere in it, with dots."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _own(path: Path) -> set[str]:
    """Modules of this package that a file imports."""
    found = set()
    for full in _imported(path):
        if full.split(".")[0] == "biasjax":
            _, *parts = full.split(".")
            found.add(".".join(parts[: 2 if parts and parts[0] in ROOMS else 1]) or "biasjax")
    return {name if name in RANK else name.split(".")[0] for name in found}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_run_one_way(path):
    name = _name(path)
    if name.endswith("__init__") and name != "biasjax":
        assert not path.read_text(), "a room's __init__ is empty"
        return
    assert name in RANK, f"give {name} a row in {Path(__file__).name}"
    above = {other for other in _own(path) if other not in RANK or RANK[other] >= RANK[name]}
    assert not above, f"{name} imports {above}, which stand on its floor or above"


def test_rows_name_modules_that_exist():
    assert set(RANK) == {_name(path) for path in FILES if not _name(path).endswith(".__init__")}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_what_is_imported_is_declared(path):
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}
    owners = packages_distributions()
    others = {full.split(".")[0] for full in _imported(path)} - set(sys.stdlib_module_names) - {"biasjax"}
    undeclared = {name for name in others if not declared & {*owners.get(name, ()), name}}
    assert undeclared <= BROUGHT_BY.get(_name(path), set())


def test_theory_knows_nothing_of_what_it_is_compared_with():
    theory = {name for name in RANK if name.startswith("_theory.")} | {"gaussian", "meanfield"}
    files = {_name(path): path for path in FILES}
    for name in {*theory, "phases", "normrates"}:
        assert _own(files[name]) <= theory | {"activations", "check", "_text"}


@pytest.mark.parametrize("name", [name for name in biasjax.__all__ if not name.startswith("_")])
def test_public_modules_show_public_names(name):
    module = importlib.import_module(f"biasjax.{name}")
    assert dir(module) == sorted(module.__all__)  # dir sorts as ASCII, ruff constants first
    for public in module.__all__:
        assert hasattr(module, public)
        assert not public.startswith("_")
    defined = {
        node.name
        for node in ast.parse((ROOT / f"{name}.py").read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert defined <= set(module.__all__), "make it private, or public"


def test_the_package_shows_public_modules():
    files = {path.stem for path in ROOT.glob("*.py") if not path.stem.startswith("_")}
    assert set(dir(biasjax)) == files | {"__version__"}
    # Checkers and editors see the same as `dir`
    typed = ast.parse((ROOT / "__init__.py").read_text())
    seen = {a.name for node in ast.walk(typed) if isinstance(node, ast.ImportFrom) for a in node.names}
    assert files <= seen


def _loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_is_quick():
    assert not {"jax", "numpy", "xarray"} & _loaded("import biasjax")
    modules = ", ".join(
        f"biasjax.{name}"
        for name in RANK
        if name not in ("biasjax", "_sweep.lazy", "_sweep.reading", "_sweep.gathering", "__main__")
    )
    heavy = {"xarray", "matplotlib", "sklearn", "flax", "rich", "orbax", "h5netcdf", "submitit"}
    assert not heavy & _loaded(f"import {modules}")


def test_modules_load_when_first_used():
    assert biasjax.network.Network is not None
    assert "network" in dir(biasjax)
    with pytest.raises(AttributeError, match="no attribute 'nework'"):
        _ = biasjax.nework  # pyright: ignore[reportAttributeAccessIssue]
