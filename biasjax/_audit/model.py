"""A function to audit: traced in float64, with its biases singled out and its input checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from biasjax import check, tree
from biasjax._audit import compiling, drawing
from biasjax._audit.pure import flatten
from biasjax._jaxpr import kinks
from biasjax._jaxpr.double import Program, program, same

# The function that errors name
_WHAT = "audit_biases"


class Biases(NamedTuple):
    """Where the biases are among a program's inputs and in the flat vector of all of them."""

    indices: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> list[int]:
        """Entries of each bias."""
        return [int(np.prod(shape)) for shape in self.shapes]

    @property
    def total(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    @property
    def slices(self) -> list[slice]:
        """Place of each bias in the flat vector."""
        ends = np.cumsum(self.sizes).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    def gather(self, leaves: Sequence) -> np.ndarray:
        """Flat vector of all biases."""
        return np.concatenate([np.ravel(leaves[i]) for i in self.indices])

    def put(self, leaves: Sequence, parts: Sequence) -> list:
        """Leaves with the biases given one by one, flat."""
        leaves = list(leaves)
        for i, part, shape in zip(self.indices, parts, self.shapes, strict=True):
            leaves[i] = part.reshape(shape)
        return leaves


class Model(NamedTuple):
    """A traced function with its leaves on the host and its biases singled out.

    Attributes
    ----------
    program, given, paths
        The function of flat leaves, those given (on the host, of their own dtype), and their paths.
    parameters
        How many of the leaves are parameters; the others are arguments.
    biases
        Which of the parameters are biases.
    outputs, pieces
        ``outputs(biases, leaves)``, all outputs flat, each divided by its size so that a loss and its logits
        count alike; biases are one flat vector or a list of them. ``pieces(biases, [*leaves, seed])`` is the
        same with derivatives that take kinks both ways (`biasjax._jaxpr.kinks`).
    width
        Number of outputs.
    scales
        Size of the entries of every floating output, in arrays like these.
    """

    program: Program
    given: tuple[Any, ...]
    paths: tuple[str, ...]
    parameters: int
    biases: Biases
    outputs: Callable
    pieces: Callable
    width: int
    scales: tuple[np.ndarray, ...]

    def leaf(self, i: int) -> Any:
        """Given leaf in float64."""
        return drawing.to_host(self.given[i])

    @property
    def leaves(self) -> list[Any]:
        """Given leaves in float64; made anew, for of a large model they take more memory than all else."""
        return [self.leaf(i) for i in range(len(self.given))]

    @property
    def names(self) -> list[str]:
        """Paths of the biases."""
        return [self.paths[i] for i in self.biases.indices]


def trace(
    fn: Callable[..., Any], params: Any, *args: Any, is_bias: Any = None, known: Model | None = None
) -> Model:
    """Trace a function and check that it can be audited; return ``known`` if it is the same program."""
    if not callable(fn):
        fix = "The order is (fn, params, *args)."
        check.fail(_WHAT, "a function", type(fn).__name__, fix, TypeError)
    (flat, structure), (others, rest) = flatten(_WHAT, params), flatten(_WHAT, args)
    paths = [tree.path_string(p) for p, _ in flat] + ["args/" + tree.path_string(p) for p, _ in others]
    given = [leaf for _, leaf in [*flat, *others]]
    _check_leaves(paths, given)
    arrays = [_array(path, leaf) for path, leaf in zip(paths, given, strict=True)]
    params, args = structure.unflatten(arrays[: len(flat)]), rest.unflatten(arrays[len(flat) :])
    indices = _bias_indices(is_bias, structure, paths, arrays[: len(flat)])
    lifted = program(fn, params, *args)
    if known and same(known.program.jaxpr, lifted.jaxpr):
        return known
    given = [leaf if drawing.is_key(leaf) else np.asarray(leaf) for leaf in jax.tree.leaves((params, args))]
    biases = Biases(tuple(indices), tuple(given[i].shape for i in indices))
    scales = _scales(lifted, [drawing.to_host(leaf) for leaf in given])
    return assembled(lifted, given, paths, len(flat), biases, scales)


def assembled(
    lifted: Program,
    given: Sequence,
    paths: Sequence[str],
    parameters: int,
    biases: Biases,
    scales: Sequence[np.ndarray],
) -> Model:
    """Model of a program, its leaves and the sizes of its outputs."""
    with jax.enable_x64(True):
        both_ways = lifted._replace(jaxpr=kinks.both_ways(lifted.jaxpr))
    outputs, pieces = (_flat_outputs(one, biases, scales) for one in (lifted, both_ways))
    width = sum(out.size * (2 if np.iscomplexobj(out) else 1) for out in scales)
    return Model(
        lifted, tuple(given), tuple(paths), parameters, biases, outputs, pieces, width, tuple(scales)
    )


def predicate(what: str, fn: Callable, path: str, leaf: Any) -> bool:
    """What a predicate on (path, leaf) says."""
    chosen = fn(path, leaf)
    try:
        return bool(chosen)
    except (TypeError, ValueError):  # arrays of several entries
        fix = "A leaf is chosen as a whole."
        check.fail(what, f"True or False for {path!r}", type(chosen).__name__, fix, TypeError)


def _array(path: str, leaf: Any) -> jax.Array:
    """Leaf as an array of this session, which has 32 bits unless x64 is enabled."""
    try:
        with np.errstate(over="ignore"):
            array = jnp.asarray(leaf)
        fits = isinstance(leaf, jax.Array) or _same_range(array, leaf)
    except OverflowError:
        fits = False
    except (TypeError, ValueError):
        dtype = f"dtype {leaf.dtype}"
        check.fail(_WHAT, f"an array of numbers at {path!r}", dtype, "Close over what is none.", TypeError)
    if not fits:
        fix = "Scale them, or allow 64 bits with jax.enable_x64(True)."
        check.fail(_WHAT, f"numbers in the range of jax's dtypes at {path!r}", "larger ones", fix)
    return array


def _same_range(array: jax.Array, leaf: Any) -> bool:
    """Whether no integer of NumPy's has wrapped around, and no float has become infinite."""
    if jnp.issubdtype(array.dtype, jnp.integer):
        return np.array_equal(array, leaf)
    return np.array_equal(np.isfinite(array), np.isfinite(leaf))


def _check_leaves(paths: Sequence[str], leaves: Sequence) -> None:
    homes: dict = {}
    for path, leaf in zip(paths, leaves, strict=True):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int, complex)):
            fix = "Close over what is not an array, or use biasjax.adapters."
            check.fail(_WHAT, f"an array at {path!r}", type(leaf).__name__, fix, TypeError)
        if isinstance(leaf, jax.core.Tracer):
            check.fail(_WHAT, f"an array at {path!r}", "a traced one", "Audit outside of jit.", TypeError)
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            check.fail(_WHAT, f"an array at {path!r}", "a deleted (donated) one", "Pass a copy.")
        if isinstance(leaf, jax.Array) and leaf.committed:
            homes.setdefault(frozenset(leaf.devices()), path)
    if len(homes) > 1:
        (first, one), (second, two) = list(homes.items())[:2]
        fix = "Move them to one device: jax.device_put(x, jax.devices()[0])."
        got = f"{one!r} on {sorted(map(str, first))} and {two!r} on {sorted(map(str, second))}"
        check.fail(_WHAT, "all arrays on the same devices", got, fix)


