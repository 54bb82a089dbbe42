"""A Flax model with a cancelled bias, for the audit of the bare wheel."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from biasjax import adapters


class Net(nn.Module):
    """A convolution before batch norm."""

    @nn.compact
    def __call__(self, x, train):
        """Return logits."""
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(10)(x.mean((1, 2)))


def factory():
    """Return the model and its input."""
    x = jnp.ones((4, 8, 8, 3))
    return adapters.from_linen(Net(), Net().init(jax.random.key(0), x, train=False)), x
