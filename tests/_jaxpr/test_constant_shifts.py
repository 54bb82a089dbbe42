"""Shifts in reduced form against `jax.jvp` at the full shape, equation by equation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax._jaxpr import constant
from biasjax._jaxpr.double import program

RNG = np.random.default_rng(0)
DATA: Any = RNG.standard_normal((2, 3, 4))
WEIGHTS: Any = RNG.standard_normal((4, 5))
KERNEL: Any = RNG.standard_normal((3, 3, 4, 6))
DEPTHWISE: Any = RNG.standard_normal((3, 3, 1, 4))
conv = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(2, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
)
# An image, whose shift is the same at all places of all examples
IMAGE = RNG.standard_normal((2, 5, 5, 4))

# Functions of (2, 3, 4) that are linear, and that carry a shift which is constant along axes
LINEAR = {
    "add": lambda x: x + 2.0,
    "scaled": lambda x: x * jnp.arange(1.0, 5.0) / 3.0,
    "negated": lambda x: -x,
    "merged": lambda x: x.reshape(6, 4),
    "merged with what varies": lambda x: x.reshape(2, 12),
    "split": lambda x: x.reshape(2, 3, 2, 2).transpose(0, 2, 1, 3),
    "new axes": lambda x: x[:, None, :, :, None],
    "squeezed": lambda x: x[:1].squeeze(0),
    "sliced": lambda x: x[:, 1:, ::2],
    "reversed": lambda x: x[:, ::-1, ::-1],
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0))),
    "joined": lambda x: jnp.concatenate([x, 0 * x, DATA], 1),
    "joined along features": lambda x: jnp.concatenate([x, 2 * x], 2),
    "parts": lambda x: jnp.split(x, 2, 2)[1],
    "chosen": lambda x: jnp.where(jnp.arange(4) < 2, x, 0.0),
    "summed": lambda x: x.sum((0, 2)),
    "mean": lambda x: x.mean(1, keepdims=True),
    "summed over a vmapped axis": lambda x: jax.vmap(
        lambda row: row - jax.lax.pmean(row, "batch"), axis_name="batch"
    )(x),
    "centred": lambda x: x - x.mean(2, keepdims=True),
    "cumulated": lambda x: jnp.cumsum(x, 1),
    "dense": lambda x: x @ WEIGHTS,
    "batched": lambda x: jnp.einsum("bij,bjk->bik", x, jnp.broadcast_to(WEIGHTS, (2, 4, 5))),
    "from the left": lambda x: jnp.einsum("ij,bjk->bik", jnp.ones((7, 3)), x),
    "taken": lambda x: x[:, :, np.array([3, 0])],
}


def carried(fn, x, shift) -> Any:
    """Shifts of the output of a function of one input that is shifted, by the rules."""
    lifted = program(lambda shift, x: fn(x + shift), jnp.zeros(shift.shape), jnp.asarray(x))
    jaxpr = lifted.jaxpr.jaxpr
    env, known = {jaxpr.invars[0]: shift[None]}, dict(zip(jaxpr.constvars, lifted.jaxpr.consts, strict=True))

    def value(atom):
        if hasattr(atom, "val"):
            return np.asarray(atom.val)
        return np.asarray(known[atom]) if atom in known else None

    for eqn in jaxpr.eqns:
        ins = [None if hasattr(v, "val") else env.get(v) for v in eqn.invars]
        if all(i is None for i in ins):
            operands: list[Any] = [value(v) for v in eqn.invars]
            if all(v is not None for v in operands):
                known |= zip(eqn.outvars, constant.evaluate(eqn, operands), strict=True)
            continue
        outs = constant.shifts(eqn, ins, constant.Known(value, lambda eqn, operand: None))
        if outs is None:
            return None
        env |= {v: out for v, out in zip(eqn.outvars, outs, strict=True) if out is not None}
    found = env.get(jaxpr.outvars[0])
    return np.zeros((1,) * (1 + len(jaxpr.outvars[0].aval.shape))) if found is None else found


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("shape", [(4,), (3, 1), (2, 1, 4), (2, 3, 4)], ids=str)
def test_they_are_those_of_the_whole(name, shape, x64):
    fn, shift = LINEAR[name], RNG.standard_normal(shape)
    found = carried(fn, DATA, shift)
    _, whole = jax.jvp(fn, (DATA,), (jnp.broadcast_to(shift, DATA.shape),))
    np.testing.assert_allclose(np.broadcast_to(found[0], whole.shape), whole, rtol=0, atol=1e-12)
    assert found.size <= whole.size


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: conv(x, KERNEL),
        lambda x: conv(x, KERNEL, rhs_dilation=(1, 2)),
        lambda x: conv(x, KERNEL[:1, :1], padding="VALID"),
        lambda x: conv(x, DEPTHWISE, feature_group_count=4),
        lambda x: conv(x, KERNEL[:, :, :2], feature_group_count=2),
        lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        lambda x: jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"),
    ],
)
def test_windows(fn, x64):
    shift = RNG.standard_normal(4)
    found = carried(fn, IMAGE, shift)
    whole = fn(jnp.asarray(IMAGE) + shift) - fn(jnp.asarray(IMAGE))
    np.testing.assert_allclose(np.broadcast_to(found[0], whole.shape), whole, rtol=0, atol=1e-12)
    assert found.shape[1] == 1


@pytest.mark.parametrize(
    "fn", [jnp.tanh, jnp.square, jax.nn.relu, lambda x: x.max(2), lambda x: x * jnp.sin(x)]
)
def test_what_depends_on_data_is_not_constant(fn, x64):
    assert carried(fn, DATA, RNG.standard_normal(4)) is None


def test_what_cancels_is_nothing(x64):
    found = carried(lambda x: x - x.mean((0, 1)), DATA, RNG.standard_normal(4))
    np.testing.assert_array_equal(found, 0.0)


def test_reduced():
    assert constant.reduced(np.ones((3, 4)) * np.arange(4)).shape == (1, 4)
