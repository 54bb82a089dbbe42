from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import activations, network, tree
from biasjax.network import Network, Scales

ORDERS = [
    "dense",
    "dense-relu",
    "tanh-dense",
    "dense-bn-relu",
    "dense-relu-bn",
    "bn-relu-dense",
    "ln-dense-gelu",
    "dense-rms-silu",
    "conv-bn-relu",
    "conv-relu-gn",
    "bn-relu-conv",
    "relu-in-conv",
]


class Flax(nn.Module):
    """The same networks, written independently: one layer after the other, as a Flax user would."""

    net: Network

    @nn.compact
    def __call__(self, x, train):
        def step(token, x):
            if token == "dense":
                return nn.Dense(self.net.width)(x)
            if token == "conv":
                return nn.Conv(self.net.width, (3, 3))(x)
            if token == "bn":
                return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-3, use_fast_variance=False)(x)
            if token == "ln":
                return nn.LayerNorm(1e-3)(x)
            if token == "rms":
                return nn.RMSNorm(1e-3)(x)
            if token == "gn":
                return nn.GroupNorm(self.net.groups, epsilon=1e-3)(x)
            if token == "in":
                return nn.InstanceNorm(epsilon=1e-3)(x)
            return activations.get(token)(x)

        tokens = self.net.order.split("-")
        at = next(i for i, token in enumerate(tokens) if token in network.LINEARS)
        for layer in range(self.net.depth):
            y = x
            for token in tokens[at if layer == 0 else 0 :]:
                y = step(token, y)
            x = x + y if self.net.residual and layer else y
        for token in tokens[:at]:
            x = step(token, x)
        if "conv" in tokens:
            x = x.mean((1, 2))
        return nn.Dense(self.net.outputs or 0)(x)


def _fill(template, ours, order):
    """Put our parameters into Flax's tree, layer by layer in the order of use."""
    linear_name = "Dense" if "dense" in order else "Conv"
    rest = [
        jax.tree.map(lambda leaf, i=i: leaf[i], ours.body) for i in range(ours.body.linear.kernel.shape[0])
    ]
    blocks = [ours.stem, *rest]
    linears = [block.linear for block in blocks]
    linears_by_name = {f"{linear_name}_{i}": layer for i, layer in enumerate(linears)}
    linears_by_name[f"Dense_{len(linears) if linear_name == 'Dense' else 0}"] = ours.head
    norms = [block.norm for block in blocks if block.norm is not None] + [ours.tail] * (ours.tail is not None)
    filled = {name: layer._asdict() for name, layer in linears_by_name.items()}
    kinds = [name for name in template if name.rpartition("_")[0] not in ("Dense", "Conv")]
    for name in kinds:
        norm = norms[int(name.rpartition("_")[2])]
        filled[name] = {k: v for k, v in norm._asdict().items() if k in template[name]}
    return filled


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_agrees_with_flax(order, residual, key):
    net = Network(inputs=3, width=8, depth=3, outputs=5, order=order, residual=residual, groups=2)
    params, state = network.init(key, net, Scales(1.3, 0.5, 0.2))
    x = 1 + jax.random.normal(key, (6, 3) if "dense" in order else (6, 5, 4, 3))
    model: Any = Flax(net)
    variables = dict(model.init(key, x, True))
    variables["params"] = _fill(variables["params"], params, order)
    for _ in range(2):
        theirs, update = model.apply(variables, x, True, mutable="batch_stats")
        variables |= update
        ours, state = network.apply(net, params, state, x, train=True, momentum=0.9, epsilon=1e-3)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
    ours, _ = network.apply(net, params, state, x, train=False, epsilon=1e-3)
    np.testing.assert_allclose(ours, model.apply(variables, x, False), rtol=2e-5, atol=2e-5)


def test_without_residuals_pre_activation_is_the_same_function(key):
    post = Network(inputs=3, width=8, depth=3, outputs=5, order="dense-bn-relu")
    pre = Network(inputs=3, width=8, depth=3, outputs=5, order="bn-relu-dense")
    x = jax.random.normal(key, (6, 3))
    outputs = [network.apply(net, *network.init(key, net), x, train=True)[0] for net in (post, pre)]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["dense-bn-relu", "bn-relu-dense", "conv-bn-tanh"])
