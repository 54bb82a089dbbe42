"""Expectations over batches against moments of the sphere and of the normal distribution."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax._theory import batches


@pytest.mark.parametrize("kinks", [(), (0.0, 1.5)])
def test_two_entries_of_a_centred_batch_have_the_moments_of_the_sphere(kinks, x64):
    size = jnp.array([5.0, 16.0, 256.0])
    y1, y2, weights = batches._two_examples(kinks, size)

    def mean(x):
        return jnp.sum(weights * x, (-2, -1))

    # y of squared length B in the B - 1 dimensions that are centred
    chex.assert_trees_all_close(mean(y1 * y2), -1 / (size - 1), rtol=1e-9)
    for y in (y1, y2):
        chex.assert_trees_all_close((mean(y), mean(y**2)), (0 * size, 1 + 0 * size), atol=1e-10)
        # E[(v . y)^4] = 3 |v|^4 B^2 / ((B - 1) (B + 1)), |v|^2 = 1 - 1/B
        chex.assert_trees_all_close(mean(y**4), 3 * (size - 1) / (size + 1), rtol=1e-9)
    assert float(jnp.max(jnp.abs(mean(jnp.abs(y1)) - mean(jnp.abs(y2))))) < 1e-4


def test_latin_normals_have_one_point_in_every_quantile(x64):
    normals = batches._latin_normals(jax.random.key(0), 64, 3, jnp.dtype("float64"))
    cells = np.floor(64 * np.asarray(jax.scipy.stats.norm.cdf(normals))).astype(int)
    assert (np.sort(cells, axis=0) == np.arange(64)[:, None]).all()
    # Coordinates are shuffled by themselves
    assert abs(np.corrcoef(cells.T)[0, 1]) < 0.5
