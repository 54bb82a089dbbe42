import jax
import numpy as np
import pytest
import scipy.stats

from biasjax import sweep

SPACE = {"rate": sweep.log(1e-4, 1.0), "momentum": (-0.5, 0.99), "width": sweep.integer(1, 8)}


@pytest.mark.parametrize("method", ["random", "latin", "sobol"])
def test_every_axis_has_its_distribution_within_its_bounds(method):
    points = sweep.sample(SPACE, 1000, method=method, seed=3)
    truths = {
        "rate": scipy.stats.loguniform(1e-4, 1.0).cdf,
        "momentum": scipy.stats.uniform(-0.5, 1.49).cdf,
    }
    for name, truth in truths.items():
        assert scipy.stats.kstest(points[name], truth).pvalue > 0.01
        low, high = SPACE[name][:2]
        assert ((points[name] >= low) & (points[name] <= high)).all()
        # Even methods are far evener than chance: their distance falls as 1/n, not as 1/sqrt(n)
        assert (scipy.stats.kstest(points[name], truth).statistic < 0.005) == (method != "random")
    counts = np.bincount(points["width"], minlength=9)
    assert counts[0] == 0
    assert scipy.stats.chisquare(counts[1:]).pvalue > 0.01
    assert abs(np.corrcoef(np.log(points["rate"]), points["momentum"])[0, 1]) < 0.1


@pytest.mark.parametrize("method", ["random", "latin", "sobol"])
def test_a_seed_is_its_points(method):
    def draw(seed, n=20):
        return np.stack([*sweep.sample(SPACE, n, method=method, seed=seed).values()])

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any(1).all()
    assert (draw(0, 33)[:, :20] == draw(0)).all() == (method != "latin")


def test_points_of_a_seed_are_the_same_however_chunked():
    def fn(key, *, rate, momentum, width):
        return {"y": rate * momentum * jax.random.normal(key) + width.astype(np.float32)}

    points = sweep.sample(SPACE, 12)
    whole, parts = (sweep.run(fn, {"seed": [0, 1]}, points=points, chunk_size=size) for size in (24, 5))
    assert whole.drop_attrs().identical(parts.drop_attrs())


def test_one_point_and_a_wide_range_stay_in_bounds():
    space = {"tiny": sweep.log(1e-300, 1e300), "one": sweep.integer(-1, 0)}
    points = sweep.sample(space, 1, method="sobol")
    assert 1e-300 <= points["tiny"][0] <= 1e300
    assert set(sweep.sample(space, 64)["one"]) == {-1, 0}


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ({}, {}, "at least one name"),
        ({"x": (1.0, 1.0)}, {}, "space 'x': expected low < high"),
        ({"x": (0.0, np.inf)}, {}, "finite bounds"),
        ({"x": ("a", "b")}, {}, "finite bounds"),
        ({"x": sweep.log(0.0, 1.0)}, {}, "positive bounds on a log scale"),
        ({"x": (-1.0, 10**400)}, {}, "finite bounds"),
        ({"x": (-1.5e308, 1.5e308)}, {}, "finite bounds of at most"),
        ({"x": sweep.integer(0, 10**30)}, {}, "whole bounds up to 2"),
        ({"x": (0.0, 1.0)}, {"seed": -1}, "seed: expected an integer of at least 0"),
        ({"x": sweep.integer(0.5, 2)}, {}, "whole bounds"),  # pyright: ignore[reportArgumentType]
        ({"x": (0.0, 1.0)}, {"n": 0}, "n: expected an integer of at least 1"),
        ({"x": (0.0, 1.0)}, {"method": "sobel"}, "Did you mean 'sobol'"),
        ({"x": (0.0, 1.0, "lgo")}, {}, "Did you mean 'log'"),
    ],
)
def test_bad_spaces_are_refused_clearly(space, options, message):
    with pytest.raises(ValueError, match=message):
        sweep.sample(space, **{"n": 3, **options})


@pytest.mark.parametrize("given", [3.0, [0.0, 1.0], (1.0,)])
def test_what_is_no_range_is_refused(given):
    with pytest.raises(TypeError, match="space 'x': expected"):
        sweep.sample({"x": given}, 3)
