"""Weight and bias initialisers by name, on any shape.

An initialiser is ``init(key, shape, dtype) -> array``, as in JAX and Flax, so theirs work here and these
work there. Unlike theirs, the scaled ones accept the 1-D shape of a bias, for which they count
fan_in = fan_out = n as Keras does. Defaults (a spread of 0.05) are Keras'.
"""

# jax is typed in part only
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import check

__all__ = [
    "NAMES",
    "Initializer",
    "constant",
    "draw",
    "fans",
    "get",
    "normal",
    "ones",
    "torch_uniform",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "zeros",
]


def __dir__() -> list[str]:
    return __all__


class Initializer(Protocol):
    """``init(key, shape, dtype) -> array``."""

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = ..., /
    ) -> jax.Array:
        """Draw an array."""
        ...


# Standard deviation of a unit normal truncated to [-2, 2]
_TRUNCATED_STD = 0.87962566103423978


def fans(shape: Sequence[int]) -> tuple[float, float]:
    """Fan-in and fan-out of a parameter.

    Parameters
    ----------
    shape
        ``(*window, inputs, outputs)``; for a bias ``(n,)``, which counts as n and n (Keras).

    Examples
    --------
    >>> fans((3, 3, 16, 64)), fans((64,)), fans(())
    ((144.0, 576.0), (64.0, 64.0), (1.0, 1.0))
    """
    shape = _shape(shape)
    if len(shape) < 2:
        n = float(math.prod(shape))
        return n, n
    window = math.prod(shape[:-2])
    return float(window * shape[-2]), float(window * shape[-1])


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    return check.sizes("shape", shape, low=0)


