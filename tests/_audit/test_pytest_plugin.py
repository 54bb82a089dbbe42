"""The fixture for tests of models, alone and in a pytest of its own."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from biasjax import adapters
from biasjax._audit import pytest_plugin

X = jax.random.normal(jax.random.key(0), (5, 4))
check = pytest_plugin._assert_no_dead_biases


def centred(params, x):
    y = x @ params["w"] + params["bias"]
    return y - y.mean(0)


PARAMS = {"w": jnp.ones((4, 2)), "bias": jnp.zeros(2)}


class Linen(nn.Module):
    use_bias: bool

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, use_bias=self.use_bias)(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x))


@pytest.mark.parametrize("use_bias", [True, False])
def test_pure(use_bias):
    net = Linen(use_bias)
    pure = adapters.from_linen(net, net.init(jax.random.key(0), X, False))
    if not use_bias:
        check(pure, X)
        return
    with pytest.raises(AssertionError, match=r"got 1: Dense_0/bias(.|\n)*-> use_bias=False of flax"):
        check(pure, X)


def test_functions():
    with pytest.raises(AssertionError, match="got 1: bias"):
        check(centred, PARAMS, X)
    check(centred, PARAMS, X, verdicts=("absorbable", "partly cancelled"), draws=2)
    with pytest.raises(ValueError, match="verdicts: expected an audit with joint=True"):
        check(centred, PARAMS, X, verdicts=("absorbable",), joint=False)


def test_nnx():
    class Net(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            y = self.dense(x)
            return y - y.mean(0)

    with pytest.raises(AssertionError, match="got 1: dense/bias"):
        check(Net(), X)


def test_equinox():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        dense: Any

        def __call__(self, x):
            return jnp.tanh(self.dense(x))

    check(Net(eqx.nn.Linear(4, 4, key=jax.random.key(0))), X)


def test_keras(standard_promotion):
    keras = pytest.importorskip("keras")
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    with pytest.raises(AssertionError, match="-> use_bias=False of keras"):
        check(net, X)


def test_it_loads_without_jax():
    code = "import sys, biasjax._audit.pytest_plugin; print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_pytest_finds_it(tmp_path):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    entry = project["entry-points"]["pytest11"]["biasjax"]
    assert importlib.import_module(entry) is pytest_plugin
    (tmp_path / "test_net.py").write_text(
        "import jax.numpy as jnp\n"
        "def net(params, x):\n"
        "    y = x + params['bias']\n"
        "    return y - y.mean()\n"
        "def test_net(assert_no_dead_biases):\n"
        "    assert_no_dead_biases(net, {'bias': jnp.zeros(())}, jnp.arange(3.0))\n"
    )
    # Once only, whether this checkout is installed or not
    plugins = ("-p", "no:biasjax", "-p", entry, "-p", "no:cacheprovider", "-p", "no:xdist")
    ask = [
        sys.executable,
        "-m",
        "pytest",
        *plugins,
        "-c",
        "/dev/null",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    run = subprocess.run(ask, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    assert "AssertionError: expected no cancelled or unused bias, got 1: bias" in run.stdout
    assert "made at" in run.stdout
    assert "test_net.py:3 (net)" in run.stdout
    assert "pytest_plugin.py" not in run.stdout
