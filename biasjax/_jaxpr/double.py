"""Any traced JAX function, evaluated in float64 whatever precision it asks for.

A float32 network carries round-off of 1e-7, and "this bias does nothing" cannot be told from "this bias
does little" at that level. `program` traces a function and rewrites the trace so that every floating
value is a float64 (every complex one a complex128): casts to bfloat16 or float32 inside a model become
casts to float64, while integers, booleans and random keys stay as they are. Calls (jit, remat, custom
derivatives) are written out on the way, which makes the derivative of the rewritten function that of what
it computes, not one that a ``custom_vjp`` or ``stop_gradient`` claims. Equations keep their name stack and
source line.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jax.interpreters import partial_eval

from biasjax import check
from biasjax._jaxpr import convolutions
from biasjax._jaxpr.interpret import CALLS, Rules, bind, interpret, is_of_jax, wrapped


class Program(NamedTuple):
    """A function of flat leaves in float64.

    Attributes
    ----------
    jaxpr
        Closed jaxpr; its inputs are the leaves of ``(params, *args)``.
    used
        For each input whether any output depends on it in the traced program.
    floating
        For each output whether it is a real floating or complex one.
    """

    jaxpr: jex.ClosedJaxpr
    used: tuple[bool, ...]
    floating: tuple[bool, ...]

    def __call__(self, *leaves: Any) -> list[jax.Array]:
        """Evaluate all outputs; call it inside ``jax.enable_x64(True)``."""
        return jex.jaxpr_as_fun(self.jaxpr)(*leaves)


def program(fn: Callable, params: Any, *args: Any, products: bool = True) -> Program:
    """Trace ``fn(params, *args)`` and lift the trace to float64.

    The function is traced in float64, so that its constants are exact to float64; one that fails there
    (a float32 carry of a scan, say) is traced as it was called and lifted afterwards. Convolutions become
    products where these are faster; ``products=False`` leaves all of them as they are.

    Returns
    -------
    Program
        Without the equations that no output depends on.

    Raises
    ------
    ValueError
        If ``fn`` raises, leaks tracers, or gives two different programs when traced twice.

    Examples
    --------
    >>> lifted = program(lambda p, x: (x @ p).astype(jnp.bfloat16), jnp.ones((3, 2)), jnp.ones(3))
    >>> with jax.enable_x64(True):
    ...     lifted(np.full((3, 2), 0.1), np.ones(3))[0].dtype
    dtype('float64')
    """
    try:
        traced, again = (_trace_in_double(fn, params, *args) for _ in range(2))
    except Exception:
        traced, again = (_trace(fn, params, *args) for _ in range(2))
    if not same(traced, again):
        check.fail(
            "audited function",
            "the same program whenever it is traced",
            "two different ones",
            "Make it pure: pass random keys and counters as arguments.",
        )
    with jax.enable_x64(True):
        lifted = lift(traced, products)
        wanted = [True] * len(lifted.jaxpr.outvars)
        jaxpr, _ = partial_eval.dce_jaxpr(lifted.jaxpr, wanted, instantiate=True)
        _, used = partial_eval.dce_jaxpr(lifted.jaxpr, wanted)
    floating = tuple(_is_inexact(aval.dtype) for aval in lifted.out_avals)
    return Program(jex.ClosedJaxpr(jaxpr, lifted.consts), tuple(used), floating)


def _trace_in_double(fn, params, *args):
    with jax.enable_x64(True), warnings.catch_warnings():
        # Flax nnx puts float64 statistics into float32 variables, whose values nobody wants here
        warnings.simplefilter("ignore", FutureWarning)
        lifted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _double(x.dtype)), (params, *args))
        return jax.make_jaxpr(lambda *args: fn(*args))(*lifted)  # a fresh function escapes the trace cache


def _trace(fn, params, *args):
    what = "audited function"
    try:
        return jax.make_jaxpr(lambda *args: fn(*args))(params, *args)
    except jax.errors.UnexpectedTracerError as error:
        raise ValueError(
            f"{what}: expected a pure function, got one that keeps traced values from an earlier call. "
            "Return what it stores (state, statistics) instead of assigning it."
        ) from error
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).rstrip('.')}"
        raise ValueError(
            f"{what}: expected fn(params, *args) to run, got {said}. "
            "Call it yourself with these arguments first."
        ) from error


def same(a: jex.ClosedJaxpr, b: jex.ClosedJaxpr) -> bool:
    """Whether two traced programs are the same, constants included."""
    if len(a.consts) != len(b.consts) or str(a.jaxpr) != str(b.jaxpr):
        return False
    pairs = zip(a.consts, b.consts, strict=True)
    return all(
        x is y
        or jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        or np.array_equal(x, y, equal_nan=_is_inexact(x.dtype))
        for x, y in pairs
    )


def lift(closed: jex.ClosedJaxpr, products: bool = True) -> jex.ClosedJaxpr:
    """Rewrite a traced program so that every floating value in it is a float64; ``products`` as in `program`.

    Call it inside ``jax.enable_x64(True)``.
    """

    def evaluate(*args):
        return _evaluate(closed, args, None, products)

    avals = [jax.ShapeDtypeStruct(aval.shape, _double(aval.dtype)) for aval in closed.in_avals]
    return jax.make_jaxpr(evaluate)(*avals)


def _evaluate(closed: Any, args: Sequence, caller: Any, products: bool) -> list:
    jaxpr, consts = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    consts, args = [*map(_as_double, consts)], [*map(_as_double, args)]
    return interpret(_RULES, jaxpr, consts, args, products, caller=caller)


def _is_inexact(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _double(dtype):
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype


def _cast(x, dtype):
    return x if x.dtype == dtype else jax.lax.convert_element_type(x, dtype)


def _as_double(value):
    if not hasattr(value, "dtype"):
        value = np.asarray(value)
    return _cast(value, _double(value.dtype))


def _lifted(eqn: Any, ins: list, products: bool) -> list:
    """Apply an equation in float64, or a kernel that knows only some dtypes in its own."""
    try:
        outs = bind(eqn, ins, {key: _lift_param(value) for key, value in eqn.params.items()})
    except Exception:
        return _in_own_precision(eqn, ins)
    return [*map(_as_double, outs)]


def _in_own_precision(eqn: Any, ins: list, products: bool = True) -> list:
    ins = [_cast(x, atom.aval.dtype) for x, atom in zip(ins, eqn.invars, strict=True)]
    return [*map(_as_double, bind(eqn, ins))]


def _lift_param(value: Any) -> Any:
    """Lift what an equation's parameter says about dtypes: a dtype itself, or the programs in it."""
    if isinstance(value, jex.ClosedJaxpr):
        return lift(value)
    if isinstance(value, jex.Jaxpr):
        return lift(jex.ClosedJaxpr(value, ())).jaxpr
    if isinstance(value, tuple):
        items = [_lift_param(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return _double(np.dtype(value))
    return value


def _written_out(eqn: Any, ins: list, products: bool) -> list:
    body = wrapped(eqn)
    # A jitted function of JAX's is traced once, at its first caller; of this call its own line is wanted
    by_jax = is_of_jax(getattr(body, "jaxpr", body).debug_info.func_filename or "")
    return _evaluate(body, ins, eqn.source_info.traceback if by_jax else None, products)


def _convolution(eqn: Any, ins: list, products: bool) -> list:
    by_products = convolutions.by_products(eqn) if products else None
    return [by_products(*ins, **eqn.params)] if by_products else _lifted(eqn, ins, products)


def _extremum(x, axes: Sequence[int], find: Callable):
    """Maximum or minimum as the sum over a mask of one entry, whose derivative is that entry's."""
    kept = [d for d in range(x.ndim) if d not in axes]
    x = jax.lax.transpose(x, [*kept, *axes])
    x = jax.lax.reshape(x, (*x.shape[: len(kept)], math.prod(x.shape[len(kept) :])))
    last = x.ndim - 1
    at = jax.lax.broadcast_in_dim(find(x, last, np.int32), x.shape, range(last))
    mask = jax.lax.eq(at, jax.lax.broadcasted_iota(np.int32, x.shape, last))
    one = jax.lax.select(mask, x, jax.lax.full_like(x, 0))
    return jax.lax.reduce(one, np.float64(0), jax.lax.add, [last])


def _extremum_by(find: Callable) -> Callable:
    def rule(eqn: Any, ins: list, products: bool) -> list:
        if not (_is_inexact(ins[0].dtype) and ins[0].size):
            return _lifted(eqn, ins, products)
        return [_extremum(ins[0], eqn.params["axes"], find)]

    return rule


# The identity on values; what they do to a derivative or to the precision is not wanted here.
_IDENTITIES = ("stop_gradient", "reduce_precision", "optimization_barrier")

_RULES = Rules(
    {
        **dict.fromkeys(CALLS, _written_out),
        **dict.fromkeys(_IDENTITIES, lambda eqn, ins, products: ins),
        "conv_general_dilated": _convolution,
        # JAX's derivative looks for the extremum among the inputs, and divides by zero where the compiler
        # computes these a second time with other round-off.
        "reduce_max": _extremum_by(jax.lax.argmax),
        "reduce_min": _extremum_by(jax.lax.argmin),
        "bitcast_convert_type": _in_own_precision,
    },
    default=_lifted,
    literal=_as_double,
)
