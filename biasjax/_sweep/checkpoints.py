"""The carry of an unfinished `stepwise.Stepwise`, kept on disk between its steps."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Checkpoints(NamedTuple):
    """Folder for the carry of an unfinished computation, and the number of steps between writing it."""

    folder: Path
    every: int

    def below(self, name: str) -> Checkpoints:
        """Those of a part of the computation."""
        return self._replace(folder=self.folder / name)


def drive(advance: Callable[[Any], Any], start: Any, steps: int, checkpoints: Checkpoints | None) -> Any:
    """Advance a carry from the last checkpoint, or from the start, to the last step.

    ``advance(carry) -> carry`` is compiled; ``start`` also tells the shapes of the checkpoint.
    """
    done, carry = (0, start) if checkpoints is None else _restore(checkpoints.folder, start)
    for step in range(done + 1, steps + 1):
        carry = advance(carry)
        if checkpoints is not None and step % checkpoints.every == 0 and step < steps:
            _save(checkpoints.folder, step, carry)
    return carry


def _save(folder: Path, step: int, carry: Any) -> None:
    """Write a checkpoint, whole or not at all, and then remove older ones."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / str(step), {"carry": carry})
        checkpointer.wait_until_finished()
    for older in folder.iterdir():
        if older.name.isdigit() and int(older.name) < step:
            shutil.rmtree(older, ignore_errors=True)


def _restore(folder: Path, start: Any) -> tuple[int, Any]:
    """Return the last checkpoint's step and carry, or 0 and the start."""
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not steps:
        return 0, start
    import orbax.checkpoint as ocp

    # The start is the template: orbax would return NamedTuples as dicts without one
    abstract = {"carry": jax.tree.map(ocp.utils.to_shape_dtype_struct, start)}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return max(steps), checkpointer.restore(folder / str(max(steps)), abstract)["carry"]
    except Exception as error:
        # Damaged, or padded for another number of devices: it costs time and nothing else
        warnings.warn(f"checkpoint {folder} is not usable ({error!r}): starting it anew", stacklevel=2)
        shutil.rmtree(folder)
        return 0, start
