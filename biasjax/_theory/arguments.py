"""Arguments of theory's functions: checked, of one shape, and of one dtype to compute in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from biasjax import check


def floats(*values: ArrayLike) -> tuple[list[jax.Array], np.dtype]:
    """Convert to arrays of one dtype to compute in, and tell the dtype that results are to have.

    Examples
    --------
    >>> arrays, dtype = floats(1, jnp.ones(3, jnp.bfloat16))
    >>> arrays[1].dtype, dtype
    (dtype('float32'), dtype(bfloat16))
    """
    arrays = [jnp.asarray(value) for value in values]
    # Python numbers, and integers, follow the dtype of the arrays beside them
    typed = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating) and not x.weak_type]
    dtype = jnp.result_type(*typed) if typed else jnp.result_type(float)
    return [x.astype(check.accumulator(dtype)) for x in arrays], dtype


def inputs(sigma_w: ArrayLike, sigma_b: ArrayLike, **others: ArrayLike) -> tuple[list[jax.Array], np.dtype]:
    """Check scales, variances and correlations (``c``); as `floats`, with arrays of one shape.

    Examples
    --------
    >>> arrays, dtype = inputs(1.0, jnp.zeros(3), q=2.0)
    >>> [x.shape for x in arrays]
    [(3,), (3,), (3,)]
    """
    for name, value in {"sigma_w": sigma_w, "sigma_b": sigma_b, **others}.items():
        low, high = (-1.0, 1.0) if name == "c" else (0.0, np.inf)
        check.in_range(name, value, low=low, high=high)
    arrays, dtype = floats(sigma_w, sigma_b, *others.values())
    return list(jnp.broadcast_arrays(*arrays)), dtype
