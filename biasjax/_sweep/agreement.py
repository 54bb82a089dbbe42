"""What the processes of one sweep under `jax.distributed` do and decide alike; a single one decides alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from biasjax import check


def is_writer() -> bool:
    """Whether this process writes; under `jax.distributed` one does for all."""
    return jax.process_index() == 0


def wait_for_writer() -> None:
    """Under `jax.distributed`, wait until the process that writes is done."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("biasjax sweep")


def together(act: Callable[[], int | None]) -> int:
    """Do something on all processes, and return the number that the one that writes got from it.

    What one of them raises, all raise: the others would wait for ever at their next common step.
    """
    if jax.process_count() == 1:
        return act() or 0
    number, raised = 0, None
    try:
        number = act() or 0
    except BaseException as error:
        raised = error
    text = repr(raised).encode()[:200].ljust(200) if raised else b" " * 200
    numbers, texts = _gather((np.int32(number), np.frombuffer(text, np.uint8)))
    if raised:
        raise raised
    for process, said in enumerate(bytes(row).decode(errors="replace").strip() for row in texts):
        if said:
            got, fix = f"{said} on process {process}", "Mend it there and run again."
            check.fail("sweep", "all processes to go on", got, fix, RuntimeError)
    return int(numbers[0])


def agreed(numbers: Iterable[int]) -> Iterator[int]:
    """Chunks one by one; under `jax.distributed` those of the process that writes, whatever others have."""
    own = iter(numbers)
    while (n := together(lambda: next(own, -1))) >= 0:
        yield n


def least(own: int) -> int:
    """Least number of bytes of all processes under `jax.distributed`, in KiB, up to 2 TiB."""
    if jax.process_count() == 1:
        return own
    return 2**10 * int(min(_gather(np.int32(min(own // 2**10, 2**31 - 1)))))


def _gather(values: Any) -> Any:
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(values)
