"""A transformer block: attention, then two dense layers, each behind a norm and beside a skip connection.

Of its biases softmax cancels the key's, the value's passes into the output's, and layer norm cancels the mean
of what is added to the stream before it, once nothing else reads the stream.
"""

from __future__ import annotations

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp

from biasjax import attention, check, norms
from biasjax._text import brief
from biasjax.initializers import Initializer
from biasjax.linear import Linear, dense, dense_init

__all__ = ["BIASES", "Block", "block", "block_init"]

BIASES = ("query", "key", "value", "out", "up", "down", "norm")
"""Kinds of bias that a block has."""


def __dir__() -> list[str]:
    return __all__


class Block(NamedTuple):
    """Parameters of a transformer block.

    Attributes
    ----------
    norm, inner_norm
        Of attention and of the dense layers.
    attention
        Projections.
    up, down
        Dense layers (features, hidden) and (hidden, features).
    """

    norm: norms.Norm
    attention: attention.Attention
    inner_norm: norms.Norm
    up: Linear
    down: Linear

    def __repr__(self) -> str:
        return brief(self)


def block_init(
    key: jax.Array,
    features: int,
    heads: int,
    *,
    hidden: int | None = None,
    use_bias: bool | Collection[str] = True,
    bias_init: str | float | Initializer = "zeros",
    qk_norm: bool = False,
    sink: bool = False,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Block:
    """Draw the parameters of a transformer block.

    Parameters
    ----------
    key
        Typed PRNG key.
    features, heads
        Width of the stream, and number of heads, which divides it.
    hidden
        Width between the dense layers; default 4 * features.
    use_bias
        For all, or the names of those that have one, from `BIASES`; "norm" stands for both norms.
    bias_init
        Name, number or initialiser of the linear layers' biases.
    qk_norm, sink
        As in `attention.attention_init`.
    dtype
        Dtype of the parameters.

    Examples
    --------
    The biases that GPT-2 has, and those that PaLM has:

    >>> from biasjax import tree
    >>> tree.count(block_init(jax.random.key(0), 8, 2)).biases
    88
    >>> tree.count(block_init(jax.random.key(0), 8, 2, use_bias=False)).biases
    0
    """
    names = check.names("use_bias", use_bias, BIASES)
    hidden = 4 * check.positive_int("features", features) if hidden is None else hidden
    check.positive_int("hidden", hidden)
    mixing, up, down = jax.random.split(check.key(key), 3)
    projections = [name for name in names if name in attention.Attention._fields]
    draw = functools.partial(dense_init, bias_init=bias_init, dtype=dtype)
    return Block(
        norms.norm_init(features, use_bias="norm" in names, dtype=dtype),
        attention.attention_init(
            mixing,
            features,
            heads,
            use_bias=projections,
            bias_init=bias_init,
            qk_norm=qk_norm,
            sink=sink,
            dtype=dtype,
        ),
        norms.norm_init(features, use_bias="norm" in names, dtype=dtype),
        draw(up, features, hidden, use_bias="up" in names),
        draw(down, hidden, features, use_bias="down" in names),
    )


def block(
    params: Block,
    x: jax.Array,
    *,
    heads: int,
    norm: Callable[[norms.Norm, jax.Array], jax.Array] = norms.layer_norm,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.gelu,
    pre_norm: bool = True,
    causal: bool = False,
    mask: jax.Array | None = None,
    rotary: bool = False,
    weighting: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> jax.Array:
    """Apply a transformer block.

    Parameters
    ----------
    params
        From `block_init`.
    x
        (..., length, features), floating.
    heads, causal, mask, rotary, weighting
        As in `attention.attention`.
    norm
        `norms.layer_norm` or `norms.rms_norm`, with `functools.partial` for another epsilon.
    activation
        Between the dense layers.
    pre_norm
        Whether norms stand before what they serve, x + f(norm(x)), as in GPT-2, or behind the sum,
        norm(x + f(x)), as at first (arXiv 1706.03762).

    Returns
    -------
    jax.Array
        (..., length, features).

    Examples
    --------
    >>> params = block_init(jax.random.key(0), 8, 2, use_bias=("up", "down"))
    >>> block(params, jnp.ones((1, 5, 8)), heads=2, norm=norms.rms_norm, causal=True).shape
    (1, 5, 8)
    """
    check.flags(pre_norm=pre_norm)
    check.function("norm", norm)
    check.function("activation", activation)
    if not isinstance(params, Block):  # pyright: ignore[reportUnnecessaryIsInstance]
        check.fail("block", "Block", type(params).__name__, "Draw it with block_init.", TypeError)

    attend = functools.partial(
        attention.attention,
        params.attention,
        heads=heads,
        causal=causal,
        mask=mask,
        rotary=rotary,
        weighting=weighting,
    )

    def dense_layers(x: jax.Array) -> jax.Array:
        return dense(params.down, activation(dense(params.up, x)))

    for own, part in ((params.norm, attend), (params.inner_norm, dense_layers)):
        x = x + part(norm(own, x)) if pre_norm else norm(own, x + part(x))
    return x
