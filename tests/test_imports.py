"""Imports run one way, and cost little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import biasjax

ROOT = Path(biasjax.__file__).parent
# Each module imports from rows above its own only, and from its own row where a name says so
ROWS = (
    ("__init__", "check"),
    ("tree", "activations", "initializers", "data"),
    ("gaussian", "roots"),
    ("meanfield",),
    ("phases", "normrates"),
    ("linear", "norms"),
    ("network", "stepwise"),
    ("training", "grid", "progress", "layerwise"),
    ("propagation",),
    ("jacobian",),
    ("chunked", "execute"),
    ("store",),
    ("sweep",),
    ("plot", "submit"),
    ("attention", "adapters", "compiling", "double", "draws", "ranks"),
    ("deaths", "kinks", "sensitivity"),
    ("traced",),
    ("probe",),
    ("shifts", "joint"),
    ("findings", "sampling"),
    ("audit",),
    ("__main__",),
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}


def _imports(path: Path) -> set[str]:
    """Modules of the package that a file imports at run time, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "biasjax":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("biasjax."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("biasjax.")}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    assert path.stem in RANK, f"give {path.stem} a row in {Path(__file__).name}"
    above = {name for name in _imports(path) if RANK[name] >= RANK[path.stem]}
    assert not above, f"{path.stem} imports {above}, which stand on its floor or above"


def _loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_import_is_quick():
    assert not {"jax", "numpy", "xarray"} & _loaded("import biasjax")
    modules = ", ".join(f"biasjax.{name}" for name in RANK if name not in ("__init__", "plot", "chunked"))
    assert not {"xarray", "matplotlib", "sklearn", "flax", "rich"} & _loaded(f"import {modules}")


def test_modules_load_when_first_used():
    assert biasjax.network.Network is not None
    assert "network" in dir(biasjax)
    with pytest.raises(AttributeError, match="no attribute 'nework'"):
        _ = biasjax.nework
