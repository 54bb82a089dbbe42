import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import stepwise, sweep
from biasjax._sweep import execute, grid, loop


def _point(key, *, sigma, shift, power=1):
    x = sigma * jax.random.normal(key, (50,)) + shift
    return {"moment": jnp.mean(x**power), "nested": {"sample": x[:3]}}


AXES = {"seed": [3, 5], "sigma": np.linspace(0.5, 2.0, 4), "shift": [0.0, 1.0, 2.0]}


def test_equals_the_loop_over_points():
    dataset = sweep.run(_point, AXES, static={"power": [2, 1]}, dims={"nested.sample": ("example",)})
    assert dataset["moment"].dims == ("power", "seed", "sigma", "shift")
    assert dataset["nested.sample"].dims == ("power", "seed", "sigma", "shift", "example")
    assert dataset.power.values.tolist() == [2, 1]
    for seed in AXES["seed"]:
        key = jax.random.fold_in(jax.random.key(0), seed)
        for sigma in np.float32(AXES["sigma"]):
            for shift in AXES["shift"]:
                truth = _point(key, sigma=sigma, shift=jnp.float32(shift), power=2)
                here = dataset.sel(power=2, seed=seed, sigma=sigma, shift=shift)
                np.testing.assert_allclose(here["moment"], truth["moment"], rtol=1e-5)
                np.testing.assert_allclose(here["nested.sample"], truth["nested"]["sample"], rtol=1e-5)


def test_inner_axes_share_the_draws_of_a_seed():
    def draws(key, *, sigma):
        return {"draw": jax.random.normal(key) + 0 * sigma}

    draw = sweep.run(draws, {"seed": [0, 1], "sigma": [1.0, 2.0, 3.0]}).draw
    assert (draw == draw.isel(sigma=0)).all()
    assert draw[0, 0] != draw[1, 0]
    alone = sweep.run(draws, {"seed": [1], "sigma": [2.0]}).draw
    np.testing.assert_array_equal(alone[0, 0], draw[1, 1])  # a point's draws are its coordinates' alone
    assert (sweep.run(draws, {"sigma": [1.0]}, root=1).draw != sweep.run(draws, {"sigma": [1.0]}).draw).all()


def test_outer_axes_are_computed_once():
    def product(key, *, sigma):
        return {"y": (sigma * jax.random.normal(key, (64, 64))).sum()}

    nested = grid.nest(product, ["seed", "sigma"], {})
    jaxpr = str(
        jax.make_jaxpr(nested)(jax.random.key_data(jax.random.key(0)), np.arange(3), np.ones(5, np.float32))
    )
    assert "f32[3,64,64]" in jaxpr  # drawn once for each seed
    assert "u32[3,5,64,64]" not in jaxpr


def test_one_trace_for_each_static_combination():
    counted = chex.assert_max_traces(lambda key, sigma, power: {"y": sigma**power}, n=2)
    dataset = sweep.run(
        lambda key, *, sigma, power: counted(key, sigma, power),
        {"sigma": [1.0, 2.0]},
        static={"power": [2, 3]},
    )
    np.testing.assert_array_equal(dataset.y, [[1, 4], [1, 8]])


def test_equal_static_values_and_changed_globals_are_not_confused():
    def typed(key, *, x, mode):
        return {"y": x + (100.0 if mode is True else 0.0)}

    np.testing.assert_array_equal(
        sweep.run(typed, {"x": [0.0, 1.0]}, static={"mode": [1, True]}).y[:, 0], [0, 100]
    )
    factor = 1.0

    def scaled(key, *, x):
        return {"y": factor * x}

    assert sweep.run(scaled, {"x": [1.0]}).y.item() == 1.0
    factor = 5.0
    assert sweep.run(scaled, {"x": [1.0]}).y.item() == 5.0


def test_narrow_and_complex_outputs(tmp_path):
    def fn(key, *, x):
        return {
            "narrow": jnp.log(x).astype(jnp.bfloat16),
            "complex": jax.lax.complex(x, 1.0),
            "deep": {"er": [x]},
        }

    for options in ({}, {"store": tmp_path}):
        dataset = sweep.run(fn, {"x": [-1.0, 0.0, 1.0]}, **options)
        assert dataset.status.values.tolist() == [2, 1, 0]
        assert dataset.narrow.dtype == np.float32
        assert dataset["deep.er.0"].values.tolist() == [-1.0, 0.0, 1.0]
    partly = sweep.run(fn, {"x": [1.0, 2.0]}, store=tmp_path / "part", chunk_size=1, shard="0/2")
    assert np.isnan(partly.complex.values[1])


