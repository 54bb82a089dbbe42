import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from biasjax import data, network, sweep, training
from biasjax._training import plan
from biasjax.network import Network, Scales
from biasjax.stepwise import Stepwise
from biasjax.training import Hyperparams, make_train

CLUSTERS = data.clusters(jax.random.key(1), classes=4, features=5, examples=150)


def _network(**options):
    return Network(**{"inputs": 5, "width": 12, "depth": 2, "outputs": 4, "order": "dense-bn-relu"} | options)


def _labelled(**labels):
    """Replace the last label of a part."""
    return CLUSTERS._replace(**{part: getattr(CLUSTERS, part).at[-1].set(y) for part, y in labels.items()})


def _train(
    optimizer: Any = "sgd",
    steps=30,
    batch_size=20,
    dataset=CLUSTERS,
    decay_biases=True,
    report_at=None,
    schedule=None,
    **options,
) -> Any:
    return make_train(
        _network(**options),
        optimizer,
        dataset,
        steps=steps,
        batch_size=batch_size,
        decay_biases=decay_biases,
        report_at=report_at,
        schedule=schedule,
    )


@functools.cache
def _run(order="dense-bn-relu", use_bias=True, optimizer="sgd"):
    """One compiled program over initial bias and weight decay, shared by the tests below."""
    train = _train(optimizer, steps=200, order=order, linear_bias=use_bias)

    def point(bias, decay):
        return train(jax.random.key(0), Scales(bias_mean=bias), Hyperparams(0.1, decay, bn_momentum=0.95))[1]

    grid = jax.vmap(jax.vmap(point, (0, None)), (None, 0))
    return jax.jit(grid)(jnp.array([0.0, 1.0, 10.0]), jnp.array([0.0, 0.05]))


def _l2(decay, step):
    return optax.chain(optax.add_decayed_weights(decay), step)


def _cosine(rate):
    """Cosine from the rate to 0 over 15 steps, by hand."""
    return lambda step: rate * 0.5 * (1 + jnp.cos(jnp.pi * step / 15))


def _halved(rate, steps=15):
    """A schedule of one's own, of a number or of hyperparameters."""
    return optax.piecewise_constant_schedule(getattr(rate, "learning_rate", rate), {steps // 2: 0.5})


@pytest.mark.parametrize(
    ("optimizer", "schedule", "reference"),
    [
        ("sgd", None, lambda lr, wd: _l2(wd, optax.sgd(lr))),
        ("momentum", None, lambda lr, wd: _l2(wd, optax.sgd(lr, 0.8))),
        ("adam", None, lambda lr, wd: _l2(wd, optax.adam(lr, 0.8, eps=1e-4))),
        ("adamw", None, lambda lr, wd: optax.adamw(lr, 0.8, eps=1e-4, weight_decay=wd)),
        ("adamw", "cosine", lambda lr, wd: optax.adamw(_cosine(lr), 0.8, eps=1e-4, weight_decay=wd)),
        ("sgd", _halved, lambda lr, wd: _l2(wd, optax.sgd(_halved(lr)))),
    ],
)
def test_a_run_is_the_plain_loop(optimizer, schedule, reference, key, x64, standard_promotion):
    dataset, net = data.astype(CLUSTERS, "float64"), _network()
    numbers = Hyperparams(0.05, 0.02, momentum=0.8, adam_epsilon=1e-4, bn_momentum=0.9)
    train = _train(optimizer, steps=15, dataset=dataset, schedule=schedule)
    end, history = train(key, Scales(1.0, 0.3), numbers)

    params, state = network.init(jax.random.split(key)[0], net, Scales(1.0, 0.3), dtype="float64")
    tx = reference(0.05, 0.02)
    optimizer_state, batches = tx.init(params), plan.batch_order(key, 120, 15, 20)

    @jax.jit
    def step(params, state, optimizer_state, x, y):
        def loss_fn(params):
            logits, new = network.apply(net, params, state, x, train=True, momentum=0.9)
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(20), y]), new

        (loss, new), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, optimizer_state = tx.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), new, optimizer_state, loss

    losses = []
    for batch in batches:
        x, y = dataset.train_x[batch], dataset.train_y[batch]
        params, state, optimizer_state, loss = step(params, state, optimizer_state, x, y)
        losses.append(loss)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-10)
    chex.assert_trees_all_close((end.params, end.state), (params, state), rtol=1e-8)
    logits, _ = network.apply(net, params, state, dataset.test_x, train=False)
    accuracy = np.mean(np.argmax(logits, -1) == np.asarray(dataset.test_y))
    np.testing.assert_allclose(history.accuracy_running[-1], accuracy)
    loss = -np.mean(jax.nn.log_softmax(logits)[np.arange(len(logits)), dataset.test_y])
    np.testing.assert_allclose(history.loss_running[-1], loss)
    stats: Any = network.following_stats(net, state)
    np.testing.assert_allclose(history.running_std[-1], np.sqrt(stats.var.mean(1)))


