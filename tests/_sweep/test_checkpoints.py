"""Long chunks that are stopped inside themselves resume there."""

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


def test_a_damaged_checkpoint_costs_time_alone(tmp_path):
    double = stepwise.Stepwise(
        start=lambda key, *, x: x,
        advance=lambda carry, key, *, x: 2 * carry,
        finish=lambda carry, key, *, x: {"y": carry},
        steps=4,
    )
    broken = tmp_path / "unfinished" / "000000" / "3"
    broken.mkdir(parents=True)
    (broken / "_METADATA").write_text("{")
    with pytest.warns(UserWarning, match="is not usable"):
        dataset = sweep.run(double, {"x": [1.0, 3.0]}, store=tmp_path, chunk_size=2)
    assert dataset.y.values.tolist() == [16.0, 48.0]
