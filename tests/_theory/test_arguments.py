"""Arguments of theory: what an activation must be, and numbers of every kind."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import meanfield, normrates, phases
from biasjax._theory import arguments
from biasjax.activations import Activation

NOT_ELEMENTWISE = {
    "numpy": (np.tanh, "TracerArrayConversionError"),
    "numpy inside": (lambda x: np.maximum(np.asarray(x), 0), "TracerArrayConversionError"),
    "python branch": (lambda x: x if x > 0 else 0 * x, "ValueError: The truth"),
    "constant": (lambda x: 1.0, r"float32\[\]"),
    "reduction": (jnp.sum, r"float32\[\]"),
    "bool": (lambda x: x > 0, r"bool\[2,3\]"),
    "dtype": (lambda x: x.astype(jnp.bfloat16), r"bfloat16\[2,3\]"),
    "nothing": (lambda x: None, "None"),
    "two": (lambda x: (x, x), r"\(Shape"),
}


@pytest.mark.parametrize("kind", NOT_ELEMENTWISE)
def test_an_activation_is_elementwise_or_refused(kind):
    fn, got = NOT_ELEMENTWISE[kind]
    words = rf"activation: expected float32\[2,3\] of float32\[2,3\], got {got}.* Write it elementwise"
    for call in (
        lambda: phases.order_parameters(fn, 1.0),
        lambda: phases.critical_line(fn),
        lambda: meanfield.variance_map(fn, 1.0, 1.0),
        lambda: normrates.batch_norm(fn, 8),
    ):
        with pytest.raises(TypeError, match=words):
            call()


def test_kinks_are_a_tuple_of_numbers():
    with pytest.raises(TypeError, match="Give kinks as a tuple"):
        arguments.activation(Activation(jnp.abs, [0.0]))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="kinks: expected a number in"):
        arguments.activation(Activation(jnp.abs, (np.nan,)))
    assert arguments.activation("relu").kinks == (0.0,)


def test_an_activation_is_traced_once_and_in_the_dtype_of_the_computation():
    fn = chex.assert_max_traces(lambda x: 2 * x, 1)
    for _ in range(2):
        arguments.activation(fn, jnp.bfloat16)
    with jax.enable_x64(True), pytest.raises(TypeError, match=r"expected float64\[2,3\].*, got float32"):
        arguments.activation(lambda x: x.astype(jnp.float32))


def test_numbers_of_every_size_and_kind():
    arrays, dtype = arguments.floats(a=2**40, b=True, c=np.float64(0.5), d=np.array([1, 2]), e=np.int8(-3))
    assert dtype == jnp.float32
    expected = [2.0**40, 1.0, 0.5, np.array([1.0, 2.0]), -3.0]
    chex.assert_trees_all_equal(arrays, [jnp.asarray(x, jnp.float32) for x in expected])
    # Mixed floats take the widest, as results cannot have both
    _, dtype = arguments.floats(a=jnp.ones(2, jnp.bfloat16), b=jnp.ones(2))
    assert dtype == jnp.float32
    for bad in ("relu", None, 1j, jnp.sin, 10**400, [[1], [2, 3]], jax.random.key(0)):
        with pytest.raises(TypeError, match="a: expected a real number"):
            arguments.floats(a=bad)  # pyright: ignore[reportArgumentType]
