"""Where a bias enters a program: the user's own line, the layer that it belongs to, and what leaves it out.

An equation keeps the Python frames that it was traced under. From the innermost outwards these are JAX's, the
framework's (its layer, and the layers around that one), then the user's: the line wanted is the first of
theirs. No layer is known by name; what leaves its bias out is read off the signature of its class.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex

from biasjax._audit.findings import Made
from biasjax._jaxpr.interpret import is_of_jax, within

# Steps on the way of a bias to where it is used
_CARRIES = {
    *("reshape", "broadcast_in_dim", "squeeze", "transpose", "copy", "convert_element_type"),
    *("slice", "dynamic_slice", "gather", "split"),
}
# Whose layers models are built of
_FRAMEWORKS = ("biasjax", "flax", "haiku", "equinox", "keras")
_INSTALLED = re.compile(r"[\\/](site|dist)-packages[\\/]|^<(frozen|string|__)")
_METHOD = re.compile(r"(?:.*\.)?(\w+)\.(?:__call__|call)")
# They run the layers that they are given
_CONTAINERS = ("Module", "Layer", "Operation", "Sequential", "Functional", "Function", "Model", "Lambda")
# In the words of Flax, Equinox and Keras; of Keras' norms; of Haiku's; of Haiku's other layers
_FLAGS = ("use_bias", "center", "create_offset", "with_bias")
_FLAG_OF_PART = re.compile(r"use_(\w+)_bias")


class _Frame(NamedTuple):
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})"


class _Layer(NamedTuple):
    """A layer by the frame of its call: its public name, and the flag that leaves its bias out, or none."""

    name: str
    flag: str
    frame: _Frame


def made(jaxpr: jex.Jaxpr, index: int, path: str) -> Made | None:
    """Find where an input of a program is used first.

    Parameters
    ----------
    jaxpr
        Program without calls, as `biasjax._jaxpr.double.program` gives it.
    index, path
        Number of the input among those of the program, and its path among the parameters.

    Returns
    -------
    Made or None
        None if no equation uses it, or none that keeps its frames.
    """
    step, frames = _first_use(jaxpr, jaxpr.invars[index])
    layers = _layers(frames, path)
    # A layer that takes no flag for it may be a wrapper around one that does
    layer = next((one for one in reversed(layers) if one.flag), layers[-1] if layers else None)
    place = _place(frames) or (layer and layer.frame)
    if place is None:
        return None
    if layer is None:
        return Made(str(place), "", "", "", step)
    shared = layer is not layers[0] and layer.flag.removesuffix("=False") in _FLAGS
    return Made(str(place), layer.name, layer.flag, _part(path) if shared else "", step)


def _part(path: str) -> str:
    """Key that holds a bias, with the one before it if it is a number."""
    keys = path.split("/")[:-1]
    return "/".join(keys[-2:] if keys[-1:] and keys[-1].isdigit() else keys[-1:])


def is_installed(file: str) -> bool:
    """Whether a file was installed, not written by the user."""
    return bool(_INSTALLED.search(file))


def _first_use(jaxpr: Any, variable: Any) -> tuple[int, list[_Frame]]:
    """Number of the first equation that takes a variable; its frames, then those of the loops around it."""
    carried, own, step = {variable}, [], 0
    for number, eqn in enumerate(jaxpr.eqns):
        taken = [i for i, atom in enumerate(eqn.invars) if not hasattr(atom, "val") and atom in carried]
        if not taken:
            continue
        own, step = _frames(eqn), number
        for body, i in _inside(eqn, taken):
            if found := _first_use(body, body.invars[i])[1]:
                return step, [*found, *own]
        if eqn.primitive.name not in _CARRIES:
            break
        carried.update(eqn.outvars)
    return step, own


def _inside(eqn: Any, taken: Sequence[int]) -> Iterator[tuple[Any, int]]:
    """Programs inside an equation, with the number of their input that one of its inputs becomes."""
    for name, program in within(eqn):
        body = getattr(program, "jaxpr", program)
        for i in taken:
            j = i + len(body.invars) - len(eqn.invars)  # a scan's are the same, a branch has no index
            if eqn.primitive.name == "while":
                tests, steps = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
                in_test = i if i < tests else i - steps if i >= tests + steps else -1
                j = in_test if name == "cond_jaxpr" else i - tests
            if 0 <= j < len(body.invars):
                yield body, j


def _frames(eqn: Any) -> list[_Frame]:
    traceback = eqn.source_info.traceback
    return [_Frame(f.file_name, f.line_num, f.function_name) for f in (traceback.frames if traceback else ())]


def _place(frames: Sequence[_Frame]) -> _Frame | None:
    """Innermost frame of the user, or else of a library of models that others wrote."""
    strangers = [frame for frame in frames if _is_strange(frame.file)]
    own = (frame for frame in strangers if not is_installed(frame.file))
    return next(own, strangers[0] if strangers else None)


def _layers(frames: Sequence[_Frame], path: str) -> list[_Layer]:
    """Layers of a framework between an equation and the first frame that is none of theirs, inner first."""
    found: dict[str, _Layer] = {}
    for frame in frames:
        if _is_strange(frame.file):
            break
        name, target = _called(frame)
        if target is not None:
            found.setdefault(name, _Layer(name, _flag(target, path), frame))
    return list(found.values())


def _called(frame: _Frame) -> tuple[str, Any]:
    """Name and class of the layer whose call a frame is; of biasjax' functions their initialiser."""
    module = _module_of(frame.file)
    if module is None:
        return "", None
    if module.__name__.startswith("biasjax."):
        names = (f"{frame.function}_init", "norm_init" if frame.function.endswith("_norm") else "")
        name = next((name for name in names if hasattr(module, name)), "")
        return f"{module.__name__}.{name}", getattr(module, name, None)
    method = _METHOD.fullmatch(frame.function)
    if method is None or method[1] in _CONTAINERS:
        return "", None
    # Flax's convolutions share a private base
    public = method[1].lstrip("_")
    name = public if hasattr(module, public) else method[1]
    return f"{_face(module.__name__)}.{name}", getattr(module, name, None)


