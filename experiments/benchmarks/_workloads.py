"""Sweeps over training runs that all contenders are given."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Workload(NamedTuple):
    """Networks of ``depth`` hidden layers with batch norm and ReLU, trained by SGD with L2.

    Attributes
    ----------
    width, depth
        Of the hidden layers: dense, 3x3 convolutions where there are ``pixels``, or transformer blocks where
        there are ``heads``.
    models, steps
        Number of runs, which differ in seed and learning rate, and of updates of each.
    pixels
        Side of the images, 8 (scikit-learn's digits) or 28 (MNIST); 0 for flat digits.
    heads
        Of attention between the eight rows of a digit; 0 for none.
    batch
        Examples in a batch.
    """

    width: int
    depth: int
    models: int
    steps: int
    pixels: int = 0
    heads: int = 0
    batch: int = 64

    @property
    def convolutional(self) -> bool:
        """Whether its layers are convolutions."""
        return self.pixels > 0

    @property
    def units(self) -> int:
        """Updates of all runs."""
        return self.models * self.steps

    def rates(self) -> np.ndarray:
        """Learning rate of each run."""
        return np.geomspace(0.01, 0.3, self.models, dtype=np.float32)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Training images, flat, ``(examples, pixels, pixels, 1)`` or ``(examples, 8, 8)``, and labels."""
        import biasjax as bj

        data = bj.data.mnist5k() if self.pixels == 28 else bj.data.digits()
        data = data if self.convolutional else bj.data.flatten(data)
        images = np.asarray(data.train_x)
        return images.reshape(-1, 8, 8) if self.heads else images, np.asarray(data.train_y)

    def order(self, key: Any, examples: int) -> Any:
        """Indices of the examples of each step, drawn by JAX."""
        import jax

        return jax.random.randint(key, (self.steps, self.batch), 0, examples)
