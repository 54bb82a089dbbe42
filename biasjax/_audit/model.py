"""A function to audit: traced in float64, with its biases singled out and its input checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from biasjax import check, tree
from biasjax._audit import compiling, drawing, sensitivity
from biasjax._jaxpr import kinks
from biasjax._jaxpr.double import Program, program


class Model(NamedTuple):
    """A traced function with its leaves on the host and its biases singled out.

    ``outputs(flat biases, leaves)`` are all outputs, flat; ``pieces(flat biases, [*leaves, seed])`` the same
    with derivatives that take kinks both ways (`biasjax._jaxpr.kinks`). ``width`` is their number.
    """

    program: Program
    leaves: tuple
    paths: tuple[str, ...]
    parameters: int
    biases: sensitivity.Biases
    outputs: Callable
    pieces: Callable
    width: int

    @property
    def names(self) -> list[str]:
        """Paths of the biases."""
        return [self.paths[i] for i in self.biases.indices]


def model(fn: Callable, params: Any, *args: Any, is_bias: Any = None) -> Model:
    """Trace a function and check that it can be audited."""
    what = "audit_biases"
    if not callable(fn):
        got, fix = (
            type(fn).__name__,
            "The order is (fn, params, *args); unpack a Pure for audit_modes(*pure, x).",
        )
        check.fail(what, "a function", got, fix, TypeError)
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    others = jax.tree_util.tree_leaves_with_path(args)
    paths = [tree.path_string(p) for p, _ in flat] + ["args/" + tree.path_string(p) for p, _ in others]
    for path, (_, leaf) in zip(paths, [*flat, *others], strict=True):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int, complex)):
            fix = "Close over what is not an array, or use biasjax.adapters."
            check.fail(what, f"an array at {path!r}", type(leaf).__name__, fix, TypeError)
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            check.fail(what, f"an array at {path!r}", "a deleted (donated) one", "Pass a copy.")
    _check_devices(what, paths, [leaf for _, leaf in [*flat, *others]])
    params, args = jax.tree.map(jax.numpy.asarray, (params, args))
    mask = _mask(what, is_bias, structure, paths, jax.tree.leaves(params))
    lifted = program(fn, params, *args)
    leaves = tuple(drawing.to_host(leaf) for leaf in jax.tree.leaves((params, args)))
    biases = sensitivity.Biases(tuple(mask), tuple(leaves[i].shape for i in mask))
    scales, width = _scales(what, lifted, leaves)
    with jax.enable_x64(True):
        both_ways = lifted._replace(jaxpr=kinks.both_ways(lifted.jaxpr))
    outputs, pieces = (sensitivity.flat_outputs(one, biases, scales) for one in (lifted, both_ways))
    return Model(lifted, leaves, tuple(paths), len(flat), biases, outputs, pieces, width)


def _check_devices(what, paths, leaves):
    homes: dict = {}
    for path, leaf in zip(paths, leaves, strict=True):
        if isinstance(leaf, jax.Array) and leaf.committed:
            homes.setdefault(frozenset(leaf.devices()), path)
    if len(homes) > 1:
        (first, one), (second, two) = list(homes.items())[:2]
        fix = "Move them to one device: jax.device_put(x, jax.devices()[0])."
        got = f"{one!r} on {sorted(map(str, first))} and {two!r} on {sorted(map(str, second))}"
        check.fail(what, "all arrays on the same devices", got, fix)


def _mask(what, is_bias, structure, paths, leaves) -> list[int]:
    if is_bias is None or callable(is_bias):
        chosen = [(is_bias or tree.is_bias)(path, leaf) for path, leaf in zip(paths, leaves, strict=False)]
    elif jax.tree.structure(is_bias) == structure:
        chosen = jax.tree.leaves(is_bias)
    else:
        got = jax.tree.structure(is_bias)
        check.fail(what, f"a mask like the params, {structure}", got, "Try tree.bias_mask(params).")
    floating = [np.issubdtype(drawing.to_host(leaf).dtype, np.floating) for leaf in leaves]
    mask = [i for i, (c, f) in enumerate(zip(chosen, floating, strict=True)) if c and f and leaves[i].size]
    if not mask:
        some = ", ".join([*paths[: min(4, len(leaves))], *(["..."] if len(leaves) > 4 else [])])
        got = f"only [{some}]" if leaves else "no leaves at all"
        fix = "If they have other names, give is_bias to audit_biases: a predicate on (path, leaf) or a mask."
        check.fail(what, "a real floating leaf in params named bias, b, beta, offset or the like", got, fix)
    return mask


def _scales(what, lifted: Program, leaves: Sequence) -> tuple[list[np.ndarray], int]:
    """Size of the entries of every output, and their number."""
    if not any(lifted.floating):
        check.fail(what, "a floating output", "none", "Return logits, not classes.")
    for eqn in lifted.jaxpr.eqns:
        if eqn.primitive.name == "pure_callback" and eqn.params["vmap_method"] is None:
            check.fail(what, "a vmap_method in pure_callback", None, "Give one, say 'sequential'.")
    run = compiling.quick_jit(lambda *leaves: lifted(*leaves))
    rng = np.random.default_rng(0)
    drawn = [drawing.argument(rng, leaf) for leaf in leaves]
    with jax.enable_x64(True):
        try:
            both = [run(*leaves), run(*drawn)]
        except jax.errors.JaxRuntimeError as error:
            said = str(error).splitlines()[-1]
            fix = "A host callback must return the dtype that it is called with."
            check.fail(what, "a function that runs in float64", said, fix)
    outs, others = (
        [np.asarray(o) for o, keep in zip(found, lifted.floating, strict=True) if keep] for found in both
    )
    for i, out in enumerate(outs):
        if not np.isfinite(out).all():
            bad = f"{(~np.isfinite(out)).sum()} of {out.size} entries of output {i} are NaN or infinite"
            check.fail(what, "finite outputs at the given input", bad, "Start from finite ones.")
    scales = [_size(out, other) for out, other in zip(outs, others, strict=True)]
    width = sum(out.size * (2 if np.iscomplexobj(out) else 1) for out in outs)
    if not width:
        check.fail(what, "at least one number in the outputs", "empty arrays", "Give a batch of inputs.")
    return scales, width


def _size(out: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Size of an output's entries: the largest of those that vary, or their own where constants are larger.

    A masked logit of -1e30 would make all others, divided by it, vanish.
    """
    varying = out != other
    known = np.abs(out[varying] if varying.any() else out)
    size = known.max(initial=0.0) or 1.0
    return np.where(varying, size, np.maximum(np.abs(out), size))
