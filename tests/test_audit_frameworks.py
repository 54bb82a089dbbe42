"""Known truth of the auditor: the same branches in biasjax's own layers, linen, nnx, Equinox and Haiku.

Each net is one function with a branch per norm, conv -> norm -> relu -> head, and is audited once; those
whose norms know training from evaluation in both modes.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import pytest

from biasjax import adapters, attention, linear, norms
from biasjax.audit import Finding, audit_biases, audit_modes, in_mode

C = 8
X = jax.random.normal(jax.random.key(7), (4, 4, 4, 3))
TOKENS = jax.random.normal(jax.random.key(9), (2, 5, C))

# Directions of the convolution's bias that die in training; in evaluation those with modes keep all
MODED = {"batch": C, "relu_batch": 0}
OTHERS = {"instance": C, "group": 4, "layer": 1, "rms": 0}
KNOWN = MODED | OTHERS
NAMES = {"group": "per group", "layer": "uniform"}


def own_net(names):
    keys = iter(jax.random.split(jax.random.key(0), 2 * len(names)))
    params = {
        name: {
            "conv": linear.conv_init(next(keys), 3, C, (3, 3)),
            "norm": norms.norm_init(C),
            "head": linear.conv_init(next(keys), C, 4, (1, 1), use_bias=False),
        }
        for name in names
    }
    apply = {
        "instance": norms.instance_norm,
        "group": functools.partial(norms.group_norm, groups=4),
        "layer": norms.layer_norm,
        "rms": norms.rms_norm,
    }

    def branch(name, p, x, train):
        y = linear.conv(p["conv"], x)
        y = jax.nn.relu(y) if name == "relu_batch" else y
        if name.endswith("batch"):
            y = norms.batch_norm(p["norm"], norms.batch_stats_init(C), y, train=train)[0]
        else:
            y = apply[name](p["norm"], y)
        return linear.conv(p["head"], jax.nn.relu(y))

    def net(params, state, x, *, train):
        return [branch(name, params[name], x, train) for name in names], state

    return adapters.Pure(net, params, ()), X, "{}/conv/bias"


def linen_net(names):
    made = {
        "instance": nn.InstanceNorm,
        "group": functools.partial(nn.GroupNorm, 4),
        "layer": nn.LayerNorm,
        "rms": nn.RMSNorm,
    }

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            outs = []
            for name in names:
                y = nn.Conv(C, (3, 3), name=name)(x)
                y = nn.relu(y) if name == "relu_batch" else y
                if name.endswith("batch"):
                    y = nn.BatchNorm(not train, name=f"{name}_norm")(y)
                else:
                    y = made[name](name=f"{name}_norm")(y)
                outs.append(nn.Conv(4, (1, 1), use_bias=False)(nn.relu(y)))
            return outs

    return adapters.from_linen(Net(), Net().init(jax.random.key(0), X, False)), X, "{}/bias"


def nnx_net(names):
    from flax import nnx

    rngs = nnx.Rngs(0)
    made = {
        "batch": lambda: nnx.BatchNorm(C, rngs=rngs),
        "relu_batch": lambda: nnx.BatchNorm(C, rngs=rngs),
        "instance": lambda: nnx.InstanceNorm(C, rngs=rngs),
        "group": lambda: nnx.GroupNorm(C, num_groups=4, rngs=rngs),
        "layer": lambda: nnx.LayerNorm(C, rngs=rngs),
        "rms": lambda: nnx.RMSNorm(C, rngs=rngs),
    }

    class Branch(nnx.Module):
        def __init__(self, name):
            self.conv = nnx.Conv(3, C, (3, 3), rngs=rngs)
            self.norm = made[name]()
            self.head = nnx.Conv(C, 4, (1, 1), use_bias=False, rngs=rngs)
            self.before = nnx.relu if name == "relu_batch" else lambda x: x

        def __call__(self, x):
            return self.head(nnx.relu(self.norm(self.before(self.conv(x)))))

    class Net(nnx.Module):
        def __init__(self):
            for name in names:
                setattr(self, name, Branch(name))

        def __call__(self, x):
            return [getattr(self, name)(x) for name in names]

    return adapters.from_nnx(Net()), X, "{}/conv/bias"


def equinox_net(names):
    eqx = pytest.importorskip("equinox")

    def over_pixels(norm):
        return lambda x: jax.vmap(jax.vmap(norm, 1, 1), 2, 2)(x)

    made = {
        # Its default mode normalises by running averages in training, too
        "batch": lambda: eqx.nn.BatchNorm(C, "batch", mode="batch"),
        "relu_batch": lambda: eqx.nn.BatchNorm(C, "batch", mode="batch"),
        "instance": lambda: eqx.nn.GroupNorm(C, C),
        "group": lambda: eqx.nn.GroupNorm(4, C),
        "layer": lambda: eqx.nn.LayerNorm(C),
        "rms": lambda: eqx.nn.RMSNorm(C),
    }

    class Net(eqx.Module):
        conv: Any
        norm: Any
        head: Any

        def __init__(self):
            keys = jax.random.split(jax.random.key(0), 2 * len(names))
            self.conv = {name: eqx.nn.Conv2d(3, C, 3, key=keys[i]) for i, name in enumerate(names)}
            self.norm = {name: made[name]() for name in names}
            self.head = {
                name: eqx.nn.Conv2d(C, 4, 1, use_bias=False, key=keys[-1 - i]) for i, name in enumerate(names)
            }

        def __call__(self, x, state=None):
            outs = []
            for name, norm in self.norm.items():
                y = self.conv[name](x)
                if name.endswith("batch"):
                    y, state = norm(jax.nn.relu(y) if name == "relu_batch" else y, state)
                else:
                    y = (norm if name in ("instance", "group") else over_pixels(norm))(y)
                outs.append(self.head[name](jax.nn.relu(y)))
            return (outs, state) if state else outs

    model, state = eqx.nn.make_with_state(Net)()
    moded = any(name in MODED for name in names)
    return adapters.from_equinox(model, state if moded else None), X.transpose(0, 3, 1, 2), "conv/{}/bias"


def haiku_net(names):
    hk = pytest.importorskip("haiku")
    made = {
        "instance": lambda x: hk.InstanceNorm(True, True)(x),
        "group": lambda x: hk.GroupNorm(4)(x),
        "layer": lambda x: hk.LayerNorm(-1, True, True)(x),
        "rms": lambda x: hk.RMSNorm(-1)(x),
    }

    def net(x, is_training):
        outs = []
        for name in names:
            y = hk.Conv2D(C, 3, name=name)(x)
            y = jax.nn.relu(y) if name == "relu_batch" else y
            y = hk.BatchNorm(True, True, 0.9)(y, is_training) if name.endswith("batch") else made[name](y)
            outs.append(hk.Conv2D(4, 1, with_bias=False)(jax.nn.relu(y)))
        return outs

    transformed = hk.transform_with_state(net)
    params, state = transformed.init(jax.random.key(0), X, True)
    return adapters.from_haiku(transformed, params, state), X, "{}/b"


NETS = {"own": own_net, "linen": linen_net, "nnx": nnx_net, "equinox": equinox_net, "haiku": haiku_net}


class Audited(NamedTuple):
    framework: str
    path: str
    train: dict[str, Finding]
    evaluation: dict[str, Finding]

    def of(self, name):
        path = self.path.format(name)
        return self.train[path], self.evaluation.get(path)


@pytest.fixture(scope="module", params=NETS)
def net(request):
    """Findings of one framework's nets."""
    make = NETS[request.param]
    moded, x, path = make(tuple(MODED))
    alike, *_ = make(tuple(OTHERS))
    fn, keys = in_mode(alike.apply, alike.state, True)
    with jax.numpy_dtype_promotion("standard"):
        modes = audit_modes(*moded, x, joint=request.param == "own")
        audits = (*modes, audit_biases(fn, alike.params, x, keys, joint=False))
    train, evaluation, others = ({f.path: f for f in audit.findings} for audit in audits)
    return Audited(request.param, path, train | others, evaluation)


