"""Regions of a grid on devices: one compiled program for all of a shape, sharded, halved when memory ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from biasjax import grid, tree

Outputs = dict[str, np.ndarray]


def default_mesh() -> jax.sharding.Mesh | None:
    """One axis over all devices (of all processes under `jax.distributed`), or None if there is one."""
    devices = jax.devices()
    return (
        None if len(devices) == 1 else jax.make_mesh((len(devices),), ("points",), devices=devices, **_AUTO)
    )


# Explicit axes, the default, would ask every operation of fn for a sharding
_AUTO: dict[str, Any] = {"axis_types": (jax.sharding.AxisType.Auto,)}


def lower(
    nested: Callable, key: jax.Array, axes: Sequence[np.ndarray], lengths: Sequence[int], mesh
) -> Callable:
    """Trace a nested function for regions of some lengths; what fn raises is raised here.

    Parameters
    ----------
    nested
        From `grid.nest`.
    key
        Root key.
    axes
        Values of all axes.
    lengths
        Numbers of values of a region along each axis.
    mesh
        Devices, or None.

    Returns
    -------
    callable
        ``compile() -> program``, safe to call in another thread; ``program(region) -> Outputs``, with
        ``program.bytes``, the memory that it takes.
    """
    lengths, lead = _lengths_on(mesh, lengths)
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    parted = None if mesh is None else NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    shardings = [parted if axis == lead else whole for axis in range(len(axes))]
    out = None if mesh is None else NamedSharding(mesh, PartitionSpec(*[None] * lead, *mesh.axis_names))
    shapes = [
        jax.ShapeDtypeStruct((length,), values.dtype, sharding=sharding)
        for length, values, sharding in zip(lengths, axes, shardings, strict=True)
    ]
    bits = np.asarray(jax.random.key_data(key))  # typed keys cannot be placed on other processes' devices
    lowered = jax.jit(nested, out_shardings=out if axes else None).lower(bits, *shapes)

    def compile_() -> Callable:
        compiled = lowered.compile()

        def program(region: grid.Region) -> Outputs:
            values = grid.take(axes, region, lengths)
            placed = (
                values
                if mesh is None
                else [jax.device_put(v, s) for v, s in zip(values, shardings, strict=True)]
            )
            outputs = tree.paths(compiled(bits, *placed))
            trim = tuple(slice(n) for n in grid.shape(region))
            return {name: _fetch(value)[trim] for name, value in outputs.items()}

        program.bytes = _bytes(compiled)  # pyright: ignore[reportFunctionMemberAccess]
        return program

    return compile_


def halving(
    program: Callable, relower: Callable[[Sequence[int]], Callable]
) -> Callable[[grid.Region], Outputs]:
    """Make a program that cuts its region in two when the device's memory does not suffice, and again.

    Parameters
    ----------
    program
        For regions of the planned shape.
    relower
        ``relower(lengths)`` returns the ``compile`` of another shape.
    """
    programs: dict[tuple[int, ...], Callable] = {}
    too_large: set[tuple[int, ...]] = set()

    def run(region: grid.Region, program=program) -> Outputs:
        shape = grid.shape(region)
        if shape not in too_large:
            try:
                return program(region)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                too_large.add(shape)
        axis, *parts = grid.halves(region)
        results = []
        for part in parts:
            lengths = grid.shape(part)
            if lengths not in programs:
                programs[lengths] = relower(lengths)()
            results.append(run(part, programs[lengths]))
        return {name: np.concatenate([result[name] for result in results], axis) for name in results[0]}

    return run


def budget() -> int:
    """Bytes that a program may take: a quarter of the device's memory, or of what the host has free."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] // 4
    try:
        import os

        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (ValueError, OSError, AttributeError):
        return 2**30


def _lengths_on(mesh, lengths: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Choose the axis to spread over the devices, that which needs the least padding, and pad it."""
    if mesh is None or not lengths:
        return tuple(lengths), 0
    padded = [math.ceil(n / mesh.size) * mesh.size for n in lengths]
    lead = min(range(len(lengths)), key=lambda axis: padded[axis] / lengths[axis])
    return tuple(padded[i] if i == lead else n for i, n in enumerate(lengths)), lead


def _fetch(value: jax.Array) -> np.ndarray:
    if value.is_fully_addressable:
        return np.asarray(value)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


def _bytes(compiled: Any) -> int:
    stats = compiled.memory_analysis()
    if stats is None:
        return 0
    return stats.temp_size_in_bytes + stats.output_size_in_bytes + stats.argument_size_in_bytes
