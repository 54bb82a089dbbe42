import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments._parts import curves


def test_gradients_of_linear_networks(x64):
    sigma_w, width, depth = 0.5, 100, 4
    q = sigma_w ** (2 * jnp.arange(depth, dtype=float))[:, None]
    found = jax.jit(lambda q: curves.gradients("linear", q, sigma_w, width=width, passed=slice(-1)))(q)
    above = np.arange(depth)[::-1, None]
    np.testing.assert_allclose(found["log_gradient"], above * np.log(sigma_w**2), rtol=1e-9)
    # chi does not depend on q, and squares of Gaussians scatter by 2 / width in each layer
    np.testing.assert_allclose(found["log_gradient_scatter"], np.sqrt(2 * above / width), atol=1e-9)
    np.testing.assert_allclose(found["q_scatter"] ** 2, 2 * (above[::-1] + 1) / width, rtol=1e-9)


def test_theory_is_labelled_and_in_float64():
    def one(name):
        return {"q": jnp.full((2, 3), {"relu": 1.0, "tanh": 2.0}[name]), "chi": jnp.ones(2)}

    coords = {"activation": ["relu", "tanh"], "sigma_b": np.array([0.0, 0.1, 0.5], np.float32)}
    found = curves.theory(one, ("activation", "layer", "sigma_b"), coords, "some_")
    assert found.some_q_theory.dtype == np.float64
    assert found.some_q_theory.sel(activation="tanh", sigma_b=0.5).values.tolist() == [2.0, 2.0]
    # Those of a sweep, or merging with it would tell its 0.1 from another
    assert found.sigma_b.dtype == np.float32
    assert found.some_chi_theory.dims == ("activation", "layer")


def test_deviations_count_standard_errors():
    theory = {"q_scatter": [0.1, 0.2], "log_gradient": [np.log(2.0), 0.0], "log_gradient_scatter": [0.5, 0.0]}
    dataset = xr.Dataset({f"{name}_theory": ("layer", values) for name, values in theory.items()})
    dataset = dataset.assign_coords(seed=range(4))
    ratio = xr.DataArray([1.1, 1.1], dims="layer")
    gradient = curves.over_last(xr.DataArray([np.log(6.0) + 0.5, np.log(3.0)], dims="layer"))
    q, log_gradient = curves.deviations(dataset, ratio, gradient)
    np.testing.assert_allclose(q, [2.0, 1.0])
    np.testing.assert_allclose(log_gradient, [2.0])


def test_rates_hold_every_order_to_its_own_bound():
    coords = {"order": ["a", "b"]}
    off, bound = (xr.DataArray(values, coords, dims="order") for values in ([0.1, 0.3], [0.2, 0.2]))
    found = curves.rates(off, bound, "source", 2 * bound)
    assert [(claim.name[0], claim.verdict) for claim in found] == [("a", "holds"), ("b", "fails")]
    assert curves.rates(off, bound, "source", off)[0].verdict == "empty"


def test_the_greatest_value_counts_its_interval_and_leaves_out_nan():
    values = xr.DataArray([[1.0, 2.0], [np.nan, 1.5]], dims=("a", "b"))
    halves = xr.DataArray([[1.5, 1.0], [0.25, 9.0]], dims=("b", "a"))
    assert curves.greatest(values, halves) == (1.5, 9.0)
    assert curves.greatest(values.where(values < 1.2), halves) == (1.0, 1.5)
