"""How a program's outputs answer to its biases: Jacobian rows and finite shifts, compiled once each.

All biases are one flat vector; all floating outputs are one flat vector too, each output divided by its
size, so that a loss and its logits count alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax._audit import compiling
from biasjax._jaxpr.double import Program

# A forward-mode or finite-difference Jacobian takes this many directions at a time.
_BATCH = 32
# Central differences of step h err by h² (function) and eps/h (round-off): 1e-10 at this step.
_STEP = 1e-5


def resolution(mode: str) -> float:
    """Size of derivatives that float64 does not tell from zero, of a function of size one."""
    eps = float(np.finfo(float).eps)
    return eps / _STEP if mode == "difference" else eps


class Biases(NamedTuple):
    """Where the biases are among a program's inputs and in the flat vector of all of them."""

    indices: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def slices(self) -> list[slice]:
        """Place of each bias in the flat vector."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        return [
            slice(int(end - np.prod(shape)), int(end)) for end, shape in zip(ends, self.shapes, strict=True)
        ]

    def gather(self, leaves: Sequence) -> np.ndarray:
        """Flat vector of all biases."""
        return np.concatenate([np.ravel(leaves[i]) for i in self.indices])

    def scatter(self, leaves: Sequence, flat: Any) -> list:
        """Leaves with the biases taken from the flat vector."""
        return self.put(leaves, [flat[place] for place in self.slices])

    def put(self, leaves: Sequence, parts: Sequence) -> list:
        """Leaves with the biases given one by one, flat."""
        leaves = list(leaves)
        for i, part, shape in zip(self.indices, parts, self.shapes, strict=True):
            leaves[i] = part.reshape(shape)
        return leaves


def flat_outputs(program: Program, biases: Biases, scales: Sequence[np.ndarray]) -> Callable:
    """``f(biases, leaves) -> flat outputs``, each floating output divided by its scale (an array like it).

    Biases are one flat vector or a list of them, each flat.
    """

    def outputs(flat, leaves):
        put = biases.put if isinstance(flat, list) else biases.scatter
        outs = program(*put(leaves, flat))
        kept = [out for out, keep in zip(outs, program.floating, strict=True) if keep]
        parts = [jnp.ravel(out / scale) for out, scale in zip(kept, scales, strict=True)]
        parts = [jnp.concatenate([p.real, p.imag]) if jnp.iscomplexobj(p) else p for p in parts]
        return jnp.concatenate(parts)

    return outputs


def jacobian_rows(outputs: Callable, mode: str) -> Callable:
    """``rows(flat, leaves, u, kept) -> u @ J``, J the Jacobian of the outputs by the biases.

    Parameters
    ----------
    outputs
        Function of `flat_outputs`.
    mode
        "reverse" costs one backward pass per row of ``u``; "forward" (programs with while loops) and
        "difference" (programs without derivatives) cost one pass per bias entry.

    Returns
    -------
    callable
        Compiled; ``u`` of shape (rows, outputs) gives (rows, bias entries). With ``kept``, a static tuple of
        (start, stop, whether wanted) that covers the flat vector, reverse mode leaves the columns at zero
        that are not wanted, and does not go back through the layers that only they need.
    """

    def columns(flat, leaves, direction):
        if mode == "forward":
            return jax.jvp(lambda b: outputs(b, leaves), (flat,), (direction,))[1]
        step = _STEP * direction
        return (outputs(flat + step, leaves) - outputs(flat - step, leaves)) / (2 * _STEP)

    @functools.partial(compiling.quick_jit, static_argnums=3)
    def rows(flat, leaves, u, kept=()):
        if mode == "reverse":
            parts = [flat[a:b] for a, b, _ in kept or [(0, flat.size, True)]]
            wanted = [bool(not kept or kept[i][2]) for i in range(len(parts))]

            def restricted(moving):
                moving = iter(moving)
                whole = [next(moving) if w else part for w, part in zip(wanted, parts, strict=True)]
                return outputs(whole if kept else whole[0], leaves)

            _, pullback = jax.vjp(restricted, [part for w, part in zip(wanted, parts, strict=True) if w])
            found = iter(jax.vmap(lambda v: pullback(v)[0])(u))
            none = [jnp.zeros((len(u), part.size)) for part in parts]
            return jnp.concatenate([next(found) if w else n for w, n in zip(wanted, none, strict=True)], 1)
        basis = jnp.eye(flat.size, dtype=flat.dtype)
        return jax.lax.map(lambda e: u @ columns(flat, leaves, e), basis, batch_size=_BATCH).T

    return rows
