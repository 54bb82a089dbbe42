"""Growth per layer of the squared gradient norm in wide networks with norms or residual branches.

A rate above one means that gradients explode towards the input, at initialisation and whatever the weight
scale: the norm undoes it. Norms have scale 1, bias 0 and epsilon 0 here. Arguments mean the same everywhere:
``activation``, ``sigma_w`` and ``sigma_b`` as in `meanfield`, and

place
    "before" puts the norm between the linear layer and the activation (its usual place), "after" behind the
    activation.
centred
    True for layer normalisation, False for RMS normalisation, which does not subtract the mean.

References: Yang et al., arXiv 1902.08129 (batch norm); Yang & Schoenholz, arXiv 1712.08969 (residual).
"""

from __future__ import annotations

# jax leaves the devices in its functions' signatures untyped
# pyright: reportUnknownMemberType=false
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from biasjax import _text, activations, check, gaussian, meanfield
from biasjax._theory import batches, labelling, moments
from biasjax._theory.arguments import checked, ranged

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "PLACES",
    "Residual",
    "batch_norm",
    "batch_norm_relu",
    "diagram",
    "layer_norm",
    "layer_norm_correlation",
    "residual",
]


def __dir__() -> list[str]:
    return __all__


PLACES = ("before", "after")


class Residual(NamedTuple):
    """One residual layer x + W phi(x) + b: the variance above it, and the growth of squared gradients."""

    q: jax.Array
    rate: jax.Array

    def __repr__(self) -> str:
        return _text.brief(self)


def batch_norm(
    activation: gaussian.Function,
    batch_size: ArrayLike,
    *,
    place: str = "before",
    sigma_w: ArrayLike = 1.0,
    sigma_b: ArrayLike = 0.0,
) -> jax.Array:
    """Gradient growth per layer with batch normalisation, (B - 2)/(B - 3) for linear networks.

    Exact for B << width. With "after" a nonlinear activation, a mean over 65536 or more stratified batches
    with a fixed seed, right to some 1e-3. For ReLU with a bias this mean diverges, though only
    logarithmically: a bias may leave two examples of a batch alive, whose variance can be arbitrarily small.
    There the value is that of the sample.

    Parameters
    ----------
    batch_size
        B, at least 4: below, the inverse of the batch variance has no mean. An array or traced number is
        fine with "before"; "after" a nonlinear activation wants an integer.
    sigma_w, sigma_b
        They cancel with "before"; with "after", sigma_b / sigma_w matters.

    Examples
    --------
    >>> print(f"{batch_norm('linear', 8.0):.4f} {batch_norm('relu', 8.0):.4f}")
    1.2000 1.7882
    """
    check.choice("place", place, PLACES)
    act, (size, sigma_w, sigma_b), dtype = checked(
        activation, batch_size=batch_size, sigma_w=sigma_w, sigma_b=sigma_b
    )
    _check_batch(batch_size)
    if act == activations.get("linear"):
        rate = (size - 2) / (size - 3)
    elif place == "before":
        rate = batches.rate_before(act, size)
    else:
        rate = batches.rate_after(act, _one_integer(batch_size), sigma_w, sigma_b)
    return rate.astype(dtype)


def batch_norm_relu(batch_size: ArrayLike) -> jax.Array:
    """Evaluate the closed form of `batch_norm` before ReLU, for B of at least 4.

    It is (J'(c) + B - 1)/((B - 3)(1 - J(c))) - 1/(B - 3) at c = -1/(B - 1), where J is the arc-cosine kernel
    with J(1) = 1. The limit of large batches is pi / (pi - 1).

    Examples
    --------
    >>> print(f"{batch_norm_relu(8.0):.4f}")
    1.7882
    """
    (size,), dtype = ranged(batch_size=batch_size)
    _check_batch(batch_size)
    c = -1 / (size - 1)
    angle = jnp.pi - jnp.arccos(c)
    kernel, slope = (jnp.sqrt(1 - c**2) + c * angle) / jnp.pi, angle / jnp.pi
    return ((slope + size - 1) / ((size - 3) * (1 - kernel)) - 1 / (size - 3)).astype(dtype)