def test_depth_mask_is_a_shallower_network(order, key):
    deep = Network(inputs=3, width=8, depth=5, outputs=4, order=order, residual=True)
    x = jax.random.normal(key, (6, 3) if "dense" in order else (6, 4, 4, 3))
    params, state = network.init(key, deep, Scales(1.2, 0.1))
    run = jax.jit(lambda depth: network.apply(deep, params, state, x, train=True, depth=depth))
    for depth in (1, 3, 5):
        shallow = Network(inputs=3, width=8, depth=depth, outputs=4, order=order, residual=True)
        own, own_state = network.init(key, shallow, Scales(1.2, 0.1))
        chex.assert_trees_all_close(own.stem, params.stem)  # layers draw from their own key
        chex.assert_trees_all_equal(own.head, params.head)
        truth, new = network.apply(shallow, own, own_state, x, train=True)
        masked, masked_state = run(depth)
        np.testing.assert_allclose(masked, truth, rtol=1e-5, atol=1e-6)
        kept = jax.tree.map(lambda leaf, n=depth: leaf[: n - 1], masked_state.body)
        chex.assert_trees_all_close(kept, new.body, rtol=1e-5, atol=1e-6)
        unused = jax.tree.map(lambda leaf, n=depth: leaf[n - 1 :], (masked_state.body, state.body))
        chex.assert_trees_all_equal(*unused)


def test_init_scales_the_base_draws(key):
    net, scales = Network(inputs=3, width=4, depth=3, outputs=2, order="dense-bn"), Scales(1.5, 0.3, 0.2)
    drawn, state = network.draw(key, net)
    params, start = network.init(key, net, scales)
    chex.assert_trees_all_equal((network.scale(drawn, scales), state), (params, start))
    chex.assert_trees_all_equal(network.scale(drawn, Scales(1.0, 1.0)), drawn)
    np.testing.assert_array_equal(params.body.linear.kernel, np.float32(1.5) * drawn.body.linear.kernel)
    chex.assert_trees_all_equal(params.head, drawn.head)
    assert "head=" in repr(params)
    assert "Array(" not in repr(params)


def test_scales_multiply_shared_draws(key):
    net = Network(inputs=30, width=200, depth=4)
    base, _ = network.init(key, net, Scales(1.0, 1.0))
    scaled, _ = network.init(key, net, Scales(jnp.array([1.0, 2.0, 3.0, 4.0]), 0.5, 10.0))
    np.testing.assert_allclose(scaled.body.linear.kernel[1], 3 * base.body.linear.kernel[1], rtol=1e-6)
    ours, theirs = (network.hidden_biases(params) for params in (scaled, base))
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(ours, 10 + 0.5 * theirs, rtol=1e-6)
    np.testing.assert_allclose(200 * base.body.linear.kernel.var((1, 2)), 1.0, rtol=0.05)
    free = Network(inputs=30, width=200, depth=4, linear_bias=False)
    twin, _ = network.init(key, free, Scales(1.0, 1.0))
    assert twin.stem.linear.bias is None
    chex.assert_trees_all_equal(
        twin.body.linear.kernel, base.body.linear.kernel
    )  # bias-free twins share them


def test_scales_are_traced_and_networks_are_static(key):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def outputs(sigma_w, sigma_b):
        net = Network(inputs=3, width=8, depth=2, order="dense-act", activation=jnp.cos)
        params, state = network.init(key, net, Scales(sigma_w, sigma_b))
        return network.apply(net, params, state, jnp.ones((2, 3)), train=False)[0]

    grid = jnp.linspace(0.5, 2.0, 3)
    assert jax.vmap(jax.vmap(outputs, (None, 0)), (0, None))(grid, grid).shape == (3, 3, 2, 8)
    outputs(*jnp.array([0.1, 0.2]))  # other numbers, no other trace
    first, second = (Network(inputs=3, width=8, depth=2) for _ in range(2))
    assert hash(first) == hash(second)


