"""Conditional norms against Flax, PyTorch and their formula, and what dies in front of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import audit, conditional, linear, norms
from biasjax.conditional import film, film_init

X = jax.random.normal(jax.random.key(0), (6, 3, 3, 4))
CONDITION = jax.nn.one_hot(jnp.arange(6) % 3, 3)
PARAMS = film_init(jax.random.key(1), 3, 4, bias_init="standard_normal")


def test_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    # For one-hot conditions a dense layer is PyTorch's usual embedding of the class
    scale, bias = (np.asarray(linear.dense(layer, CONDITION)) for layer in PARAMS if layer)
    x = torch.tensor(np.moveaxis(np.array(X), -1, 1))
    y = torch.nn.functional.batch_norm(x, None, None, training=True, eps=1e-5).numpy()
    truth = np.moveaxis(y, 1, -1) * (1 + scale)[:, None, None] + bias[:, None, None]
    stats = norms.batch_stats_init(4)
    mine, _ = conditional.conditional_batch_norm(PARAMS, stats, X, CONDITION, train=True)
    np.testing.assert_allclose(mine, truth, rtol=1e-6, atol=1e-6)
    y = torch.nn.functional.layer_norm(torch.tensor(np.array(X)), (4,), eps=1e-6).numpy()
    truth = y * (1 + scale)[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(
        conditional.conditional_layer_norm(PARAMS, X, CONDITION), truth, rtol=1e-6, atol=1e-6
    )


def test_is_a_norm_of_its_own_for_each_condition():
    stats = norms.BatchStats(jnp.arange(4.0), 1 + jnp.arange(4.0))
    mine, _ = conditional.conditional_batch_norm(PARAMS, stats, X, CONDITION, train=False)
    for i in range(len(X)):
        scale, bias = (linear.dense(layer, CONDITION[i]) for layer in PARAMS if layer)
        truth, _ = norms.batch_norm(norms.Norm(1 + scale, bias), stats, X[i : i + 1], train=False)
        np.testing.assert_allclose(mine[i], truth[0], atol=1e-6)


def test_begins_without_modulation_and_parts_may_be_absent():
    zeros = film_init(jax.random.key(0), 3, 4, kernel_init="zeros")
    np.testing.assert_array_equal(film(zeros, X, CONDITION), X)
    np.testing.assert_array_equal(film(conditional.Film(), X, CONDITION), X)
    bare = film_init(jax.random.key(0), 3, 4, use_scale=False, use_bias=False)
    assert bare.scale is None
    assert bare.bias is not None
    assert bare.bias.bias is None
    truth = X + (CONDITION @ bare.bias.kernel)[:, None, None]
    np.testing.assert_allclose(film(bare, X, CONDITION), truth, atol=1e-6)


def test_an_audit_tells_the_bias_before_the_norm_from_those_that_modulate():
    def model(params, x, condition):
        first, modulation = params
        stats = norms.batch_stats_init(4)
        h = linear.dense(first, x)
        return conditional.conditional_batch_norm(modulation, stats, h, condition, train=True)[0]

    params = linear.dense_init(jax.random.key(0), 3, 4), PARAMS
    found = audit.audit_biases(model, params, X[:, 0, 0, :3], jax.random.normal(jax.random.key(2), (6, 3)))
    verdicts = [b.verdict for b in found.findings]
    assert verdicts == ["cancelled", "needed", "needed"]


def test_bad_input():
    with pytest.raises(TypeError, match="film: expected Film, got list"):
        film([], X, CONDITION)  # pyright: ignore
    with pytest.raises(ValueError, match=r"a condition \(batch, features\), got shapes"):
        film(PARAMS, X, CONDITION[:5])
    with pytest.raises(ValueError, match="layers to 3 features, got 4"):
        film(PARAMS, X[..., :3], CONDITION)
    with pytest.raises(ValueError, match="film: expected x"):
        film(PARAMS, X[0, 0, 0], CONDITION)
