"""Fold what a norm multiplies and adds into the layers around it, in numbers alone.

A norm at inference is an affine stretch (`biasjax._audit.stretches`). What it does goes into the kernel and
bias of the layer before it, or into those of all layers that read it; then its own parameters are set so that
it does nothing. How a parameter enters is found by evaluating the stretch at other values of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from biasjax._audit import entering
from biasjax._audit.stretches import LAYERS, Read, Stretch

# Coefficients that agree to this
_SAME = 1e-9


class Refused(Exception):
    """Why a fold is not possible."""


class Fold(NamedTuple):
    """New values of some inputs by number, those that took over, and those that do nothing now."""

    values: dict[int, np.ndarray]
    into: tuple[int, ...]
    idle: tuple[int, ...]


class _Role(NamedTuple):
    """Inputs of a stretch: what scales, what is added by parameters, and by state."""

    scales: list[int]
    biases: list[int]
    means: list[int]


def after_layer(given: Read, stretch: Stretch, values: Sequence[np.ndarray], params: int) -> Fold:
    """Fold a stretch into the layer that it begins at; the first ``params`` values are parameters."""
    layer = given.made.get(stretch.source, -1)
    operand, leaf = _kernel(given, layer)
    scale, shift = given.coefficients(stretch, values)
    back = np.argsort(given.permutation(stretch))
    kernel = _kernel_values(given, layer, operand, values)
    factor = _by_output(given.eqns[layer], operand, scale.transpose(back))
    role = _roles(given, stretch, params)
    new = list(values)
    _make_identity(given, stretch, new, role)
    takers = role.biases or role.means
    if not takers:
        raise Refused("nothing of it can hold a bias")
    _solve(new, takers[0], lambda: given.coefficients(stretch, new)[1], shift)
    new[leaf] = _put_back(given, layer, operand, leaf, values, kernel * factor)
    into = (leaf, takers[0])
    return _fold(values, new, into, [i for i in sorted(stretch.leaves) if i not in into])


def before_layers(given: Read, stretch: Stretch, values: Sequence[np.ndarray], params: int) -> Fold:
    """Fold a stretch into the layers that read it."""
    readers = _readers(given, stretch.end)
    scale, shift = given.coefficients(stretch, values)
    role = _roles(given, stretch, params)
    new, into = list(values), list[int]()
    for layer, order in readers:
        operand, leaf = _kernel(given, layer)
        kernel = _kernel_values(given, layer, operand, new)
        eqn = given.eqns[layer]
        factor = _by_input(eqn, operand, scale.transpose(order), kernel.shape)
        added = kernel * _by_input(eqn, operand, shift.transpose(order), kernel.shape)
        new[leaf] = _put_back(given, layer, operand, leaf, new, kernel * factor)
        into.append(leaf)
        if shift.any():
            into.append(_add_to_bias(given, layer, operand, new, added, params))
    _make_identity(given, stretch, new, role)
    return _fold(values, new, into, sorted(stretch.leaves))


def _fold(values: Sequence, new: Sequence, into: Sequence[int], idle: Sequence[int]) -> Fold:
    changed = {i: x for i, x in enumerate(new) if x is not values[i]}
    return Fold(changed, tuple(dict.fromkeys(into)), tuple(idle))


def _kernel(given: Read, layer: int) -> tuple[int, int]:
    """Operand of a layer that is its kernel, and the input that this comes from alone."""
    eqn = given.eqns[layer] if layer >= 0 else None
    if eqn is None or eqn.primitive.name not in LAYERS:
        raise Refused("it does not follow a linear layer")
    if eqn.primitive.name == LAYERS[1] and eqn.params["batch_group_count"] != 1:
        raise Refused("the convolution groups its batch")
    own = [k for k, v in enumerate(eqn.invars) if given.leaves.get(v)]
    if len(own) != 1:
        raise Refused("the layer has no kernel of its own")
    depends = given.leaves[eqn.invars[own[0]]]
    if len(depends) != 1:
        raise Refused("the layer's kernel is computed from several parameters")
    (leaf,) = depends
    if given.uses[leaf] != {layer}:
        raise Refused("the layer's kernel is used elsewhere, too")
    return own[0], leaf


def _kernel_values(given: Read, layer: int, operand: int, values: Sequence) -> np.ndarray:
    atom = given.eqns[layer].invars[operand]
    known: Any = given.known(values).value(atom)
    return np.broadcast_to(known, atom.aval.shape)


def _put_back(
    given: Read, layer: int, operand: int, leaf: int, values: Sequence, kernel: np.ndarray
) -> np.ndarray:
    """Value of an input whose kernel is given: where each entry comes from is seen by numbering them."""
    numbers = np.arange(values[leaf].size, dtype=float).reshape(values[leaf].shape)
    marked = [numbers if i == leaf else x for i, x in enumerate(values)]
    at = _kernel_values(given, layer, operand, marked).ravel()
    if at.size != numbers.size or not np.array_equal(np.sort(at), numbers.ravel()):
        raise Refused("the layer's kernel is computed from its parameters, not laid out from them")
    made = np.empty(numbers.size)
    made[at.astype(int)] = kernel.ravel()
    return made.reshape(numbers.shape)


def _output_axes(eqn: Any, operand: int) -> dict[int, int]:
    """For axes of a layer's outputs those of its kernel that they come from."""
    p, kernel = eqn.params, eqn.invars[operand].aval
    if eqn.primitive.name == LAYERS[1]:
        _, rhs, out = p["dimension_numbers"]
        return {out[1]: rhs[0]}
    contracted, batch = p["dimension_numbers"]
    free = [a for a in range(kernel.ndim) if a not in (*contracted[operand], *batch[operand])]
    first = len(batch[0]) if operand == 0 else eqn.outvars[0].aval.ndim - len(free)
    return dict(enumerate(batch[operand])) | {first + k: axis for k, axis in enumerate(free)}


