"""Regions of a grid on devices: one compiled program for all of a shape, sharded, halved when memory ends."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from biasjax import check, tree
from biasjax._sweep import grid
from biasjax._sweep.checkpoints import Checkpoints, drive
from biasjax.stepwise import Stepwise

Outputs = dict[str, np.ndarray]


def default_mesh() -> jax.sharding.Mesh | None:
    """One axis over all devices (of all processes under `jax.distributed`), or None if there is one."""
    devices = jax.devices()
    if len(devices) == 1:
        return None
    # Explicit axes, the default, would ask every operation of fn for a sharding
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("points",), axis_types=auto, devices=devices)


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


def frame(
    axes: Mapping[str, np.ndarray], key: jax.Array, lengths: Sequence[int], mesh: jax.sharding.Mesh | None
) -> Frame:
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


Run = Callable[..., Outputs]
"""``run(region, checkpoints=None) -> Outputs``; a `Stepwise` keeps its carry in the checkpoints, if any."""


class Program(NamedTuple):
    """A compiled point function for regions of one shape, and the bytes of memory that it takes."""

    run: Run
    bytes: int


class Lowered(NamedTuple):
    """A traced point function: its outputs' shapes and dtypes, and how to compile it, once, in any thread."""

    outputs: dict[str, jax.ShapeDtypeStruct]
    compile: Callable[[], Program]


def lower(fn: Callable[..., Any] | Stepwise, static: Mapping[str, Any], where: Frame) -> Lowered:
    """Trace a point function over a frame; what it raises is raised here.

    ``fn`` and ``static`` are as in `sweep.run`, with one value for each static name.
    """
    if isinstance(fn, Stepwise):
        return _lower_steps(fn, static, where)
    traced = lower_stage(fn, static, where)

    @functools.cache
    def compile_() -> Program:
        call = traced.compile()
        return _program(where, lambda *values, **_: call(where.bits, *values), call)

    return Lowered(named(traced.out_info), compile_)


def _lower_steps(fn: Stepwise, static: Mapping[str, Any], where: Frame) -> Lowered:
    start = lower_stage(fn.start, static, where)
    carry = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where.out), start.out_info)
    advance, finish = (
        lower_stage(fn.advance, static, where, carry),
        lower_stage(fn.finish, static, where, carry),
    )

    @functools.cache
    def compile_() -> Program:
        first, one, last = (stage.compile() for stage in (start, advance, finish))

        def run(*values: Any, checkpoints: Checkpoints | None) -> Any:
            begin = first(where.bits, *values)
            end = drive(lambda now: one(now, where.bits, *values), begin, fn.steps, checkpoints)
            return last(end, where.bits, *values)

        return _program(where, run, one)

    return Lowered(named(finish.out_info), compile_)


def named(outputs: Any) -> dict[str, Any]:
    """Outputs by name: keys joined by ".", "output" for a bare array."""
    found: dict[str, Any] = {}
    for path, leaf in jax.tree.leaves_with_path(outputs):
        name = tree.path_string(path).replace("/", ".") or "output"
        if name in found:
            check.fail("fn", "outputs with names of their own", f"two called {name!r}", "Rename one of them.")
        found[name] = leaf
    return found


def lower_stage(fn: Callable[..., Any], static: Mapping[str, Any], where: Frame, *carry: Any) -> Any:
    """Trace one function, of a carry if one is given, over a frame."""
    nested = grid.nest(fn, where.names, static, carries=bool(carry))
    shapes = [
        jax.ShapeDtypeStruct((length,), values.dtype, sharding=sharding)
        for length, values, sharding in zip(where.lengths, where.axes, where.shardings, strict=True)
    ]
    return jax.jit(nested, out_shardings=where.out).lower(*carry, where.bits, *shapes)


def _program(where: Frame, call: Callable[..., Any], largest: Any) -> Program:
    """Wrap a compiled call: place a region's values, run, fetch, and drop the padding."""

    def run(region: grid.Region, checkpoints: Checkpoints | None = None) -> Outputs:
        values = grid.take(where.axes, region, where.lengths)
        if where.out is not None:
            values = [jax.device_put(v, s) for v, s in zip(values, where.shardings, strict=True)]
        trim = tuple(slice(n) for n in grid.shape(region))
        outputs = named(call(*values, checkpoints=checkpoints))
        return {name: fetch(value)[trim] for name, value in outputs.items()}

    return Program(run, bytes_of(largest))


def bytes_of(compiled: Any) -> int:
    """Bytes of memory that a compiled program takes."""
    stats, sizes = compiled.memory_analysis(), ("temp", "output", "argument")
    return sum(getattr(stats, f"{size}_size_in_bytes", 0) for size in sizes)


def halving(run: Run, relower: Callable[[tuple[int, ...]], Lowered]) -> Run:
    """Cut a region in two, and again, when the device's memory does not suffice for it.

    ``run`` is for regions of the planned shape; ``relower(lengths)`` traces once for each other shape.
    """
    too_large: set[tuple[int, ...]] = set()

    def halved(region: grid.Region, checkpoints: Checkpoints | None = None, run: Run = run) -> Outputs:
        shape = grid.shape(region)
        if shape not in too_large:
            try:
                return run(region, checkpoints)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                too_large.add(shape)
        axis, *parts = grid.halves(region)
        results = []
        for i, part in enumerate(parts):
            inside = checkpoints and checkpoints.below(f"half-{i}")
            results.append(halved(part, inside, relower(grid.shape(part)).compile().run))
        return {name: np.concatenate([result[name] for result in results], axis) for name in results[0]}

    return halved


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


def budget() -> int:
    """Bytes that a program may take: a quarter of the device's memory, or of what the host has free.

    Under `jax.distributed` the least of all processes, so that all cut the grid alike.
    """
    return least(_budget())


def least(own: int) -> int:
    """Least number of bytes of all processes under `jax.distributed`, in KiB, up to 2 TiB."""
    if jax.process_count() == 1:
        return own
    return 2**10 * int(min(_gather(np.int32(min(own // 2**10, 2**31 - 1)))))


def _gather(values: Any) -> Any:
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(values)


def _budget() -> int:
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] // 4
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (ValueError, OSError, AttributeError):
        return 2**30


def _lengths_on(mesh: jax.sharding.Mesh | None, lengths: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Choose the axis to spread over the devices, that which needs the least padding, and pad it."""
    if mesh is None or not lengths:
        return tuple(lengths), 0
    padded = [math.ceil(n / mesh.size) * mesh.size for n in lengths]
    lead = min(range(len(lengths)), key=lambda axis: padded[axis] / lengths[axis])
    return tuple(padded[i] if i == lead else n for i, n in enumerate(lengths)), lead


def fetch(value: jax.Array) -> np.ndarray:
    """Bring an output to the host, from all processes, in a dtype that files have."""
    if not value.is_fully_addressable:
        from jax.experimental import multihost_utils

        value = multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value, stored_dtype(value.dtype))


def stored_dtype(dtype: np.dtype) -> np.dtype:
    """The type that values of a type are kept in: files have no bfloat16, nor any narrower float."""
    return np.dtype(np.float32) if dtype.kind == "V" else dtype