def test_dead_bias_leaves_training_alone_and_relu_between_does_not():
    gap = {order: np.abs(_run(order).loss - _run(order, use_bias=False).loss).max() for order in ORDERS}
    assert gap["dense-bn-relu"] < 1e-4  # float32 round-off, amplified where it flips a ReLU
    assert gap["dense-relu-bn"] > 0.05
    assert np.nanmax(_run().bias_gradient) < 1e-6
    assert _run("dense-relu-bn").bias_gradient[..., 1:, :].max() > 1e-3


ORDERS = ("dense-bn-relu", "dense-relu-bn")


def test_lag_of_the_running_mean_is_the_formula():
    history, twin = _run(), _run(use_bias=False)
    t = np.array(training.default_reports(200))
    for row, decay in enumerate((0.0, 0.05)):
        r, m = 1 - 0.1 * decay, 0.95
        formula = r**t - (1 - m) * (r**t - m**t) / (r - m)  # m^t if nothing decays
        for column, start in ((1, 1.0), (2, 10.0)):
            expected = np.broadcast_to(start * formula[:, None], (len(t), 2))
            np.testing.assert_allclose(
                history.lag[row, column], np.abs(expected), atol=2e-6 * start, rtol=1e-3
            )
            share = history.running_mean[row, column] - twin.running_mean[row, column]
            measured = history.bias_mean[row, column] - share
            np.testing.assert_allclose(measured, expected, atol=2e-3 * start)


def test_sgd_leaves_a_dead_bias_still_and_l2_shrinks_it():
    drift = _run().bias_drift[0, :, -1]
    assert drift.max() < 1e-5
    shrunk = _run().bias_mean[1, 1:, -1] / jnp.array([[1.0], [10.0]])
    np.testing.assert_allclose(shrunk, (1 - 0.1 * 0.05) ** 200, rtol=1e-4)


def test_adam_turns_round_off_into_drift_unless_epsilon_is_large(key):
    train = jax.jit(_train("adam", steps=300, depth=1))
    drift = [
        float(train(key, Scales(), Hyperparams(1e-3, adam_epsilon=epsilon))[1].bias_drift[-1].max())
        for epsilon in (1e-8, 1e-3)
    ]
    assert drift[0] > 100 * drift[1]
    assert drift[1] < 1e-6


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_decay_can_skip_biases(optimizer, key):
    for decay_biases, expected in ((True, False), (False, True)):
        train = _train(optimizer, decay_biases=decay_biases, depth=1)
        numbers = Hyperparams(0.01, 0.5, adam_epsilon=1e-3)
        end, _ = train(key, Scales(bias_mean=1.0), numbers)
        assert np.allclose(end.params.stem.linear.bias, 1.0, atol=1e-4) is expected


