"""Paths, names of biases, masks, counts and summaries; where layers meet data is in _jaxpr/test_meetings."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from biasjax import linear, norms, tree


class VGG16(nn.Module):
    """The model of the forum thread on its bias, in Flax."""

    @nn.compact
    def __call__(self, x):
        for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
            x = nn.relu(nn.Conv(width, (3, 3))(x)) if width else nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for width in (4096, 4096):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(1000)(x)


def test_vgg16_is_summarised_from_shapes_alone():
    model, image = VGG16(), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), image)  # 138 million, none allocated
    rows = tree.layers(model.apply, params, image)
    assert rows[0] == tree.Layer("params/Conv_0", (1, 224, 224, 64), 1, 1792, 64)
    assert rows[12].output_shape == (1, 14, 14, 512)
    assert [row.output_shape for row in rows[13:]] == [(1, 4096), (1, 4096), (1, 1000)]
    assert tree.count(params).total == 138_357_544
    assert "138,357,544" in tree.summary(model.apply, params, image).splitlines()[-1]


def test_a_summary_says_what_is_unused_and_what_repeats():
    params = {"scan": {"w": jnp.ones((5, 3, 3))}, "idle": {"b": jnp.ones(1200)}}

    def fn(params, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["scan"]["w"])[0]

    assert (
        tree.summary(fn, params, jnp.ones((7, 3)))
        == """\
layer  output shape  params  biases
-----------------------------------
scan   (7, 3) x5         45       0
idle   unused         1,200   1,200
-----------------------------------
total                 1,245   1,200"""
    )


def test_layers_sees_into_jit_scan_cond_and_remat():
    params = {
        "scan": {"w": jnp.ones((5, 3, 3))},
        "jit": {"w": jnp.ones((3, 4)), "b": jnp.ones(4)},
        "idle": {"b": jnp.ones(2)},
    }
    params |= {"cond": {"w": jnp.ones((4, 2))}, "remat": {"bias": jnp.ones(2)}}

    def fn(params, x):
        x, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["scan"]["w"])
        x = jax.jit(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]))(params["jit"], x)
        x = jax.lax.cond(x.sum() > 0, lambda x: x @ params["cond"]["w"], lambda x: x[:, :2], x)
        return jax.checkpoint(lambda b, x: x + b)(params["remat"]["bias"], x)

    rows = {row.name: row for row in tree.layers(fn, params, jnp.ones((7, 3)))}
    assert list(rows) == ["scan", "jit", "cond", "remat", "idle"]
    assert (rows["scan"].output_shape, rows["scan"].repeats) == ((7, 3), 5)
    assert rows["jit"].output_shape == (7, 4)
    assert rows["cond"].output_shape == rows["remat"].output_shape == (7, 2)
    assert rows["idle"].output_shape is None
    assert rows["idle"].biases == 2


def test_layers_takes_arrays_closed_over_as_data():
    x = jnp.ones((5, 3))
    params = {"first": {"w": jnp.ones((3, 4))}, "second": {"w": jnp.ones((4, 2))}}
    closed = tree.layers(lambda p: jnp.tanh(x @ p["first"]["w"]) @ p["second"]["w"], params)
    assert [(row.name, row.output_shape) for row in closed] == [("first", (5, 4)), ("second", (5, 2))]


def test_masks_skip_biases_in_optax():
    params = {
        "dense": linear.dense_init(jax.random.key(0), 3, 2, bias_init="ones"),
        "free": linear.dense_init(jax.random.key(0), 2, 2, use_bias=False),
        "norm": norms.Norm(jnp.ones(2), jnp.ones(2)),
    }
    mask = tree.bias_mask(params)
    assert mask["dense"] == (False, True)
    assert mask["free"] == (False, None)
    assert mask["norm"] == (False, True)
    tx = optax.masked(optax.set_to_zero(), mask)
    ones = jax.tree.map(jnp.ones_like, params)
    updates: Any = tx.update(ones, tx.init(params))[0]
    chex.assert_trees_all_equal(updates["dense"].bias, jnp.zeros(2))
    chex.assert_trees_all_equal(updates["dense"].kernel, jnp.ones((3, 2)))
    own = tree.bias_mask(params, lambda path, leaf: path.startswith("norm"))
    assert own["norm"] == (True, True)
    assert own["dense"] == (False, False)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Dense_0/bias", True),
        ("linear/b", True),
        ("batch_norm/offset", True),
        ("bn/beta", True),
        ("attention/in_proj_bias", True),
        ("lstm/bias_ih", True),
        ("layers/0/bias/value", True),
        ("mlp/b1", True),
        ("attention/bq", True),
        ("bias/kernel", False),
        ("head/intercept", True),
        ("block", False),
        ("Dense_0/kernel", False),
        ("embedding/table", False),
        ("bias_corrector/kernel", False),
        ("unbiased", False),
        ("", False),
    ],
)
def test_biases_are_known_by_name(path, expected):
    assert tree.is_bias(path) is expected


def test_paths_of_other_frameworks():
    eqx, hk = pytest.importorskip("equinox"), pytest.importorskip("haiku")
    assert list(tree.paths(eqx.filter(eqx.nn.Linear(2, 3, key=jax.random.key(0)), eqx.is_array))) == [
        "weight",
        "bias",
    ]
    params = hk.transform(lambda x: hk.Linear(3)(x)).init(jax.random.key(0), np.ones((1, 2), np.float32))
    assert tree.count(params) == (9, 3)


def test_leaves_whose_paths_collide_are_all_counted():
    params = {"a/b": jnp.ones(3), "a": {"b": jnp.ones(5), "w": jnp.ones(2)}}
    assert tree.count(params) == (10, 8)
    (row,) = tree.layers(lambda p, x: x + p["a/b"].sum() + p["a"]["b"].sum(), params, jnp.ones(4))
    assert (row.name, row.parameters, row.biases) == ("a", 10, 8)
    with pytest.raises(ValueError, match="expected one leaf at each path, got two at 'a/b'"):
        tree.paths(params)


def test_numbers_are_summarised_and_other_leaves_refused():
    def fn(params, x):
        return x * params["gain"] + params["bias"]

    params: dict[str, Any] = {"gain": 2.0, "bias": jnp.ones(3)}
    assert "params  (3,)               3       3" in tree.summary(fn, params, jnp.ones(3))
    with pytest.raises(TypeError, match="layers: expected an array or number at params/name, got 'net'"):
        tree.summary(fn, params | {"name": "net"}, jnp.ones(3))
    with pytest.raises(TypeError, match="fn: expected a function, got None"):
        tree.summary(None, params)  # pyright: ignore
