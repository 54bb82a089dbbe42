"""Gradient rates with norms against closed forms and simulated Jacobians."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import normrates, norms
from biasjax.activations import Activation

SIZES = np.array([4.0, 5.0, 8.0, 16.0, 64.0, 1024.0])


def test_batch_norm_closed_forms_match_the_reference(x64):
    chex.assert_trees_all_close(
        normrates.batch_norm("linear", np.array([8.0, 64.0])), np.array([1.2, 1.016393]), rtol=1e-6
    )
    relu = normrates.batch_norm_relu(np.array([8.0, 64.0, 1e6]))
    chex.assert_trees_all_close(relu, np.array([1.788190, 1.493063, 1.466942]), rtol=2e-6)
    chex.assert_trees_all_close(normrates.batch_norm_relu(1e9), np.pi / (np.pi - 1), rtol=1e-8)


def test_batch_norm_quadrature_matches_the_closed_forms(x64):
    identity = normrates.batch_norm(lambda x: x, SIZES)
    chex.assert_trees_all_close(identity, (SIZES - 2) / (SIZES - 3), rtol=1e-10)
    relu = normrates.batch_norm("relu", SIZES)
    chex.assert_trees_all_close(relu, normrates.batch_norm_relu(SIZES), rtol=1e-7)
    # Yang et al.: sin grows slower than any; large batches give layer norm's rate, for odd functions
    large = normrates.batch_norm("tanh", 1e5)
    chex.assert_trees_all_close(large, normrates.layer_norm("tanh"), rtol=1e-4)


def test_batch_norm_in_float32():
    got = normrates.batch_norm("relu", jnp.asarray(SIZES, jnp.float32))
    assert got.dtype == jnp.float32
    chex.assert_trees_all_close(got, normrates.batch_norm_relu(jnp.asarray(SIZES, jnp.float32)), rtol=1e-5)


def simulated_batch_rate(name, place, size, sigma_w, sigma_b, samples):
    """Growth of random gradients of one neuron's batch, pulled back through a layer by autodiff."""
    act = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}[name]
    key_y, key_h, key_g = jax.random.split(jax.random.key(0), 3)

    def centre(x):
        return x - jnp.mean(x, axis=-1, keepdims=True)

    def norm(x):
        return centre(x) / jnp.std(x, axis=-1, keepdims=True)

    if place == "before":
        y = norm(jax.random.normal(key_y, (samples, size)))
        gram = sigma_w**2 * act(y).T @ act(y) / samples + sigma_b**2
    else:
        gram = sigma_w**2 * size / (size - 1) * centre(jnp.eye(size)) + sigma_b**2
    values, vectors = jnp.linalg.eigh(gram)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))
    h = jax.random.normal(key_h, (samples, size)) @ root.T
    _, pull = jax.vjp((lambda h: act(norm(h))) if place == "before" else (lambda h: norm(act(h))), h)
    # Norms on both sides see to it that only the centred part of a batch's gradient counts
    above = centre(jax.random.normal(key_g, h.shape))
    (below,) = pull(above)
    return sigma_w**2 * jnp.sum(centre(below) ** 2) / jnp.sum(above**2)


@pytest.mark.parametrize(
    ("name", "place", "size", "sigma_b"),
    [
        ("tanh", "before", 8, 0.5),
        ("gelu", "before", 16, 0.0),
        ("relu", "after", 16, 0.0),
        ("tanh", "after", 8, 1.0),
        ("gelu", "after", 16, 0.5),
    ],
)
def test_batch_norm_agrees_with_simulated_jacobians(name, place, size, sigma_b, x64):
    simulated = simulated_batch_rate(name, place, size, 1.3, sigma_b, 100_000)
    theory = normrates.batch_norm(name, size, place=place, sigma_w=1.3, sigma_b=sigma_b)
    chex.assert_trees_all_close(theory, simulated, rtol=1e-2)


def test_batch_norm_after_the_activation(x64):
    # The linear case is known, and so is ReLU's limit of large batches without bias
    sampled = normrates.batch_norm(Activation(lambda x: x), 16, place="after", sigma_b=0.7)
    chex.assert_trees_all_close(sampled, 14 / 13, rtol=1e-3)
    large = normrates.batch_norm("relu", 512, place="after")
    chex.assert_trees_all_close(large, np.pi / (np.pi - 1), rtol=6e-3)


