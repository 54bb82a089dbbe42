"""Random parameters and inputs around given ones, on the host in float64.

A question about an architecture ("does this bias do anything?") is asked at random parameters: a kernel
or a norm's scale that is initialised at zero would hide every bias before it. What the values show of
their kind is kept: positive leaves stay positive, masks stay masks, integers stay in their range, and
non-finite entries stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from biasjax._jaxpr.kinks import MASKED

# A few dozen units in the last place
NUDGE = 1e-14
# Size of a vector that is one in no trained network by design
_SMALL = 0.1
# Entries of a leaf
_HUGE = 2**20


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds typed random keys."""
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_host(leaf: Any) -> Any:
    """Array on the host, floats in float64 (complex128); typed random keys stay as they are."""
    if is_key(leaf):
        return leaf
    if jax.numpy.issubdtype(leaf.dtype, np.complexfloating):
        return np.asarray(leaf, np.complex128)
    if jax.numpy.issubdtype(leaf.dtype, np.floating):
        return np.asarray(leaf).astype(np.float64)
    return np.asarray(leaf)


def parameter(rng: np.random.Generator, leaf: Any) -> Any:
    """Draw a parameter of the kind and size of ``leaf``.

    Zeros become noise of variance 1/fan_in (kernels) or 1/4; non-negative leaves keep their signs, every
    entry multiplied by exp(0.3 noise); others become an equal mixture of themselves and noise of their size.
    Noise is uniform: drawn in half the time of a normal one, and as generic. What is drawn is in double
    precision; of ``leaf`` no such copy is made, which costs as much as the draw. What is no float stays.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bool((parameter(rng, np.ones(100)) > 0).all()), bool((parameter(rng, np.zeros(100)) != 0).all())
    (True, True)
    """
    if not (jax.numpy.issubdtype(leaf.dtype, np.inexact) and leaf.size):
        return to_host(leaf)
    leaf = leaf if leaf.dtype == np.float32 else to_host(leaf)
    finite = np.isfinite(leaf)
    known = leaf if finite.all() else leaf[finite]
    # Not by BLAS, whose threads would go on spinning after each of a thousand calls
    entries = known.ravel()
    squares = np.einsum("i,i", entries, entries.conj(), dtype=np.result_type(known.dtype, np.float64))
    size = np.sqrt(squares.real / max(known.size, 1))
    # In place: of millions of parameters every copy costs as much as the draw
    noise = np.asarray(rng.random(leaf.shape))
    noise *= np.sqrt(12)
    noise -= np.sqrt(3)
    if np.iscomplexobj(leaf):
        noise = (noise + 1j * np.sqrt(12) * (rng.random(leaf.shape) - 0.5)) / np.sqrt(2)
    if size == 0:
        noise /= np.sqrt(np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4.0)
        drawn = noise
    elif not np.iscomplexobj(leaf) and known.min() >= 0:
        drawn = np.where(leaf == 0, 0.3 * size * np.abs(noise), leaf * np.exp(0.3 * noise))
    else:
        noise *= size
        noise += leaf
        noise /= np.sqrt(2)
        drawn = noise
    return drawn if known is leaf else np.where(finite, drawn, leaf)


def grown(leaf: Any) -> Any:
    """Bring a small vector that scales features (LayerScale starts at 1e-6) to size one.

    What is behind it would be lost in round-off, and taken for what anything can stand in for.

    Examples
    --------
    >>> grown(np.full(3, 1e-6)), grown(np.full(3, 0.5))
    (array([1., 1., 1.]), array([0.5, 0.5, 0.5]))
    """
    if not jax.numpy.issubdtype(leaf.dtype, np.floating) or leaf.size < 2 or max(leaf.shape) != leaf.size:
        return leaf
    leaf = to_host(leaf)
    size = np.sqrt(np.mean(leaf**2))
    return leaf / size if 0 < size < _SMALL else leaf


