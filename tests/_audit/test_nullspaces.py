"""Ranks and null spaces against numpy, and who can stand in for whom in Jacobians made by hand."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.linalg

from biasjax._audit import nullspaces

NOISE = 1e-13


def low_rank(rng, k, n, rank):
    """A matrix with singular values between 1 and 100."""
    left, right = (np.linalg.qr(rng.standard_normal((size, rank)))[0] for size in (k, n))
    return left * 10 ** rng.uniform(0, 2, rank) @ right.T


def projector(basis):
    return basis @ basis.T


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**16), st.sampled_from([1e-6, 1.0, 1e6])
)
def test_null_spaces_of_noisy_matrices(n, rank, seed, unit):
    rng, rank = np.random.default_rng(seed), min(rank, n)
    exact = unit * low_rank(rng, 3 * n, n, rank)
    noisy = exact + unit * NOISE * rng.standard_normal(exact.shape)
    basis = nullspaces.null_basis(noisy, unit * NOISE)
    assert basis.shape == (n, n - np.linalg.matrix_rank(exact, tol=unit * 1e-9)) == (n, n - rank)
    np.testing.assert_allclose(basis.T @ basis, np.eye(n - rank), atol=1e-12)
    np.testing.assert_allclose(
        projector(basis), projector(scipy.linalg.null_space(exact, rcond=1e-9)), atol=1e-9
    )


@pytest.mark.parametrize("noise", [1e-13, 1e-6])
def test_noise_decides_what_counts(noise):
    # The same small singular value is a direction above its noise, and none below it
    rng = np.random.default_rng(0)
    rows = low_rank(rng, 30, 4, 3) + 1e-7 * low_rank(rng, 30, 4, 1) + noise * rng.standard_normal((30, 4))
    assert nullspaces.null_basis(rows, noise).shape[1] == (0 if noise < 1e-7 else 1)


def test_null_spaces_of_nothing():
    np.testing.assert_array_equal(nullspaces.null_basis(np.zeros((0, 3))), np.eye(3))
    np.testing.assert_array_equal(projector(nullspaces.null_basis(np.zeros((5, 3)))), np.eye(3))


def test_live_directions_by_size():
    rng = np.random.default_rng(0)
    sizes = np.array([1.0, 1e-2, 1e-9, 0.0])
    directions = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    rows = rng.standard_normal((200, 4)) * sizes @ directions.T + NOISE * rng.standard_normal((200, 4))
    found = nullspaces.live(rows, NOISE)
    np.testing.assert_allclose(projector(found.directions), projector(directions[:, :2]), atol=1e-6)
    np.testing.assert_allclose(projector(found.weak), projector(directions[:, 2:3]), atol=1e-2)


# Known answers: outputs are independent directions, a block says what each entry of a bias does to them


def compared(*blocks):
    """`nullspaces.reproducible` of biases from their (outputs, entries), at 200 random rows with noise."""
    rng = np.random.default_rng(0)
    whole = np.concatenate(blocks, 1)
    rows = rng.standard_normal((200, len(whole))) @ whole
    rows += NOISE * rng.standard_normal(rows.shape)
    ends = np.cumsum([block.shape[1] for block in blocks])
    places = [slice(end - block.shape[1], end) for end, block in zip(ends, blocks, strict=True)]
    return nullspaces.reproducible(rows, places, [NOISE] * len(blocks))


def unit(*columns, outputs=6):
    return np.eye(outputs)[:, list(columns)]


def test_biases_that_do_different_things():
    (a, b), weak = compared(unit(0, 1), unit(2, 3))
    np.testing.assert_allclose(projector(a.rest), np.eye(2), atol=1e-9)
    assert (a.absorbed, a.by, b.absorbed, weak) == (0, (), 0, 0)


def test_the_directions_that_others_reproduce():
    # The second bias does what the first does in the direction (1, 1) and more
    (a, b), _ = compared(unit(0, 1), np.stack([unit(0)[:, 0] + unit(1)[:, 0], 100 * unit(4)[:, 0]], 1))
    np.testing.assert_allclose(projector(a.rest), [[0.5, -0.5], [-0.5, 0.5]], atol=1e-9)
    assert (a.absorbed, a.by) == (1, (1,))
    np.testing.assert_allclose(projector(b.rest), [[0, 0], [0, 1]], atol=1e-9)
    assert (b.absorbed, b.by) == (1, (0,))


def test_dead_directions_are_not_reproduced():
    # Of the first bias one entry does nothing; that is not counted among what is absorbed
    (a, b), _ = compared(np.concatenate([unit(0), np.zeros((6, 1))], 1), unit(0, 1))
    assert (a.absorbed, a.rest.shape) == (1, (2, 0))
    assert (b.absorbed, b.rest.shape) == (1, (2, 1))


def test_it_takes_two_to_reproduce_a_third():
    (a, *_), _ = compared(unit(0, 1), unit(0), unit(1), unit(2))
    assert (a.absorbed, sorted(a.by)) == (2, [1, 2])


def test_the_nearest_of_those_that_suffice_are_named():
    found, _ = compared(unit(0), unit(1), unit(0), unit(2), unit(0))
    # Of equally near ones the later
    assert [one.by for one in found] == [(2,), (), (4,), (), (2,)]


def test_weights_may_differ_by_many_orders():
    # A gain of a million between what a bias and its stand-in do
    (a, b), weak = compared(1e3 * unit(0, 1), 1e-3 * unit(0, 1), 1e-2 * unit(2))[0][:2], 0
    assert (a.absorbed, b.absorbed, weak) == (2, 2, 0)


def test_weak_directions_are_neither_reproduced_nor_reproduce():
    (a, b), weak = compared(unit(0, 1), 1e-10 * unit(0))
    assert weak == 1
    assert (a.absorbed, a.rest.shape[1]) == (0, 2)
    assert (b.absorbed, b.rest.shape[1]) == (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_unique_dimensions_of_random_blocks(seed):
    # dim of J_i v outside the range of the others: rank of all less that of the others
    rng = np.random.default_rng(seed)
    outputs = 12
    shared = rng.standard_normal((outputs, 4))
    blocks = [
        np.concatenate([shared @ rng.standard_normal((4, own)), rng.standard_normal((outputs, 1))], 1)
        for own in rng.integers(1, 4, 4)
    ]
    found, _ = compared(*blocks)
    for i, one in enumerate(found):
        others = np.concatenate([block for j, block in enumerate(blocks) if j != i], 1)
        alone = np.linalg.matrix_rank(blocks[i])
        unique = np.linalg.matrix_rank(np.concatenate([blocks[i], others], 1)) - np.linalg.matrix_rank(others)
        assert (one.rest.shape[1], one.absorbed) == (unique, alone - unique)
        if one.by:
            named = np.concatenate([blocks[j] for j in one.by], 1)
            both = np.linalg.matrix_rank(np.concatenate([blocks[i], named], 1))
            assert both - np.linalg.matrix_rank(named) == unique


# Small parts -----------------------------------------------------------------------------------------


def test_levelled_rows_are_no_longer_than_the_median():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((21, 3)) * np.logspace(-3, 3, 21)[:, None]
    found = np.linalg.norm(nullspaces.levelled(rows, NOISE), axis=1)
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(found, np.minimum(lengths, np.median(lengths)))
    noise = NOISE * rng.standard_normal((5, 3))
    assert nullspaces.levelled(noise, NOISE) is noise


def test_spread_rows_come_from_all_parts():
    rows = np.arange(100)[:, None]
    assert nullspaces.spread(rows, 10).ravel().tolist() == list(range(0, 100, 10))
    assert nullspaces.spread(rows, 1000) is not None
    assert len(nullspaces.spread(rows, 1000)) == 100


def test_common_rank_is_that_of_the_sum():
    eye = np.eye(5)
    assert nullspaces.common_rank([eye[:, :2], eye[:, 1:3]]) == 3
    assert nullspaces.common_rank([eye[:, :2], eye[:, :0]]) == 2
