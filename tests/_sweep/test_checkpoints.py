"""Long chunks that are stopped inside themselves resume there."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from processes import finish, kill, start, wait_until

from biasjax import stepwise, store, sweep
from biasjax._sweep.checkpoints import Checkpoints, drive


def _steps(path):
    folders = path.glob("unfinished/000000/[0-9]*")
    return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=0)


def test_a_long_chunk_resumes_inside_itself(tmp_path):
    assert finish(start(tmp_path / "whole", "--long")) == "computed"
    whole, path, seen = store.open(tmp_path / "whole").load(), tmp_path / "killed", 0
    for _ in range(2):
        process = start(path, "--long")
        wait_until(lambda: _steps(path) > seen, process)  # noqa: B023
        kill(process)
        seen = _steps(path)
    assert not store.finished(path)
    assert seen >= 4  # each run went on from the last one's checkpoint
    assert finish(start(path, "--long")) == "computed"
    xr.testing.assert_identical(store.open(path).load().drop_attrs(), whole.drop_attrs())
    assert (store.open(path).steps == 12).all()
    assert not list(path.glob("unfinished/*"))


def test_steps_that_are_kept_are_not_repeated(tmp_path):
    def advance(carry):
        if carry[0] == stop:
            raise KeyboardInterrupt
        taken.append(int(carry[0]))
        return carry[0] + 1, 2 * carry[1]

    kept, begin = Checkpoints(tmp_path / "chunk", every=2), (jnp.int32(0), jnp.ones(3))
    taken, stop = [], 5
    with pytest.raises(KeyboardInterrupt):
        drive(advance, begin, 7, kept)
    assert [path.name for path in kept.folder.iterdir()] == ["4"]  # older ones are gone
    stop = None
    steps, doubled = drive(advance, begin, 7, kept)
    assert taken == [0, 1, 2, 3, 4, 4, 5, 6]
    assert int(steps) == 7
    np.testing.assert_array_equal(doubled, 2.0**7 * np.ones(3))


def test_a_checkpoint_is_refused_under_another_name(tmp_path):
    def advance(carry):
        if carry[0] == stop:
            raise KeyboardInterrupt
        return carry[0] + 1, carry[1] + 1

    def resume(folder, identity):
        return drive(advance, begin, 5, Checkpoints(tmp_path / folder, 2, identity))

    stop, begin = 3, (jnp.int32(0), jnp.zeros(3))
    with pytest.raises(KeyboardInterrupt):
        resume("one", "store")
    for name in ("copy", "renamed"):
        shutil.copytree(tmp_path / "one", tmp_path / name)
    (tmp_path / "renamed" / "2").rename(tmp_path / "renamed" / "4")
    stop = None
    for folder, identity in [("copy", "another"), ("renamed", "store")]:
        with pytest.warns(UserWarning, match=f"{folder} is not usable .altered, or of another computation"):
            steps, sums = resume(folder, identity)
        assert (int(steps), sums.tolist()) == (5, [5.0] * 3)
    assert Checkpoints(tmp_path, 1, "store").below("000001").below("half-0").identity == "store/000001/half-0"


def _times(factor):
    return stepwise.Stepwise(
        start=lambda key, *, x: x,
        advance=lambda carry, key, *, x: factor * carry,
        finish=lambda carry, key, *, x: {"y": carry},
        steps=3,
    )


def test_a_checkpoint_of_another_chunk_or_version_of_fn_is_not_resumed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    axes, options = {"x": [1.0, 3.0]}, {"chunk_size": 1, "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(sweep.chunks, "write", full)
        for factor in (2, 3):
            with pytest.raises(OSError, match="no space left"):
                sweep.run(_times(factor), axes, store=tmp_path / str(factor), **options)
    kept = "unfinished/000000"
    shutil.copytree(tmp_path / "2" / kept, tmp_path / "2" / "unfinished" / "000001")
    shutil.rmtree(tmp_path / "2" / kept)
    shutil.copytree(tmp_path / "3" / kept, tmp_path / "2" / kept)
    with pytest.warns(UserWarning, match="is not usable .altered, or of another computation") as warned:
        dataset = sweep.run(_times(2), axes, store=tmp_path / "2", **options)
    assert len(warned) == 2
    assert dataset.y.values.tolist() == [8.0, 24.0]


def test_a_damaged_checkpoint_costs_time_alone(tmp_path):
    broken = tmp_path / "unfinished" / "000000" / "2"
    broken.mkdir(parents=True)
    (broken / "_METADATA").write_text("{")
    with pytest.warns(UserWarning, match="is not usable"):
        dataset = sweep.run(_times(2), {"x": [1.0, 3.0]}, store=tmp_path, chunk_size=2)
    assert dataset.y.values.tolist() == [8.0, 24.0]