def test_batch_order_depends_on_the_key_alone_and_visits_all(key):
    order = np.asarray(plan.batch_order(key, 120, 25, 20))
    assert order.shape == (25, 20)
    for epoch in range(4):
        assert sorted(order[6 * epoch : 6 * (epoch + 1)].ravel()) == list(range(120))
    assert (order[:6] != order[6:12]).any()
    # A longer run, as every other hyperparameter, keeps the batches
    np.testing.assert_array_equal(plan.batch_order(key, 120, 50, 20)[:25], order)
    ragged = np.asarray(plan.batch_order(key, 119, 10, 20))  # 5 batches, 19 examples left out
    assert len(set(ragged[:5].ravel())) == 100


def test_one_compile_for_all_numbers(key):
    train = _train(steps=5, depth=3)
    traced: Any = chex.assert_max_traces(lambda key, scales, numbers: train(key, scales, numbers)[1], n=1)

    def run(key, value, offset, depth):
        numbers = Hyperparams(value + offset, value, bn_momentum=value, depth=depth)
        return traced(key, Scales(1 + value, 0.1, value), numbers)

    grid = jax.jit(jax.vmap(run, in_axes=(0, 0, None, 0)))
    keys, values, depths = jax.random.split(key, 4), jnp.linspace(0.1, 0.9, 4), jnp.array([1, 2, 3, 3])
    first, second = (grid(keys, values, offset, depths) for offset in (0.0, 0.05))
    assert first.loss.shape == (4, 5)
    numbers = Hyperparams(values[1] + 0.05, values[1], bn_momentum=values[1], depth=2)
    alone = train(keys[1], Scales(1 + values[1], 0.1, values[1]), numbers)[1]
    np.testing.assert_allclose(second.loss[1], alone.loss, rtol=1e-4)


def test_traced_depth_trains_the_shallower_network(key):
    deep, shallow = _train(steps=10, depth=4), _train(steps=10, depth=2)
    masked, _ = deep(key, Scales(), Hyperparams(depth=jnp.array(2)))
    # Static and traced depths are the same run
    end, _ = deep(key, Scales(), Hyperparams(depth=2))
    chex.assert_trees_all_close(masked.params, end.params)
    unused = jax.tree.map(lambda leaf: leaf[1:], masked.params.body)
    start, _ = network.init(jax.random.split(key)[0], _network(depth=4))
    chex.assert_trees_all_close(unused, jax.tree.map(lambda leaf: leaf[1:], start.body))
    other, _ = shallow(key)
    chex.assert_trees_all_close(masked.params.stem, other.params.stem, rtol=1e-4, atol=1e-5)
    used = jax.tree.map(lambda leaf: leaf[:1], masked.params.body)
    chex.assert_trees_all_close(used, other.params.body, rtol=1e-4, atol=1e-5)
    assert (np.abs(used.linear.kernel - start.body.linear.kernel[:1]).max((1, 2)) > 0.01).all()


def test_reports_of_a_masked_depth_are_those_of_the_shallower_network(key):
    for order in ("dense-bn-relu", "bn-relu-dense"):
        numbers = Hyperparams(0.05, 0.01, bn_momentum=0.9)
        deep = _train(order=order, depth=3)(key, Scales(bias_mean=2.0), numbers._replace(depth=jnp.array(2)))[
            1
        ]
        shallow = _train(order=order, depth=2)(key, Scales(bias_mean=2.0), numbers)[1]
        np.testing.assert_allclose(deep.loss, shallow.loss, rtol=1e-4)
        for name in ("lag", "running_mean", "bias_mean", "bias_gradient"):
            ours, truth = getattr(deep, name)[:, :2], getattr(shallow, name)
            np.testing.assert_allclose(ours, truth, rtol=1e-3, atol=1e-5, err_msg=f"{order} {name}")
        assert (deep.lag[:, 2] == 0).all()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_runs_keep_a_dtype_narrower_than_their_numbers(optimizer, key):
    narrow = data.astype(CLUSTERS, "bfloat16")
    train = _train(optimizer, dataset=narrow, steps=3)
    end, history = jax.jit(lambda rate: train(key, Scales(), Hyperparams(rate, rate)))(jnp.float32(0.1))
    assert {leaf.dtype for leaf in jax.tree.leaves(end.params)} == {jnp.dtype("bfloat16")}
    assert np.isfinite(history.loss).all()


