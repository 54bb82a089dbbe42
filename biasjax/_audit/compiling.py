"""Compile programs that run a few dozen times: in half the usual time, to code that is nearly as fast.

Or, where rounding is what is measured, to code that rounds wherever the program says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

# Level 1 of LLVM, and XLA's older code for fusions: each takes a third off the time to compile a network in
# float64, and matrix products and convolutions, which take the time to run it, are library calls either way.
_QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
# XLA leaves out a rounding to bfloat16 or float16 that is followed by a cast to float32
_ROUNDING = {"xla_allow_excess_precision": False}


def quick_jit(fn: Callable, **options: Any) -> Callable:
    """`jax.jit`, with its options, for programs that cost more to compile than to run.

    Examples
    --------
    >>> float(quick_jit(lambda x: 2 * x)(1.0))
    2.0
    """
    return jax.jit(fn, compiler_options=_known_options(jax.default_backend()), **options)


def rounding_jit(fn: Callable, **options: Any) -> Callable:
    """`quick_jit` without excess precision: every operation rounds to its dtype.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> sum_ = rounding_jit(lambda x: (x + jnp.bfloat16(100)).astype(jnp.float32))
    >>> float(sum_(jnp.bfloat16(0.2)))
    100.0
    """
    return jax.jit(fn, compiler_options=_known_options(jax.default_backend(), rounding=True), **options)


@functools.cache
def _known_options(backend: str, rounding: bool = False) -> dict[str, Any] | None:
    """Options that this version of XLA knows; it refuses others."""
    wanted = (_QUICK if backend == "cpu" else {}) | (_ROUNDING if rounding else {})
    return {name: value for name, value in wanted.items() if _is_known({name: value})} or None


def _is_known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
