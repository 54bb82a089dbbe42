"""The carry of an unfinished `stepwise.Stepwise`, kept on disk between its steps."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Checkpoints(NamedTuple):
    """Where the carry of an unfinished computation is kept.

    Attributes
    ----------
    folder, every
        Where, and the number of steps between writing it.
    identity
        What is computed; a checkpoint of anything else is not resumed.
    keep
        Called before a checkpoint is written; raises if the folder has become another worker's.
    """

    folder: Path
    every: int
    identity: str = ""
    keep: Callable[[], None] = lambda: None

    def below(self, name: str) -> Checkpoints:
        """Those of a part of the computation."""
        return self._replace(folder=self.folder / name, identity=f"{self.identity}/{name}")


def drive(advance: Callable[[Any], Any], start: Any, steps: int, checkpoints: Checkpoints | None) -> Any:
    """Advance a carry from the last checkpoint, or from the start, to the last step.

    ``advance(carry) -> carry`` is compiled; ``start`` also tells the shapes of the checkpoint.
    """
    done, carry = (0, start) if checkpoints is None else _restore(checkpoints, start)
    for step in range(done + 1, steps + 1):
        carry = advance(carry)
        if checkpoints is not None and step % checkpoints.every == 0 and step < steps:
            checkpoints.keep()
            _save(checkpoints, step, carry)
    return carry


def _save(checkpoints: Checkpoints, step: int, carry: Any) -> None:
    """Write a checkpoint, whole or not at all, and then remove older ones."""
    import orbax.checkpoint as ocp

    folder, seal = checkpoints.folder, _seal(checkpoints.identity, step, carry)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / str(step), {"carry": carry, "seal": seal})
        checkpointer.wait_until_finished()
    for older in folder.iterdir():
        if older.name.isdigit() and int(older.name) < step:
            shutil.rmtree(older, ignore_errors=True)


def _restore(checkpoints: Checkpoints, start: Any) -> tuple[int, Any]:
    """Return the last checkpoint's step and carry, or 0 and the start."""
    folder = checkpoints.folder
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not steps:
        return 0, start
    import orbax.checkpoint as ocp

    step = max(steps)
    # The start is the template: orbax would return NamedTuples as dicts without one
    template = {"carry": start, "seal": np.zeros(32, np.uint8)}
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            kept = checkpointer.restore(folder / str(step), abstract)
        if np.array_equal(kept["seal"], _seal(checkpoints.identity, step, kept["carry"])):
            return step, kept["carry"]
        why = "altered, or of another computation"
    except Exception as error:
        # Damaged, or padded for another number of devices: it costs time and nothing else
        why = repr(error)
    warnings.warn(f"checkpoint {folder} is not usable ({why}): starting it anew", stacklevel=2)
    shutil.rmtree(folder, ignore_errors=True)
    return 0, start


def _seal(identity: str, step: int, carry: Any) -> np.ndarray:
    """Checksum of what is computed, the step and the carry, as far as this process holds it."""
    checksum = hashlib.sha256(f"{identity}/{step}".encode())
    for leaf in jax.tree.leaves(carry):
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        if data.is_fully_addressable:
            checksum.update(np.asarray(data).tobytes())
    return np.frombuffer(checksum.digest(), np.uint8)
