"""How much work an audit may do, from the sizes of its biases alone."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from biasjax._audit import budget

SIZES = st.lists(st.integers(1, 3000), min_size=1, max_size=8)
SMALL, LARGE = [100, 8], [3000, 600, 10]


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(SIZES, st.integers(1, 5000), st.integers(1, 16), st.sampled_from([0, 100, 2048]))
def test_rows_suffice_for_every_bias(sizes, width, draws, limit):
    plan = budget.rows_wanted(sizes, width, draws, limit)
    assert (np.sum(plan, 0) >= np.array(sizes) + 32).all()
    if limit:
        compared = plan[: budget.draws_compared(sizes, draws)]
        assert (np.array(compared) >= budget.rows_compared(sizes, limit)).all()


def test_small_models_are_seen_at_many_inputs():
    for wanted in budget.rows_wanted(SMALL, 1000, draws=8, limit=0):
        assert (wanted >= 128).all()
    assert len(budget.rows_wanted(SMALL, 1000, draws=8, limit=0)) == 8


def test_large_models_take_half_the_draws_and_few_rows_for_small_biases():
    plan = budget.rows_wanted(LARGE, 10_000, draws=8, limit=0)
    assert [wanted.tolist() for wanted in plan] == [[758, 158, 158]] * 4


def test_few_outputs_take_more_draws():
    # A call of one output gives one row: 16 draws, not 8 of many inputs
    assert len(budget.rows_wanted(SMALL, 1, draws=8, limit=0)) == 15
    assert len(budget.rows_wanted([30], 1, draws=8, limit=0)) == 16


def test_limits_grow_with_the_model():
    few, many = [100], [1000]
    assert (budget.draws_compared(few, 8), budget.draws_compared(many, 8)) == (8, 2)
    assert (budget.may_draw_more(few, 99), budget.may_draw_more(many, 15)) == (True, True)
    assert not budget.may_draw_more(many, 16)
    assert (budget.rows_at_once(100, 1000), budget.rows_at_once(3000, 1000)) == (8, 64)
    assert budget.rows_at_once(3000, 5) == 5
    assert (len(budget.death_shifts(100)), len(budget.death_shifts(3000))) == (2, 1)
    assert budget.round_off(3000) == (1, 2, 1)
    assert min(budget.round_off(100)) == 4


def test_points_that_are_shifted():
    assert [budget.points_shifted(n, 10) for n in (1, 10, 11, 10**6)] == [4, 4, 5, 67]


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(SIZES, st.integers(1, 6000))
def test_windows_hold_every_bias_and_its_neighbour(sizes, most):
    runs = budget.windows(sizes, most)
    assert sorted({i for run in runs for i in run}) == list(range(len(sizes)))
    for run in runs:
        assert run == list(range(run[0], run[-1] + 1))
        assert len(run) == 1 or sum(sizes[i] for i in run) <= most
    if all(one + next_one <= most for one, next_one in itertools.pairwise(sizes)):
        together = {pair for run in runs for pair in itertools.pairwise(run)}
        assert together == set(itertools.pairwise(range(len(sizes))))


@pytest.mark.parametrize(
    ("sizes", "most", "runs"),
    [
        ([2, 2, 2, 2], 4, [[0, 1], [1, 2], [2, 3]]),
        ([2, 2], 100, [[0, 1]]),
        ([5, 1, 5], 4, [[0], [1], [2]]),
        ([], 4, []),
    ],
)
def test_windows_by_hand(sizes, most, runs):
    assert budget.windows(sizes, most) == runs


def test_one_window_for_all_up_to_the_limit():
    assert budget.at_once([1000, 1048], 2048) == 2048
    assert budget.at_once([1000, 1049], 2048) == 1024