def layer_norm(
    activation: gaussian.Function,
    sigma_w: ArrayLike = 1.0,
    sigma_b: ArrayLike = 0.0,
    *,
    place: str = "before",
    centred: bool = True,
) -> jax.Array:
    """Gradient growth per layer with layer (or RMS) normalisation.

    "before": E[phi'^2] / (E[phi^2] + sigma_b^2/sigma_w^2) at q = 1.
    "after": sigma_w^2 E[phi'^2] / Var[phi], or / E[phi^2] if not ``centred``, at q = sigma_w^2 + sigma_b^2;
    for ReLU (pi/(pi - 1)) / (1 + sigma_b^2/sigma_w^2), so that a bias can turn explosion into decay.

    Examples
    --------
    >>> print(f"{layer_norm('tanh'):.4f} {layer_norm('relu', place='after'):.4f}")
    1.1778 1.4669
    """
    check.choice("place", place, PLACES)
    check.flags(centred=centred)
    act, (sigma_w, sigma_b), dtype = checked(activation, sigma_w=sigma_w, sigma_b=sigma_b)
    if place == "before":
        one = jnp.ones_like(sigma_w)
        variance = sigma_w**2 * moments.second_moment(act, one) + sigma_b**2
        slope = moments.slope_moment(act, one)
    else:
        q = sigma_w**2 + sigma_b**2
        variance, slope = moments.second_moment(act, q), moments.slope_moment(act, q)
        if centred:
            variance -= gaussian.expectation(act, jnp.sqrt(q)) ** 2
    return (sigma_w**2 * slope / variance).astype(dtype)


def layer_norm_correlation(
    activation: gaussian.Function,
    c: ArrayLike,
    sigma_w: ArrayLike = 1.0,
    sigma_b: ArrayLike = 0.0,
    *,
    place: str = "before",
    centred: bool = True,
) -> jax.Array:
    """Correlation of two inputs' pre-activations one layer above ``c``, with layer (or RMS) normalisation.

    Its slope at c = 1 is the rate of `layer_norm`: where gradients explode two inputs part, and where a bias
    makes gradients decay it makes all inputs one.

    Examples
    --------
    >>> print(f"{layer_norm_correlation('relu', 0.0):.4f}")
    0.3183
    >>> print(f"{jax.grad(lambda c: layer_norm_correlation('tanh', c))(1.0):.4f}")
    1.1778
    """
    check.choice("place", place, PLACES)
    check.flags(centred=centred)
    if place == "before":
        return meanfield.correlation_map(activation, c, 1.0, sigma_w, sigma_b)
    act, (sigma_w, sigma_b, c), dtype = checked(activation, sigma_w=sigma_w, sigma_b=sigma_b, c=c)
    q = sigma_w**2 + sigma_b**2
    root = jnp.sqrt(q)
    shift = gaussian.expectation(act, root) ** 2 if centred else 0.0
    covariance = gaussian.joint_expectation(act, act, c, root) - shift
    features = covariance / (moments.second_moment(act, q) - shift)
    return ((sigma_w**2 * features + sigma_b**2) / q).astype(dtype)


def residual(
    activation: gaussian.Function, q: ArrayLike, sigma_w: ArrayLike, sigma_b: ArrayLike = 0.0
) -> Residual:
    """Variance and gradient growth of x + W phi(x) + b, for x of variance ``q``.

    They are ``q + sigma_w^2 E[phi^2] + sigma_b^2`` and ``1 + sigma_w^2 E[phi'^2]``: there is no fixed point,
    and gradients never decay.

    Examples
    --------
    >>> residual("relu", 1.0, 1.0, 0.5)
    Residual(q=1.75, rate=1.5)
    """
    act, (sigma_w, sigma_b, q), dtype = checked(activation, sigma_w=sigma_w, sigma_b=sigma_b, q=q)
    above = meanfield.variance_map(act, q, sigma_w, sigma_b)
    return Residual((q + above).astype(dtype), (1 + meanfield.chi(act, q, sigma_w)).astype(dtype))


def diagram(rate: Callable[..., Any], **axes: npt.ArrayLike) -> xr.Dataset:
    """Evaluate a function of this module on a product of axes, labelled for figures.

    Parameters
    ----------
    rate
        Function of the axes' names, e.g. ``functools.partial(layer_norm, "relu", place="after")``.
    **axes
        Numbers along each axis.

    Returns
    -------
    xr.Dataset
        ``rate``, or the fields of `Residual`, over the axes in their order.

    Examples
    --------
    >>> import functools
    >>> behind_relu = functools.partial(layer_norm, "relu", place="after")
    >>> print(diagram(behind_relu, sigma_w=[1.0], sigma_b=[0.0, 1.0]).rate.values.round(3))
    [[1.467 0.733]]
    """
    return labelling.grid(rate, axes)


def _check_batch(batch_size: ArrayLike) -> None:
    if isinstance(batch_size, jax.core.Tracer):
        return
    if not np.all(np.asarray(batch_size, np.float64) >= 4):
        check.fail(
            "batch_size", "at least 4", batch_size, "Below that, gradients have no mean behind batch norm."
        )


def _one_integer(batch_size: ArrayLike) -> int:
    if isinstance(batch_size, jax.core.Tracer) or np.ndim(batch_size) or np.asarray(batch_size) % 1:
        fix = 'It is a dimension of the integral with place="after".'
        check.fail("batch_size", "one integer", batch_size, fix)
    return check.positive_int("batch_size", int(np.asarray(batch_size)))
