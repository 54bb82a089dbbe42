"""Independent workers of a sweep as cluster jobs, through submitit (extra ``slurm``)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biasjax import _files, check, store

if TYPE_CHECKING:
    import submitit

__all__ = ["submit"]


def __dir__() -> list[str]:
    return __all__


def submit(
    run: Callable[..., Any],
    workers: int,
    logs: str | Path,
    *,
    cluster: str = "slurm",
    **parameters: Any,
) -> list[submitit.Job[None]]:
    """Submit one job for each worker of a sweep; they share its store and do not talk to each other.

    A worker that dies costs the chunk that it was computing: submit again, and only what is missing runs.

    Parameters
    ----------
    run
        ``run(shard="i/n")``, e.g. ``functools.partial(sweep.run, fn, axes, store=folder)``; pickled by value.
    workers
        Number of jobs.
    logs
        Folder for submitit's files.
    cluster
        "slurm" for a job array, "local" for processes on this machine.
    **parameters
        Passed to submitit, e.g. ``timeout_min=60, slurm_partition="gpu", gpus_per_node=1``.

    Returns
    -------
    list of submitit.Job
        ``job.result()`` waits for a worker and raises what it raised; the sweep's result is in its store.

    Raises
    ------
    FileNotFoundError
        If this machine has no ``srun`` and ``sbatch``; `OSError` if ``logs`` cannot be written to.
    """
    import submitit

    check.function("run", run)
    check.positive_int("workers", workers)
    check.choice("cluster", cluster, ("slurm", "local"))
    folder = _files.as_path("logs", logs)
    missing = [name for name in ("srun", "sbatch") if cluster == "slurm" and shutil.which(name) is None]
    if missing:
        fix = 'Submit from a node of the cluster, or pass cluster="local".'
        got = f"no {' and no '.join(missing)}"
        check.fail("cluster 'slurm'", "slurm's commands on the path", got, fix, FileNotFoundError)
    executor = submitit.AutoExecutor(folder=str(store.check_writable(folder)), cluster=cluster)
    executor.update_parameters(**parameters)
    return executor.map_array(_work, [run] * workers, [f"{i}/{workers}" for i in range(workers)])


def _work(run: Callable[..., Any], shard: str) -> None:
    run(shard=shard)
