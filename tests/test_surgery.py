"""Removal of biases: trained models of every framework compute what they did, and training goes on alike."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trained_nets

import biasjax as bj
from biasjax import adapters, surgery

X = jax.random.normal(jax.random.key(0), (6, 8))


@pytest.fixture(autouse=True)
def _promotion(standard_promotion):
    """Frameworks promote types."""


def outputs(pure, x, train=False):
    return np.asarray(pure.apply(pure.params, pure.state, x, train=train)[0])


def assert_same(pure, new, x, relative=1e-5):
    for train in (False, True):
        before, after = outputs(pure, x, train), outputs(new, x, train)
        assert np.abs(after - before).max() <= relative * np.abs(before).max()


def removed(receipt):
    return {change.path: change.into for change in receipt.done}


def nnx_model():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            normal = nnx.initializers.normal(1.0)
            self.hidden = nnx.Linear(8, 12, bias_init=normal, rngs=rngs)
            self.norm = nnx.BatchNorm(12, rngs=rngs)
            self.dropout = nnx.Dropout(0.2, rngs=rngs)
            self.head = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(self.dropout(nnx.gelu(self.norm(self.hidden(x)))))

    return Net(nnx.Rngs(0))


def stepped(pure, x, steps=3):
    """The model after some training passes, so that it has statistics of its own."""
    for _ in range(steps):
        pure = pure._replace(state=pure.apply(pure.params, pure.state, x, train=True)[1])
    return pure


def test_a_bias_of_nnx_goes_into_the_running_mean_and_back_into_the_module():
    from flax import nnx

    model = nnx_model()
    pure = stepped(adapters.from_nnx(model), X)
    nnx.update(model, pure.state)
    new, receipt = surgery.remove_biases(pure, X)
    assert removed(receipt) == {"hidden/bias": ("state/norm/mean",)}
    model.eval()
    before = model(X)
    nnx.update(model, new.params, new.state)
    model.eval()
    np.testing.assert_allclose(model(X), before, rtol=1e-5, atol=1e-6)
    assert not np.any(new.params["hidden"]["bias"])


def test_a_bias_of_equinox_goes_into_the_debiased_running_mean():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        hidden: Any
        norm: Any

        def __init__(self):
            self.hidden = eqx.nn.Linear(8, 12, key=jax.random.key(0))
            self.norm = eqx.nn.BatchNorm(12, "batch", mode="batch")

        def __call__(self, x, state):
            y, state = self.norm(self.hidden(x), state)
            return jnp.tanh(y), state

    model, state = eqx.nn.make_with_state(Net)()
    pure = stepped(adapters.from_equinox(model, state), X)
    new, receipt = surgery.remove_biases(pure, X)
    assert list(removed(receipt)) == ["hidden/bias"]
    mended = eqx.nn.inference_mode(eqx.combine(new.params, model))
    y, _ = jax.vmap(mended, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(X, new.state)
    np.testing.assert_allclose(y, outputs(pure, X), rtol=1e-5, atol=1e-6)


def test_statistics_that_were_never_updated_are_refused_with_the_numbers():
    """Equinox divides its first statistics by another number than the next."""
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        bias: Any
        norm: Any

        def __init__(self):
            self.bias, self.norm = jnp.arange(8.0), eqx.nn.BatchNorm(8, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(x + self.bias, state)

    pure = adapters.from_equinox(*eqx.nn.make_with_state(Net)())
    with pytest.raises(ValueError, match=r"a step later.*never updated, train first"):
        surgery.remove_biases(pure, X)


def test_a_bias_of_haiku_goes_into_the_average_and_the_hidden_sum():
    hk = pytest.importorskip("haiku")

    def fn(x, is_training):
        y = hk.Linear(12, b_init=hk.initializers.RandomNormal(1.0))(x)
        return jnp.tanh(hk.BatchNorm(True, True, 0.9)(y, is_training))

    net = hk.transform_with_state(fn)
    pure = stepped(adapters.from_haiku(net, *net.init(jax.random.key(0), X, True)), X)
    new, receipt = surgery.remove_biases(pure, X)
    assert removed(receipt) == {"linear/b": ("state/0/batch_norm/~/mean_ema/average",)}
    y, later = net.apply(new.params, new.state[0], None, X, False)[0], stepped(new, X)
    np.testing.assert_allclose(y, outputs(pure, X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs(later, X), outputs(stepped(pure, X), X), rtol=1e-4, atol=1e-5)


def test_a_bias_of_keras_goes_into_the_running_mean():
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), keras.layers.Dense(12, bias_initializer="random_normal")]
    model = keras.Sequential([*layers, keras.layers.BatchNormalization(), keras.layers.ReLU()])
    x = np.asarray(X)
    pure = stepped(adapters.from_keras(model), x)
    new, receipt = surgery.remove_biases(pure, x)
    assert len(receipt.done) == 1
    for values in (model.trainable_variables, model.non_trainable_variables):
        for variable in values:
            variable.assign({**new.params, **new.state}[variable.path])
    np.testing.assert_allclose(model(x, training=False), outputs(pure, x), rtol=1e-5, atol=1e-6)


def network(order="dense-bn-relu", depth=3):
    net = bj.network.Network(inputs=8, width=12, depth=depth, outputs=3, order=order)
    params, state = bj.network.init(jax.random.key(0), net, bj.network.Scales(bias_mean=3.0))

    def apply(params, state, x, train):
        return bj.network.apply(net, params, state, x, train=train)

    return stepped(adapters.Pure(apply, params, state), X)


def test_biases_in_a_scan_over_layers_go_and_sgd_goes_on_alike():
    """Losses of 200 updates in float64, of training and of evaluation after each."""
    pure = network()
    audit = bj.audit.audit_modes(pure, X, joint=False)
    new, receipt = surgery.remove_biases(pure, X, audit=audit)
    into = {"stem/linear/bias": ("state/stem/mean",), "body/linear/bias": ("state/body/mean",)}
    assert removed(receipt) == into
    with jax.enable_x64(True):
        runs = [losses(one) for one in (pure, new)]
    np.testing.assert_allclose(runs[1], runs[0], rtol=1e-5)
    assert runs[0][199] < 0.5 * runs[0][0]


def losses(pure, steps=200):
    tx = optax.sgd(0.05)
    x, labels = X.astype(jnp.float64), jnp.arange(len(X)) % 3
    params, state = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (pure.params, pure.state))

    def step(carry, _):
        params, state, opt = carry

        def loss(params):
            y, new = pure.apply(params, state, x, train=True)
            own, _ = pure.apply(params, new, x, train=False)
            found = optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()
            return found, (new, optax.softmax_cross_entropy_with_integer_labels(own, labels).mean())

        (found, (state, later)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = tx.update(gradients, opt)
        return (optax.apply_updates(params, updates), state, opt), (found, later)

    return np.concatenate(jax.lax.scan(step, (params, state, tx.init(params)), length=steps)[1])


@pytest.mark.parametrize("name", ["residual v1", "mobilenet", "post-norm", "grouped queries"])
def test_trained_models_compute_what_they_did(name):
    pure, x = trained_nets.trained(name)
    before = jax.tree.map(np.array, (pure.params, pure.state))
    new, receipt = surgery.remove_biases(pure, x, audit=bj.audit.audit_modes(pure, x, draws=4))
    assert len(receipt.done) >= 2
    assert max(e.change for e in receipt.errors if e.precision == "float64") < 1e-10
    assert max(e.change for e in receipt.errors if e.precision == "own") < 1e-5
    assert_same(pure, new, x)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves((pure.params, pure.state)), strict=True):
        np.testing.assert_array_equal(a, b)  # never changed in place
    for path in removed(receipt):
        assert not np.any(bj.tree.paths(new.params)[path])


def test_drop_puts_none_where_the_model_allows_it():
    def apply(params, state, x, train):
        y = x if params["bias"] is None else x + params["bias"]
        return bj.norms.batch_norm(bj.norms.Norm(), state, y, train=train)

    pure = adapters.Pure(apply, {"bias": jnp.arange(8.0)}, bj.norms.batch_stats_init(8))
    new, receipt = surgery.remove_biases(pure, X, how="drop")
    assert new.params["bias"] is None
    assert receipt.changes[0].action == "dropped"
    assert_same(pure, new, X)


def test_drop_is_refused_where_the_model_needs_the_leaf():
    def apply(params, state, x, train):
        return bj.norms.batch_norm(bj.norms.Norm(), state, x + params["bias"], train=train)

    pure = adapters.Pure(apply, {"bias": jnp.arange(8.0)}, bj.norms.batch_stats_init(8))
    with pytest.raises(ValueError, match='Take how="zero"'):
        surgery.remove_biases(pure, X, how="drop")


def test_only_the_verdicts_that_are_asked_for_go():
    def apply(params, state, x, train):
        y, state = bj.norms.batch_norm(bj.norms.Norm(), state, x + params["bias"], train=train)
        return (y + params["first_bias"]) @ params["kernel"] + params["last_bias"], state

    names = ("bias", "first_bias", "last_bias")
    params = {"kernel": jnp.eye(8) + 0.1, **{name: jnp.arange(8.0) for name in names}}
    pure = adapters.Pure(apply, params, bj.norms.batch_stats_init(8))
    audit = bj.audit.audit_modes(pure, X)
    for verdict, path in (("absorbable", "first_bias"), ("cancelled", "bias")):
        new, receipt = surgery.remove_biases(pure, X, audit=audit, verdicts=(verdict,))
        assert [change.path for change in receipt.done] == [path]
        assert_same(pure, new, X)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda pure: surgery.remove_biases(pure.apply, X), TypeError, "a Pure.*biasjax.adapters"),
        (lambda pure: surgery.remove_biases(pure), TypeError, "inputs behind the model"),
        (lambda pure: surgery.remove_biases(pure, X, how="delete"), ValueError, "zero"),
        (
            lambda pure: surgery.remove_biases(pure, X, verdicts="cancelled"),
            TypeError,
            "a sequence of verdicts",
        ),
        (lambda pure: surgery.remove_biases(pure, X, verdicts=("needed",)), ValueError, "cancelled"),
        (lambda pure: surgery.remove_biases(pure, X, audit=cast(Any, {})), TypeError, "ModesAudit"),
        (lambda pure: surgery.fold_batch_norm(pure), TypeError, "inputs behind the model"),
        (lambda pure: surgery.tie(pure, "no/bias", X), ValueError, "stem/linear/bias"),
        (lambda pure: surgery.tie(pure, "stem/linear/bias", X), ValueError, "tied already"),
        (lambda pure: surgery.untie(pure, "stem/linear/kernel", X), ValueError, "added to data once"),
    ],
)
def test_bad_input_says_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call(network(depth=1))


def test_infinite_values_are_refused():
    pure = network(depth=1)
    state = jax.tree.map(lambda x: x * jnp.inf, pure.state)
    with pytest.raises(ValueError, match="finite numbers at 'state/stem/mean'"):
        surgery.fold_batch_norm(pure._replace(state=state), X)


def test_paths_that_parameters_and_state_share_are_refused():
    pure = adapters.Pure(
        lambda p, s, x, train: (x, s), {"state": {"mean": jnp.ones(8)}}, {"mean": jnp.ones(8)}
    )
    with pytest.raises(ValueError, match="'state/mean'"):
        surgery.fold_batch_norm(pure, X)


def test_an_audit_of_another_model_is_refused():
    other = adapters.Pure(lambda p, s, x, train: (x + p["bias"], s), {"bias": jnp.ones(8)}, None)
    audit = bj.audit.audit_modes(other, X)
    with pytest.raises(ValueError, match="one of this model"):
        surgery.remove_biases(network(depth=1), X, audit=audit)


def test_receipts_are_read_by_people_and_programs():
    pure = network(depth=1)
    new, receipt = surgery.remove_biases(pure, X, audit=bj.audit.audit_modes(pure, X, joint=False))
    assert "stem/linear/bias  zeroed" in receipt.table()
    assert receipt.to_dict()["saved"] == receipt.saved == 12
    assert "stem/linear/bias" in receipt._repr_html_()
    assert surgery.Receipt((), ()).table() == "Nothing to change."
    untied, _ = surgery.untie(new, "head/bias", X)
    assert_same(new, untied, X)


def test_untie_then_tie_is_lossless_and_tie_alone_says_what_it_costs():
    def apply(params, state, x, train):
        layout = ("NHC", "HIO", "NHC")
        y = jax.lax.conv_general_dilated(x, params["kernel"], (1,), "SAME", dimension_numbers=layout)
        return y + params["bias"], state

    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    params = {"kernel": jnp.ones((3, 3, 4)), "bias": jnp.arange(4.0)}
    pure = adapters.Pure(apply, params, None)
    untied, _ = surgery.untie(pure, "bias", x)
    assert untied.params["bias"].shape == (5, 4)
    tied, receipt = surgery.tie(untied, "bias", x)
    np.testing.assert_array_equal(tied.params["bias"], params["bias"])
    assert not receipt.done[0].why
    assert receipt.saved == 16
    apart = untied._replace(params={**params, "bias": untied.params["bias"].at[0].add(10.0)})
    tied, receipt = surgery.tie(apart, "bias", x)
    change = np.abs(outputs(tied, x) - outputs(apart, x)).max() / np.abs(outputs(apart, x)).max()
    given = max(error.change for error in receipt.errors if error.inputs == "given")
    assert change == pytest.approx(given, rel=1e-5)
    assert change > 0.1
    assert receipt.done[0].why.startswith("outputs change by 0.5")
