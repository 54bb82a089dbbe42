"""The stages of a `Stepwise` for many points at once, and its carry on the host between them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax._sweep import execute, frames, grid
from biasjax._sweep.spec import Spec
from biasjax.stepwise import Stepwise


class Stages(NamedTuple):
    """Stages for so many points at once, compiled; the start, which one rung needs, when it is asked for."""

    where: frames.Frame
    start: Callable[[], Callable[..., Any]]
    advance: Callable[..., Any]
    finish: Callable[..., Any]
    bytes: int


def compile_stages(spec: Spec, mesh: jax.sharding.Mesh | None, width: int) -> Stages:
    """Compile the stages for so many points."""
    lengths = (*spec.sizes[:-1], width)
    where = frames.frame(spec.axes, jax.random.key(spec.root), lengths, mesh)
    start = execute.lower_stage(spec.fn.start, {}, where)
    carry = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where.out), start.out_info)
    later = (execute.lower_stage(fn, {}, where, carry) for fn in spec.fn[1:3])
    advance, finish = (execute.compile_stage(stage, where) for stage in later)
    first = functools.cache(functools.partial(execute.compile_stage, start, where))
    return Stages(where, first, advance, finish, execute.bytes_of(advance))


def advance(run: Stages, steps: int, alive: np.ndarray, carry: Any) -> tuple[execute.Outputs, Any]:
    """Advance points that fit at once; padding repeats the last of them and is dropped."""
    where = run.where
    axes = [*where.axes[:-1], alive.astype(where.axes[-1].dtype)]
    region = tuple(slice(0, len(values)) for values in axes)
    values = grid.take(axes, region, where.lengths)
    if where.out is not None:
        values = [jax.device_put(v, s) for v, s in zip(values, where.shardings, strict=True)]
    if carry is None:
        now = run.start()(where.bits, *values)
    else:
        places = np.ix_(
            *(np.minimum(np.arange(n), len(v) - 1) for n, v in zip(where.lengths, axes, strict=True))
        )
        now = jax.tree.map(lambda x: jax.device_put(x[places], where.out), carry)
    for _ in range(steps):
        now = run.advance(now, where.bits, *values)
    outputs = execute.named(run.finish(now, where.bits, *values))
    return (
        {name: execute.fetch(value)[region] for name, value in outputs.items()},
        jax.tree.map(lambda x: np.asarray(x)[region], now),
    )


def take(carry: Any, places: np.ndarray, axis: int) -> Any:
    """Choose points of a carry."""
    return jax.tree.map(lambda x: np.take(x, places, axis), carry)


def abstract_point(spec: Spec) -> dict[str, Any]:
    """Abstract values of one point."""
    return {n: jax.ShapeDtypeStruct((), v.dtype) for n, v in spec.axes.items() if n != "seed"}


def abstract_carry(spec: Spec) -> Any:
    """Abstract carry of one point."""
    return jax.eval_shape(spec.fn.start, jax.random.key(spec.root), **abstract_point(spec))


def without_keys(spec: Spec) -> Stepwise:
    """Carry the data of keys in place of keys, so that all of a carry can be fetched and written."""
    fn = spec.fn
    like = abstract_carry(spec)

    def bits(carry: Any) -> Any:
        return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, carry)

    def keys(carry: Any) -> Any:
        return jax.tree.map(
            lambda one, x: jax.random.wrap_key_data(x, impl=_impl(one)) if _is_key(one) else x,
            like,
            carry,
        )

    @functools.wraps(getattr(fn.start, "func", fn.start))
    def start(key: jax.Array, **point: Any) -> Any:
        return bits(fn.start(key, **point))

    @functools.wraps(getattr(fn.advance, "func", fn.advance))
    def advance(carry: Any, key: jax.Array, **point: Any) -> Any:
        return bits(fn.advance(keys(carry), key, **point))

    @functools.wraps(getattr(fn.finish, "func", fn.finish))
    def finish(carry: Any, key: jax.Array, **point: Any) -> Any:
        return fn.finish(keys(carry), key, **point)

    return Stepwise(start, advance, finish, fn.steps)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _impl(key: Any) -> Any:
    return jax.random.key_impl(jnp.empty((), key.dtype))
