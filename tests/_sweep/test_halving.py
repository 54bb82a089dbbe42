import functools
import signal

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from halving_worker import DESCENT, POINTS, halve
from processes import WORKER, finish, start, wait_until

from biasjax import _files, store, sweep
from biasjax.__main__ import main
from biasjax._sweep import rungs, stages
from biasjax.stepwise import Stepwise


@pytest.fixture(scope="module")
def whole():
    return halve()


@pytest.fixture(scope="module")
def full():
    return sweep.run(DESCENT, {"seed": [0, 5]}, points=POINTS)


def test_the_best_go_on_and_the_rest_keep_their_last_report(whole, full):
    assert np.bincount(whole.rung).tolist() == [8, 3, 2]
    assert whole.x.dims == ("seed", "point", "axis")
    np.testing.assert_array_equal(whole.done, np.broadcast_to(whole.steps, (2, 13)))
    np.testing.assert_array_equal(whole.steps, np.array([3, 8, 12])[whole.rung])
    assert whole.attrs["model_steps"] == 2 * int(whole.steps.sum())
    assert whole.attrs["model_steps_of_all"] == 2 * 13 * 12
    last = whole.rung == 2
    np.testing.assert_allclose(whole.loss[:, last], full.loss[:, last], rtol=1e-5)
    np.testing.assert_allclose(whole.metric, whole.loss.mean("seed"), rtol=1e-6)
    assert whole.metric.argmin("point") == full.loss.mean("seed").argmin("point")


def test_who_goes_on_is_who_was_best_at_that_step(whole):
    early = sweep.run(DESCENT._replace(steps=3), {"seed": [0, 5]}, points=POINTS).loss.mean("seed")
    best = set(np.argsort(early.values)[:5].tolist())
    assert best == set(np.flatnonzero(whole.rung > 0).tolist())


def test_chunks_choose_the_same(whole):
    parts = halve(chunk_size=3)
    np.testing.assert_array_equal(parts.rung, whole.rung)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-5)


def test_the_largest_can_be_best_and_diverged_points_stop():
    growth = Stepwise(
        start=lambda key, *, rate: jnp.float32(1.0),
        advance=lambda x, key, *, rate: x * rate,
        finish=lambda x, key, *, rate: {"size": x},
        steps=4,
    )
    points = {"rate": [1e30, 2.0, 3.0, 1e25, 0.5, 1e35]}
    found = sweep.halve(growth, points, rungs=(2, 3), keep=0.5, metric="size", largest=True)
    assert found.rung.values.tolist() == [0, 2, 2, 0, 1, 0]
    assert found.status.values.tolist() == [1, 0, 0, 1, 0, 1]
    assert np.isnan(found.metric.values[[0, 3, 5]]).all()
    assert found.status.attrs["flag_meanings"].startswith("finite overflow")
    lost = sweep.halve(growth, {"rate": [1e30, 1e35]}, rungs=(2,), keep=0.5, metric="size")
    assert lost.steps.values.tolist() == [2, 2]


class Killed(BaseException):
    pass


def _killed_at(monkeypatch, owner, name, count):
    """Let the n-th call of a function end the run, before it does anything."""
    calls, real = [], getattr(owner, name)

    def wrapped(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, wrapped)


# While a rung runs, before its carry is written, and between its carry and its report, with the number of the
# call in which that happens on the first rung
KILLS = [(stages, "advance", 1), (rungs, "save", 1), (_files, "netcdf", 2)]


@pytest.mark.parametrize("rung", [0, 1, 2])
@pytest.mark.parametrize(("owner", "name", "first"), KILLS)
def test_a_kill_in_each_rung_changes_no_bit(tmp_path, monkeypatch, whole, owner, name, first, rung):
    with monkeypatch.context() as patch:
        _killed_at(patch, owner, name, first + rung)
        with pytest.raises(Killed):
            halve(store=tmp_path)
    with monkeypatch.context() as patch:
        _killed_at(patch, stages, "advance", 4 - rung)  # what is done is not done again
        resumed = halve(store=tmp_path)
    xr.testing.assert_identical(resumed.drop_attrs(), whole.drop_attrs())
    assert not list(tmp_path.glob("carry-*"))
    with monkeypatch.context() as patch:
        _killed_at(patch, stages, "advance", 1)
        xr.testing.assert_identical(halve(store=tmp_path).drop_attrs(), whole.drop_attrs())


def _start(folder, *place):
    return start(folder / "store", *place, script=WORKER.with_name("halving_worker.py"))


def _files_of(folder):
    return {file.name: file.read_bytes() for file in (folder / "store").glob("rung-*")}


def _has_said(worker, folder, words):
    file = folder / f"said-{worker.pid}"
    return file.exists() and words in file.read_text()