def test_divergence_is_recorded(key):
    train = _train(order="dense-relu")
    history = jax.vmap(lambda rate: train(key, Scales(), Hyperparams(rate))[1])(jnp.array([0.1, 1e30]))
    assert history.diverged_at[0] == -1
    assert 0 < history.diverged_at[1] < 5
    assert not np.isfinite(history.loss[1, int(history.diverged_at[1])])
    assert np.isfinite(history.loss[1, : int(history.diverged_at[1])]).all()


def test_reports_where_asked_and_what_applies(key):
    end, history = _train(report_at=(0, 1, 7, 30))(key)
    assert history.accuracy_running.shape == (4,)
    assert (history.bias_gradient[0] == 0).all()
    assert (history.bias_gradient[1:] > 0).all()
    assert history.lag.shape == (4, 2)
    assert set(training.DIMS) | {"diverged_at"} == set(history._fields)
    free = _train(linear_bias=False)(key)[1]
    assert free.lag is free.bias_mean is free.bias_gradient is None
    assert free.running_mean.shape == (21, 2)
    between = _train(order="dense-relu-bn")(key)[1]
    assert between.lag is between.running_mean is None
    assert between.bias_gradient.shape == (21, 2)
    assert end.share.shape == (2, 12)
    assert "share=float32[2,12]" in repr(end)
    assert "running_mean=float32[21,2]" in repr(free)


def test_learns_digits(key):
    digits = data.digits()
    net = Network(inputs=1, width=8, depth=2, outputs=10, order="conv-bn-relu", linear_bias=False)
    train = jax.jit(make_train(net, "adam", digits, steps=250, batch_size=64))
    history = train(key, Scales(), Hyperparams(0.02, bn_momentum=0.9))[1]
    assert history.accuracy_running[-1] > 0.7
    assert history.loss[-10:].mean() < history.loss[0] / 2


