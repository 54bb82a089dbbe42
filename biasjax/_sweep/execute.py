"""Regions of a grid on devices: one compiled program for all of a shape, sharded, halved when memory ends."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from biasjax import stepwise, tree
from biasjax._sweep import grid
from biasjax.stepwise import Checkpoints, Stepwise

Outputs = dict[str, np.ndarray]


def default_mesh() -> jax.sharding.Mesh | None:
    """One axis over all devices (of all processes under `jax.distributed`), or None if there is one."""
    devices = jax.devices()
    return (
        None if len(devices) == 1 else jax.make_mesh((len(devices),), ("points",), devices=devices, **_AUTO)
    )


# Explicit axes, the default, would ask every operation of fn for a sharding
_AUTO: dict[str, Any] = {"axis_types": (jax.sharding.AxisType.Auto,)}


class Frame(NamedTuple):
    """How regions of one shape are placed on devices.

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
    """

    names: tuple[str, ...]
    axes: tuple[np.ndarray, ...]
    bits: np.ndarray
    lengths: tuple[int, ...]
    shardings: tuple[Any, ...]
    out: Any


def frame(axes: Mapping[str, np.ndarray], key: jax.Array, lengths: Sequence[int], mesh) -> Frame:
    """Plan regions of some lengths on the devices of a mesh, or on the default device (mesh None)."""
    lengths, lead = _lengths_on(mesh, lengths)
    whole = parted = out = None
    if mesh is not None:
        whole, parted = (
            NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(mesh.axis_names))
        )
        out = NamedSharding(mesh, PartitionSpec(*[None] * lead, mesh.axis_names)) if axes else whole
    shardings = tuple(parted if axis == lead else whole for axis in range(len(axes)))
    bits = np.asarray(jax.random.key_data(key))
    return Frame(tuple(axes), tuple(axes.values()), bits, lengths, shardings, out)


def lower(fn: Callable | Stepwise, static: Mapping[str, Any], where: Frame) -> Callable:
    """Trace a point function over a frame; what it raises is raised here.

    Parameters
    ----------
    fn, static
        As in `sweep.run`, with one value for each static name.
    where
        From `frame`.

    Returns
    -------
    callable
        ``compile() -> program``, safe to call in another thread; ``compile.outputs`` has shapes and dtypes.
        ``program(region, checkpoints) -> Outputs``, where a `Stepwise` keeps its carry in the checkpoints, if
        there are any; ``program.bytes`` is the memory that it takes.
    """
    if not isinstance(fn, Stepwise):
        plain = _lower(fn, static, where)

        def compile_plain() -> Callable:
            call = plain.compile()
            return _program(where, lambda *values, **_: call(where.bits, *values), call)

        compile_plain.outputs = named(plain.out_info)  # pyright: ignore[reportFunctionMemberAccess]
        return compile_plain

    start = _lower(fn.start, static, where)
    carry = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where.out), start.out_info)
    advance, finish = _lower(fn.advance, static, where, carry), _lower(fn.finish, static, where, carry)

    def compile_steps() -> Callable:
        calls = [stage.compile() for stage in (start, advance, finish)]

        def run(*values, checkpoints: Checkpoints | None):
            first, one, last = calls
            begin = first(where.bits, *values)
            end = stepwise.drive(lambda now: one(now, where.bits, *values), begin, fn.steps, checkpoints)
            return last(end, where.bits, *values)

        return _program(where, run, calls[1])

    compile_steps.outputs = named(finish.out_info)  # pyright: ignore[reportFunctionMemberAccess]
    return compile_steps


def named(outputs: Any) -> dict[str, Any]:
    """Outputs by name: keys joined by ".", "output" for a bare array."""
    return {path.replace("/", ".") or "output": leaf for path, leaf in tree.paths(outputs).items()}


def _lower(fn: Callable, static: Mapping[str, Any], where: Frame, *carry: Any) -> Any:
    nested = grid.nest(fn, where.names, static, carries=bool(carry))
    shapes = [
        jax.ShapeDtypeStruct((length,), values.dtype, sharding=sharding)
        for length, values, sharding in zip(where.lengths, where.axes, where.shardings, strict=True)
    ]
    return jax.jit(nested, out_shardings=where.out).lower(*carry, where.bits, *shapes)


def _program(where: Frame, run: Callable, largest: Any) -> Callable[..., Outputs]:
    """Wrap a compiled call: place a region's values, run, fetch, and drop the padding."""

    def program(region: grid.Region, checkpoints: Checkpoints | None = None) -> Outputs:
        values = grid.take(where.axes, region, where.lengths)
        if where.out is not None:
            values = [jax.device_put(v, s) for v, s in zip(values, where.shardings, strict=True)]
        trim = tuple(slice(n) for n in grid.shape(region))
        outputs = named(run(*values, checkpoints=checkpoints))
        return {name: _fetch(value)[trim] for name, value in outputs.items()}

    stats = largest.memory_analysis()
    sizes = ("temp", "output", "argument")
    program.bytes = sum(getattr(stats, f"{size}_size_in_bytes", 0) for size in sizes)  # pyright: ignore
    return program


def halving(program: Callable, relower: Callable[[Sequence[int]], Callable]) -> Callable[..., Outputs]:
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

    def run(region: grid.Region, checkpoints: Checkpoints | None = None, program=program) -> Outputs:
        shape = grid.shape(region)
        if shape not in too_large:
            try:
                return program(region, checkpoints)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                too_large.add(shape)
        axis, *parts = grid.halves(region)
        results = []
        for i, part in enumerate(parts):
            lengths, folder = grid.shape(part), checkpoints and checkpoints.folder / f"half-{i}"
            if lengths not in programs:
                programs[lengths] = relower(lengths)()
            results.append(run(part, checkpoints and checkpoints._replace(folder=folder), programs[lengths]))
        return {name: np.concatenate([result[name] for result in results], axis) for name in results[0]}

    return run


def budget() -> int:
    """Bytes that a program may take: a quarter of the device's memory, or of what the host has free."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] // 4
    try:
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
    if not value.is_fully_addressable:
        from jax.experimental import multihost_utils

        value = multihost_utils.process_allgather(value, tiled=True)
    # Files have no bfloat16, nor any narrower float
    return np.asarray(value, np.float32 if value.dtype.kind == "V" else None)