@pytest.mark.parametrize("kind", ["linear_bias", "norm_bias", "norm_scale", "head_bias"])
def test_each_kind_of_bias_can_be_absent(kind, key):
    full, params = (
        network.init(key, _network(order="dense-bn-relu", **options))[0] for options in ({}, {kind: False})
    )
    sizes = {"linear_bias": 16, "norm_bias": 16, "norm_scale": 16, "head_bias": 4}
    assert tree.count(full).total - tree.count(params).total == sizes[kind]


def test_following_stats_are_those_that_cancel_the_bias(key):
    def shift(order, *, residual=False) -> Any:
        net = Network(inputs=3, width=8, depth=3, outputs=4, order=order, residual=residual)
        params, state = network.init(key, net)
        x = jax.random.normal(key, (16, 3))
        linear: Any = params.body.linear
        linear = linear._replace(bias=linear.bias.at[0].add(5.0))
        moved = params._replace(body=params.body._replace(linear=linear))
        one, other = (
            network.following_stats(net, network.apply(net, p, state, x, train=True, momentum=0.0)[1])
            for p in (params, moved)
        )
        return None if one is None or other is None else other.mean - one.mean

    for order in ("dense-bn-relu", "bn-relu-dense"):
        np.testing.assert_allclose(shift(order), [[0.0] * 8, [5.0] * 8, [0.0] * 8], atol=1e-5)
    np.testing.assert_allclose(shift("dense-bn-relu", residual=True)[1], 5.0, atol=1e-5)
    assert shift("dense-relu-bn") is None
    assert shift("bn-relu-dense", residual=True) is None


def _network(**options: Any):
    sizes: Any = {"inputs": 3, "width": 8, "depth": 2, "outputs": 4}
    return Network(**sizes | options)


BAD = [
    (
        lambda key: _network(order="desne-bn-relu"),
        ValueError,
        "order 'desne-bn-relu': .* Did you mean 'dense'",
    ),
    (
        lambda key: _network(order="dense-conv"),
        ValueError,
        'one linear layer, .* Write it like "conv-bn-relu"',
    ),
    (lambda key: _network(order="bn-relu"), ValueError, "one linear layer"),
    (lambda key: _network(order="dense-bn-ln"), ValueError, "at most one norm"),
    (lambda key: _network(order="dense-act"), ValueError, "activation=jnp.cos"),
    (lambda key: _network(activation=jnp.cos), ValueError, '"act" where your own activation stands'),
    (lambda key: _network(padding="VALID"), ValueError, "one of CIRCULAR, SAME"),
    (lambda key: _network(width=0), ValueError, "width: expected an integer of at least 1, got 0"),
    (lambda key: _network(depth=2.5), TypeError, "depth: expected an integer"),
    (lambda key: _network(order="conv-gn-relu", groups=3), ValueError, "a divisor of the width 8, got 3"),
    (lambda key: _network(kernel_init="gausian"), ValueError, "Did you mean 'gaussian'"),
    (lambda key: network.init(key, _network(), Scales(-1.0)), ValueError, "sigma_w: expected a number in"),
    (lambda key: network.init(key, _network(), Scales(jnp.ones(3))), ValueError, r"a scalar or shape \(2,\)"),
    (lambda key: _run(key, jnp.ones((2, 4))), ValueError, r"inputs of shape \(\.\.\., 3\), got \(2, 4\)"),
    (lambda key: _run(key, jnp.ones((2, 3), int)), TypeError, "floating dtype"),
    (lambda key: _run(key, jnp.ones((2, 3)), depth=3), ValueError, "depth: expected a number in"),
    (lambda key: _run(key, jnp.ones((1, 3)), order="dense-bn-relu"), ValueError, "more than one value"),
]


def _run(key, x, depth=None, **options):
    net = _network(**options)
    return network.apply(net, *network.init(key, net), x, train=True, depth=depth)


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused_clearly(call, error, message, key):
    with pytest.raises(error, match=message):
        call(key)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dtypes_stay(dtype, key):
    with jax.enable_x64(dtype == "float64"):
        net = _network(order="conv-bn-gelu")
        params, state = network.init(key, net, Scales(1.0, 0.1), dtype=dtype)
        y, state = network.apply(net, params, state, jnp.ones((2, 4, 4, 3), dtype), train=True)
        assert y.dtype == dtype
        assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {jnp.dtype(dtype)}
