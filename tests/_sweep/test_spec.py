import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import sweep
from biasjax._sweep.spec import Spec, check_names, check_outputs, describe


def _spec(axes=None, static=None, dims=None, fn=lambda key, *, x: {"y": x}):
    axes = {name: np.asarray(values, np.float32) for name, values in (axes or {"x": [1.0]}).items()}
    return Spec(fn, axes, static or {}, dims or {}, 0)


@pytest.mark.parametrize(
    ("axes", "static", "message"),
    [
        ({"x": [1.0]}, {"x": [1]}, "names that are not axes, got 'x', an axis"),
        ({"x": [1.0]}, {"seed": [1]}, "got 'seed'"),
        ({"status": [1.0]}, None, "other than key, status and computed"),
        ({"x": [1.0]}, {"n": [1, 1]}, "values with labels of their own"),
    ],
)
def test_names_that_stand_for_two_things_are_refused(axes, static, message):
    with pytest.raises(ValueError, match=message):
        check_names(_spec(axes, static))


@pytest.mark.parametrize(
    ("outputs", "dims", "message"),
    [
        ([{"x": ()}], None, "outputs named otherwise"),
        ([{}], None, "at least one output"),
        ([{"y": (2,)}], {"y": ("a", "b")}, "1 names, got"),
        ([{"y": (2,), "z": (3,)}], {"y": ("a",), "z": ("a",)}, "one size for all outputs, got 2 and 3"),
        ([{"y": (1,)}, {"y": (2,)}], None, r"one shape for all static values, got \(1,\) and \(2,\)"),
    ],
)
def test_outputs_that_cannot_be_labelled_are_refused(outputs, dims, message):
    shaped = [{name: np.empty((1, *own)) for name, own in one.items()} for one in outputs]
    with pytest.raises(ValueError, match=message):
        check_outputs(_spec(dims=dims), shaped)


def test_own_dimensions_are_no_axes():
    with pytest.raises(ValueError, match="neither axes nor static"):
        check_names(_spec(dims={"y": ("x",)}))


def test_static_values_have_labels():
    spec = _spec(static={"kind": [np.sin, "a", np.float32(0.5), (1, 2)]})
    assert spec.labels == {"kind": ["sin", "a", 0.5, "(1, 2)"]}


def test_what_fn_closes_over_is_part_of_the_sweep(tmp_path):
    def make(factor):
        return lambda key, *, x: {"y": jnp.asarray(factor) * x}

    for first, other in [(2.0, 3.0), (np.zeros(3000), np.eye(1, 3000, 1500)[0])]:
        described = describe(_spec(fn=make(first)))
        assert described == describe(_spec(fn=make(first)))  # another function that computes the same
        changed = describe(_spec(fn=make(other)))
        assert described["fn at"] != changed["fn at"]
        assert described | {"fn at": changed["fn at"]} == changed
    sweep.run(make(2.0), {"x": [1.0]}, store=tmp_path)
    with pytest.raises(ValueError, match="fn at every point"):
        sweep.run(make(3.0), {"x": [1.0]}, store=tmp_path)