def zeros(key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """Zeros, the default of a bias in Flax, Keras and Haiku."""
    return jnp.zeros(_shape(shape), check.dtype(dtype))


def ones(key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """Ones, the default of a norm's scale."""
    return jnp.ones(_shape(shape), check.dtype(dtype))


def _of(draw: Callable[[jax.Array, Sequence[int], jax.typing.DTypeLike], jax.Array]) -> Initializer:
    """Make an initialiser of float32 unless told otherwise; a traced number may be wider than the array."""

    def init(key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
        return draw(check.key(key), _shape(shape), check.dtype(dtype)).astype(dtype)

    return init


def constant(value: jax.typing.ArrayLike = 0.0) -> Initializer:
    """Every entry ``value``; it may be a traced number.

    Examples
    --------
    >>> constant(3.0)(jax.random.key(0), (2,))
    Array([3., 3.], dtype=float32)
    """
    check.in_range("constant", value)

    def full(key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike) -> jax.Array:
        if np.ndim(value) > len(shape) or any(
            own not in (1, size) for own, size in zip(np.shape(value)[::-1], shape[::-1], strict=False)
        ):
            fix = "Give one number, or one for each entry."
            check.fail("constant", f"a value that broadcasts to {shape}", np.shape(value), fix)
        return jnp.full(shape, jnp.asarray(value, dtype), dtype)

    return _of(full)


def normal(stddev: float = 0.05, mean: float = 0.0) -> Initializer:
    """Entries from N(mean, stddev²)."""
    check.number("stddev", stddev, low=0.0)
    check.number("mean", mean)
    return _of(lambda key, shape, dtype: mean + stddev * jax.random.normal(key, shape, dtype))


def truncated_normal(stddev: float = 0.05, mean: float = 0.0) -> Initializer:
    """Entries from N(mean, stddev²) redrawn beyond two ``stddev`` (so their spread is 0.88 ``stddev``)."""
    check.number("stddev", stddev, low=0.0)
    check.number("mean", mean)
    return _of(
        lambda key, shape, dtype: mean + stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)
    )


def uniform(limit: float = 0.05) -> Initializer:
    """Entries from U(-limit, limit), symmetric as in Keras (JAX's runs from 0)."""
    check.number("limit", limit, low=0.0)
    return _of(lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit))


def torch_uniform(fan_in: float) -> Initializer:
    """PyTorch's default for a bias, U(±1/sqrt(fan_in)), fan_in being that of the layer's *kernel*."""
    if check.number("fan_in", fan_in, low=0.0) == 0:
        check.fail("fan_in", "a number above 0", fan_in, "Give the fan_in of the layer's kernel.")
    return uniform(1.0 / math.sqrt(fan_in))


def variance_scaling(
    scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal"
) -> Initializer:
    """Entries with mean 0 and variance ``scale / fan``.

    Parameters
    ----------
    scale
        1 for LeCun and Glorot, 2 for He.
    mode
        "fan_in", "fan_out" or "fan_avg".
    distribution
        "normal", "truncated_normal" (corrected to the same variance) or "uniform".

    Examples
    --------
    >>> b = variance_scaling(2.0, "fan_in", "normal")(jax.random.key(0), (10_000,))
    >>> bool(abs(b.std() * 10_000**0.5 - 2**0.5) < 0.05)
    True

    References
    ----------
    Glorot & Bengio (2010); He et al., arXiv 1502.01852.
    """
    check.choice("mode", mode, ("fan_in", "fan_out", "fan_avg"))
    check.choice("distribution", distribution, ("normal", "truncated_normal", "uniform"))
    check.number("scale", scale, low=0.0)

    def init(key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
        fan_in, fan_out = fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        stddev = math.sqrt(scale / max(fan, 1.0))
        if distribution == "uniform":
            return uniform(math.sqrt(3.0) * stddev)(key, shape, dtype)
        if distribution == "truncated_normal":
            return truncated_normal(stddev / _TRUNCATED_STD)(key, shape, dtype)
        return normal(stddev)(key, shape, dtype)

    return init


def _orthogonal(init: Initializer, ranks: Collection[int]) -> Initializer:
    """Draw in float32 at least, which LAPACK needs, for these ranks, and in a loop under `jax.vmap`.

    XLA's CPU backend splits batched LAPACK calls over its threads and has each wait for the others; two such
    calls at once, as of a network's first layer and its others, were seen to wait for ever on two cores.
    """

    def draw(key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            return init(key, shape, check.accumulator(dtype)).astype(dtype)

        key, shape, dtype = check.key(key), _shape(shape), check.dtype(dtype)
        if len(shape) not in ranks or (min(ranks) > 2 and shape[-2] > shape[-1]):
            wide = "" if min(ranks) == 2 else " with no more inputs than outputs"
            expected = f"a kernel of {min(ranks)} axes or more{wide}"
            check.fail("orthogonal", expected, f"shape {shape}", 'Use e.g. "gaussian".')
        return jax.custom_batching.sequential_vmap(one)(key)

    return draw


_INITIALIZERS: dict[str, Initializer] = {
    "zeros": zeros,
    "ones": ones,
    "constant": constant(),
    "normal": normal(),
    "standard_normal": normal(1.0),
    "truncated_normal": truncated_normal(),
    "uniform": uniform(),
    "glorot_normal": variance_scaling(1.0, "fan_avg", "truncated_normal"),
    "glorot_uniform": variance_scaling(1.0, "fan_avg", "uniform"),
    "he_normal": variance_scaling(2.0, "fan_in", "truncated_normal"),
    "he_uniform": variance_scaling(2.0, "fan_in", "uniform"),
    "lecun_normal": variance_scaling(1.0, "fan_in", "truncated_normal"),
    "lecun_uniform": variance_scaling(1.0, "fan_in", "uniform"),
    # W ~ N(0, 1/fan_in), not truncated: the ensemble of mean-field theory
    "gaussian": variance_scaling(1.0, "fan_in", "normal"),
    "orthogonal": _orthogonal(jax.nn.initializers.orthogonal(), range(2, 33)),
    "delta_orthogonal": _orthogonal(jax.nn.initializers.delta_orthogonal(), range(3, 6)),
}
for _alias, _name in (("xavier", "glorot"), ("kaiming", "he")):
    for _kind in ("normal", "uniform"):
        _INITIALIZERS[f"{_alias}_{_kind}"] = _INITIALIZERS[f"{_name}_{_kind}"]

NAMES = (*_INITIALIZERS, "torch_uniform")


def get(init: str | jax.typing.ArrayLike | Initializer, *, fan_in: float | None = None) -> Initializer:
    """Look an initialiser up by name; take a callable as it is and a number as a constant.

    Parameters
    ----------
    init
        A name from `NAMES`, a callable ``(key, shape, dtype) -> array``, or a number (may be traced).
    fan_in
        Fan-in of the kernel that a bias belongs to, needed by "torch_uniform" alone.

    Examples
    --------
    >>> get("glorot_uniform")(jax.random.key(0), (4,)).shape
    (4,)
    >>> get(0.5)(jax.random.key(0), (2,))
    Array([0.5, 0.5], dtype=float32)
    """
    if callable(init):
        return init
    if not isinstance(init, str):
        return constant(init)
    check.choice("initializer", init, NAMES)
    if init != "torch_uniform":
        return _INITIALIZERS[init]
    if fan_in is None:
        check.fail(
            "torch_uniform",
            "the fan_in of the bias' kernel",
            None,
            "Use initializers.torch_uniform(n).",
        )
    return torch_uniform(fan_in)


def draw(
    init: str | jax.typing.ArrayLike | Initializer,
    key: jax.Array,
    shape: Sequence[int],
    dtype: jax.typing.DTypeLike = jnp.float32,
    *,
    fan_in: float | None = None,
) -> jax.Array:
    """Draw with `get`'s initialiser; raise if what a callable returns is no array of that shape.

    Examples
    --------
    >>> draw("ones", jax.random.key(0), (2,))
    Array([1., 1.], dtype=float32)
    """
    shape = _shape(shape)
    drawn = get(init, fan_in=fan_in)(key, shape, dtype)
    if (got := getattr(drawn, "shape", type(drawn).__name__)) != shape:
        check.fail("initializer", f"an array of shape {shape} from it", got, "Mend the callable.")
    return drawn
