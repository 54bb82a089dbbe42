"""Where shifts die: the very line, also within scans, branches and loops, and nowhere else."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax._audit import deaths
from biasjax._jaxpr.double import program

X = np.random.default_rng(0).standard_normal((6, 4))
BIAS = np.array([0.3, -0.2, 0.1, 0.5])
# Shifts of all features alike, and of each by its own, each of two sizes
ALIKE, OWN = np.ones(4), np.array([1.0, -2.0, 0.5, 3.0])
SIZES = (0.1, 3.0)


def found(fn, *shifts, sizes=SIZES, x=X):
    lifted = program(fn, BIAS, x)
    copies = np.array([[BIAS + size * shift for size in sizes] for shift in shifts])
    with jax.enable_x64(True):
        return [died[0] for died in deaths.find(lifted.jaxpr, [BIAS, x], [copies], [0])]


def marked(fn):
    """Place of the marked line."""
    lines, first = inspect.getsourcelines(fn)
    [line] = [first + i for i, line in enumerate(lines) if "# here" in line]
    return f"test_deaths.py:{line} "


def norm(b, x):
    y = x + b
    with jax.named_scope("norm"):
        centred = y - y.mean(0)  # here
    return centred / jnp.sqrt(jnp.square(centred).mean(0) + 1e-5)


def softmax(b, x):
    y = x + b
    grown = jnp.exp(y - y.max(-1, keepdims=True))  # here
    return grown / grown.sum(-1, keepdims=True)


def softmax_by_ratio(b, x):
    grown = jnp.exp(x + b)
    return grown / grown.sum(-1, keepdims=True)  # here


def scanned(b, x):
    def step(carry, row):
        y = row + b
        y = y - y.mean()  # here
        return carry + y, y * carry

    return jax.lax.scan(step, jnp.zeros(4, x.dtype), x)


def branched(b, x):
    def taken(y):
        return y - y.mean(-1, keepdims=True)  # here

    def other(y):
        return y - y.max(-1, keepdims=True)

    return jax.lax.cond(x.sum() < 1e6, taken, other, x + b)


def looped(b, x):
    def step(carry):
        i, y = carry
        return i + 1, jnp.tanh(y - y.mean(-1, keepdims=True))  # here

    return jax.lax.while_loop(lambda carry: carry[0] < 2, step, (0, x + b))[1]


def nested(b, x):
    def taken(y):
        return y - y.mean(-1, keepdims=True)  # here

    def step(y, i):
        return jax.lax.cond(i < 5, taken, jnp.tanh, y), None

    return jax.lax.scan(step, x + b, jnp.arange(2))[0]


@pytest.mark.parametrize("fn", [norm, softmax, softmax_by_ratio, scanned, branched, looped, nested])
def test_the_line_is_named(fn):
    alike, own = found(fn, ALIKE, OWN)
    assert len({death.where for death in alike}) == 1
    assert marked(fn) in alike[0].where
    assert alike[0].primitive == ("div" if fn is softmax_by_ratio else "sub")
    # A norm over examples cancels any shift, one over features that of all features alone
    assert own == (alike if fn is norm else ())


def test_the_module_is_named():
    [[death]] = found(norm, OWN)
    assert death.module == "norm"
    assert death.where.endswith("(norm)")


def test_the_line_of_a_jitted_model_is_its_own():
    [[death]] = found(jax.jit(norm), OWN)
    assert marked(norm) in death.where


def test_a_shift_that_arrives_dies_nowhere():
    assert found(lambda b, x: jnp.tanh(x + b), ALIKE, OWN) == [(), ()]


def test_all_sizes_must_die():
    def off(b, x):
        return jnp.maximum(x + b - 20, 0)

    assert found(off, ALIKE)[0][0].primitive == "max"
    assert found(off, ALIKE, sizes=(0.1, 100.0)) == [()]


def test_a_comparison_counts_where_there_is_nothing_else():
    def compared(b, x):
        return jnp.where(x + b > 100, 1.0, 0.0)

    assert [death.primitive for death in found(compared, ALIKE)[0]] == ["gt"]

    def both(b, x):
        return compared(b, x), norm(b, x)

    assert {death.primitive for death in found(both, ALIKE)[0]} == {"sub"}


def test_masks_are_no_yardstick():
    def masked(b, x):
        y = jnp.where(np.arange(4) < 3, x + b, -1e30)
        return jax.nn.softmax(y)

    alike, own = found(masked, ALIKE, OWN)
    assert [death.primitive for death in alike] == ["sub"]
    assert own == ()


def test_a_layout_does_not_change_a_value():
    def reshaped(b, x):
        y = (x + b).reshape(2, 3, 4).transpose(2, 0, 1)
        return y - y.mean(0)  # here

    [died] = found(reshaped, ALIKE)
    assert [marked(reshaped) in death.where for death in died] == [True]


def test_several_shifts_of_a_pass_die_each_at_its_own_line():
    def two(b, c, x):
        y = x + b
        y = y - y.mean(0)  # here
        return jax.nn.softmax(jnp.tanh(y) + c)

    lifted = program(two, BIAS, BIAS, X)
    still, moved = BIAS[None, None], BIAS[None, None] + 3.0
    copies = [np.concatenate(some) for some in ([moved, still, moved], [still, moved, moved])]
    with jax.enable_x64(True):
        first, second, both = deaths.find(lifted.jaxpr, [BIAS, BIAS, X], copies, [0, 1])
    assert first.keys() == {0}
    assert second.keys() == {1}
    assert both == first | second
    assert marked(two) in both[0][0].where
    assert marked(two) not in both[1][0].where
