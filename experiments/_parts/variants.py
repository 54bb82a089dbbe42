"""Data sets made of others: smaller images, moved ones, one class against the rest and rare."""

from __future__ import annotations

import numpy as np

import biasjax as bj


def pooled(data: bj.data.Data, size: int) -> bj.data.Data:
    """Shrink images by means over squares of pixels.

    Parameters
    ----------
    data
        Images ``(examples, height, width, channels)``.
    size
        Side of a square; it divides height and width.

    Examples
    --------
    >>> pooled(bj.data.digits(), 2).train_x.shape
    (1437, 4, 4, 1)
    """

    def shrink(x):
        height, width = (bj.check.positive_int("size", n // size) for n in x.shape[1:3])
        if (height * size, width * size) != x.shape[1:3]:
            bj.check.fail("pooled", f"a divisor of {x.shape[1:3]}", size, "Choose a divisor.")
        return x.reshape(x.shape[0], height, size, width, size, x.shape[3]).mean((2, 4))

    return data._replace(train_x=shrink(data.train_x), test_x=shrink(data.test_x))


def shifted(data: bj.data.Data, seed: int, pixels: int) -> bj.data.Data:
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
    >>> moved = shifted(bj.data.digits(), seed=0, pixels=1)
    >>> moved.test_x.shape, bool((moved.train_x == bj.data.digits().train_x).all())
    ((360, 8, 8, 1), True)
    """
    import jax.numpy as jnp

    x = np.asarray(data.test_x)
    examples, height, width = x.shape[:3]
    down, right = np.random.default_rng(seed).integers(-pixels, pixels + 1, (2, examples))
    wide = np.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    moved = [
        wide[i, pixels - down[i] :, pixels - right[i] :][:height, :width] for i in range(examples)
    ]  # a pixel that was at (r, c) is at (r + down, c + right)
    return data._replace(test_x=jnp.asarray(np.stack(moved)))


def imbalanced(data: bj.data.Data, digit: int, share: float, *, seed: int = 0) -> bj.data.Data:
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
    >>> rare = imbalanced(bj.data.digits(), digit=0, share=0.01)
    >>> int(rare.train_y.sum()), len(rare.train_y)
    (13, 1301)
    """
    import jax.numpy as jnp

    bj.check.number("share", share, 0.0, 1.0)
    positive = np.asarray(data.train_y) == digit
    wanted = round(share / (1 - share) * int((~positive).sum()))
    if not 1 <= wanted <= positive.sum():
        expected = f"a share that needs 1 to {positive.sum()} examples of class {digit}"
        bj.check.fail("share", expected, f"{share}, which needs {wanted}", "Choose another.")
    chosen = np.random.default_rng(seed).choice(np.flatnonzero(positive), wanted, replace=False)
    kept = np.sort(np.concatenate([np.flatnonzero(~positive), chosen]))
    train_y, test_y = (jnp.asarray(y == digit, jnp.int32) for y in (data.train_y, data.test_y))
    return data._replace(train_x=data.train_x[kept], train_y=train_y[kept], test_y=test_y)
