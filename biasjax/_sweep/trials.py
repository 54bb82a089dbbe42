"""How many points to run at once: as asked, or the fastest of several ways, measured before a large sweep."""

from __future__ import annotations

import concurrent.futures
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from biasjax import check
from biasjax._jaxpr import interpret
from biasjax._sweep import frames
from biasjax._sweep.execute import Program
from biasjax._sweep.frames import ALL_AT_ONCE, Batching
from biasjax._sweep.loop import Plan
from biasjax._sweep.progress import Bar
from biasjax._sweep.spec import Spec
from biasjax.stepwise import Stepwise

Choice = int | Literal["auto", "all"]

# Points of a trial on each core, if the sweep has enough
_EACH = 16
# Smaller blocks, and the points of a trial that tell what they cost: of dense networks eight share a core's
# cache, of convolutional ones a single one fills it. None is all; of two that are as fast the first is taken
_BLOCKS = {8: 16, None: 1, 1: 4}
# A trial runs at most this share of the sweep; it is worth its while from so many operations, and if all of
# the sweep takes so many times longer than compiling
_SHARE, _FEWEST_OPERATIONS, _WORTH = 1 / 30, 3e11, 5
# Iterations of a loop whose length no program tells
_ITERATIONS = 100
# Less gain is noise
_GAIN = 0.9


def check_batching(batching: Any) -> None:
    """Raise unless it is a number of points, "auto" or "all"."""
    if batching in ("auto", "all"):
        return
    if isinstance(batching, str):
        check.fail("batching", '"auto", "all" or a number of points', repr(batching), "Give e.g. 8.")
    check.positive_int("batching", batching)


def choose(
    batching: Choice,
    spec: Spec,
    mesh: jax.sharding.Mesh | None,
    planned: Callable[[Spec, Batching], Plan],
    progress: bool,
) -> Batching:
    """Say how many points to run at once; measured only on one device that is a CPU, the rest is "all"."""
    threads = frames.cores(mesh)
    if batching == "all" or not spec.axes:
        return ALL_AT_ONCE
    if batching != "auto":
        return Batching(threads or 1, int(batching))
    # The draws of "rbg" keys depend on how many are vmapped, and may not depend on a stopwatch
    if threads is None or "rbg" in str(jax.random.key_impl(jax.random.key(0))):
        return ALL_AT_ONCE
    points = math.prod(spec.sizes)
    work = points * len(spec.combinations)
    if isinstance(spec.fn, Stepwise):  # of which one step tells enough
        work *= spec.fn.steps
        spec = spec._replace(fn=spec.fn._replace(steps=1))
    each = min(_EACH, int(work * _SHARE / threads))
    lengths = sample(spec.sizes, threads, each)
    try:
        if each < 1 or points < threads or operations(spec) * work < _FEWEST_OPERATIONS:
            return ALL_AT_ONCE
        with Bar(1, enabled=progress) as bar:
            bar.describe("measuring how many points to run at once")
            ways = [Batching(threads, block) for block, least in _BLOCKS.items() if each >= least]
            others = [way for way in ways if way != ALL_AT_ONCE]  # which one thread on a single core is
            return _fastest(functools.partial(planned, spec), others, lengths, work / math.prod(lengths))
    except Exception:  # raised again, with what else fails, when all combinations are lowered
        return ALL_AT_ONCE


def _fastest(
    planned: Callable[[Batching], Plan], ways: Sequence[Batching], lengths: tuple[int, ...], times: float
) -> Batching:
    """Try one way after another, unless compiling takes longer than the sweep, of so many trials."""
    began = time.perf_counter()
    program = planned(ALL_AT_ONCE).lower(0, lengths).compile()
    compiling = time.perf_counter() - began
    best, seconds = ALL_AT_ONCE, _seconds(program, lengths)
    if seconds * times < _WORTH * compiling:
        return best
    lowered = [planned(way).lower(0, lengths) for way in ways]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda one: one.compile(), lowered))
    for way, program in zip(ways, programs, strict=True):
        now = _seconds(program, lengths)
        if now < _GAIN * seconds:
            best, seconds = way, now
    return best


def _seconds(program: Program, lengths: tuple[int, ...]) -> float:
    """Seconds for a region of some lengths: the least of a few runs if they are short."""
    region, taken = tuple(slice(0, n) for n in lengths), []
    while sum(taken) < 0.5 and len(taken) < 3:
        began = time.perf_counter()
        program.run(region)
        taken.append(time.perf_counter() - began)
    return min(taken)


def sample(sizes: Sequence[int], threads: int, each: int) -> tuple[int, ...]:
    """Lengths of a trial of so many points on each thread.

    It is long along inner axes, whose points share what depends on outer ones.

    Examples
    --------
    >>> sample((10, 30, 30), threads=2, each=16), sample((1000,), threads=2, each=16)
    ((2, 1, 16), (32,))
    """
    lengths = [1] * len(sizes)
    lead = frames.lead(sizes, threads)
    lengths[lead] = min(threads, sizes[lead])
    for axis in reversed(range(len(sizes))):
        room = max(1, each * threads // math.prod(lengths))
        lengths[axis] = min(sizes[axis], room * lengths[axis])
    return tuple(lengths)


def operations(spec: Spec) -> float:
    """Additions and multiplications of one point of the first combination, roughly.

    Examples
    --------
    >>> axes = {"x": jax.numpy.ones(3)}
    >>> operations(Spec(lambda key, *, x: jax.numpy.ones((2, 5)) @ jax.numpy.ones((5, 3)), axes, {}, {}, 0))
    85.0
    """
    key = jax.random.key(spec.root)
    point = {name: jax.ShapeDtypeStruct((), v.dtype) for name, v in spec.axes.items() if name != "seed"}
    static, fn = spec.combinations[0], spec.fn
    if not isinstance(fn, Stepwise):
        return _operations(jax.make_jaxpr(lambda key, point: fn(key, **point, **static))(key, point))
    carry = jax.eval_shape(lambda key, point: fn.start(key, **point, **static), key, point)
    step = jax.make_jaxpr(lambda carry, key, point: fn.advance(carry, key, **point, **static))
    return _operations(step(carry, key, point))


def _operations(program: Any) -> float:
    total = 0.0
    for equation in program.eqns:
        inner = sum(_operations(program) for _, program in interpret.within(equation))
        if inner:
            once = _ITERATIONS if equation.primitive.name == "while" else 1
            total += inner * equation.params.get("length", once)
            continue
        size = sum(math.prod(getattr(out.aval, "shape", ())) for out in equation.outvars)
        if equation.primitive.name == "dot_general":
            shape, (contracted, _) = equation.invars[0].aval.shape, equation.params["dimension_numbers"][0]
            size *= 2 * math.prod(shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            size *= 2 * math.prod(kernel) / kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        total += size
    return total
