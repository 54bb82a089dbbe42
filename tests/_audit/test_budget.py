"""How much work an audit may do, from the sizes of its biases alone."""

import hypothesis
import hypothesis.strategies as st

from biasjax._audit import budget

SIZES = st.lists(st.integers(1, 600), min_size=1, max_size=8)
SMALL = [100, 8]


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(SIZES, st.integers(1, 5000), st.integers(1, 16), st.booleans())
def test_rows_suffice_for_every_bias(sizes, width, draws, joint):
    plan = budget.rows_wanted(sizes, width, draws, joint)
    assert len(plan) >= draws
    assert sum(plan) >= max(sizes) + 32
    if joint:
        assert min(plan[: budget.draws_compared(sizes, draws)]) >= budget.rows_to_compare(sum(sizes))


def test_small_models_are_seen_at_many_inputs():
    plan = budget.rows_wanted(SMALL, 1000, draws=8, joint=False)
    assert len(plan) == 8
    assert min(plan) >= 128


def test_few_outputs_take_more_draws():
    # A call of one output gives one row: 16 draws, not 8 of many inputs
    assert len(budget.rows_wanted(SMALL, 1, draws=8, joint=False)) == 15
    assert len(budget.rows_wanted([30], 1, draws=8, joint=False)) == 16


def test_calls_hold_no_more_numbers_than_fit():
    assert [budget.rows_at_once(width) for width in (5, 1000, 6_432_896, 10**9)] == [5, 8, 3, 1]


def test_limits_grow_with_the_model():
    few, many = [100], [1000]
    assert (budget.draws_compared(few, 8), budget.draws_compared(many, 8)) == (8, 2)
    assert (budget.may_draw_more(few, 99), budget.may_draw_more(many, 15)) == (True, True)
    assert not budget.may_draw_more(many, 16)
    assert (len(budget.death_shifts(100)), len(budget.death_shifts(3000))) == (2, 1)
    assert budget.round_off(3000) == (1, 1, 1)
    assert min(budget.round_off(100)) == 4
    assert (budget.shifts_at_once(100), budget.shifts_at_once(3000)) == (3, 1)
    assert (budget.death_passes(100, 30), budget.death_passes(3000, 30)) == (30, 4)
    assert budget.draws_proving(8) == (2, 4, 8)


def test_points_that_are_shifted():
    assert [budget.points_shifted(n, 10) for n in (1, 10, 11, 10**6)] == [4, 4, 5, 67]
