"""`biasjax sweep show` and `biasjax sweep export`."""

import io
import json
import os
import re
import shutil
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import _files, store, sweep
from biasjax.__main__ import main
from biasjax._sweep import export, leases, summary

POINTS = {"rate": [0.5, -1.0, 2.0, 1.0, 0.25], "width": [3, 1, 2, 4, 5]}


def _point(key, *, rate, width, power):
    return {"y": jnp.log(rate) * power, "curve": jax.random.normal(key, (2,)) * rate}


def _run(folder, **options):
    return sweep.run(
        _point,
        {"seed": [7, 9]},
        points=POINTS,
        static={"power": [1, 2]},
        store=folder,
        chunk_size=2,
        **options,
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A finished store and one of which a worker did its half, a chunk each second."""
    folder = tmp_path_factory.mktemp("stores")
    with jax.numpy_dtype_promotion("standard"):
        _run(folder / "whole")
        _run(folder / "half", shard="0/2")
    for i, file in enumerate(store.finished(folder / "half").values()):
        os.utime(file, (i, i))
    return folder


def test_a_store_is_summed_up_without_loading_results(stores, monkeypatch):
    monkeypatch.setattr(_files, "read_netcdf", lambda _: pytest.fail("a result was read"))
    found = summary.summarize(stores / "half")
    assert (found.done, found.total, found.points[1]) == (6, 12, 20)
    assert found.left == 6.0
    whole = summary.summarize(stores / "whole")
    assert (whole.done, whole.points, whole.left) == (12, (20, 20), 0.0)
    assert whole.statuses == {"finite": 16, "overflow": 0, "nan": 4, "underflow": 0}
    assert whole.outputs == {"curve": "float32[2]", "y": "float32"}
    assert whole.bytes > sum(file.stat().st_size for file in store.finished(stores / "whole").values())


def test_show_prints_it(stores, capsys):
    assert main(["sweep", "show", str(stores / "half")]) == 0
    shown = capsys.readouterr().out
    for part in ("_point", "power 2 x seed 2 x point 5", "rate, width", "6 of 12", "about 6 s, last chunk"):
        assert part in shown
    assert main(["sweep", "show", str(stores / "whole"), "--watch"]) == 0
    assert "finished" in capsys.readouterr().out


def test_show_says_who_computes_what(stores, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(stores / "half", tmp_path / "half")
    monkeypatch.setattr(leases, "is_dead", lambda word: b"gone" in word)
    with leases.hold(leases.Leases(folder, lambda: store.finished(folder))) as held:
        mine = held.chunks([1, 3], lambda n: None, lambda count: None)
        assert next(mine) == 1
        (path,) = (folder / "leases").iterdir()
        word, _ = path.read_bytes().split(b"\n")
        for name, n, host, seen in [("a", 5, "here", 5), ("b", 7, "gone", 9), ("b", 9, "gone", 9)]:
            about = json.dumps({"host": host, "pid": 1, "token": name})
            file = folder / "leases" / f"{n:06d}.0"
            file.write_text(f'{about}\n{{"since": {time.time() - 61}, "finished": 12}}')
            os.utime(file, (0.0, time.time() - seen))
        (folder / "leases" / "000011.0").write_text("an older lease")
        assert main(["sweep", "show", str(folder)]) == 0
        table = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    rows = {row.split()[0]: " ".join(row.split()[1:]) for row in table[2:]}
    ours = rows.pop(f"{json.loads(word)['host']}:{os.getpid()}")
    assert re.fullmatch(r"1 \d s ago \d s ago 0", ours)
    assert rows == {"gone:1": "7 and 1 more 1 min 1 s ago ended 12", "here:1": "5 1 min 1 s ago 5 s ago 12"}
    assert "worker" not in summary.show(summary.summarize(stores / "whole"))


def test_watch_looks_until_it_is_finished(tmp_path, capsys, monkeypatch):
    def work(_):
        _run(tmp_path)

    with jax.numpy_dtype_promotion("standard"):
        _run(tmp_path, shard="0/2")
        monkeypatch.setattr("time.sleep", work)
        assert main(["sweep", "show", str(tmp_path), "--watch", "--every", "0.1"]) == 0
    assert capsys.readouterr().out.count("finished") == 1


def test_an_output_called_status_is_not_taken_for_ours(tmp_path):
    sweep.run(lambda key, *, x: {"status": x}, {"x": [1.0]}, store=tmp_path)
    assert summary.summarize(tmp_path).statuses is None
    assert "outputs   status float32\n" in summary.show(summary.summarize(tmp_path))


def test_a_row_for_each_point_that_is_done(stores, tmp_path, capsys):
    assert main(["sweep", "export", str(stores / "half"), "--output", str(tmp_path / "half.csv")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "half.csv")
    header, *lines = (tmp_path / "half.csv").read_text().splitlines()
    assert header == "power,seed,point,rate,width,status,curve[0],curve[1],y"
    dataset = store.open(stores / "half")
    assert len(lines) == int(dataset.computed.sum())
    values = np.genfromtxt(io.StringIO("\n".join(lines)), delimiter=",")
    for power, seed, point, rate, width, _, first, *_, y in values:
        assert (rate, width) == (POINTS["rate"][int(point)], POINTS["width"][int(point)])
        here = dataset.sel(power=power, seed=seed, point=point)
        assert first == pytest.approx(here.curve.values[0])
        np.testing.assert_allclose(y, here.y, rtol=1e-6)


def test_outputs_can_be_chosen(stores, tmp_path, capsys):
    output = tmp_path / "y.csv"
    chosen = ["sweep", "export", str(stores / "whole"), "--output", str(output), "--outputs"]
    assert main([*chosen, "y"]) == 0
    assert output.read_text().splitlines()[0] == "power,seed,point,rate,width,y"
    assert main([*chosen, "z"]) == 2
    assert "outputs: expected one of curve, status, y" in capsys.readouterr().err


def test_a_grid_and_a_single_point_are_rows(tmp_path):
    sweep.run(lambda key, *, x: x**2, {"x": [1.0, 3.0]}, store=tmp_path / "grid")
    assert export.rows(store.open(tmp_path / "grid"), ["x"]).values.tolist() == [[1, 0, 1], [3, 0, 9]]
    sweep.run(lambda key: {"y": 2.0}, {}, store=tmp_path / "one")
    assert export.rows(store.open(tmp_path / "one"), []).values.tolist() == [[0, 0, 2]]


@pytest.mark.parametrize(("to", "package"), [("parquet", "pyarrow"), ("zarr", "zarr")])
def test_other_formats_are_written_where_installed(stores, tmp_path, capsys, monkeypatch, to, package):
    command = ["sweep", "export", str(stores / "whole"), "--to", to, "--output", str(tmp_path / to)]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, package, None)
        assert main(command) == 2
    assert f"pip install {package}, or choose csv" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    pytest.importorskip(package)
    assert main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == [to]


def test_mistakes(tmp_path, capsys):
    assert main(["sweep", "show", str(tmp_path / "no")]) == 2
    assert "a readable manifest.json" in capsys.readouterr().err
    sweep.run(lambda key, *, x: {"y": jnp.zeros(1001) * x}, {"x": [1.0]}, store=tmp_path / "wide")
    assert main(["sweep", "export", str(tmp_path / "wide"), "--output", str(tmp_path / "y.csv")]) == 2
    assert "Choose some with --outputs" in capsys.readouterr().err
