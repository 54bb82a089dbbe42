"""Known truth of the auditor: the same nets in Flax nnx, Equinox and Haiku (linen: test_audit)."""

import jax
import pytest

from biasjax import adapters
from biasjax.audit import audit_modes

C = 8
X = jax.random.normal(jax.random.key(7), (4, 4, 4, 3))
TOKENS = jax.random.normal(jax.random.key(9), (2, 5, C))

# Directions of the convolution's bias that die in training and in evaluation
KNOWN = {
    "batch": (C, 0),
    "relu-batch": (0, 0),
    "instance": (C, C),
    "group": (4, 4),
    "layer": (1, 1),
    "rms": (0, 0),
    "softmax": (1, 1),
}


def nnx_net(name):
    from flax import nnx

    rngs = nnx.Rngs(0)
    made = {
        "batch": lambda: nnx.BatchNorm(C, rngs=rngs),
        "relu-batch": lambda: nnx.BatchNorm(C, rngs=rngs),
        "instance": lambda: nnx.InstanceNorm(C, rngs=rngs),
        "group": lambda: nnx.GroupNorm(C, num_groups=4, rngs=rngs),
        "layer": lambda: nnx.LayerNorm(C, rngs=rngs),
        "rms": lambda: nnx.RMSNorm(C, rngs=rngs),
        "softmax": lambda: jax.nn.softmax,
    }

    class Net(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, C, (3, 3), rngs=rngs)
            self.norm = made[name]()
            self.head = nnx.Conv(C, 4, (1, 1), use_bias=False, rngs=rngs)

        def __call__(self, x):
            x = self.conv(x)
            x = self.norm(nnx.relu(x) if name == "relu-batch" else x)
            return self.head(nnx.relu(x))

    return adapters.from_nnx(Net()), X, "conv/bias"


def equinox_net(name):
    eqx = pytest.importorskip("equinox")

    def over_pixels(norm):
        return lambda x: jax.vmap(jax.vmap(norm, 1, 1), 2, 2)(x)

    stateful = name.endswith("batch")
    made = {
        "instance": lambda: eqx.nn.GroupNorm(C, C),
        "group": lambda: eqx.nn.GroupNorm(4, C),
        "layer": lambda: eqx.nn.LayerNorm(C),
        "rms": lambda: eqx.nn.RMSNorm(C),
        "softmax": lambda: jax.nn.softmax,
    }

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.Module
        head: eqx.nn.Conv2d

        def __init__(self):
            keys = jax.random.split(jax.random.key(0), 2)
            self.conv = eqx.nn.Conv2d(3, C, 3, key=keys[0])
            # Its default mode normalises by running averages in training, too
            self.norm = eqx.nn.BatchNorm(C, "batch", mode="batch") if stateful else made[name]()
            self.head = eqx.nn.Conv2d(C, 4, 1, use_bias=False, key=keys[1])

        def __call__(self, x, state=None):
            y = self.conv(x)
            if stateful:
                y, state = self.norm(jax.nn.relu(y) if name == "relu-batch" else y, state)
                return self.head(jax.nn.relu(y)), state
            alone = name in ("instance", "group")
            return self.head(jax.nn.relu((self.norm if alone else over_pixels(self.norm))(y)))

    model, state = eqx.nn.make_with_state(Net)() if stateful else (Net(), None)
    return adapters.from_equinox(model, state), X.transpose(0, 3, 1, 2), "conv/bias"


def haiku_net(name):
    hk = pytest.importorskip("haiku")
    made = {
        "instance": lambda x: hk.InstanceNorm(True, True)(x),
        "group": lambda x: hk.GroupNorm(4)(x),
        "layer": lambda x: hk.LayerNorm(-1, True, True)(x),
        "rms": lambda x: hk.RMSNorm(-1)(x),
        "softmax": jax.nn.softmax,
    }

    def net(x, is_training):
        x = hk.Conv2D(C, 3, name="conv")(x)
        x = jax.nn.relu(x) if name == "relu-batch" else x
        x = hk.BatchNorm(True, True, 0.9)(x, is_training) if name.endswith("batch") else made[name](x)
        return hk.Conv2D(4, 1, with_bias=False)(jax.nn.relu(x))

    transformed = hk.transform_with_state(net)
    params, state = transformed.init(jax.random.key(0), X, True)
    return adapters.from_haiku(transformed, params, state), X, "conv/b"


NETS = {"nnx": nnx_net, "equinox": equinox_net, "haiku": haiku_net}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("framework", NETS)
def test_known_truth(framework, name, standard_promotion):
    pure, x, path = NETS[framework](name)
    modes = audit_modes(*pure, x, joint=False)
    found = [audit[path] for audit in modes]
    assert tuple(f.size - f.rank for f in found) == KNOWN[name]
    assert found[0].deaths or not KNOWN[name][0]
    if name in ("group", "layer", "softmax"):
        assert found[0].basis.name == ("per group" if name == "group" else "uniform")


def nnx_attention():
    from flax import nnx

    net = nnx.MultiHeadAttention(2, C, decode=False, rngs=nnx.Rngs(0))
    return adapters.from_nnx(net), "{}/bias"


def equinox_attention():
    eqx = pytest.importorskip("equinox")
    biased = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
    net = eqx.nn.MultiheadAttention(2, C, **biased, key=jax.random.key(0))

    def call(net, state, x):
        return jax.vmap(net)(x, x, x), state

    return adapters.from_equinox(net, call=call), "{}_proj/bias"


def haiku_attention():
    hk = pytest.importorskip("haiku")

    def net(x):
        return hk.MultiHeadAttention(2, C // 2, w_init=hk.initializers.VarianceScaling(), name="heads")(
            x, x, x
        )

    transformed = hk.transform(net)
    params = transformed.init(jax.random.key(0), TOKENS)
    return adapters.from_haiku(transformed, params, mode=lambda train: {}), "heads/{}/b"


ATTENTION = {
    "nnx": (nnx_attention, "out"),
    "equinox": (equinox_attention, "output"),
    "haiku": (haiku_attention, "linear"),
}


@pytest.mark.parametrize("framework", ATTENTION)
def test_attention(framework, standard_promotion):
    make, out = ATTENTION[framework]
    pure, path = make()
    audit = audit_modes(*pure, TOKENS).eval
    key, value, query = (audit[path.format(name)] for name in ("key", "value", "query"))
    assert (key.verdict, query.verdict) == ("cancelled", "needed")
    assert (value.rank, value.unique) == (C, 0)
    assert value.absorbed_by == (path.format(out),)
