"""Long computations in steps, which can be stopped between any two and resumed with the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Stepwise(NamedTuple):
    """A computation that `sweep.run` takes in place of a function when a chunk of it runs for long.

    Attributes
    ----------
    start
        ``start(key, **point) -> carry``, any pytree of arrays.
    advance
        ``advance(carry, key, **point) -> carry``, one step; what it counts is in the carry.
    finish
        ``finish(carry, key, **point) -> dict`` of outputs.
    steps
        Number of steps.

    Examples
    --------
    >>> from biasjax import sweep
    >>> double = Stepwise(
    ...     start=lambda key, *, x: x,
    ...     advance=lambda carry, key, *, x: 2 * carry,
    ...     finish=lambda carry, key, *, x: {"y": carry},
    ...     steps=10,
    ... )
    >>> sweep.run(double, {"x": [1.0, 3.0]}).y.values
    array([1024., 3072.], dtype=float32)
    """

    start: Callable[..., Any]
    advance: Callable[..., Any]
    finish: Callable[..., Any]
    steps: int


class Checkpoints(NamedTuple):
    """Folder for the carry of an unfinished computation, and the number of steps between writing it."""

    folder: Path
    every: int


def drive(advance: Callable[[Any], Any], start: Any, steps: int, checkpoints: Checkpoints | None) -> Any:
    """Advance a carry from the last checkpoint, or from the start, to the last step.

    Parameters
    ----------
    advance
        ``advance(carry) -> carry``, compiled.
    start
        First carry; it also tells the shapes of the checkpoint.
    steps
        Number of steps.
    checkpoints
        Where to keep the carry, or None.

    Returns
    -------
    pytree
        The carry after ``steps`` steps.
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
        checkpointer.save(folder.absolute() / str(step), carry)
        checkpointer.wait_until_finished()
    for older in folder.iterdir():
        if older.name.isdigit() and int(older.name) < step:
            shutil.rmtree(older, ignore_errors=True)


def _restore(folder: Path, start: Any) -> tuple[int, Any]:
    """Return the last checkpoint's step and carry, or 0 and the start."""
    import orbax.checkpoint as ocp

    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not steps:
        return 0, start
    with ocp.StandardCheckpointer() as checkpointer:
        # The start is the template: orbax would return NamedTuples as dicts without one
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, start)
        return max(steps), checkpointer.restore(folder.absolute() / str(max(steps)), abstract)
