"""The interpreter: which rule meets which equation, what it is handed, and where it says that it stands."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.extend import source_info_util

from biasjax._jaxpr.interpret import Rules, bind, constants, interpret, scan, within

PLAIN = Rules({}, lambda eqn, ins, scope: bind(eqn, ins))


def run(rules, fn, *args, scope=None):
    closed = jax.make_jaxpr(fn)(*args)
    return interpret(rules, closed.jaxpr, closed.consts, args, scope)


def test_binding_every_equation_gives_the_function():
    def fn(x, y):
        weights = jnp.asarray(np.arange(3.0, dtype=np.float32))
        sorted_x, order = jax.lax.sort((x, y), num_keys=1)
        return jax.lax.cond(x[0] > 0, jnp.tanh, jnp.exp, sorted_x) * weights, order, jnp.float32(2.0)

    args = jnp.array([0.3, -1.0, 2.0]), jnp.arange(3)
    for found, expected in zip(run(PLAIN, fn, *args), fn(*args), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_rule_takes_the_equations_of_its_name_and_the_scope():
    def negated(eqn, ins, scope):
        scope.append(eqn.primitive.name)
        return [-x for x in bind(eqn, ins)]

    names = []
    [found] = run(Rules({"sin": negated}, PLAIN.default), lambda x: jnp.cos(jnp.sin(x)) + x, 0.5, scope=names)
    np.testing.assert_allclose(found, np.cos(-np.sin(0.5)) + 0.5, rtol=1e-6)
    assert names == ["sin"]


def test_literals_have_a_value_of_their_own_kind():
    counted = Rules({}, lambda eqn, ins, scope: [sum(ins)] * len(eqn.outvars), literal=lambda number: 10)
    assert run(counted, lambda x: (x + 2.0) * x, 1) == [12]


def test_prints_are_passed_over():
    seen = Rules({}, lambda eqn, ins, scope: scope.append(eqn.primitive.name) or bind(eqn, ins))

    def fn(x):
        jax.debug.print("{}", x)
        return x + 1

    names = []
    run(seen, fn, jnp.ones(()), scope=names)
    assert names == ["add"]


def test_bind_takes_other_parameters():
    cast = Rules(
        {"convert_element_type": lambda eqn, ins, _: bind(eqn, ins, {**eqn.params, "new_dtype": np.int8})},
        PLAIN.default,
    )
    [found] = run(cast, lambda x: x.astype(np.int32), jnp.ones(2, np.float32))
    assert found.dtype == np.int8


def test_a_body_without_user_code_takes_the_line_of_its_call():
    places = Rules({}, lambda eqn, ins, scope: [source_info_util.summarize(eqn.source_info)])
    caller = jax.make_jaxpr(lambda x: x + 1)(1.0).eqns[0].source_info

    def place(fn):
        [call] = jax.make_jaxpr(fn)(jnp.ones(2)).eqns
        ins, body = [None] * len(call.invars), call.params["jaxpr"].jaxpr
        return [interpret(places, body, (), ins, caller=c)[0] for c in (None, caller.traceback)]

    own, called = place(lambda x: jnp.clip(x, 0, 1))  # jitted by JAX
    assert own != called == source_info_util.summarize(caller)
    own, called = place(jax.jit(lambda x: jax.lax.sin(x)))
    assert own == called


def test_scan_runs_another_step():
    def fn(c, xs):
        return jax.lax.scan(lambda c, x: (c + x, c * x), c, xs)

    def counted(eqn, ins, scope):
        body = jex.jaxpr_as_fun(eqn.params["jaxpr"])
        outs, indices = scan(eqn, ins, lambda i, args: (body(*args), i))
        scope.append(np.asarray(indices).tolist())
        return outs

    indices = []
    args = jnp.float32(2.0), jnp.arange(3, dtype=np.float32)
    found = run(Rules({"scan": counted}, PLAIN.default), fn, *args, scope=indices)
    for one, other in zip(found, fn(*args), strict=True):
        np.testing.assert_array_equal(one, other)
    assert indices == [[0, 1, 2]]


def test_constants_of_programs_inside_are_found_and_keys_are_bits():
    table, key = np.arange(6.0, dtype=np.float32), jax.random.key(3)

    def fn(x):
        inner = jax.jit(lambda x: x + jnp.asarray(table))
        return jax.lax.scan(lambda c, _: (inner(c), None), x, None, length=2)[0] + jax.random.uniform(
            key, (6,)
        )

    closed = jax.make_jaxpr(fn)(jnp.ones(6))
    found = [np.asarray(c) for c in constants(closed)]
    assert any(np.array_equal(c, table) for c in found)
    assert any(np.array_equal(c, jax.random.key_data(key)) for c in found)
    assert [name for eqn in closed.eqns for name, _ in within(eqn) if eqn.primitive.name == "scan"] == [
        "jaxpr"
    ]
