"""The command line."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from biasjax import adapters
from biasjax.__main__ import main


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(2)(nn.relu(x))


def flax_model():
    x = jnp.ones((4, 3))
    return adapters.from_linen(Net(), Net().init(jax.random.key(0), x, False)), x


def plain_function():
    return (
        lambda p, x: x @ p["w"] + p["bias"],
        {"w": jnp.ones((3, 2)), "bias": jnp.zeros(2)},
        jnp.ones((4, 3)),
    )


def run(*arguments):
    return main(["audit", *arguments])


def test_audit_of_both_modes(tmp_path, capsys):
    path = tmp_path / "audit.json"
    status = run(f"{__name__}:flax_model", "--fail-on", "cancelled", "--json", str(path))
    assert status == 1
    shown = capsys.readouterr()
    assert "Dense_0/bias" in shown.out
    assert "1 biases are cancelled: Dense_0/bias" in shown.err
    found = json.loads(path.read_text())
    assert set(found) == {"train", "eval"}
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("mode", "status"), [("train", 1), ("eval", 0)])
def test_one_mode(mode, status):
    assert run(f"{__name__}:flax_model", "--mode", mode, "--fail-on", "cancelled", "unused") == status


def test_plain_function(capsys):
    assert run(f"{__name__}:plain_function") == 0
    assert "needed" in capsys.readouterr().out


def test_mistakes(capsys):
    assert run("nowhere:model") == 2
    assert run(f"{__name__}") == 2
    assert run(f"{__name__}:plain_function", "--fail-on", "canceled") == 2
    assert "Did you mean 'cancelled'?" in capsys.readouterr().err