def _face(module: str) -> str:
    """Where people import from what a module of a framework defines.

    Examples
    --------
    >>> [_face(name) for name in ("equinox.nn._linear", "flax.linen.linear", "keras.src.layers.core.dense")]
    ['equinox.nn', 'flax.linen', 'keras.layers']
    """
    root, *parts = module.split(".")[:-1]
    return ".".join([root, *[part for part in parts if part != "src" and part[0] != "_"][:1]])


def _flag(target: Any, path: str) -> str:
    """What leaves out the bias of a class by its signature; of several flags that of a part of the path."""
    names: list[str] = []
    for one in (target.__init__, target):  # of Keras' classes the first tells, of functions the second
        with contextlib.suppress(TypeError, ValueError):
            names += inspect.signature(one).parameters
    parts = {match[1]: name for name in names if (match := _FLAG_OF_PART.fullmatch(name))}
    keys = path.split("/")
    named = [name for part, name in parts.items() if any(re.match(rf"{part}(_|$)", key) for key in keys)]
    flag = next((name for name in (*named, *_FLAGS) if name in names), "")
    return f"{flag}=False" if flag else ""


def _is_strange(file: str) -> bool:
    """Whether a file belongs neither to Python, nor to JAX, nor to a framework."""
    standard = file.startswith(sysconfig.get_paths()["stdlib"]) and not is_installed(file)
    generated = file.startswith("<") and is_installed(file)
    return not (standard or generated or is_of_jax(file) or _home(file))


def _home(file: str) -> str:
    """Framework that a file belongs to, wherever it is installed, or none."""
    for name in _FRAMEWORKS:
        own = getattr(sys.modules.get(name), "__file__", None)
        if own and file.startswith(os.path.dirname(own) + os.sep):
            return name
    return ""


def _module_of(file: str) -> Any:
    name = _home(file)
    if not name:
        return None
    folder = os.path.dirname(os.path.dirname(sys.modules[name].__file__ or ""))
    inside, _ = os.path.splitext(os.path.relpath(file, folder))
    return sys.modules.get(inside.replace(os.sep, "."))
