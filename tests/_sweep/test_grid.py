import jax
import numpy as np
import pytest

from biasjax._sweep import grid


def test_outer_axes_are_computed_once():
    def product(key, *, sigma):
        return {"y": (sigma * jax.random.normal(key, (64, 64))).sum()}

    nested = grid.nest(product, ["seed", "sigma"], {})
    jaxpr = str(
        jax.make_jaxpr(nested)(jax.random.key_data(jax.random.key(0)), np.arange(3), np.ones(5, np.float32))
    )
    assert "f32[3,64,64]" in jaxpr  # drawn once for each seed
    assert "u32[3,5,64,64]" not in jaxpr


def test_axes_of_one_value_are_not_vmapped(monkeypatch):
    def product(key, *, sigma, shift):
        return {"y": sigma * jax.random.normal(key) + shift, "key": jax.random.key_data(key), "one": 1}

    names, given = ["seed", "sigma", "shift"], (np.arange(2), np.ones(1, np.float32), np.ones(3, np.float32))
    bits = jax.random.key_data(jax.random.key(0))
    vmapped = grid.nest(product, names, {})(bits, *given)
    vmap, mapped = jax.vmap, []
    monkeypatch.setattr(jax, "vmap", lambda fn, in_axes: mapped.append(in_axes) or vmap(fn, in_axes))
    nested = grid.nest(product, names, {}, lengths=(2, 1, 3))
    jax.tree.map(np.testing.assert_array_equal, nested(bits, *given), vmapped)
    assert mapped == [(None, None, None, 0), (None, 0, None, None)]


@pytest.mark.parametrize("points", [1, 2, 5, 12, 24, 100])
@pytest.mark.parametrize("sizes", [(), (1,), (7,), (2, 3, 4)])
def test_regions_are_small_alike_and_cover_each_point_once(sizes, points):
    layout, covered = grid.cut(sizes, points), np.zeros(sizes, int)
    for region in grid.regions(sizes, layout):
        covered[region] += 1
        assert np.prod(grid.shape(region), dtype=int) <= points
        assert all(n <= most for n, most in zip(grid.shape(region), grid.lengths(sizes, layout), strict=True))
    assert (covered == 1).all()


def test_halves_make_up_the_whole():
    axis, first, second = grid.halves((slice(0, 1), slice(2, 5)))
    assert (axis, first, second) == (1, (slice(0, 1), slice(2, 3)), (slice(0, 1), slice(3, 5)))
    with pytest.raises(ValueError, match="room for a single point"):
        grid.halves((slice(0, 1),))


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        ("x", 1.0, ValueError, r"axis 'x': expected a non-empty 1-D array, got shape \(\)"),
        ("x", [], ValueError, r"got shape \(0,\)"),
        ("x", [2**40], ValueError, "integers that fit into int32"),
        ("x", ["a"], TypeError, "axis 'x': expected numbers, got <U1"),
        ("seed", [0.1, 0.2], TypeError, "axis 'seed': expected integers"),
    ],
)
def test_bad_axes_are_refused_clearly(name, values, error, message):
    with pytest.raises(error, match=message):
        grid.axis_values(name, values)


@pytest.mark.parametrize("value", [1e-50, 1e300, -1e300, 1e-40])
def test_a_number_that_float32_makes_zero_or_infinite_is_refused(value):
    with pytest.raises(ValueError, match=r"numbers that float32 holds, got .*jax_enable_x64"):
        grid.axis_values("x", [1.0, value])
    with jax.enable_x64(True):
        assert grid.axis_values("x", [1.0, value])[1] == value
    assert np.isinf(grid.axis_values("x", [0.0, np.inf])[1])


def test_axes_are_a_dict():
    for axes in (None, [1.0]):
        with pytest.raises(TypeError, match="axes: expected a dict of name -> values, got"):
            grid.axis_arrays(axes)  # pyright: ignore[reportArgumentType]
