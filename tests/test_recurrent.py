"""LSTM and GRU cells against Flax, PyTorch and Keras, and their biases against what an audit says."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import audit, recurrent
from biasjax.linear import Linear
from biasjax.recurrent import LSTMState, Recurrent

INPUTS, FEATURES = 3, 4
X = jax.random.normal(jax.random.key(0), (6, 2, INPUTS))
H, C = jax.random.normal(jax.random.key(1), (2, 2, FEATURES))
CELLS = {
    "lstm": (recurrent.lstm_init, recurrent.lstm_cell, LSTMState(H, C)),
    "gru": (recurrent.gru_init, recurrent.gru_cell, H),
}


def draw(name, **options):
    return CELLS[name][0](jax.random.key(2), INPUTS, FEATURES, bias_init="standard_normal", **options)


def unroll(name, params):
    _, cell, start = CELLS[name]
    return jax.lax.scan(functools.partial(cell, params), start, X)


def side_by_side(variables, prefix, gates):
    layers = [variables[prefix + gate] for gate in gates]
    zeros = [jnp.zeros(FEATURES)] * len(gates)
    biases = [layer.get("bias", zero) for layer, zero in zip(layers, zeros, strict=True)]
    return Linear(jnp.concatenate([layer["kernel"] for layer in layers], 1), jnp.concatenate(biases))


@pytest.mark.parametrize(
    ("name", "cell", "gates"), [("lstm", nn.OptimizedLSTMCell, "ifgo"), ("gru", nn.GRUCell, "rzn")]
)
def test_agrees_with_flax(name, cell, gates):
    net: Any = nn.RNN(
        cell(FEATURES, bias_init=nn.initializers.normal(1.0)), time_major=True, return_carry=True
    )
    carry = (C, H) if name == "lstm" else H
    variables = net.init(jax.random.key(3), X, initial_carry=carry)["params"]["cell"]
    params = Recurrent(*(side_by_side(variables, prefix, gates) for prefix in ("i", "h")))
    _, truth = net.apply({"params": {"cell": variables}}, X, initial_carry=carry)
    np.testing.assert_allclose(unroll(name, params)[1], truth, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_agrees_with_pytorch(name):
    torch = pytest.importorskip("torch")
    params = draw(name)
    net = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name](INPUTS, FEATURES)
    with torch.no_grad():
        for side, layer in (("ih", params.input), ("hh", params.hidden)):
            getattr(net, f"weight_{side}_l0").copy_(torch.tensor(np.array(layer.kernel.T)))
            getattr(net, f"bias_{side}_l0").copy_(torch.tensor(np.array(layer.bias)))
        h, c = (torch.tensor(np.array(part))[None] for part in (H, C))
        truth, _ = net(torch.tensor(np.array(X)), (h, c) if name == "lstm" else h)
    np.testing.assert_allclose(unroll(name, params)[1], truth.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_agrees_with_keras(name):
    keras = pytest.importorskip("keras")
    params = draw(name, use_bias=True if name == "gru" else ("input",))
    net = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[name](FEATURES, return_sequences=True)
    x = jnp.swapaxes(X, 0, 1)
    net.build(x.shape)
    if name == "gru":  # Keras has the update gate first

        def swap(leaf):
            return leaf.reshape(*leaf.shape[:-1], 3, FEATURES)[..., [1, 0, 2], :].reshape(leaf.shape)

        swapped = jax.tree.map(swap, params)
        weights = [
            swapped.input.kernel,
            swapped.hidden.kernel,
            jnp.stack([swapped.input.bias, swapped.hidden.bias]),
        ]
    else:
        weights = [params.input.kernel, params.hidden.kernel, params.input.bias]
    net.set_weights([np.asarray(weight) for weight in weights])
    start = [H, C] if name == "lstm" else [H]
    truth = np.swapaxes(np.asarray(net(x, initial_state=start)), 0, 1)
    np.testing.assert_allclose(unroll(name, params)[1], truth, atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_an_audit_says_that_the_two_biases_add_up(name):
    def outputs(params, x):
        _, cell, _ = CELLS[name]
        start = jax.tree.map(jnp.zeros_like, CELLS[name][2])
        for step in x:  # written out: scans are opaque to local proofs
            start, y = cell(params, start, step)
        return y

    found = {b.path: b for b in audit.audit_biases(outputs, draw(name), X[:3]).findings}
    hidden = next(b for path, b in found.items() if "hidden" in path)
    gates = {"lstm": 4, "gru": 3}[name]
    # Of the GRU the candidate's stands behind the reset gate
    unique = 0 if name == "lstm" else FEATURES
    assert (hidden.rank, hidden.unique) == (gates * FEATURES, unique)


def test_absent_biases_are_none():
    params = recurrent.lstm_init(jax.random.key(0), 3, 2, use_bias=("hidden",))
    assert params.input.bias is None
    assert params.hidden.bias is not None


def test_bad_input():
    lstm, gru = draw("lstm"), draw("gru")
    wrong = [
        (lambda: recurrent.lstm_cell(lstm, H, X[0]), TypeError, "lstm_cell: expected LSTMState"),  # pyright: ignore
        (lambda: recurrent.lstm_cell(gru, LSTMState(H, C), X[0]), ValueError, r"a kernel \(features, 4"),
        (lambda: recurrent.gru_cell(gru, H[:1], X[0]), ValueError, r"a state of float32 and shape \(2, 4\)"),
        (lambda: recurrent.gru_cell(gru, H, X[0, :, :2]), ValueError, "inputs of shape"),
        (lambda: recurrent.lstm_cell(lstm, LSTMState(H, C[:1]), X[0]), ValueError, "a cell of float32"),
        (lambda: draw("gru", use_bias="input"), TypeError, "expected True, False or names"),
    ]
    for call, error, message in wrong:
        with pytest.raises(error, match=message):
            call()