@pytest.mark.parametrize("name", KNOWN)
def test_norms_cancel_what_is_known(net, name):
    train, evaluation = net.of(name)
    assert train.size - train.rank == KNOWN[name]
    assert evaluation is None or evaluation.rank == C
    assert (evaluation is None) == (name in OTHERS)
    assert (train.basis and train.basis.name) == NAMES.get(name)
    assert bool(train.deaths) == bool(KNOWN[name])


@pytest.mark.parametrize("name", [name for name, dead in KNOWN.items() if dead])
def test_shifts_die_in_the_norm(net, name):
    death = net.of(name)[0].deaths[0]
    files = {"own": "norms.py", "linen": "flax/linen/normalization.py", "nnx": "nnx/nn/normalization.py"}
    assert files.get(net.framework, net.framework) in death.where
    if net.framework == "linen":
        assert death.primitive == "sub"
        assert f"{name}_norm" in death.module


@pytest.mark.parametrize("net", ["own"], indirect=True)
def test_the_norms_bias_absorbs_in_evaluation_only(net):
    train, evaluation = net.of("batch")
    assert (train.verdict, evaluation.verdict) == ("cancelled", "absorbable")
    assert evaluation.absorbed_by == ("batch/norm/bias",)
    assert net.train["batch/norm/bias"].verdict == "needed"
    assert net.evaluation["batch/norm/bias"].verdict == "absorbable"


# Attention -------------------------------------------------------------------------------------------


def own_attention():
    params = attention.attention_init(jax.random.key(0), C, 2)
    return (lambda p, s, x, train: (attention.attention(p, x, heads=2), s), params, ()), "{}/bias"


def linen_attention():
    net = nn.MultiHeadDotProductAttention(2)
    return adapters.from_linen(net, net.init(jax.random.key(0), TOKENS), mode=lambda train: {}), "{}/bias"


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
    "own": (own_attention, "out"),
    "linen": (linen_attention, "out"),
    "nnx": (nnx_attention, "out"),
    "equinox": (equinox_attention, "output"),
    "haiku": (haiku_attention, "linear"),
}


@pytest.mark.parametrize("framework", ATTENTION)
def test_attention(framework, standard_promotion):
    make, out = ATTENTION[framework]
    (apply, params, state), path = make()
    audit = audit_biases(lambda p, x: apply(p, state, x, train=False)[0], params, TOKENS)
    key, value, query = (audit[path.format(name)] for name in ("key", "value", "query"))
    assert (key.verdict, query.verdict) == ("cancelled", "needed")
    assert (value.rank, value.unique) == (C, 0)
    assert value.absorbed_by == (path.format(out),)
    assert audit[path.format(out)].verdict == "absorbable"
    if framework == "linen":
        assert "flax/linen/attention.py" in key.deaths[0].where
