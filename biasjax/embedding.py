"""Embeddings: a vector for each token, as a dense layer without a bias has for each one-hot input.

Vectors that are added by position are a bias: one of a transformer's that is untied over its positions.
"""

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import jax
import jax.numpy as jnp

from biasjax import check, initializers
from biasjax.linear import Linear

__all__ = ["embed", "embed_init"]


def __dir__() -> list[str]:
    return __all__


def embed_init(
    key: jax.Array,
    size: int,
    features: int,
    *,
    kernel_init: str | initializers.Initializer = "standard_normal",
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Linear:
    """Draw a vector for each token.

    Parameters
    ----------
    key
        Typed PRNG key.
    size, features
        Number of tokens, and length of a vector.
    kernel_init
        Name from `initializers.NAMES`, or callable ``(key, shape, dtype)``; Flax's default is a normal of
        variance 1 / features.
    dtype
        Dtype of the vectors.

    Returns
    -------
    Linear
        Kernel ``(size, features)`` and no bias: to tie a head to it, transpose the kernel.
    """
    shape = (check.positive_int("size", size), check.positive_int("features", features))
    return Linear(initializers.draw(kernel_init, check.key(key), shape, check.dtype(dtype)))


def embed(params: Linear, tokens: jax.Array) -> jax.Array:
    """Look tokens up.

    Parameters
    ----------
    params
        From `embed_init`.
    tokens
        ``(...)``, integers from 0; one beyond the last gives NaN.

    Returns
    -------
    jax.Array
        ``(..., features)`` in the dtype of the vectors.

    Examples
    --------
    >>> params = embed_init(jax.random.key(0), 10, 4)
    >>> embed(params, jnp.array([[1, 2, 3]])).shape
    (1, 3, 4)
    """
    check.record("embed", params, Linear, "Draw it with embed_init.")
    tokens = check.integers("embed", tokens)
    if params.kernel.ndim != 2:
        check.fail("embed", "a 2-D kernel", params.kernel.shape, "Draw it with embed_init.")
    vectors = params.kernel.at[tokens].get(mode="fill", fill_value=jnp.nan)
    return vectors if params.bias is None else vectors + params.bias