def _bias_indices(is_bias: Any, structure: Any, paths: Sequence[str], leaves: Sequence) -> list[int]:
    if is_bias is None or callable(is_bias):
        fn = is_bias or tree.is_bias
        chosen = [predicate("is_bias", fn, path, leaf) for path, leaf in zip(paths, leaves, strict=False)]
    else:
        mask, got = flatten("is_bias", is_bias)
        if got != structure:
            check.fail(_WHAT, f"a mask like the params, {structure}", got, "Try tree.bias_mask(params).")
        chosen = [leaf for _, leaf in mask]
        check.flags(**{f"is_bias at {path!r}": leaf for path, leaf in zip(paths, chosen, strict=False)})
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    found = [i for i, (c, f) in enumerate(zip(chosen, floating, strict=True)) if c and f and leaves[i].size]
    if not found:
        some = ", ".join([*paths[: min(4, len(leaves))], *(["..."] if len(leaves) > 4 else [])])
        got = f"only [{some}]" if leaves else "no leaves at all"
        fix = "If they have other names, give is_bias to audit_biases: a predicate on (path, leaf) or a mask."
        check.fail(_WHAT, "a real floating leaf in params named bias, b, beta, offset or the like", got, fix)
    return found


def _scales(lifted: Program, leaves: Sequence) -> list[np.ndarray]:
    """Size of the entries of every floating output, of its dtype."""
    if not any(lifted.floating):
        check.fail(_WHAT, "a floating output", "none", "Return logits, not classes.")
    rng = np.random.default_rng(0)
    moved = [leaf if drawing.is_huge(leaf) else drawing.argument(rng, leaf) for leaf in leaves]
    outs, others = _run(lifted, leaves, moved)
    for i, out in enumerate(outs):
        if not np.isfinite(out).all():
            bad = f"{(~np.isfinite(out)).sum()} of {out.size} entries of output {i} are NaN or infinite"
            check.fail(_WHAT, "finite outputs at the given input", bad, "Start from finite ones.")
    if not sum(out.size for out in outs):
        check.fail(_WHAT, "at least one number in the outputs", "empty arrays", "Give a batch of inputs.")
    return [_size(out, other).astype(out.dtype) for out, other in zip(outs, others, strict=True)]