def test_a_process_that_is_killed_in_each_rung_is_gone_on_for_by_one_that_waits(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
    first, worker = _start(undisturbed), None
    for place in ("report 1", "rung 2", "report 3", ""):
        before, worker = worker, _start(killed, *place.split())
        if before:  # halts in its rung, while the new one waits
            wait_until(functools.partial(_has_said, worker, killed, "waiting"), worker, before)
            before.send_signal(signal.SIGKILL)
            finish(before, code=-signal.SIGKILL)
        if place:
            wait_until(functools.partial(_has_said, worker, killed, place), worker)
    finish(worker)
    finish(first)
    assert _files_of(killed) == _files_of(undisturbed)
    assert len(_files_of(killed)) == 3
    xr.testing.assert_identical(store.open(killed / "store"), store.open(undisturbed / "store"))
    assert sorted(path.name for path in (killed / "store").iterdir() if path.is_dir()) == ["chunks"]


def _stop_before_the_last_rung(folder, monkeypatch):
    with monkeypatch.context() as patch:
        _killed_at(patch, stages, "advance", 3)
        with pytest.raises(Killed):
            halve(store=folder)


@pytest.mark.filterwarnings("ignore:.*not usable")
def test_a_rung_or_carry_that_is_not_its_own_is_never_used(tmp_path, monkeypatch, whole):
    ours, other = tmp_path / "ours", tmp_path / "other"
    _stop_before_the_last_rung(ours, monkeypatch)
    with monkeypatch.context() as patch:
        _killed_at(patch, stages, "advance", 3)
        with pytest.raises(Killed):
            halve(store=other, root=1)
    (ours / "carry-1").rename(tmp_path / "kept")
    (other / "carry-1").rename(ours / "carry-1")
    with pytest.warns(UserWarning, match="carry of rung 1 is not usable: starting anew"):
        xr.testing.assert_identical(halve(store=ours).drop_attrs(), whole.drop_attrs())
    for file in ours.glob("rung-001-*"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="rung-001-.* is damaged or another's"):
        resumed = halve(store=ours)
    xr.testing.assert_identical(resumed.drop_attrs(), whole.drop_attrs())


def test_a_halving_is_opened_shown_and_exported(tmp_path, monkeypatch, whole, capsys):
    folder = tmp_path / "halving"
    _stop_before_the_last_rung(folder, monkeypatch)
    partial = store.open(folder)
    assert partial.attrs["missing"] == "1 of 3 rungs"
    np.testing.assert_array_equal(partial.rung, np.minimum(whole.rung, 1))
    assert main(["sweep", "show", str(folder)]) == 0
    shown = capsys.readouterr().out
    for part in ("rungs            2 of 3", "36 of 40 (90%)", "status           finite 26"):
        assert part in shown
    halve(store=folder)
    xr.testing.assert_identical(store.open(folder).drop_attrs(), whole.drop_attrs())
    assert store.open(folder).attrs["model_steps"] == whole.attrs["model_steps"]
    assert main(["sweep", "export", str(folder), "--output", str(tmp_path / "rows.csv")]) == 0
    header, *rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert header == "seed,point,rate,status,done,loss,x[0],x[1],metric,rung,steps"
    assert len(rows) == 2 * len(POINTS["rate"])
    table = np.genfromtxt(rows, delimiter=",")
    np.testing.assert_array_equal(table[:, -1].reshape(2, -1), np.broadcast_to(whole.steps, (2, 13)))
    np.testing.assert_allclose(table[:, 5], whole.loss.values.ravel(), rtol=1e-5)


def test_a_damaged_rung_is_named(tmp_path):
    halve(store=tmp_path)
    assert not store.damaged(tmp_path)
    (file,) = tmp_path.glob("rung-001-*")
    file.write_bytes(b"rung")
    assert list(store.damaged(tmp_path)) == [1]
    with pytest.warns(UserWarning, match="rung-001-.* is damaged or another's"):
        assert store.open(tmp_path).attrs["missing"] == "2 of 3 rungs"


def test_another_halving_is_refused_by_the_folder(tmp_path, monkeypatch):
    _stop_before_the_last_rung(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"halving metric: 'loss' there, 'done' here"):
        halve(store=tmp_path, metric="done")
    with pytest.raises(ValueError, match="halving bounds"):
        halve(store=tmp_path, rungs=(2, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rungs": ()}, "rungs: expected increasing numbers of steps below all 12"),
        ({"rungs": (8, 8)}, "rungs: expected increasing"),
        ({"rungs": (12,)}, "rungs: expected increasing"),
        ({"keep": 1.0}, "keep: expected a share between 0 and 1"),
        ({"keep": np.nan}, "keep: expected a number"),
        ({"metric": "los"}, "Did you mean 'loss'"),
        ({"metric": "x"}, "one number for each point"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_bad_halvings_are_refused_clearly(options, message):
    with pytest.raises(ValueError, match=message):
        halve(**options)


def test_only_steps_and_names_of_their_own_can_be_halved():
    with pytest.raises(TypeError, match="halve: expected a Stepwise"):
        sweep.halve(lambda key: {}, POINTS, rungs=(1,), keep=0.5, metric="y")  # pyright: ignore
    taken = DESCENT._replace(finish=lambda carry, key, *, rate: {"metric": rate})
    with pytest.raises(ValueError, match="outputs other than metric, rung, steps"):
        sweep.halve(taken, POINTS, rungs=(1,), keep=0.5, metric="metric")
