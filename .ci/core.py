"""Use the installed wheel in an environment without extras: import everything, run and store sweeps."""

import tempfile
from pathlib import Path

import biasjax as bj

assert "site-packages" in (bj.__file__ or ""), bj.__file__
for name in bj.__all__:
    getattr(bj, name)
assert not any(Path(bj.__file__).parents[1].glob("experiments*")), "the wheel brings more than biasjax"
assert (Path(bj.__file__).parent / "py.typed").exists()


def point(key, *, x):
    """Double a number."""
    return {"y": 2 * x}


steps = bj.stepwise.Stepwise(
    start=lambda key, *, x: x,
    advance=lambda carry, key, *, x: 2 * carry,
    finish=lambda carry, key, *, x: {"y": carry},
    steps=4,
)
axes = {"seed": [0, 1], "x": [1.0, 2.0, 3.0]}
with tempfile.TemporaryDirectory() as folder:
    for fn, last in ((point, 6.0), (steps, 48.0)):
        store = Path(folder) / f"{last}"
        bj.sweep.run(fn, axes, store=store, chunk_size=2)
        assert float(bj.store.open(store).y.max()) == last
assert float(bj.phases.critical_line("tanh", 0.05**0.5).sigma_w[0] ** 2) > 1.76
print("core: all modules, a stored sweep, a stepwise one and theory work without extras")