def argument(rng: np.random.Generator, leaf: Any) -> Any:
    """Draw an input of the kind and size of ``leaf``.

    Random keys become other keys (also raw ones, uint32 with a last axis of two). Floats: as `parameter`, but
    constants become N(constant, 1), arrays of zeros and one other value and entries beyond 1e8 stay as the
    masks that they are, and every other draw is farther off: noise of one to ten times the size or, if
    non-negative, a permutation within the range with a share of the entries at the least. Integers of more
    than two values are drawn from their range; other integers, negative ones among others (which mark what
    is to be ignored) and booleans stay.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> argument(rng, np.array([0, 1, 1])), argument(rng, np.array([3, 7, 4])).min() >= 3
    (array([0, 1, 1]), np.True_)
    """
    if is_key(leaf):
        bits = rng.integers(0, 2**32, jax.random.key_data(leaf).shape, np.uint32)
        return jax.random.wrap_key_data(jax.numpy.asarray(bits), impl=jax.random.key_impl(leaf))
    if leaf.dtype == np.uint32 and leaf.shape[-1:] == (2,):
        return rng.integers(0, 2**32, leaf.shape, np.uint32)
    if leaf.dtype == bool or not leaf.size or not np.isfinite(leaf).all():
        return leaf
    if leaf.dtype.kind == "c":
        return parameter(rng, leaf)
    low, high = leaf.min(), leaf.max()
    two = ((leaf == low) | (leaf == high)).all()
    if leaf.dtype.kind in "iu":
        return leaf if two else _integers(rng, leaf, high)
    if low == high:
        return low + rng.standard_normal(leaf.shape)
    masked = np.abs(leaf) > MASKED
    if (two and 0 in (low, high) and (leaf.size > 2 or high == 1)) or masked.all():
        return leaf
    if masked.any():
        return np.where(masked, leaf, argument(rng, np.where(masked, 0.0, leaf)))
    if leaf.size > 1 and rng.random() < 0.5:
        return _far(rng, leaf, low, high)
    return parameter(rng, leaf)


def is_constant(leaf: Any) -> bool:
    """Whether a leaf is no numbers that differ."""
    known = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fciu" and leaf.size
    return not known or bool((leaf == leaf.flat[0]).all())


def is_ones(leaf: Any) -> bool:
    """Whether a leaf is several floats that are one."""
    return isinstance(leaf, np.ndarray) and leaf.dtype == float and leaf.size > 1 and bool((leaf == 1).all())


def _integers(rng: np.random.Generator, leaf: np.ndarray, high: int) -> np.ndarray:
    """Draw integers from their range, but for negative ones among others."""
    ignored = (leaf < 0) & (high >= 0)
    drawn = rng.integers(leaf[~ignored].min(), high, leaf.shape, leaf.dtype, endpoint=True)
    return np.where(ignored, leaf, drawn)


def close(rng: np.random.Generator, leaf: Any) -> Any:
    """Move every float by up to a tenth of itself, within the range of the leaf; other leaves stay."""
    moved = nudge(rng, leaf, 0.1 / np.sqrt(3))
    if leaf.dtype != np.float64 or not leaf.size or leaf.min() == leaf.max():
        return moved
    return np.clip(moved, leaf.min(), leaf.max())


def _far(rng: np.random.Generator, leaf: np.ndarray, low: float, high: float) -> np.ndarray:
    """Draw an input far from the given one, for inputs close to it hardly ever switch some ReLUs."""
    noise = rng.standard_normal(leaf.shape)
    if low < 0:
        return 10 ** rng.random() * np.sqrt(np.mean(leaf**2)) * noise
    # Within its range, and any share of it but a few entries at the least, as an image may be mostly black
    mixed = np.clip(rng.permuted(leaf.ravel()).reshape(leaf.shape) * np.exp(0.3 * noise), low, high)
    return np.where(rng.random(leaf.shape) < min(leaf.size, 50) ** -rng.random(), mixed, low)


def nudge(rng: np.random.Generator, leaf: Any, relative: float = NUDGE) -> Any:
    """Move every float by a few units in the last place: what this changes is round-off."""
    if leaf.dtype not in (np.float64, np.complex128):
        return leaf
    # Uniform numbers of variance one: drawn in half the time
    return np.asarray(leaf) * (1 + relative * np.sqrt(12) * (rng.random(leaf.shape) - 0.5))


def nudged(rng: np.random.Generator, leaves: Sequence[Any]) -> list[Any]:
    """Nudge all leaves but huge ones."""
    return [leaf if is_huge(leaf) else nudge(rng, leaf) for leaf in leaves]


def is_huge(leaf: Any) -> bool:
    """Whether a copy of a leaf costs more than another neighbour tells."""
    return np.size(leaf) > _HUGE
