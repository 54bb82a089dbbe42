"""What is tried before a sweep, and that small sweeps try nothing."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import sweep
from biasjax._sweep import frames, loop, points, trials
from biasjax._sweep.execute import Lowered, Program
from biasjax._sweep.frames import ALL_AT_ONCE, Batching
from biasjax.stepwise import Stepwise


def _product(key, *, x):
    return jnp.sum(x * jnp.ones((64, 64)) @ jnp.ones((64, 64)))


def _short(key, *, x):
    return x * x


def _long(key, *, x):
    y = jnp.broadcast_to(x, (1000, 1000))
    return jax.lax.while_loop(lambda y: y[0, 0] < 1, lambda y: y @ y, y)[0, 0]


@pytest.fixture
def tried(monkeypatch):
    """Ways that were measured; each is faster than the one before it."""
    found = []

    def measure(program, lengths):
        found.append((program.run, lengths))
        return 100.0 * 0.5 ** len(found)

    monkeypatch.setattr(trials, "_seconds", measure)
    monkeypatch.setattr(frames, "cores", lambda mesh: 2)
    return found


def _planned(spec: Any, way):
    return loop.Plan(spec, None, lambda i, lengths: Lowered({}, lambda: Program(way, 0)), way)


def _choose(fn, axes, batching: trials.Choice = "auto"):
    spec = points.specify(fn, axes, None, None, None, 0)
    return trials.choose(batching, spec, None, _planned, False)


def test_a_large_sweep_takes_the_fastest(tried):
    assert _choose(_long, {"x": np.arange(1.0, 2001)}) == Batching(2, 1)
    assert tried == [(way, (32,)) for way in (ALL_AT_ONCE, Batching(2, 8), Batching(2), Batching(2, 1))]


def test_a_single_core_has_no_threads_to_try(tried, monkeypatch):
    monkeypatch.setattr(frames, "cores", lambda mesh: 1)
    assert _choose(_long, {"x": np.arange(1.0, 2001)}) == Batching(1, 1)
    assert [way for way, _ in tried] == [ALL_AT_ONCE, Batching(1, 8), Batching(1, 1)]


def test_of_few_points_blocks_tell_nothing(tried):
    assert _choose(_long, {"x": np.arange(1.0, 121)}) == Batching(2)
    assert tried == [(ALL_AT_ONCE, (4,)), (Batching(2), (4,))]


def test_of_steps_one_is_tried(tried):
    def long(steps):
        stages = lambda key, *, x: x, lambda carry, key, *, x: _long(key, x=x), lambda carry, key, *, x: x
        return Stepwise(*stages, steps=steps)

    assert _choose(long(1), {"x": np.arange(1.0, 41)}) == ALL_AT_ONCE
    assert not tried
    assert _choose(long(100), {"x": np.arange(1.0, 41)}) == Batching(2, 1)
    assert {lengths for _, lengths in tried} == {(32,)}


@pytest.mark.parametrize(
    ("fn", "count"), [(_short, 2000), (_long, 50), (lambda key, *, x: x.no_such_thing, 2000)]
)
def test_what_is_small_or_fails_is_not_tried(tried, fn, count):
    assert _choose(fn, {"x": np.arange(1.0, count + 1)}) == ALL_AT_ONCE
    assert not tried


def test_what_is_done_sooner_than_it_compiles_is_not_tried_twice(tried, monkeypatch):
    monkeypatch.setattr(trials, "_seconds", lambda program, lengths: tried.append(0) or 1e-6)
    monkeypatch.setattr(Lowered, "compile", property(lambda _: lambda: time.sleep(0.1)))
    assert _choose(_long, {"x": np.arange(1.0, 2001)}) == ALL_AT_ONCE
    assert len(tried) == 1


def test_a_little_faster_is_noise(monkeypatch):
    taken = {ALL_AT_ONCE: 10.0, Batching(2): 9.5, Batching(2, 8): 8.9, Batching(2, 1): 8.5}
    monkeypatch.setattr(trials, "_seconds", lambda program, lengths: taken[program.run])
    assert trials._fastest(functools.partial(_planned, 0), [*taken][1:], (4,), 100) == Batching(2, 8)


def test_several_devices_run_all_points_at_once(tried, monkeypatch):
    monkeypatch.setattr(frames, "cores", lambda mesh: None)
    assert _choose(_long, {"x": np.arange(1.0, 2001)}) == ALL_AT_ONCE
    assert _choose(_long, {"x": np.arange(1.0, 2001)}, 3) == Batching(1, 3)
    assert not tried


def test_draws_do_not_depend_on_a_stopwatch(tried):
    with jax.default_prng_impl("rbg"):
        assert _choose(_long, {"x": np.arange(1.0, 2001)}) == ALL_AT_ONCE
    assert not tried


def test_a_sweep_says_what_it_measured(tried, alone, monkeypatch):
    monkeypatch.setattr(trials, "operations", lambda spec: 1e12)
    axes = {"x": np.linspace(0.1, 0.9, 2000)}
    found = sweep.run(_short, axes, mesh=alone)
    assert found.attrs["batching"] == "at most 1 points at once on each of 2 threads"
    np.testing.assert_array_equal(found.output, sweep.run(_short, axes, mesh=alone, batching="all").output)
    assert len(tried) == 4  # "all" tries nothing


def test_a_trial_compiles_and_runs():
    spec = points.specify(_product, {"x": np.arange(5.0)}, None, None, None, 0)
    planned = functools.partial(sweep._plan, spec)
    assert trials._fastest(planned, [Batching(2, 1)], (4,), 1e9) in (ALL_AT_ONCE, Batching(2, 1))


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda key, *, x: x + 1, 1),
        (lambda key, *, x: jax.lax.scan(lambda c, _: (c * x, None), x, length=7)[0], 7),
        (lambda key, *, x: jax.jit(lambda y: jax.jit(lambda z: z * z)(y))(x), 1),
        (lambda key, *, x: jax.lax.cond(x > 0, lambda: 2 * x, lambda: 3 * x), 3),
        (lambda key, *, x: jax.lax.while_loop(lambda y: y < 1, lambda y: y + x, x), 200),
    ],
)
def test_operations_are_counted_through_calls_and_loops(fn, expected):
    spec = points.specify(fn, {"x": np.arange(5.0)}, None, None, None, 0)
    assert trials.operations(spec) == pytest.approx(expected, abs=1)


def test_convolutions_count_their_windows():
    def convolve(key, *, x):
        images, kernel = x * jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4, 5))
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    spec = points.specify(convolve, {"x": np.arange(5.0)}, None, None, None, 0)
    assert trials.operations(spec) == pytest.approx(2 * (2 * 6 * 6 * 5) * 9 * 4, rel=0.1)


@pytest.mark.parametrize(
    ("batching", "error", "message"),
    [
        (0, ValueError, "batching: expected an integer of at least 1"),
        ("fast", ValueError, 'batching: expected "auto", "all" or a number of points, got .fast'),
        (2.0, TypeError, "batching: expected an integer"),
    ],
)
def test_bad_batching_is_refused(batching, error, message):
    with pytest.raises(error, match=message):
        sweep.run(_product, {"x": [1.0]}, batching=batching)
