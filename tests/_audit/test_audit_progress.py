"""Progress is shown on a terminal, and nowhere else."""

import sys

import jax
import jax.numpy as jnp
import pytest

from biasjax.audit import audit_biases


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    x = jax.random.normal(jax.random.key(0), (3, 4))
    audit_biases(lambda p, x: jnp.tanh(x + p["bias"]), {"bias": jnp.zeros(4)}, x, joint_limit=1)
    shown = capsys.readouterr().err
    assert ("audit of 1 biases: which stand in for which" in shown) == terminal
    assert shown.endswith("\x1b[K") == terminal  # cleared in the end