def test_steps_are_the_run_and_resume_with_the_same_bits(tmp_path):
    stages = training.make_steps(_network(), "momentum", CLUSTERS, steps=30, batch_size=20)

    def numbers(rate):
        return Scales(bias_mean=1.0), Hyperparams(rate, 0.01)

    def advance(carry, key, *, rate):
        return stages.advance(carry, key, *numbers(rate))

    long = Stepwise(
        start=lambda key, *, rate: stages.start(key, *numbers(rate)),
        advance=advance,
        finish=lambda carry, key, *, rate: stages.finish(carry, key, *numbers(rate))[1]._asdict(),
        steps=stages.steps,
    )
    axes = {"seed": [0, 1], "rate": [0.05, 0.1]}
    whole = sweep.run(long, axes, dims=training.DIMS)
    train = _train("momentum")
    truth = sweep.run(lambda key, *, rate: train(key, *numbers(rate))[1]._asdict(), axes, dims=training.DIMS)
    xr.testing.assert_allclose(whole.drop_attrs(), truth.drop_attrs(), rtol=1e-4, atol=1e-6)
    stored = sweep.run(long, axes, dims=training.DIMS, store=tmp_path, chunk_size=4, checkpoint_every=5)
    xr.testing.assert_identical(stored.load().drop_attrs(), whole.drop_attrs())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_runs_can_be_spread_over_devices(optimizer):
    mesh = jax.make_mesh((2,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = functools.partial(jax.shard_map, mesh=mesh, in_specs=jax.P("device"), out_specs=jax.P("device"))
    options = {"steps": 12, "batch_size": 20, "report_at": (0, 5, 12)}
    train = make_train(_network(), optimizer, CLUSTERS, **options)
    stages = training.make_steps(_network(), optimizer, CLUSTERS, **options)

    def numbers(key, rate):
        # A dead bias has a gradient of round-off, which Adam divides by itself and this epsilon
        return key, Scales(1.0, 0.1), Hyperparams(rate, adam_epsilon=0.01)

    points = jax.random.split(jax.random.key(0), 4), jnp.linspace(0.01, 0.1, 4)
    whole = jax.vmap(lambda *point: train(*numbers(*point)))
    alone = jax.jit(whole)(*points)
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-6, atol=1e-6)
    close(jax.jit(spread(whole))(*points), alone)

    start, advance, finish = (
        jax.jit(spread(jax.vmap(stage)))
        for stage in (
            lambda *point: stages.start(*numbers(*point)),
            lambda carry, *point: stages.advance(carry, *numbers(*point)),
            lambda carry, *point: stages.finish(carry, *numbers(*point)),
        )
    )
    carry = start(*points)
    for _ in range(stages.steps):
        carry = advance(carry, *points)
    close(finish(carry, *points), alone)


def test_own_optimizer_works_as_a_named_one(key):
    own = lambda h, mask: optax.sgd(h.learning_rate)  # noqa: E731
    np.testing.assert_allclose(_train(own)(key)[1].loss, _train("sgd")(key)[1].loss)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_runs_under_strict_promotion_of_ranks_and_without_transfers(optimizer, key):
    train = _train(optimizer, steps=2, depth=2, order="dense-bn-relu")
    run = jax.jit(lambda key, rate: train(key, Scales(), Hyperparams(rate, momentum=rate))[1].loss)
    rate = jnp.float32(0.1)
    with jax.numpy_rank_promotion("raise"), jax.transfer_guard("disallow"):
        losses = run(key, rate)
    assert np.isfinite(losses).all()


BAD = [
    (lambda: _train(dataset=_labelled(train_y=-1)), ValueError, "labels from 0 in train_y, got -1"),
    (lambda: _train(dataset=_labelled(test_y=-1)), ValueError, "labels from 0 in test_y, got -1"),
    (lambda: _train(dataset=CLUSTERS._replace(train_y=CLUSTERS.train_y[1:])), ValueError, "of shape .120,."),
    (lambda: _train(dataset=CLUSTERS._replace(test_y=CLUSTERS.train_y)), ValueError, "test_y of shape .30,."),
    (lambda: _train(dataset=CLUSTERS._replace(train_y=CLUSTERS.train_x[:, 0])), TypeError, "integer labels"),
    (lambda: _train(dataset=None), TypeError, "data: expected Data, got None"),  # pyright: ignore
    (lambda: _train("sdg"), ValueError, "Did you mean 'sgd'"),
    (lambda: _train(schedule="cosin"), ValueError, "schedule: .* Did you mean 'cosine'"),
    (lambda: _train(batch_size=121), ValueError, "at most the 120 training examples, got 121"),
    (lambda: _train(batch_size=1), ValueError, "at least 2 under batch norm"),
    (lambda: _train(steps=0), ValueError, "steps: expected an integer of at least 1"),
    (lambda: _train(dataset=data.digits(), inputs=1), ValueError, "inputs .examples, features."),
    (lambda: _train(inputs=4), ValueError, "inputs=5 as in the data, got 4"),
    (lambda: _train(outputs=3), ValueError, "outputs=4 or more, got 3"),
    (lambda: _train(outputs=None), ValueError, "outputs=4 or more, got None"),
    (lambda: _train(report_at=(0, 5)), ValueError, "increasing steps from 0 that end at 30"),
    (lambda: _train(report_at=(5, 5, 30)), ValueError, "increasing steps"),
    (lambda: _train(dataset=CLUSTERS._replace(train_x=CLUSTERS.train_y)), TypeError, "floating dtype"),
]


@pytest.mark.parametrize("schedule", training.SCHEDULES)
def test_schedules_end_at_rest(schedule):
    rate: Any = training.SCHEDULES[schedule](Hyperparams(0.3), 40)
    assert max(rate(step) for step in range(40)) == pytest.approx(0.3)
    assert rate(40) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused_clearly(call, error, message):
    with pytest.raises(error, match=message):
        call()
