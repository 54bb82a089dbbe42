"""Where the points of a region run: on which devices or threads, and how many of them at once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from biasjax._sweep import grid


class Batching(NamedTuple):
    """How many points run at once.

    Attributes
    ----------
    threads
        A region is cut into as many parts, which run side by side on one device, each on one core.
    block
        Points that are vmapped, block after block; None for all of a part or device.
    """

    threads: int = 1
    block: int | None = None

    def __str__(self) -> str:
        at_once = "all points at once" if self.block is None else f"at most {self.block} points at once"
        return at_once if self.threads == 1 else f"{at_once} on each of {self.threads} threads"


ALL_AT_ONCE = Batching()


class Frame(NamedTuple):
    """How regions of one shape are placed.

    Attributes
    ----------
    names, axes
        Names and all values of the axes.
    bits
        Data of the root key; typed keys cannot be placed on other processes' devices.
    lengths
        Numbers of values of a region along each axis, padded.
    shardings
        One for each axis.
    out
        Sharding of everything that has the grid's axes in front.
    lead
        The axis that is spread over devices or threads.
    threads
        Number of parts that run side by side on one device.
    blocks
        How what one device or thread has is cut into what it vmaps; None if not at all.
    """

    names: tuple[str, ...]
    axes: tuple[np.ndarray, ...]
    bits: np.ndarray
    lengths: tuple[int, ...]
    shardings: tuple[Any, ...]
    out: Any
    lead: int
    threads: int
    blocks: grid.Layout | None

    @property
    def is_on_cpu(self) -> bool:
        """Whether the devices are a CPU's."""
        devices = jax.devices() if self.out is None else self.out.mesh.devices.flat
        return devices[0].platform == "cpu"

    @property
    def part(self) -> tuple[int, ...]:
        """Lengths of what one program computes."""
        return _divided(self.lengths, self.lead, self.threads)


def default_mesh() -> jax.sharding.Mesh | None:
    """One axis over all devices (of all processes under `jax.distributed`), or None if there is one."""
    devices = jax.devices()
    if len(devices) == 1:
        return None
    # Explicit axes, the default, would ask every operation of fn for a sharding
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("points",), axis_types=auto, devices=devices)


def cores(mesh: jax.sharding.Mesh | None) -> int | None:
    """Number of cores of a CPU that is the only device, else None."""
    devices = jax.devices()[:1] if mesh is None else list(mesh.devices.flat)
    if len(devices) > 1 or devices[0].platform != "cpu":
        return None
    return core_count()


def core_count() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def frame(
    axes: Mapping[str, np.ndarray],
    key: jax.Array,
    lengths: Sequence[int],
    mesh: jax.sharding.Mesh | None,
    batching: Batching = ALL_AT_ONCE,
) -> Frame:
    """Plan regions of some lengths on the devices of a mesh, or on the default device (mesh None)."""
    devices = 1 if mesh is None else mesh.size
    # A store may have begun with threads on another machine
    threads = 1 if devices > 1 or not lengths else batching.threads
    count = devices if devices > 1 else threads
    lengths, at, blocks = _padded(lengths, count, batching.block)
    whole = parted = out = None
    if mesh is not None:
        whole, parted = (
            NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(mesh.axis_names))
        )
        out = NamedSharding(mesh, PartitionSpec(*[None] * at, mesh.axis_names)) if axes else whole
    shardings = tuple(parted if axis == at else whole for axis in range(len(axes)))
    bits = np.asarray(jax.random.key_data(key))
    return Frame(tuple(axes), tuple(axes.values()), bits, lengths, shardings, out, at, threads, blocks)


def lead(sizes: Sequence[int], count: int) -> int:
    """Axis to spread over devices or threads: what needs the least padding, of equal ones the outermost."""
    return min(range(len(sizes)), key=lambda axis: math.ceil(sizes[axis] / count) * count / sizes[axis])


def parts(where: Frame, region: grid.Region) -> list[grid.Region]:
    """Cut a region into what each thread computes; a small one has fewer parts."""
    if where.threads == 1:
        return [region]
    whole, step = region[where.lead], where.part[where.lead]
    starts = range(whole.start, whole.stop, step)
    cut = [slice(at, min(at + step, whole.stop)) for at in starts]
    return [(*region[: where.lead], one, *region[where.lead + 1 :]) for one in cut]


def values(where: Frame, part: grid.Region) -> list[Any]:
    """Values of a part, padded and placed."""
    taken = grid.take(where.axes, part, where.part)
    return [jax.device_put(v, s) for v, s in zip(taken, where.shardings, strict=True)]


def _padded(
    lengths: Sequence[int], count: int, block: int | None
) -> tuple[tuple[int, ...], int, grid.Layout | None]:
    """Pad the axis that is spread over devices or threads, and that which blocks cut, to equal shapes."""
    lengths = tuple(lengths)
    if not lengths or (count == 1 and block is None):
        return lengths, 0, None
    at, blocks = lead(lengths, count), None
    own = [math.ceil(n / count) if axis == at else n for axis, n in enumerate(lengths)]
    if block is not None and math.prod(own) > block:
        blocks = grid.cut(own, block)
        own[blocks.axis] = math.ceil(own[blocks.axis] / blocks.block) * blocks.block
    own[at] *= count
    return tuple(own), at, blocks


def _divided(lengths: Sequence[int], lead: int, count: int) -> tuple[int, ...]:
    return tuple(n // count if axis == lead else n for axis, n in enumerate(lengths))