def _laid_out(x: np.ndarray, axes: dict[int, int], ndim: int) -> np.ndarray:
    """Numbers that are constant but for some axes, with these axes elsewhere among ``ndim``."""
    if any(n > 1 for axis, n in enumerate(x.shape) if axis not in axes):
        raise Refused("it scales places or examples apart")
    shape = [1] * ndim
    for axis, there in axes.items():
        shape[there] = x.shape[axis]
    kept = sorted(axes, key=axes.__getitem__)
    return x.transpose(*kept, *(a for a in range(x.ndim) if a not in axes)).reshape(shape)


def _by_output(eqn: Any, operand: int, x: np.ndarray) -> np.ndarray:
    """Factors of a layer's outputs, reduced, laid out like its kernel."""
    return _laid_out(x, _output_axes(eqn, operand), eqn.invars[operand].aval.ndim)


def _by_input(eqn: Any, operand: int, x: np.ndarray, kernel: Sequence[int]) -> np.ndarray:
    """Factors of a layer's inputs, reduced, laid out like its kernel."""
    p = eqn.params
    if eqn.primitive.name == LAYERS[0]:
        contracted, batch = (pair if operand else pair[::-1] for pair in p["dimension_numbers"])
        axes = zip((*contracted[0], *batch[0]), (*contracted[1], *batch[1]), strict=True)
        return _laid_out(x, dict(axes), len(kernel))
    lhs, rhs, _ = p["dimension_numbers"]
    groups, (out, own) = p["feature_group_count"], (kernel[rhs[0]], kernel[rhs[1]])
    features = np.broadcast_to(_laid_out(x, {lhs[1]: 0}, 1), own * groups).reshape(groups, 1, own)
    table = np.broadcast_to(features, (groups, out // groups, own)).reshape(out, own)
    return np.transpose(table.reshape(out, own, *(1 for _ in rhs[2:])), np.argsort(rhs))


def _readers(given: Read, end: Any) -> list[tuple[int, tuple[int, ...]]]:
    """Layers that read a variable, laid out anew at most, each with the order of its axes."""
    found: list[tuple[int, tuple[int, ...]]] = []
    left = [(end, tuple(range(end.aval.ndim)))]
    while left:
        variable, order = left.pop()
        for step in given.readers.get(variable, ()):
            eqn = given.eqns[step] if step >= 0 else None
            name = eqn.primitive.name if eqn else "the output of the model"
            if eqn and name in LAYERS:
                found.append((step, order))
            elif eqn and name in ("convert_element_type", "copy"):
                left.append((eqn.outvars[0], order))
            elif eqn and name == "transpose":
                left.append((eqn.outvars[0], tuple(order[a] for a in eqn.params["permutation"])))
            else:
                raise Refused(f"no linear layer reads it, but {name}")
    if not found:
        raise Refused("nothing reads it")
    return found


def _add_to_bias(given: Read, layer: int, operand: int, new: list, added: np.ndarray, params: int) -> int:
    """Add to a layer's bias what a constant input gives, its products with the kernel."""
    eqn = given.eqns[layer]
    p, axes = eqn.params, _output_axes(eqn, operand)
    if eqn.primitive.name == LAYERS[1] and (any(map(any, p["padding"])) or max(p["lhs_dilation"]) > 1):
        raise Refused("zeros stand between it and the layer that reads it (padding)")
    sums = added.sum(tuple(a for a in range(added.ndim) if a not in axes.values()), keepdims=True)
    more = _laid_out(sums, {own: axis for axis, own in axes.items()}, eqn.outvars[0].aval.ndim)
    stretch = next((s for s in given.stretches if s.source is eqn.outvars[0]), None)
    if stretch is None:
        raise Refused("a layer that reads it has no bias")
    if stretch.trouble:
        raise Refused(f"a layer reads it of whose bias {stretch.trouble}")
    scale, shift = given.coefficients(stretch, new)
    biases = _roles(given, stretch, params).biases
    if not biases:
        raise Refused("a layer that reads it has no bias")
    wanted = shift + scale * more.transpose(given.permutation(stretch))
    _solve(new, biases[0], lambda: given.coefficients(stretch, new)[1], wanted)
    return biases[0]


def _roles(given: Read, stretch: Stretch, params: int) -> _Role:
    """What each input of a stretch does."""
    scales, biases, means = list[int](), list[int](), list[int]()
    first = {
        leaf: next(k for k, step in enumerate(stretch.steps) if step in given.uses[leaf])
        for leaf in stretch.leaves
    }
    for leaf in sorted(stretch.leaves, key=lambda leaf: (first[leaf], leaf)):
        does = scales if given.scales(stretch, leaf) else biases if leaf < params else means
        does.append(leaf)
    return _Role(scales, biases, means)


def _make_identity(given: Read, stretch: Stretch, new: list, role: _Role) -> None:
    """Set the inputs of a stretch so that it neither scales nor adds."""
    for leaf in (*role.biases, *role.means):
        new[leaf] = np.zeros_like(new[leaf])

    def scale() -> np.ndarray:
        return given.coefficients(stretch, new)[0]

    for leaf in role.scales:
        new[leaf] = np.ones_like(new[leaf])
    # A variance enters as s^-2 = (var + epsilon) / scale^2; of state and parameters the state first
    ways = [(leaf, power) for leaf in sorted(role.scales, reverse=True) for power in (1, -2)]
    for leaf, power in ways:
        try:
            _solve(new, leaf, lambda power=power: scale() ** power, np.ones_like(scale()))
            break
        except Refused:
            pass
    shift = given.coefficients(stretch, new)[1]
    if not np.allclose(scale(), 1, rtol=_SAME):
        raise Refused("no parameter of it makes it the identity")
    if shift.any() and (role.biases or role.means):
        taker = (role.biases or role.means)[0]
        _solve(new, taker, lambda: given.coefficients(stretch, new)[1], np.zeros_like(shift))
    elif shift.any():
        raise Refused("no parameter of it undoes what it adds")


def _solve(new: list, leaf: int, coefficient: Callable[[], np.ndarray], wanted: np.ndarray) -> None:
    """Set an input so that a coefficient is what is wanted."""
    old = new[leaf]

    def at(value: np.ndarray) -> np.ndarray:
        new[leaf] = value
        return coefficient()

    found = entering.solved(at, old.shape, wanted)
    new[leaf] = old if found is None else found
    if found is None:
        raise Refused("no parameter of it can take what it does")
