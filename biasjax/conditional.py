"""Scales and biases that depend on a condition: a class, a text, a time.

A conditional norm is a norm without parameters of its own, and `film` behind it. Whatever comes before the
norm is cancelled by it as ever; the layers that read the condition stand behind it, so their biases are not.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from biasjax import check, norms
from biasjax._text import brief
from biasjax.initializers import Initializer
from biasjax.linear import Linear, dense, dense_init

__all__ = ["Film", "conditional_batch_norm", "conditional_layer_norm", "film", "film_init"]


def __dir__() -> list[str]:
    return __all__


class Film(NamedTuple):
    """Dense layers from a condition to scales and to biases of features; None if absent.

    Attributes
    ----------
    scale, bias
        Kernels ``(condition, features)``, biases ``(features,)`` or None.
    """

    scale: Linear | None = None
    bias: Linear | None = None

    def __repr__(self) -> str:
        return brief(self)


def film_init(
    key: jax.Array,
    condition: int,
    features: int,
    *,
    use_scale: bool = True,
    use_shift: bool = True,
    use_bias: bool = True,
    kernel_init: str | Initializer = "lecun_normal",
    bias_init: str | float | Initializer = "zeros",
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Film:
    """Draw the parameters of feature-wise linear modulation.

    Parameters
    ----------
    key
        Typed PRNG key.
    condition, features
        Numbers of features of the condition, and of what is modulated.
    use_scale, use_shift
        Whether a scale, and whether a bias is made of the condition.
    use_bias
        Whether the layers that make them have a bias themselves.
    kernel_init, bias_init
        As in `linear.dense_init`; zeros begin without modulation (arXiv 2212.09748).
    dtype
        Dtype of the parameters.

    Examples
    --------
    >>> film_init(jax.random.key(0), 3, 8, use_scale=False).scale is None
    True
    """
    check.flags(use_scale=use_scale, use_shift=use_shift)

    draw = functools.partial(
        dense_init, use_bias=use_bias, kernel_init=kernel_init, bias_init=bias_init, dtype=dtype
    )
    scale, bias = jax.random.split(check.key(key))
    return Film(
        draw(scale, condition, features) if use_scale else None,
        draw(bias, condition, features) if use_shift else None,
    )


def film(params: Film, x: jax.Array, condition: jax.Array) -> jax.Array:
    """Scale and shift features as a condition says, x (1 + scale(c)) + bias(c).

    Parameters
    ----------
    params
        From `film_init`.
    x
        ``(batch, *positions, features)``, floating.
    condition
        ``(batch, condition)``, floating.

    Returns
    -------
    jax.Array
        Like ``x``.

    Examples
    --------
    >>> params = film_init(jax.random.key(0), 3, 8)
    >>> film(params, jnp.ones((5, 4, 4, 8)), jnp.ones((5, 3))).shape
    (5, 4, 4, 8)

    References
    ----------
    Perez et al., arXiv 1709.07871; with the one of BigGAN, arXiv 1809.11096.
    """
    if not isinstance(params, Film):  # pyright: ignore[reportUnnecessaryIsInstance]
        check.fail("film", "Film", type(params).__name__, "Draw it with film_init.", TypeError)
    x, condition = check.floating("film", x), check.floating("film", condition)
    if x.ndim < 2 or condition.ndim != 2 or condition.shape[0] != x.shape[0]:
        got, fix = f"shapes {x.shape} and {condition.shape}", "Give each example one condition."
        check.fail("film", "x (batch, ..., features) and a condition (batch, features)", got, fix)

    def made(layer: Linear) -> jax.Array:
        y = dense(layer, condition).astype(x.dtype)
        if y.shape[-1] != x.shape[-1]:
            fix = "Draw it with film_init for these features."
            check.fail("film", f"layers to {x.shape[-1]} features", y.shape[-1], fix)
        return y.reshape(len(y), *[1] * (x.ndim - 2), -1)

    if params.scale is not None:
        x = x * (1 + made(params.scale))
    return x if params.bias is None else x + made(params.bias)


def conditional_batch_norm(
    params: Film,
    state: norms.BatchStats,
    x: jax.Array,
    condition: jax.Array,
    *,
    train: bool,
    momentum: ArrayLike = 0.99,
    epsilon: ArrayLike = 1e-5,
) -> tuple[jax.Array, norms.BatchStats]:
    """Normalise each channel over batch and positions, then `film` (de Vries et al., arXiv 1707.00683).

    Parameters
    ----------
    params, x, condition
        As in `film`.
    state, train, momentum, epsilon
        As in `norms.batch_norm`.

    Examples
    --------
    >>> params, stats = film_init(jax.random.key(0), 3, 8), norms.batch_stats_init(8)
    >>> y, stats = conditional_batch_norm(params, stats, jnp.ones((5, 8)), jnp.ones((5, 3)), train=True)
    >>> y.shape
    (5, 8)
    """
    y, state = norms.batch_norm(norms.Norm(), state, x, train=train, momentum=momentum, epsilon=epsilon)
    return film(params, y, condition), state


def conditional_layer_norm(
    params: Film, x: jax.Array, condition: jax.Array, *, epsilon: ArrayLike = 1e-6
) -> jax.Array:
    """Normalise each example or position over its features, then `film` (adaLN, arXiv 2212.09748).

    Parameters
    ----------
    params, x, condition
        As in `film`.
    epsilon
        As in `norms.layer_norm`.

    Examples
    --------
    >>> params = film_init(jax.random.key(0), 3, 8, kernel_init="zeros")
    >>> conditional_layer_norm(params, jnp.arange(16.0).reshape(2, 8), jnp.ones((2, 3))).shape
    (2, 8)
    """
    return film(params, norms.layer_norm(norms.Norm(), x, epsilon=epsilon), condition)
