"""One interpreter of traced programs; what it computes is a table of rules.

An interpretation gives every variable of a jaxpr a value of its own kind: an array in float64, two copies of
an array, the name of a layer. A rule says how an equation makes such values of others; rules that want to see
into the programs within an equation (scan, cond, while, calls) interpret them in turn.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.extend import source_info_util

# Equations that only wrap a program; "conv" is the convolution of `linear`
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
CALLS += ("custom_jvp_call", "custom_vjp_call", "conv")

# rule(equation, values of its inputs, scope) -> values of its outputs
Rule = Callable[[Any, list, Any], Sequence]


class Rules(NamedTuple):
    """What an interpretation does at each equation.

    Attributes
    ----------
    table
        Rules by the name of the primitive.
    default
        Rule of all others.
    literal
        Value of a number that stands in the program itself.
    """

    table: Mapping[str, Rule]
    default: Rule
    literal: Callable[[Any], Any] = lambda number: number


def interpret(
    rules: Rules, jaxpr: jex.Jaxpr, consts: Sequence, args: Sequence, scope: Any = None, *, caller: Any = None
) -> list:
    """Walk through a program and return the values of its outputs.

    What the rules evaluate keeps the name stack and source line of its equation. Equations without outputs
    (debugging prints) are passed over, unless they write to a reference.

    Parameters
    ----------
    rules
        How to treat an equation.
    jaxpr, consts, args
        Program, and values of its constants and inputs.
    scope
        Handed to every rule: what belongs to this one walk.
    caller
        Traceback of the call whose body this is, for a body that JAX wrote (softmax, var): its equations take
        the line of the call, but those of user code within.

    Examples
    --------
    How deep each output lies, counted in equations:

    >>> deep = Rules({}, lambda eqn, ins, scope: [1 + max(ins)] * len(eqn.outvars), lambda number: 0)
    >>> program = jax.make_jaxpr(lambda x: (x + 1, jnp.tanh(x + 1) * x))(1.0)
    >>> interpret(deep, program.jaxpr, program.consts, [0])
    [1, 3]
    """
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom):
        return rules.literal(atom.val) if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        if not eqn.outvars and not any("Ref" in type(atom.aval).__name__ for atom in eqn.invars):
            continue
        seen = _seen_from(caller, eqn)
        rule = rules.table.get(eqn.primitive.name, rules.default)
        stack = source_info_util.current_name_stack() + seen.source_info.name_stack
        with source_info_util.user_context(seen.source_info.traceback, name_stack=stack):
            outs = rule(seen, [read(atom) for atom in eqn.invars], scope)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _seen_from(caller: Any, eqn: Any) -> Any:
    if caller is None or _has_user_frame(eqn.source_info.traceback):
        return eqn
    return eqn.replace(source_info=eqn.source_info.replace(traceback=caller))


def is_of_jax(file: str) -> bool:
    """Whether a source file belongs to JAX itself."""
    return file.startswith(os.path.dirname(jax.__file__))


@functools.cache
def _has_user_frame(traceback: Any) -> bool:
    """Whether an equation of a jitted function comes from user code within that function."""
    for frame in traceback.frames if traceback else ():
        if not is_of_jax(frame.file_name):
            return True
        if os.path.basename(frame.file_name) == "pjit.py":
            return False
    return False


def bind(eqn: Any, ins: Sequence, params: Mapping[str, Any] | None = None) -> list:
    """Apply the primitive of an equation to arrays, with its own parameters or with others."""
    bound = eqn.primitive.get_bind_params(dict(eqn.params if params is None else params))
    subfuns, bound = bound if isinstance(bound, tuple) else ((), bound)
    outs = eqn.primitive.bind(*subfuns, *ins, **bound)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def scan(eqn: Any, ins: Sequence, step: Callable[[Any, list], tuple[Sequence, Any]]) -> tuple[list, Any]:
    """Run the loop of a scan equation with another step.

    Parameters
    ----------
    eqn, ins
        The equation and its inputs, arrays or pytrees of arrays.
    step
        ``step(index, inputs of the body) -> (outputs of the body, report)``.

    Returns
    -------
    list, pytree
        Outputs of the equation, and the reports with a first axis of steps.
    """
    p, n = eqn.params, eqn.params["num_consts"]
    k = p["num_carry"]

    def body(carry, xs):
        index, *carried = carry
        outs, report = step(index, [*ins[:n], *carried, *xs])
        return (index + 1, *outs[:k]), (list(outs[k:]), report)

    start, xs = (np.int32(0), *ins[n : n + k]), list(ins[n + k :])
    carry, (ys, reports) = jax.lax.scan(body, start, xs, p["length"], p["reverse"], p["unroll"])
    return [*carry[1:], *ys], reports


def wrapped(eqn: Any) -> Any:
    """Program, open or closed, that one of `CALLS` wraps."""
    return eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]


def within(eqn: Any) -> Iterator[tuple[str, Any]]:
    """Programs (open or closed jaxprs) among the parameters of an equation, with the parameter's name."""
    for name, value in eqn.params.items():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (jex.ClosedJaxpr, jex.Jaxpr)):
                yield name, item


def constants(program: Any) -> list[Any]:
    """Arrays that a traced program closes over, those of the programs inside it included; keys as bits."""
    found = list(getattr(program, "consts", ()))
    keys = [jnp.issubdtype(jnp.result_type(c), jax.dtypes.prng_key) for c in found]
    own = [jax.random.key_data(c) if key else c for key, c in zip(keys, found, strict=True)]
    return own + [c for eqn in program.eqns for _, inner in within(eqn) for c in constants(inner)]
