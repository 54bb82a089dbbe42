"""Running statistics: what is wrong with them is found, and measured anew they are those of the data."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import biasjax as bj
from biasjax import adapters, norms, statistics

KEYS = jax.random.split(jax.random.key(0), 5)
# The last batch is smaller than the others
BATCHES = [2 * jax.random.normal(key, (6 if i < 4 else 3, 5)) + 1 for i, key in enumerate(KEYS)]
ALL = np.concatenate(BATCHES)


@pytest.fixture(autouse=True)
def _promotion(standard_promotion):
    """Frameworks promote types."""


def two_layers(momentum=0.9, bias=3.0):
    """Two batch norms, one behind the other."""

    def apply(params, state, x, train):
        first, second = state
        options = {"train": train, "momentum": momentum}
        y, first = norms.batch_norm(params["norm"], first, x @ params["a"] + params["bias"], **options)
        y, second = norms.batch_norm(params["norm"], second, jnp.tanh(y) @ params["b"], **options)
        return y, (first, second)

    keys = jax.random.split(jax.random.key(1), 2)
    params = {
        "a": jax.random.normal(keys[0], (5, 4)),
        "b": jax.random.normal(keys[1], (4, 4)),
        "bias": jnp.full(4, bias),
        "norm": norms.norm_init(4),
    }
    return adapters.Pure(apply, params, (norms.batch_stats_init(4), norms.batch_stats_init(4)))


def test_exact_statistics_are_those_of_all_examples_layer_after_layer():
    pure = two_layers()
    new = statistics.reestimate(pure, BATCHES)
    x = ALL @ np.asarray(pure.params["a"]) + 3.0
    first, second = new.state
    np.testing.assert_allclose(first.mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(first.var, x.var(0), rtol=1e-5)
    y = np.tanh((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)) @ np.asarray(pure.params["b"])
    np.testing.assert_allclose(second.mean, y.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(second.var, y.var(0), rtol=1e-4)
    assert new.params["bias"] is pure.params["bias"]


def test_ema_is_what_training_passes_leave():
    pure = two_layers()
    state = pure.state
    for batch in BATCHES:
        state = pure.apply(pure.params, state, batch, train=True)[1]
    found = statistics.reestimate(pure, BATCHES, method="ema").state
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_audit_finds_the_lag_and_which_norm_makes_the_gap():
    pure = two_layers(momentum=0.99)
    pure = statistics.reestimate(pure, BATCHES)
    shifted = pure.state[0]._replace(mean=pure.state[0].mean - 2 * jnp.sqrt(pure.state[0].var))
    found = statistics.audit_statistics(pure._replace(state=(shifted, pure.state[1])), BATCHES)
    first, second = found.statistics
    assert first.path == "state/0"
    assert first.mean == "state/0/mean"
    assert first.var == "state/0/var"
    assert first.lag == pytest.approx(2, rel=1e-5)
    assert second.lag == pytest.approx(0, abs=1e-5)
    assert first.momentum == pytest.approx(0.99, rel=1e-4)
    assert first.window == pytest.approx(100, rel=0.02)
    assert first.share > 0.5 > abs(second.share)
    assert first.problems == ("the mean lags by 2 standard deviations",)
    assert not second.problems
    right = statistics.audit_statistics(pure, BATCHES)
    assert right.gap < 0.5 * found.gap
    assert not any(one.problems for one in right.statistics)


@pytest.mark.parametrize(
    ("momentum", "words"),
    [
        (0.1, "PyTorch's is 0.9 here"),
        (1e-3, "99.9% of them is the last batch: an epsilon"),
        (1.0, "never updated"),
    ],
)
def test_a_momentum_of_another_convention_is_named(momentum, words):
    pure = two_layers(momentum)
    pure = statistics.reestimate(pure, BATCHES)
    found = statistics.audit_statistics(pure, BATCHES)
    assert all(any(words in problem for problem in one.problems) for one in found.statistics)


def test_statistics_that_are_broken_are_named():
    pure = two_layers()
    untouched = statistics.audit_statistics(pure, BATCHES)
    assert all("never updated" in one.problems for one in untouched.statistics)
    right = statistics.reestimate(pure, BATCHES)
    first = right.state[0]
    broken = first._replace(mean=first.mean.at[0].set(jnp.nan), var=first.var.at[1].set(0.0))
    found = statistics.audit_statistics(right._replace(state=(broken, right.state[1])), BATCHES)
    assert found["state/0"].problems[:2] == ("NaN or infinite", "1 channels of zero variance")
    for lost in (broken, jax.tree.map(lambda leaf: leaf * jnp.nan, first)):
        mended = statistics.reestimate(right._replace(state=(lost, right.state[1])), BATCHES)
        np.testing.assert_allclose(mended.state[0].var, first.var, rtol=1e-6)
    np.testing.assert_allclose(mended.state[0].mean, first.mean, rtol=1e-6)
    assert "state/0: NaN or infinite" in found.table()
    assert found.to_dict()["statistics"][0]["mean"]


def haiku_model():
    hk = pytest.importorskip("haiku")
    net = hk.transform_with_state(
        lambda x, is_training: hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training)
    )
    return adapters.from_haiku(net, *net.init(jax.random.key(0), BATCHES[0], True)), "linear/w", "linear/b"


def equinox_model():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        hidden: Any
        norm: Any

        def __init__(self):
            self.hidden = eqx.nn.Linear(5, 4, key=jax.random.key(0))
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(self.hidden(x), state)

    pure = adapters.from_equinox(*eqx.nn.make_with_state(Net)())
    return pure, "hidden/weight", "hidden/bias"


def channels_first_model():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            y = nn.Dense(4, bias_init=nn.initializers.normal(1.0))(x).T
            return nn.BatchNorm(use_running_average=not train, axis=0)(y)

    net = Net()
    return (
        adapters.from_linen(net, net.init(jax.random.key(0), BATCHES[0], False)),
        "Dense_0/kernel",
        "Dense_0/bias",
    )


@pytest.mark.parametrize("model", [haiku_model, equinox_model, channels_first_model])
def test_statistics_of_every_framework_standardise_the_data(model):
    pure, kernel, bias = model()
    for batch in BATCHES:  # some of its own first
        pure = pure._replace(state=pure.apply(pure.params, pure.state, batch, train=True)[1])
    new = statistics.reestimate(pure, BATCHES)
    leaves = bj.tree.paths(pure.params)
    weights = np.asarray(leaves[kernel])
    x = ALL @ (weights.T if model is equinox_model else weights) + np.asarray(leaves[bias])
    y = np.asarray(new.apply(new.params, new.state, jnp.asarray(ALL), train=False)[0])
    y = y.T if model is channels_first_model else y
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-3, atol=1e-4)


def test_norms_in_a_scan_over_layers_are_found_one_by_one():
    net = bj.network.Network(inputs=5, width=4, depth=3, outputs=2, order="dense-bn-relu")
    params, state = bj.network.init(jax.random.key(0), net)

    def apply(params, state, x, train):
        return bj.network.apply(net, params, state, x, train=train)

    new = statistics.reestimate(adapters.Pure(apply, params, state), BATCHES)
    found = statistics.audit_statistics(new, BATCHES)
    assert [one.path for one in found.statistics] == ["state/stem", "state/body[0]", "state/body[1]"]
    assert max(one.largest_lag for one in found.statistics) < 1e-4


def test_norms_that_share_their_input_are_both_measured():
    def apply(params, state, x, train):
        ys = [norms.batch_norm(norms.Norm(), stats, x, train=train) for stats in state]
        return ys[0][0] + jnp.tanh(ys[1][0]), [stats for _, stats in ys]

    pure = adapters.Pure(apply, {}, [norms.batch_stats_init(5), norms.batch_stats_init(5)])
    for stats in statistics.reestimate(pure, BATCHES).state:
        np.testing.assert_allclose(stats.mean, ALL.mean(0), rtol=1e-5)
        np.testing.assert_allclose(stats.var, ALL.var(0), rtol=1e-5)


@pytest.mark.parametrize("measure", [statistics.audit_statistics, statistics.reestimate])
@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        ([], ValueError, "at least one batch"),
        (BATCHES[0], TypeError, "a list of batches"),
        ([BATCHES[0], jnp.ones((6, 4))], ValueError, "number 1"),
        ([jnp.ones((0, 5))], ValueError, "number 0"),
    ],
)
def test_bad_batches_say_what_to_do(measure, batches, error, words):
    with pytest.raises(error, match=words):
        measure(two_layers(), batches)


def test_a_model_without_running_statistics_is_refused():
    pure = adapters.Pure(lambda p, s, x, train: (x + p["bias"], s), {"bias": jnp.ones(5)}, None)
    with pytest.raises(ValueError, match="running statistics"):
        statistics.audit_statistics(pure, BATCHES)
    with pytest.raises(TypeError, match="a Pure"):
        statistics.reestimate(cast(Any, pure.apply), BATCHES)
    with pytest.raises(ValueError, match="exact"):
        statistics.reestimate(pure, BATCHES, method="median")
    with pytest.raises(KeyError, match="state/0"):
        statistics.audit_statistics(two_layers(), BATCHES)["state"]
