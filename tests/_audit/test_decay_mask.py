"""A mask for weight decay: what it names, and what it saves in a step of AdamW."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from biasjax import audit


def centred(params, x):
    y = x @ params["a"]["kernel"] + params["a"]["bias"]
    return jnp.tanh(y - y.mean(0)) + params["b"]["bias"]


PARAMS = {
    "a": {"kernel": jnp.ones((3, 2)) * 0.5, "bias": jnp.full(2, 10.0)},
    "b": {"bias": jnp.full(2, 10.0)},
}
X = jax.random.normal(jax.random.key(0), (4, 3))


def test_a_cancelled_bias_stays_where_it_is():
    mask = audit.decay_mask(audit.audit_biases(centred, PARAMS, X), PARAMS)
    assert mask == {"a": {"kernel": True, "bias": False}, "b": {"bias": True}}
    tx = optax.chain(optax.add_decayed_weights(0.1, mask), optax.sgd(0.1))
    gradients = jax.grad(lambda p: jnp.sum(centred(p, X) ** 2))(PARAMS)
    updates: Any = tx.update(gradients, tx.init(PARAMS), PARAMS)[0]
    assert jnp.abs(updates["a"]["bias"]).max() < 1e-5
    assert jnp.abs(updates["b"]["bias"]).min() > 0.1


def test_other_parameters_are_refused():
    found = audit.audit_biases(centred, PARAMS, X)
    with pytest.raises(ValueError, match=r"decay_mask: expected params with a/bias, got others"):
        audit.decay_mask(found, {"b": PARAMS["b"]})
