"""Dead directions of a pattern from fewer rows than entries."""

import numpy as np
import pytest

from biasjax._audit.patterns import unminded

ROWS = np.random.default_rng(0).standard_normal((24, 120)) * 1e9


def projector(basis):
    return basis @ basis.T


def centred(rows, groups):
    """Rows that do not mind a shift of all entries of a group."""
    rows = rows.copy()
    for group in groups:
        rows[:, group] -= rows[:, group].mean(1, keepdims=True)
    return rows


INDEX = np.arange(120)
GROUPS = {
    "none": ((120,), []),
    "uniform": ((120,), [INDEX]),
    "neighbours": ((120,), INDEX.reshape(8, 15)),
    "every eighth": ((120,), INDEX.reshape(15, 8).T),
    "a third": ((120,), [INDEX[40:80]]),
    "axis": ((4, 10, 3), np.moveaxis(INDEX.reshape(4, 10, 3), 1, 2).reshape(-1, 10)),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups(name):
    shape, groups = GROUPS[name]
    expected = np.zeros((120, len(groups)))
    for column, group in enumerate(groups):
        expected[group, column] = len(group) ** -0.5
    found = unminded(centred(ROWS, groups), shape)
    np.testing.assert_allclose(projector(found), projector(expected), atol=1e-12)


def test_entries_and_what_is_left_of_groups():
    rows = ROWS.copy()
    rows[:, 10:20] = 0.0
    found = unminded(centred(rows, [np.r_[0:10, 20:120]]), (120,))
    expected = np.eye(120)[:, 10:21]
    expected[:, -1] = np.r_[np.ones(10), np.zeros(10), np.ones(100)] / np.sqrt(110)
    np.testing.assert_allclose(projector(found), projector(expected), atol=1e-12)


def test_as_many_rows_as_entries_show_any_direction():
    direction = np.random.default_rng(1).standard_normal(12)
    direction /= np.linalg.norm(direction)
    rows = ROWS[:, :12] - np.outer(ROWS[:, :12] @ direction, direction)
    np.testing.assert_allclose(projector(unminded(rows, (12,))), np.outer(direction, direction), atol=1e-6)


def test_round_off_is_nothing():
    noise = np.random.default_rng(1).standard_normal((24, 120))
    assert unminded(noise, (120,)).shape == (120, 120)
