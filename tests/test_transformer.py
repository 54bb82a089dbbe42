"""Transformer blocks against Flax's layers and PyTorch's, and what an audit says of their biases."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import audit, embedding, linear, norms, transformer
from biasjax.attention import Attention, attention, attention_init, attention_weights
from biasjax.linear import Linear
from biasjax.transformer import BIASES, block, block_init

X = jax.random.normal(jax.random.key(0), (2, 5, 8))


class FlaxBlock(nn.Module):
    pre_norm: bool

    @nn.compact
    def __call__(self, x):
        bias = nn.initializers.normal(1.0)

        def attend(x):
            return nn.MultiHeadDotProductAttention(2, bias_init=bias, name="attention")(x)

        def dense_layers(x):
            return nn.Dense(8, bias_init=bias, name="down")(
                nn.gelu(nn.Dense(32, bias_init=bias, name="up")(x))
            )

        for name, part in (("norm", attend), ("inner_norm", dense_layers)):
            norm = nn.LayerNorm(bias_init=bias, name=name)
            x = x + part(norm(x)) if self.pre_norm else norm(x + part(x))
        return x


def from_flax(p):
    def flat(layer, *shape):
        return Linear(layer["kernel"].reshape(shape), layer["bias"].reshape(-1))

    def projection(name):
        return flat(p["attention"][name], 8, 8)

    mixing = Attention(projection("query"), projection("key"), projection("value"), projection("out"))
    norm, inner = (norms.Norm(p[name]["scale"], p[name]["bias"]) for name in ("norm", "inner_norm"))
    return transformer.Block(norm, mixing, inner, flat(p["up"], 8, 32), flat(p["down"], 32, 8))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_agrees_with_flax(pre_norm):
    net = FlaxBlock(pre_norm)
    variables = net.init(jax.random.key(1), X)
    truth: Any = net.apply(variables, X)
    y = block(from_flax(variables["params"]), X, heads=2, pre_norm=pre_norm)
    np.testing.assert_allclose(y, truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_agrees_with_pytorch(pre_norm):
    torch = pytest.importorskip("torch")
    params = block_init(jax.random.key(1), 8, 2, bias_init="standard_normal")
    net = torch.nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, activation="relu", layer_norm_eps=1e-6, batch_first=True, norm_first=pre_norm
    )
    own = params.attention

    def tensor(array):
        return torch.tensor(np.array(array))

    with torch.no_grad():
        net.self_attn.in_proj_weight.copy_(tensor(jnp.concatenate([layer.kernel.T for layer in own[:3]])))
        biases = [layer.bias for layer in own[:3] if layer.bias is not None]
        net.self_attn.in_proj_bias.copy_(tensor(jnp.concatenate(biases)))
        for mine, theirs in (
            (own.out, net.self_attn.out_proj),
            (params.up, net.linear1),
            (params.down, net.linear2),
        ):
            theirs.weight.copy_(tensor(mine.kernel.T))
            theirs.bias.copy_(tensor(mine.bias))
        truth = net(tensor(X)).numpy()
    y = block(params, X, heads=2, activation=jax.nn.relu, pre_norm=pre_norm)
    np.testing.assert_allclose(y, truth, rtol=1e-6, atol=1e-6)


def test_biases_are_there_by_name():
    for name in BIASES:
        params = block_init(jax.random.key(0), 8, 2, use_bias=(name,))
        own = params.attention
        there = {
            "query": own.query.bias is not None,
            "key": own.key.bias is not None,
            "value": own.value.bias is not None,
            "out": own.out.bias is not None,
            "up": params.up.bias is not None,
            "down": params.down.bias is not None,
            "norm": params.norm.bias is not None,
        }
        assert (params.inner_norm.bias is not None) == there["norm"]
        assert [kind for kind, here in there.items() if here] == [name]
    with pytest.raises(ValueError, match="Did you mean 'query'"):
        block_init(jax.random.key(0), 8, 2, use_bias=("qeury",))


def _verdicts(**options):
    params = block_init(jax.random.key(1), 4, 1, hidden=4, use_bias=("key", "value", "out"))
    found = audit.audit_biases(lambda p, x: block(p, x, heads=1, **options), params, X[:, :3, :4])
    return {b.path.split("/")[-2]: b.verdict for b in found.findings if "attention" in b.path}


def test_an_audit_of_what_softmax_and_rotation_do_to_biases():
    plain = _verdicts()
    assert plain["key"] == "cancelled"
    assert plain["value"] == "absorbable"
    assert _verdicts(rotary=True)["key"] == "needed"
    assert _verdicts(weighting=jax.nn.sigmoid)["key"] == "needed"


def test_weights_are_what_attention_multiplies_values_with():
    params = attention_init(jax.random.key(0), 8, 2, bias_init="standard_normal", sink=True)
    for weighting in (jax.nn.softmax, jax.nn.sigmoid):
        weights = attention_weights(params, X, heads=2, causal=True, weighting=weighting)
        values = linear.dense(params.value, X).reshape(2, 5, 2, 4)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(2, 5, 8)
        y = attention(params, X, heads=2, causal=True, weighting=weighting)
        np.testing.assert_allclose(linear.dense(params.out, mixed), y, atol=1e-5)
        assert (np.triu(weights, 1) == 0).all()
    rows = attention_weights(params._replace(sink=None), X, heads=2).sum(-1)
    np.testing.assert_allclose(rows, 1.0, rtol=1e-6)


def test_embedding_is_a_dense_layer_of_one_hot_tokens():
    params = embedding.embed_init(jax.random.key(0), 7, 4)
    tokens = jnp.array([[0, 6, 3]])
    truth: Any = nn.Embed(7, 4).apply({"params": {"embedding": params.kernel}}, tokens)
    np.testing.assert_array_equal(embedding.embed(params, tokens), truth)
    np.testing.assert_allclose(jax.nn.one_hot(tokens, 7) @ params.kernel, truth, atol=1e-6)
    assert jnp.isnan(embedding.embed(params, jnp.array([7]))).all()
    with pytest.raises(TypeError, match="embed: expected an array of integers, got float32"):
        embedding.embed(params, jnp.ones(3))


def test_bad_input():
    params = block_init(jax.random.key(0), 8, 2)
    with pytest.raises(TypeError, match="block: expected Block, got None"):
        block(None, X, heads=2)  # pyright: ignore
    with pytest.raises(TypeError, match="norm: expected a function"):
        block(params, X, heads=2, norm="ln")  # pyright: ignore
    with pytest.raises(ValueError, match="hidden: expected an integer of at"):
        block_init(jax.random.key(0), 8, 2, hidden=0)
