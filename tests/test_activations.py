import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import activations

SMOOTH = np.linspace(-4.03, 7.97, 201)


@pytest.mark.parametrize("name", activations.NAMES)
def test_second_derivatives_jump_only_at_the_listed_kinks(name, x64):
    activation = activations.get(name)
    first = jax.vmap(jax.grad(activation.fn))
    second = jax.vmap(jax.grad(jax.grad(activation.fn)))
    h = 1e-6
    for derivative in (activation.fn, first, second):
        jumps = np.abs(np.asarray(derivative(jnp.asarray(SMOOTH + h)) - derivative(jnp.asarray(SMOOTH - h))))
        assert jumps.max() < 1e-4
    for kink in activation.kinks:
        ends = jnp.array([kink - h, kink + h])
        assert max(abs(np.diff(f(ends))[0]) for f in (activation.fn, first, second)) > 0.1


def test_agree_with_torch():
    torch = pytest.importorskip("torch")
    x = np.linspace(-5, 8, 101, dtype=np.float32)
    names = {"gelu": "gelu", "silu": "silu", "selu": "selu", "elu": "elu", "softplus": "softplus"}
    names |= {"leaky_relu": "leaky_relu", "relu6": "relu6", "softsign": "softsign", "tanh": "tanh"}
    for ours, theirs in names.items():
        truth = getattr(torch.nn.functional, theirs)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(
            activations.get(ours)(jnp.asarray(x)), truth, rtol=1e-5, atol=1e-6, err_msg=ours
        )


def test_callables_work_as_names_do():
    square = activations.get(jnp.square)
    assert square.kinks == ()
    assert float(square(jnp.float32(3.0))) == 9.0
    kinked = activations.Activation(jnp.abs, (0.0,))
    assert activations.get(kinked) is kinked


def test_bad_input_is_refused_clearly():
    with pytest.raises(ValueError, match="Did you mean 'relu'"):
        activations.get("rellu")
    with pytest.raises(TypeError, match="a name or a callable, got 3"):
        activations.get(3)  # pyright: ignore