def test_missing_outputs_are_nan_and_labels_are_kept():
    def point(key, *, x, kind):
        return {"always": x, "count": jnp.array(1)} | ({"sometimes": 2 * x} if kind is np.sin else {})

    dataset = sweep.run(point, {"x": [1.0, 2.0]}, static={"kind": [np.cos, np.sin]})
    np.testing.assert_array_equal(dataset.sometimes, [[np.nan, np.nan], [2, 4]])
    assert dataset["count"].dtype == np.int32
    assert dataset.kind.values.tolist() == ["cos", "sin"]


def test_steps_are_the_whole_computation():
    def whole(key, *, x, kind):
        return {"y": x + sum(jax.random.normal(jax.random.fold_in(key, i)) for i in range(3)) * kind}

    steps = stepwise.Stepwise(
        start=lambda key, *, x, kind: (jnp.int32(0), x),
        advance=lambda carry, key, *, x, kind: (
            carry[0] + 1,
            carry[1] + kind * jax.random.normal(jax.random.fold_in(key, carry[0])),
        ),
        finish=lambda carry, key, *, x, kind: {"y": carry[1]},
        steps=3,
    )
    axes, static = {"seed": [0, 1, 2], "x": [1.0, 2.0]}, {"kind": [1.0, 2.0]}
    ours, truth = (sweep.run(fn, axes, static=static, chunk_size=4).y for fn in (steps, whole))
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5)


def test_any_pytree_is_an_output():
    dataset = sweep.run(lambda key, *, x: x**2, {"x": [1.0, 3.0]})
    assert dataset.output.values.tolist() == [1.0, 9.0]
    dataset = sweep.run(lambda key, *, x: [x, (2 * x, {"y": 3 * x})], {"x": [1.0]})
    assert {"0", "1.0", "1.1.y"} <= set(dataset)
    assert sweep.run(lambda key: {"y": 2.0}, {}).y.item() == 2.0


def test_memory_decides_the_chunks(monkeypatch):
    monkeypatch.setattr(execute, "budget", lambda: 40_000)
    seen, compute = [], loop._compute_chunk

    def counted(plan, run, n, region, write):
        seen.append(grid.shape(region))
        compute(plan, run, n, region, write)

    monkeypatch.setattr(loop, "_compute_chunk", counted)
    axes = {"x": np.arange(100.0), "y": np.arange(100.0)}
    dataset = sweep.run(lambda key, *, x, y: {"z": jnp.full(10, x * y)}, axes)
    assert 2 < len(seen) < 50
    np.testing.assert_array_equal(dataset.z[..., 0], np.outer(np.arange(100), np.arange(100)))


def test_float64_under_x64_alone(x64):
    dataset = sweep.run(lambda key, *, x: {"y": x / 3}, {"x": [1.0]})
    assert dataset.y.dtype == dataset.x.dtype == np.float64


@pytest.mark.parametrize(
    ("axes", "static", "message"),
    [
        ({"x": 1.0}, None, r"axis 'x': expected a non-empty 1-D array, got shape \(\)"),
        ({"x": []}, None, r"got shape \(0,\)"),
        ({"x": [1.0]}, {"x": [1]}, "names that are not axes, got 'x', an axis"),
        ({"x": [1.0]}, {"seed": [1]}, "got 'seed'"),
        ({"status": [1.0]}, None, "other than key, status and computed"),
        ({"x": [1.0]}, {"n": [1, 1]}, "values with labels of their own"),
        ({"x": [2**40]}, None, "integers that fit into int32"),
    ],
)
def test_bad_input_is_refused_clearly(axes, static, message):
    with pytest.raises(ValueError, match=message):
        sweep.run(lambda key, *, x: {"y": x}, axes, static=static)


def test_seeds_are_integers():
    with pytest.raises(TypeError, match="axis 'seed': expected integers"):
        sweep.run(lambda key: {"y": 1.0}, {"seed": [0.1, 0.2]})


@pytest.mark.parametrize(
    ("fn", "dims", "message"),
    [
        (lambda key, *, x: {"x": x}, None, "outputs named otherwise"),
        (lambda key, *, x: {}, None, "at least one output"),
        (lambda key, *, x: {"y": jnp.ones(2)}, {"y": ("a", "b")}, "1 names, got"),
        (lambda key, *, x: {"y": jnp.ones(2)}, {"y": ("x",)}, "neither axes nor static"),
        (lambda key, *, x: {"y": jnp.ones(2), "z": jnp.ones(3)}, {"y": ("a",), "z": ("a",)}, "one size"),
    ],
)
def test_outputs_that_cannot_be_labelled_are_refused(fn, dims, message):
    with pytest.raises(ValueError, match=message):
        sweep.run(fn, {"x": [1.0]}, dims=dims)


def test_outputs_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape for all static values"):
        sweep.run(lambda key, *, x, n: {"y": jnp.full(n, x)}, {"x": [1.0]}, static={"n": [1, 2]})
