"""Regions of a grid: one program for all of a shape, in parts side by side, halved when memory ends."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from biasjax import check, tree
from biasjax._sweep import agreement, frames, grid
from biasjax._sweep.checkpoints import Checkpoints, drive
from biasjax._sweep.frames import Frame
from biasjax.stepwise import Stepwise

Outputs = dict[str, np.ndarray]


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
        call = compile_stage(traced, where)
        return _program(where, lambda given, _: side_by_side(call, given), call)

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
        first, one, last = (compile_stage(stage, where) for stage in (start, advance, finish))

        def run(given: Sequence[tuple[Any, ...]], checkpoints: Checkpoints | None) -> list[Any]:
            def each(stage: Callable[..., Any], carries: Sequence[Any]) -> list[Any]:
                return side_by_side(stage, [(c, *g) for c, g in zip(carries, given, strict=True)])

            begin = side_by_side(first, given)
            end = drive(functools.partial(each, one), begin, fn.steps, checkpoints)
            return each(last, end)

        return _program(where, run, one)

    return Lowered(named(finish.out_info), compile_)


def side_by_side(call: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a compiled program with the arguments of each part, all at once, each in a thread.

    Settings of ``with`` statements are those of the caller's thread alone, so each enters them anew.
    """
    if len(given) == 1:
        return [call(*given[0])]
    config: Any = jax.config  # whose own types are partly unknown
    wide, nans, infs = config.jax_enable_x64, config.jax_debug_nans, config.jax_debug_infs

    def one(arguments: tuple[Any, ...]) -> Any:
        with jax.enable_x64(wide), jax.debug_nans(nans), jax.debug_infs(infs):
            return jax.block_until_ready(call(*arguments))

    with concurrent.futures.ThreadPoolExecutor(len(given)) as pool:
        return list(pool.map(one, given))


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
    nested = grid.nest(fn, where.names, static, lengths=where.part, carries=bool(carry), blocks=where.blocks)
    if where.blocks is not None and where.out is not None:
        # Each device goes through blocks of its own; a loop over an axis that is spread would wait at each
        specs = (*[where.out.spec] * len(carry), PartitionSpec(), *(s.spec for s in where.shardings))
        nested = jax.shard_map(
            nested, mesh=where.out.mesh, in_specs=specs, out_specs=where.out.spec, check_vma=False
        )
    shapes = [
        jax.ShapeDtypeStruct((length,), values.dtype, sharding=sharding)
        for length, values, sharding in zip(where.part, where.axes, where.shardings, strict=True)
    ]
    return jax.jit(nested, out_shardings=where.out).lower(*carry, where.bits, *shapes)


def compile_stage(traced: Any, where: Frame) -> Any:
    """Compile what was traced; side by side with others on one core, as they would wait for each other."""
    options: dict[str, bool | int] = {}
    if where.threads > 1:
        options["xla_cpu_multi_thread_eigen"] = False
    if where.is_on_cpu and "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
        # LLVM's own level costs two fifths of the time to compile, and no program was seen to run faster
        options["xla_backend_optimization_level"] = 1
    return traced.compile(options)


def _program(where: Frame, call: Callable[..., list[Any]], largest: Any) -> Program:
    """Wrap a compiled call: place the values of a region's parts, run, fetch, drop the padding, and join."""

    def run(region: grid.Region, checkpoints: Checkpoints | None = None) -> Outputs:
        parts = frames.parts(where, region)
        found = call([(where.bits, *frames.values(where, part)) for part in parts], checkpoints)
        fetched = [
            {name: fetch(value)[tuple(map(slice, grid.shape(part)))] for name, value in named(one).items()}
            for part, one in zip(parts, found, strict=True)
        ]
        return joined(fetched, where.lead)

    return Program(run, where.threads * bytes_of(largest))


def joined(outputs: Sequence[Outputs], axis: int) -> Outputs:
    """Outputs of neighbouring regions as those of one."""
    if len(outputs) == 1:
        return outputs[0]
    return {name: np.concatenate([one[name] for one in outputs], axis) for name in outputs[0]}


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
        return joined(results, axis)

    return halved


def budget() -> int:
    """Bytes that a program may take: a quarter of the device's memory, or of what the host has free.

    Under `jax.distributed` the least of all processes, so that all cut the grid alike.
    """
    return agreement.least(_budget())


def _budget() -> int:
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] // 4
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (ValueError, OSError, AttributeError):
        return 2**30


def fetch(value: jax.Array) -> np.ndarray:
    """Bring an output to the host, from all processes, in a dtype that files have."""
    if not value.is_fully_addressable:
        from jax.experimental import multihost_utils

        value = multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value, stored_dtype(value.dtype))


def stored_dtype(dtype: np.dtype) -> np.dtype:
    """The type that values of a type are kept in: files have no bfloat16, nor any narrower float."""
    return np.dtype(np.float32) if dtype.kind == "V" else dtype
