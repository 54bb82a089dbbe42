"""Spans of sparse rows against dense linear algebra."""

import numpy as np
import pytest

from biasjax._audit import spans

RNG = np.random.default_rng(0)


def mostly_single(width, mixed):
    """Rows with one entry for half the columns, and dense ones."""
    half = RNG.permutation(width)[: width // 2]
    single = np.eye(width)[half] * RNG.uniform(0.5, 2.0, (len(half), 1))
    return np.concatenate([single, RNG.standard_normal((mixed, width))])


def test_the_largest_of_single_entries_is_taken():
    columns, rows = spans.singles(np.array([[0.0, 1e-16, 0.0], [0.0, 3.0, 0.0], [1.0, 1.0, 0.0]]))
    assert (columns.tolist(), rows.tolist()) == ([1], [1])


@pytest.mark.parametrize("scale", [1.0, 1e-8])
def test_combinations_that_vanish(scale):
    rows = RNG.standard_normal((5, 3)) @ RNG.standard_normal((3, 20))
    rows[1] *= scale
    found = spans.left_null(rows)
    assert found.shape == (2, 5)
    np.testing.assert_allclose(found @ rows, 0.0, atol=1e-12)


def test_combinations_of_many_columns():
    rows = RNG.standard_normal((6, 4)) @ RNG.standard_normal((4, 5000))
    found = spans.left_null(rows)
    assert found.shape == (2, 6)
    np.testing.assert_allclose(found @ rows, 0.0, atol=1e-9)
    assert len(spans.left_null(RNG.standard_normal((6, 5000)))) == 0


@pytest.mark.parametrize("entries", [2, 3, 9])
def test_rows_of_few_entries_among_many_columns_are_not_taken_for_dependent(entries):
    rows = np.zeros((300, 6000))
    rng = np.random.default_rng(1)
    columns = rng.permutation(6000)[: 300 * entries].reshape(300, entries)
    np.put_along_axis(rows, columns, rng.standard_normal(columns.shape), 1)
    assert spans.left_null(rows).shape == (0, 300)
    rows[7] = rows[1] - 2 * rows[5]
    weights = spans.left_null(rows)
    assert weights.shape == (1, 300)
    np.testing.assert_allclose(weights @ rows, 0.0, atol=1e-12)


@pytest.mark.parametrize(("count", "width", "rank"), [(4, 9, 4), (9, 4, 4), (6, 8, 3), (0, 3, 0)])
def test_rank(count, width, rank):
    rows = RNG.standard_normal((count, rank)) @ RNG.standard_normal((rank, width))
    assert spans.rank(rows) == rank


@pytest.mark.parametrize("mixed", [0, 3, 8])
def test_the_intersection_of_spans(mixed):
    one, other = mostly_single(12, mixed), mostly_single(12, mixed)
    dimension, vector = spans.common([one, other], RNG)
    expected = np.linalg.matrix_rank(one) + np.linalg.matrix_rank(other)
    expected -= np.linalg.matrix_rank(np.concatenate([one, other]))
    assert dimension == expected
    for rows in (one, other) if dimension else ():
        weights = np.linalg.lstsq(rows.T, vector)[0]
        np.testing.assert_allclose(weights @ rows, vector, atol=1e-9)


@pytest.mark.parametrize("mixed", [0, 4, 9])
def test_solving(mixed):
    rows = mostly_single(10, mixed)
    target = RNG.standard_normal(len(rows)) @ rows
    np.testing.assert_allclose(spans.solve(rows, target) @ rows, target, atol=1e-10)