def _run(lifted: Program, *points: Sequence) -> list[list[np.ndarray]]:
    """Floating outputs at each of some points."""
    for eqn in lifted.jaxpr.eqns:
        if eqn.primitive.name == "pure_callback" and eqn.params["vmap_method"] is None:
            check.fail(_WHAT, "a vmap_method in pure_callback", None, "Give one, say 'sequential'.")
    run = compiling.quick_jit(lambda *leaves: lifted(*leaves))
    with jax.enable_x64(True):
        try:
            found = [run(*leaves) for leaves in points]
        except jax.errors.JaxRuntimeError as error:
            said = str(error).splitlines()[-1]
            fix = "A host callback must return the dtype that it is called with."
            check.fail(_WHAT, "a function that runs in float64", said, fix)
    return [
        [np.asarray(out) for out, keep in zip(outs, lifted.floating, strict=True) if keep] for outs in found
    ]


def _size(out: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Size of an output's entries: the largest of those that vary, or their own where constants are larger.

    A masked logit of -1e30 would make all others, divided by it, vanish.
    """
    varying = out != other
    known = np.abs(out[varying] if varying.any() else out)
    size = known.max(initial=0.0) or 1.0
    return np.where(varying, size, np.maximum(np.abs(out), size))


def _flat_outputs(lifted: Program, biases: Biases, scales: Sequence[np.ndarray]) -> Callable:
    """`Model.outputs`, each floating output divided by its scale (an array like it)."""

    def outputs(flat, leaves):
        parts = flat if isinstance(flat, list) else [flat[place] for place in biases.slices]
        outs = lifted(*biases.put(leaves, parts))
        kept = [out for out, keep in zip(outs, lifted.floating, strict=True) if keep]
        scaled = [jnp.ravel(out / scale) for out, scale in zip(kept, scales, strict=True)]
        return jnp.concatenate(
            [jnp.concatenate([s.real, s.imag]) if jnp.iscomplexobj(s) else s for s in scaled]
        )

    return outputs


def first_uses(model: Model) -> list[int]:
    """Biases in the order in which the program first uses them."""
    jaxpr = model.program.jaxpr.jaxpr
    first: dict = {}
    for i, eqn in enumerate(jaxpr.eqns):
        for atom in eqn.invars:
            if not hasattr(atom, "val"):
                first.setdefault(atom, i)
    at = [first.get(jaxpr.invars[i], len(jaxpr.eqns)) for i in model.biases.indices]
    return sorted(range(len(at)), key=at.__getitem__)
