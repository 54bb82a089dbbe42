"""What is swept: a function, names and labels of its points and outputs, and what tells it from another."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import check
from biasjax._jaxpr import interpret
from biasjax.stepwise import Stepwise

_RESERVED = ("key", "status", "computed")

# Axes of more values are files of their own
_INLINE = 1000


class Spec(NamedTuple):
    """The arguments of `sweep.run` that say what is swept, not how."""

    fn: Any
    axes: dict[str, np.ndarray]
    static: dict[str, list[Any]]
    dims: dict[str, Sequence[str]]
    root: int
    table: dict[str, np.ndarray] = {}  # noqa: RUF012 - columns of a list of points; never written to

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(values) for values in self.axes.values())

    @property
    def lead(self) -> tuple[str, ...]:
        """Names of the dimensions that every output has in front."""
        return (*self.static, *self.axes)

    @property
    def labels(self) -> dict[str, list[Any]]:
        """Coordinates of the static values."""
        return {name: [_label(value) for value in values] for name, values in self.static.items()}

    @property
    def combinations(self) -> list[dict[str, Any]]:
        """Static values that go together, one program for each."""
        values = itertools.product(*self.static.values())
        return [dict(zip(self.static, combination, strict=True)) for combination in values]

    def ordered(self, static: Iterable[str], axes: Iterable[str]) -> Spec:
        """Return the same sweep with its names in another order."""
        return self._replace(
            static={name: self.static[name] for name in static}, axes={name: self.axes[name] for name in axes}
        )


def point_name(chosen: Mapping[str, Any]) -> str:
    """Name a static combination, or nothing if there are no static names."""
    return ", ".join(f"{name}={_label(value)}" for name, value in chosen.items())


def own_dims(spec: Spec, name: str, own: int) -> tuple[str, ...]:
    """Name the dimensions that an output has of itself."""
    names = tuple(spec.dims.get(name) or (f"{name}_dim_{i}" for i in range(own)))
    if len(names) != own:
        fix = "Name each dimension that the output has of itself."
        check.fail(f"dims[{name!r}]", f"{own} names", names, fix)
    return names


def check_names(spec: Spec) -> None:
    """Raise where a name stands for two things."""
    for name in spec.static:
        if name in (*spec.axes, "seed", *_RESERVED):
            got = f"{name!r}, {'an axis' if name in spec.axes else 'a name of the engine itself'}"
            check.fail("static", "names that are not axes", got, "Keep it in one of the two, or rename it.")
    for name in spec.axes:
        if name in _RESERVED:
            check.fail("axes", "names other than key, status and computed", name, "Rename the axis.")
    for output, own in spec.dims.items():
        if isinstance(own, str) or len({*own}) < len(own) or {*own} & {*spec.lead}:
            expected = "a tuple of distinct names that are neither axes nor static"
            check.fail(f"dims[{output!r}]", expected, repr(own), "Rename them.")
    for name, labels in spec.labels.items():
        if len({(type(label), label) for label in labels}) < len(labels):
            check.fail(f"static {name!r}", "values with labels of their own", labels, "Name or drop doubles.")


def check_outputs(spec: Spec, all_outputs: Iterable[Mapping[str, Any]]) -> None:
    """Raise if outputs, of all static combinations, cannot be labelled, before anything runs."""
    shapes: dict[str, tuple[int, ...]] = {}
    lengths: dict[str, int] = {}
    for outputs in all_outputs:
        if not outputs:
            check.fail("fn", "at least one output", "none", "Return a dict of arrays.")
        for name, value in outputs.items():
            if name in (*spec.lead, *spec.table, "computed"):
                check.fail("fn", "outputs named otherwise than axes and static", name, "Rename the output.")
            if jnp.issubdtype(value.dtype, jax.dtypes.extended):
                fix = "Return jax.random.key_data(key)."
                check.fail(f"output {name!r}", "an array of numbers", value.dtype, fix, TypeError)
            own = value.shape[len(spec.axes) :]
            if shapes.setdefault(name, own) != own:
                got, fix = f"{shapes[name]} and {own}", "Pad it, or sweep these static values apart."
                check.fail(f"output {name!r}", "one shape for all static values", got, fix)
            for dim, size in zip(own_dims(spec, name, len(own)), own, strict=True):
                if lengths.setdefault(dim, size) != size:
                    got, fix = f"{lengths[dim]} and {size}", "Name them apart in dims."
                    check.fail(f"dimension {dim!r}", "one size for all outputs", got, fix)


def describe(spec: Spec) -> dict[str, Any]:
    """Say what makes a sweep this one, as JSON; the order of axes and static names makes no other of it."""
    content = {
        "fn": _name(spec.fn),
        "fn at": {_at(chosen): _digest(spec, chosen) for chosen in spec.combinations},
        "static": spec.labels,
        "axes": {name: _axis_entry(values) for name, values in spec.axes.items()},
        "dtypes": {name: str(values.dtype) for name, values in spec.axes.items()},
        "dims": {name: list(names) for name, names in spec.dims.items()},
        "root": spec.root,
        "draws": _draws(),
    }
    if spec.table:
        content["points"] = {name: _axis_entry(values) for name, values in spec.table.items()}
        content["dtypes"] |= {name: str(values.dtype) for name, values in spec.table.items()}
    return json.loads(json.dumps(content))


def checksum(content: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def axis_bytes(values: np.ndarray) -> bytes:
    """Values of an axis as a file holds them, little-endian."""
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def _axis_entry(values: np.ndarray) -> list[Any] | dict[str, Any]:
    """Values of an axis, or if they are many or JSON has none such, what tells the file that has them."""
    if len(values) <= _INLINE and values.dtype.kind != "c":
        return values.tolist()
    return {"size": len(values), "sha256": checksum(axis_bytes(values))}


def _draws() -> dict[str, Any]:
    """Settings of JAX that change results and that no program shows."""
    names = ("default_prng_impl", "threefry_partitionable", "random_seed_offset", "enable_x64")
    return {name: getattr(jax.config, f"jax_{name}") for name in (*names, "default_matmul_precision")}


def _at(chosen: Mapping[str, Any]) -> str:
    """Name a static combination whatever the order of its names."""
    return point_name(dict(sorted(chosen.items()))) or "every point"


def _digest(spec: Spec, chosen: Mapping[str, Any]) -> str | None:
    """Checksum of what ``fn`` computes at a point, constants included, or None if it raises."""

    def whole(key, **numbers):
        if not isinstance(spec.fn, Stepwise):
            return spec.fn(key, **numbers, **chosen)
        carry = spec.fn.start(key, **numbers, **chosen)
        carry = spec.fn.advance(carry, key, **numbers, **chosen)  # one step stands for all
        return spec.fn.finish(carry, key, **numbers, **chosen)

    numbers = {name: jax.ShapeDtypeStruct((), v.dtype) for name, v in spec.axes.items() if name != "seed"}
    try:
        closed = jax.make_jaxpr(whole)(jax.random.key(spec.root), **numbers)
    except Exception:  # raised again, with what else fails, when all combinations are traced
        return None
    found = hashlib.sha256(_text(closed.jaxpr).encode())
    for constant in interpret.constants(closed):
        found.update(np.asarray(constant).tobytes())
    return found.hexdigest()[:16]


def _name(fn: Any) -> str:
    if isinstance(fn, Stepwise):
        return ", ".join([*map(_name, fn[:3]), f"{fn.steps} steps"])
    fn = fn.func if isinstance(fn, functools.partial) else fn
    return getattr(fn, "__qualname__", type(fn).__qualname__)


def _label(value: Any) -> Any:
    """Coordinate of a static value: itself if a string, number or bool, else its name."""
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) is int and not -(2**63) <= value < 2**63:
        return str(value)  # no array has it
    return value if isinstance(value, (str, int, float, bool)) else getattr(value, "__name__", _text(value))


def _text(value: Any) -> str:
    """What Python prints, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
