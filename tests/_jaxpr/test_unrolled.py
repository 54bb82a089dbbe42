"""Loops over layers are written out, and what they stack is taken apart, with the same outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from biasjax._jaxpr.unrolled import pieces, unrolled

KERNELS = jax.random.normal(jax.random.key(0), (3, 4, 4))
X = jax.random.normal(jax.random.key(1), (2, 4))


def layers(kernels, x):
    @jax.jit
    def layer(h, kernel):
        h = jax.nn.relu(h @ kernel)
        return h, h.sum()

    return jax.lax.scan(layer, x, kernels, reverse=True)


def test_a_scan_is_written_out_with_its_calls():
    program = jax.make_jaxpr(unrolled(layers))(KERNELS, X)
    names = {eqn.primitive.name for eqn in program.jaxpr.eqns}
    assert not names & {"scan", "jit", "pjit", "custom_jvp_call"}
    for a, b in zip(
        jax.tree.leaves(unrolled(layers)(KERNELS, X)), jax.tree.leaves(layers(KERNELS, X)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_loops_over_time_stay():
    def walk(x):
        return jax.lax.scan(lambda h, _: (0.5 * h, None), x, length=100)[0]

    assert "scan" in str(jax.make_jaxpr(unrolled(walk))(X))


def test_stacked_parameters_are_taken_apart_and_put_together():
    program = jax.make_jaxpr(unrolled(layers))(KERNELS, X)
    cut = pieces(program, 1)
    assert [number for number, _ in cut.cuts] == [0, 0, 0, 1]
    assert "slice" not in {eqn.primitive.name for eqn in cut.closed.jaxpr.eqns}
    values = [np.asarray(KERNELS), np.asarray(X)]
    apart = cut.apart(values)
    outs = jex.jaxpr_as_fun(cut.closed)(*apart)
    np.testing.assert_allclose(outs[0], layers(KERNELS, X)[0], rtol=1e-6)
    whole = cut.together(values, {1: 2 * apart[1]})
    np.testing.assert_array_equal(whole[0][1], 2 * KERNELS[1])
    np.testing.assert_array_equal(whole[0][0], KERNELS[0])
    assert whole[1] is values[1]


def test_what_is_also_read_whole_is_not_taken_apart():
    def both(kernels, x):
        return x @ kernels[0] + kernels.sum()

    assert [cut for _, cut in pieces(jax.make_jaxpr(unrolled(both))(KERNELS, X), 1).cuts] == [None, None]


def test_what_slices_share_is_not_taken_apart():
    def shared(kernels, x):
        return kernels[:2].sum() + kernels[1:].sum() + x.sum()

    assert [cut for _, cut in pieces(jax.make_jaxpr(unrolled(shared))(KERNELS, X), 1).cuts] == [None, None]


def test_one_slice_read_twice_is_one_piece():
    def twice(kernels, x):
        return x @ kernels[0] + jnp.tanh(kernels[0]).sum()

    cut = pieces(jax.make_jaxpr(unrolled(twice))(KERNELS, X), 1)
    assert len(cut.cuts) == 2
    assert cut.cuts[0][1] is not None
