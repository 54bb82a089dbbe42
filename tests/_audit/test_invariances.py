"""Shifts of several biases that change nothing: as finite shifts, and beside a Jacobian's null space."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from small_models import MODELS

from biasjax._audit import frontiers, invariances, spans
from biasjax._audit.model import trace
from biasjax._audit.points import Draws, inputs_at, on_device, point, weights_at
from biasjax._audit.rows import sampler

pytestmark = pytest.mark.usefixtures("x64")

DRAWS = Draws(0, True, True)


@functools.lru_cache(1)
def followed(name):
    """Model, its frontier, and what that does not mind."""
    small = MODELS[name]
    model = trace(small.fn, small.params, small.x)
    front = frontiers.frontier(model, point(model, DRAWS, 0, 1), point(model, DRAWS, 1, 1))
    wide = frontiers.extended(model, front)
    draw = sampler(wide, DRAWS, on_device(wide, DRAWS))
    _, minds = frontiers.unminded(wide, front, [draw(w, 64) for w in range(2)])
    return model, front, minds


def found(name, draw=0, chosen=None):
    """Invariances at a draw of the parameters, each a row (shifts, all entries)."""
    model, front, minds = followed(name)
    known = frontiers.known(front, point(model, DRAWS, draw, 1))
    every = invariances.find(front.flow, known, front.biases, minds, chosen)
    rows = [np.zeros((0, model.biases.total))]
    for one in every:
        whole = np.zeros((next(iter(one.parts.values())).shape[0], model.biases.total))
        for b, part in one.parts.items():
            whole[:, model.biases.slices[b]] = spans.dense(part)
        rows.append(whole)
    return np.concatenate(rows)


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


def null_space(model, draw):
    """Directions of all biases that change nothing at several inputs."""
    drawn = weights_at(model, DRAWS, draw)
    flat = jnp.asarray(model.biases.gather(drawn))
    run = jax.jit(jax.jacobian(model.outputs))
    rows = np.concatenate([run(flat, [*drawn, *inputs_at(model, DRAWS, draw, i)]) for i in range(1, 6)])
    return scipy.linalg.null_space(rows, rcond=1e-10)


@pytest.mark.parametrize("draw", [0, 3])
def test_they_are_the_null_space_of_the_jacobian(name, draw):
    model, rows = followed(name)[0], found(name, draw)
    free = null_space(model, draw)
    assert np.linalg.matrix_rank(rows, tol=1e-9) == free.shape[1] == MODELS[name].invariances
    np.testing.assert_allclose(rows @ free @ free.T, rows, atol=1e-8 * np.abs(rows).max())


def test_finite_shifts_change_nothing(name):
    model, rows = followed(name)[0], found(name)
    rng = np.random.default_rng(0)
    run = jax.jit(jax.vmap(model.outputs, (0, None)))
    for i, size in ((1, 0.1), (2, 3.0)):
        leaves = point(model, DRAWS, 0, i)
        flat = model.biases.gather(leaves)
        steps = rows / np.abs(rows).max(1, keepdims=True)
        steps = size * np.concatenate([steps, rng.standard_normal((3, len(steps))) @ steps])
        base, *moved = np.asarray(run(flat + np.concatenate([0 * steps[:1], steps]), leaves))
        np.testing.assert_allclose(moved, np.broadcast_to(base, np.shape(moved)), atol=1e-12)
        # What is no invariance does
        assert np.abs(run(flat + rng.standard_normal((1, len(flat))), leaves)[0] - base).max() > 1e-3


def test_only_chosen_biases_are_shifted(name):
    model, free = followed(name)[0], null_space(followed(name)[0], 0)
    for chosen in ({0}, {0, 1}, {len(model.biases.indices) - 1}):
        rows = found(name, chosen=frozenset(chosen))
        owners = np.repeat(np.arange(len(model.biases.sizes)), model.biases.sizes)
        others = ~np.isin(owners, [*chosen])
        assert not rows[:, others].any()
        left = free.shape[1] - np.linalg.matrix_rank(free[others], tol=1e-9)
        assert np.linalg.matrix_rank(rows, tol=1e-9) == left


FRONTIERS = {
    "linear pair": [],
    "parallel": [(1, 4), (1, 2)],
    "batch norm": [(1, 5)],
    "eval batch norm": [(1, 5)],
    "attention": [(1, 1, 3), (1, 3, 1)],
    "convolutions": [(1, 1, 1, 4)],
}


@pytest.mark.parametrize("name", FRONTIERS)
def test_frontiers_inside_a_model(name):
    _, front, minds = followed(name)
    assert sorted(front.inner.values()) == sorted(FRONTIERS[name])
    assert set(minds) == set(front.shapes)
    # Only attention weights add up to the same for all data
    assert list(front.sums.values()) == ([pytest.approx(1.0)] if name == "attention" else [])
    # Softmax does not mind what is the same at every key
    free: dict[Any, Any] = {shape: minds[v] for v, shape in front.inner.items()}
    assert all(basis is None if shape == (1, 3, 1) else not len(basis) for shape, basis in free.items())


def test_the_extended_model_is_the_model_where_nothing_is_shifted():
    model, front, _ = followed("attention")
    wide = frontiers.extended(model, front)
    leaves, n = point(model, DRAWS, 0, 1), model.parameters
    zeros = [np.zeros(shape) for shape in front.inner.values()]
    leaves_wide = [*leaves[:n], *zeros, *leaves[n:]]
    assert wide.biases.total == model.biases.total + sum(zero.size for zero in zeros)
    np.testing.assert_allclose(
        wide.outputs(wide.biases.gather(leaves_wide), leaves_wide),
        model.outputs(model.biases.gather(leaves), leaves),
        rtol=1e-13,
    )
