"""Where layers meet data; models are in test_tree."""

import jax
import jax.numpy as jnp

from biasjax._jaxpr.meetings import Meeting, find

B, X = jnp.ones(4), jnp.ones((3, 4))


def found(fn, owners=("bias",)):
    return find(jax.make_jaxpr(fn)(B, X), owners)


def test_a_scatter_into_data_is_a_meeting():
    for scattered in (lambda b, x: x.at[0].add(b), lambda b, x: x.at[1].set(b), lambda b, x: x.at[0].max(b)):
        assert found(scattered) == {"bias": Meeting((3, 4), 1)}


def test_a_print_is_none():
    def fn(b, x):
        jax.debug.print("{} {}", b, x)
        return (x + b).sum(0)

    assert found(fn) == {"bias": Meeting((3, 4), 1)}


def test_parameters_by_themselves_are_none():
    assert found(lambda b, x: (jnp.tanh(2 * b), x)) == {}


def test_steps_of_scans_within_scans_multiply():
    def fn(b, x):
        def outer(x, _):
            return jax.lax.scan(lambda x, _: (x + b, None), x, None, length=5)[0], None

        return jax.lax.while_loop(
            lambda x: x[0, 0] < 1, lambda x: jax.lax.scan(outer, x, None, length=3)[0], x
        )

    assert found(fn) == {"bias": Meeting((3, 4), 15)}


def test_layers_that_meet_each_other_are_data_from_there_on():
    assert found(lambda b, x: b * x[0], ("first", "second")) == {
        "first": Meeting((4,), 1),
        "second": Meeting((4,), 1),
    }
