import jax
import numpy as np
import pytest

import biasjax as bj
from experiments import parameter_count
from experiments._parts.architectures import VGG


@pytest.fixture(scope="module")
def dataset():
    return parameter_count.run(parameter_count.Config(models=("VGG16",), steps=20))


def test_counts_and_the_lesson_hold(dataset):
    claims = parameter_count.claims(dataset)
    assert all(claim.holds for claim in claims)
    assert all(len(claim.name) <= 38 for claim in claims)
    assert len(parameter_count.figure(dataset).axes) == 2


def test_the_table_shows_every_layer_and_both_sets_of_weights(dataset):
    shown = parameter_count.table(dataset)
    assert "conv1_1  (1, 64, 224, 224)" in shown
    assert "138,357,544" in shown
    assert "dense.bias: [0. 0. 0. 0.]" in shown
    assert shown.count("dense_1.kernel") == 2


def test_batch_norm_adds_two_parameters_for_each_channel():
    shapes = [jax.eval_shape(VGG(batch_norm=norm).init, jax.random.key(0))[0] for norm in (False, True)]
    plain, normed = map(bj.tree.count, shapes)
    assert (normed.total - plain.total, normed.biases - plain.biases) == (2 * 4224, 4224)


def test_a_small_vgg_runs():
    small = VGG(narrow=32, pixels=32, hidden=8, classes=4, batch_norm=True)
    params, state = small.init(jax.random.key(0))
    y, new = small.apply(params, state, jax.random.normal(jax.random.key(1), (4, 3, 32, 32)), train=True)
    assert y.shape == (4, 4)
    assert np.isfinite(y).all()
    assert any((new[name].mean != state[name].mean).any() for name in state)


def test_keras_counts_the_same():
    applications = pytest.importorskip("keras").applications
    vgg = applications.VGG16(weights=None)
    assert vgg.count_params() == parameter_count.COUNTS["VGG16"][0]
    resnet = applications.ResNet50(weights=None)
    trainable = sum(np.prod(weight.shape) for weight in resnet.trainable_weights)
    assert trainable == parameter_count.COUNTS["ResNet-50"][0]
