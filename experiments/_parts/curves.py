"""Curves by layer that several experiments share: gradients, their theory, and the scatter around it.

Networks of finite width scatter around mean-field theory; by how much, theory says too, so that a deviation
can be counted in standard errors that know nothing of the measurement.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments.claims import Claim, at_most

if TYPE_CHECKING:
    import jax
    import xarray as xr

WORST, SINGLE = 4.5, 3.0
"""Standard errors to allow the worst of a thousand numbers, and one number."""


def theory(
    curves: Callable[[str], dict[str, Any]], dims: tuple[str, ...], coords: dict[str, Any], prefix: str = ""
) -> xr.Dataset:
    """Evaluate curves of each activation in float64.

    Parameters
    ----------
    curves
        From the name of an activation to curves by name.
    dims
        Of the results, first that of the activations; some curves may lack the last ones.
    coords
        Along ``dims``, not all of them need have one.
    prefix
        Of the names, which end in ``_theory``.
    """
    import jax
    import xarray as xr

    with jax.enable_x64(True):
        found = [jax.jit(functools.partial(curves, str(name)))() for name in coords[dims[0]]]
        stacked = {name: np.stack([one[name] for one in found]) for name in found[0]}
    arrays = {f"{prefix}{name}_theory": (dims[: one.ndim], one) for name, one in stacked.items()}
    return xr.Dataset(arrays, {name: np.asarray(values) for name, values in coords.items()})


def gradients(
    activation: str, q: jax.Array, sigma_w: Any, *, width: int, passed: slice
) -> dict[str, jax.Array]:
    """Theory of squared gradients, and the scatter of q and of them over networks.

    Parameters
    ----------
    activation
        Its name.
    q
        Variances of the layers' pre-activations, ``(depth, ...)``.
    sigma_w
        Weight scale of all layers but the first.
    width
        Features of every layer.
    passed
        The layers whose slopes gradients pass: ``slice(1, None)`` for those of features, ``slice(-1)`` for
        those of pre-activations.

    Returns
    -------
    dict
        Of the shape of ``q``: relative scatter ``q_scatter``, ``log_gradient`` relative to the last layer,
        and its scatter ``log_gradient_scatter``.
    """
    import jax
    import jax.numpy as jnp

    scatter = bj.meanfield.fluctuations(activation, q, sigma_w, width=width) / q
    chi, change = jax.jvp(lambda q: bj.meanfield.chi(activation, q, sigma_w), (q,), (q,))
    act = bj.activations.get(activation)
    slope = bj.gaussian.derivative(act)
    fourth = bj.activations.Activation(lambda x: slope(x) ** 4, act.kinks)
    # Squared gradients scatter by the fourth moment of phi' g in each layer, and with q by way of chi
    own = (3 * bj.gaussian.expectation(fourth, jnp.sqrt(q)) * sigma_w**4 / chi**2 - 1) / width
    above = [bj.meanfield.backward(x[passed]) for x in (jnp.log(chi), own, jnp.abs(change / chi) * scatter)]
    names = ("q_scatter", "log_gradient", "log_gradient_scatter")
    return dict(zip(names, (scatter, above[0], jnp.sqrt(above[1]) + above[2]), strict=True))


def over_last(log_gradients: xr.DataArray) -> xr.DataArray:
    """Squared gradients over those of the last layer."""
    relative = log_gradients - log_gradients.isel(layer=-1)
    return relative.copy(data=np.exp(relative.values))


def deviations(
    dataset: xr.Dataset, ratio: xr.DataArray, gradient: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray]:
    """Differences of means over seeds from theory, in the standard errors that `gradients` gives.

    Parameters
    ----------
    dataset
        Has ``NAME_theory`` of what `gradients` gives.
    ratio
        q over its theory.
    gradient
        Squared gradients over those of the last layer.

    Returns
    -------
    tuple
        Those of q, and those of gradients but in the last layer, where they are 1.
    """
    root = np.sqrt(dataset.sizes["seed"])
    apart = (np.log(gradient) - dataset.log_gradient_theory) / dataset.log_gradient_scatter_theory
    return (ratio - 1) / dataset.q_scatter_theory * root, apart.isel(layer=slice(-1)) * root


def standard_error(
    values: xr.DataArray, over: str | tuple[str, ...] = "seed", *, ddof: int = 1
) -> xr.DataArray:
    """Standard error of a mean over one or more dimensions.

    Examples
    --------
    >>> import xarray as xr
    >>> float(standard_error(xr.DataArray([1.0, 2.0, 3.0, 4.0], dims="seed")).round(4))
    0.6455
    """
    dims = (over,) if isinstance(over, str) else over
    return values.std(over, ddof=ddof) / np.sqrt(np.prod([values.sizes[dim] for dim in dims]))


def greatest(values: xr.DataArray, halves: xr.DataArray) -> tuple[Any, Any]:
    """Greatest value, the interval above it included, and half of that interval; NaNs are left out.

    Examples
    --------
    >>> import xarray as xr
    >>> greatest(xr.DataArray([1.0, 2.0]), xr.DataArray([1.5, 0.25]))
    (1.0, 1.5)
    """
    value, half = (np.ravel(x.values) for x in (values, halves.transpose(*values.dims)))
    at = int(np.nanargmax(value + half))
    return value[at].item(), half[at].item()


def median_interval(
    values: xr.DataArray, over: str = "seed"
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Median over a dimension, and the 95% confidence interval of it that order statistics give.

    Examples
    --------
    >>> import xarray as xr
    >>> [float(number) for number in median_interval(xr.DataArray(np.arange(40.0), dims="seed"))]
    [19.5, 13.0, 26.0]
    """
    from scipy import stats

    number = values.sizes[over]
    # The k-th least exceeds the median where fewer than k of the values lie below it, a binomial number
    low = max(int(stats.binom.ppf(0.025, number, 0.5)) - 1, 0)
    ranked = values.copy(data=np.sort(values.values, axis=values.get_axis_num(over)))
    return values.median(over), ranked.isel({over: low}), ranked.isel({over: number - 1 - low})


def at_bias(dataset: xr.Dataset, names: Iterable[str], sigma_b: float) -> xr.Dataset:
    """Null twin of a sweep: what was measured at one ``sigma_b`` stands at all of them, theory as it was.

    Examples
    --------
    >>> import xarray as xr
    >>> q = xr.DataArray([1.0, 2.0], {"sigma_b": [0.0, 0.5]})
    >>> at_bias(xr.Dataset({"q": q, "q_theory": q}), ["q"], 0.0).q.values
    array([1., 1.])
    """
    held = {
        name: dataset[name]
        .sel(sigma_b=sigma_b, drop=True)
        .expand_dims(sigma_b=dataset.sigma_b)
        .transpose(*dataset[name].dims)
        for name in names
    }
    return dataset.assign(held)


def twins(measure: Callable[[xr.Dataset], Any], dataset: xr.Dataset, twin: xr.Dataset) -> dict[str, float]:
    """Measure a dataset and its null twin alike, as the builders of claims take it."""
    return {"measured": float(measure(dataset)), "null": float(measure(twin))}


def rates(off: xr.DataArray, bound: xr.DataArray, source: str, null: xr.DataArray) -> list[Claim]:
    """Claim of every order that the growth of its gradients is off from theory by no more than a bound.

    The deviations are those of the worst cell; ``null`` holds those of the null twins, by order, too.
    """
    return [
        at_most(
            f"{order}: growth / theory - 1",
            source,
            *(x.sel(order=order) for x in (bound, off)),
            null=null.sel(order=order),
        )
        for order in off.order.values
    ]
