import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from biasjax import _files, sweep
from biasjax._sweep import rungs, stages, summary
from biasjax.stepwise import Stepwise

# A carry with a key, an integer and a narrow float: all that is hard to write
DESCENT = Stepwise(
    start=lambda key, *, rate: (key, jnp.int32(0), jnp.ones(2), jnp.bfloat16(1.5)),
    advance=lambda carry, key, *, rate: (
        jax.random.split(carry[0])[0],
        carry[1] + 1,
        carry[2] * (1 - rate) * (1 + 0.1 * jax.random.normal(carry[0], (2,))),
        carry[3],
    ),
    finish=lambda carry, key, *, rate: {"loss": jnp.sum(carry[2] ** 2), "done": carry[1], "x": carry[2]},
    steps=12,
)
POINTS = {"rate": np.linspace(0.05, 1.95, 13)}
halve = functools.partial(
    sweep.halve, DESCENT, POINTS, rungs=(3, 8), keep=1 / 3, metric="loss", seeds=[0, 5], dims={"x": ("axis",)}
)


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


def test_another_halving_is_refused_by_the_folder(tmp_path, monkeypatch):
    _stop_before_the_last_rung(tmp_path, monkeypatch)
    shown = summary.show(summary.summarize(tmp_path))
    assert "rungs            2 of 3" in shown
    assert "36 of 40 (90%)" in shown
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