def test_layer_norm_matches_the_reference(x64):
    chex.assert_trees_all_close(normrates.layer_norm("relu"), 1.0, rtol=1e-12)
    chex.assert_trees_all_close(normrates.layer_norm("tanh"), 1.177807, rtol=1e-6)
    chex.assert_trees_all_close(normrates.layer_norm("relu", 2.0, 1.0), 0.5 / (0.5 + 0.25), rtol=1e-12)
    ratio = np.array([0.0, 0.2, 1 / (np.pi - 1), 2.0])
    rate = normrates.layer_norm("relu", 1.7, 1.7 * np.sqrt(ratio), place="after")
    chex.assert_trees_all_close(rate, np.pi / (np.pi - 1) / (1 + ratio), rtol=1e-12)
    # The bias at which explosion turns into decay
    chex.assert_trees_all_close(rate[2], 1.0, rtol=1e-12)
    rms = normrates.layer_norm("relu", place="after", centred=False)
    chex.assert_trees_all_close(rms, 1.0, rtol=1e-12)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("place", normrates.PLACES)
def test_layer_norm_correlation(place, centred, x64):
    options = {"place": place, "centred": centred}
    for name in ("relu", "gelu"):
        over = functools.partial(normrates.layer_norm_correlation, name, **options)
        slope = jax.grad(lambda c, over=over: over(c, 1.3, 0.6))(1.0)
        chex.assert_trees_all_close(slope, normrates.layer_norm(name, 1.3, 0.6, **options), rtol=1e-6)
        chex.assert_trees_all_close(over(1.0, 1.3, 0.6), 1.0, rtol=1e-12)
    # One wide layer in float64: two inputs' pre-activations of correlation .3, and the layer above
    key, width = jax.random.key(0), 400_000
    u, v = jax.random.normal(key, (2, width))
    q = 1.0 if place == "before" else 1.3**2 + 0.6**2
    u, v = jnp.sqrt(q) * u, jnp.sqrt(q) * (0.3 * u + jnp.sqrt(1 - 0.09) * v)
    norm = norms.layer_norm if centred else norms.rms_norm

    def features(h):
        if place == "before":
            return jnp.maximum(norm(norms.Norm(), h, epsilon=0.0), 0)
        return norm(norms.Norm(), jnp.maximum(h, 0), epsilon=0.0)

    u, v = features(u[None])[0], features(v[None])[0]
    gram = 1.3**2 * jnp.array([jnp.mean(u * u), jnp.mean(u * v), jnp.mean(v * v)]) + 0.6**2
    measured = gram[1] / jnp.sqrt(gram[0] * gram[2])
    expected = normrates.layer_norm_correlation("relu", 0.3, 1.3, 0.6, **options)
    chex.assert_trees_all_close(expected, measured, atol=4 / np.sqrt(width))


def test_residual(x64):
    q, rate = normrates.residual("relu", np.array([1.0, 4.0]), 0.8, 0.3)
    chex.assert_trees_all_close(q, np.array([1.0, 4.0]) * (1 + 0.32) + 0.09, rtol=1e-12)
    chex.assert_trees_all_close(rate, np.full(2, 1.32), rtol=1e-12)


def test_jit_and_vmap_over_batch_sizes_compile_once():
    traced = jax.jit(jax.vmap(chex.assert_max_traces(lambda b: normrates.batch_norm("tanh", b), 1)))
    for sizes in (jnp.array([8.0, 16.0]), jnp.array([32.0, 64.0])):
        chex.assert_trees_all_close(traced(sizes), normrates.batch_norm("tanh", sizes), rtol=1e-5)


def test_bad_input_is_refused_before_compilation():
    with pytest.raises(ValueError, match="batch_size: expected at least 4, got 3"):
        normrates.batch_norm("relu", 3)
    with pytest.raises(ValueError, match="batch_size: expected at least 4"):
        normrates.batch_norm_relu(np.array([8.0, 2.0]))
    with pytest.raises(ValueError, match="place: expected one of"):
        normrates.batch_norm("relu", 8, place="behind")
    with pytest.raises(ValueError, match="batch_size: expected one integer"):
        normrates.batch_norm("relu", np.array([8.0, 9.0]), place="after")
    with pytest.raises(ValueError, match=r"batch_size: expected one integer, got 8\.5"):
        normrates.batch_norm("relu", 8.5, place="after")
    with pytest.raises(ValueError, match="batch_size: expected a number in"):
        normrates.batch_norm("relu", np.inf)
    with pytest.raises(TypeError, match="centred: expected True or False"):
        normrates.layer_norm("relu", centred=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="sigma_b: expected"):
        normrates.layer_norm("relu", 1.0, -1.0)
    with pytest.raises(ValueError, match="Did you mean"):
        normrates.residual("rleu", 1.0, 1.0)
    assert jax.jit(lambda b: normrates.batch_norm("tanh", b))(3.0).shape == ()
