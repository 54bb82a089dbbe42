import functools

import numpy as np
import pytest

from biasjax import store, submit, sweep

pytest.importorskip("submitit")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_local_workers_share_a_store(tmp_path):
    def cube(key, *, x):  # local, so that it is pickled by value
        return {"y": x**3}

    run = functools.partial(sweep.run, cube, {"x": np.arange(6.0)}, store=tmp_path / "store", chunk_size=1)
    jobs = submit.submit(run, 2, tmp_path / "logs", cluster="local", timeout_min=4)
    for job in jobs:
        job.result()
    np.testing.assert_array_equal(store.open(tmp_path / "store").y, np.arange(6.0) ** 3)
    assert run().equals(store.open(tmp_path / "store"))  # nothing left to do


def test_bad_input_is_refused_clearly(tmp_path):
    with pytest.raises(ValueError, match="workers: expected an integer of at least 1"):
        submit.submit(print, 0, tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'slurm'"):
        submit.submit(print, 1, tmp_path, cluster="slurn")


def test_a_machine_without_slurm_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    message = "slurm's commands on the path, got no srun and no sbatch. Submit from a node of the cluster"
    with pytest.raises(FileNotFoundError, match=message):
        submit.submit(print, 1, tmp_path / "logs")
    assert not list(tmp_path.iterdir())
