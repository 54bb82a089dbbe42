import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import denoiser
from experiments._parts import denoising

CONFIG = dataclasses.replace(denoiser.SMOKE, channels=4, depth=3, steps=3, crop=32, seeds=2)


@pytest.fixture(scope="module")
def dataset():
    return denoiser.run(CONFIG)


def test_networks_without_biases_are_homogeneous_and_have_no_bias(dataset):
    claims = {claim.name: claim for claim in denoiser.claims(dataset)}
    assert all(len(name) <= 38 for name in claims)
    assert next(iter(claims.values())).holds
    assert float(dataset.net_bias.sel(use_bias=False).max()) < 1e-3
    assert float(dataset.net_bias.sel(use_bias=True).min()) > 1e-3
    assert len(denoiser.figure(dataset).axes) == 6
    assert "33.84" in denoiser.table(dataset)


def test_noise_is_of_the_size_that_is_said(dataset):
    # PSNR of sigma is 20 log10(255 / sigma), up to what 32 x 32 draws scatter by
    expected = 20 * np.log10(255 / dataset.sigma)
    np.testing.assert_allclose(dataset.psnr_noisy, expected.broadcast_like(dataset.psnr_noisy), atol=0.8)


def test_the_bias_free_norm_divides_by_the_deviation_alone():
    x = 3 + jax.random.normal(jax.random.key(0), (4, 5, 5, 2))
    params, stats = denoising.norms.norm_init(2, use_bias=False), denoising.norms.batch_stats_init(2)
    y, state = denoising.bias_free_norm(params, stats, x, train=True, momentum=0.9)
    np.testing.assert_allclose(y, x / np.sqrt(np.var(x, (0, 1, 2)) + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(state.var, 0.9 + 0.1 * np.var(x, (0, 1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(state.mean, stats.mean)
    still, _ = denoising.bias_free_norm(params, state, jnp.zeros_like(x), train=False, momentum=0.9)
    assert not still.any()


def test_training_sees_nothing_of_the_tests():
    patches, tests = denoising.images(32, 64)
    corners = {np.asarray(patch[:4, :4]).tobytes() for patch in patches}
    for image in np.asarray(tests):
        windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], (4, 4))
        assert not corners & {np.ascontiguousarray(w)[..., None].tobytes() for row in windows for w in row}


def test_wrong_noise_is_refused():
    with pytest.raises(ValueError, match="10, 50 and 90 among them"):
        denoiser.run(dataclasses.replace(CONFIG, sigmas=(10.0, 50.0)))


@pytest.mark.parametrize("use_bias", [True, False])
def test_weights_are_those_of_a_plain_network(dataset, use_bias):
    at = {"seed": 0, "use_bias": use_bias}
    weights = dataset.weights.sel(at).values
    h, widths = np.asarray(dataset.noisy.sel(at))[..., None], (1, *(CONFIG.channels,) * (CONFIG.depth - 1), 1)
    x = h
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        size = 9 * inputs * outputs
        kernel, bias, weights = weights[:size], weights[size : size + outputs], weights[size + outputs :]
        assert use_bias or not bias.any()
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2)
        )
        h = np.einsum("nyxcij,ijco->nyxo", windows, kernel.reshape(3, 3, inputs, outputs)) + bias
        h = np.maximum(h, 0) if i < CONFIG.depth - 1 else h
    assert not weights.size
    np.testing.assert_allclose((x - h)[..., 0], dataset.denoised.sel(at), atol=2e-5)
