"""What is said about findings, in the words of frameworks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax._audit import words
from biasjax._audit.findings import Basis, Finding, Made, Shifted
from biasjax.audit import audit_biases


def finding(verdict, path="a/bias", size=24, rank=0, **more):
    found = Finding(path, size, rank, None, verdict, True, Shifted(0.0, 1e-16), None, (), ())
    return found._replace(**more)


MADE = {
    "own": (Made("net.py:3 (f)", "", "", ""), "drop it where it is added"),
    "flag": (Made("", "flax.linen.Conv", "use_bias=False", ""), "use_bias=False of flax.linen.Conv"),
    "none": (
        Made("", "equinox.nn.GroupNorm", "", ""),
        "hold it at zero, for equinox.nn.GroupNorm has no flag for it alone",
    ),
    "part": (
        Made("", "flax.nnx.MultiHeadAttention", "use_bias=False", "key"),
        "hold the key bias at zero (use_bias=False of flax.nnx.MultiHeadAttention is for all its parts)",
    ),
    "names": (
        Made("", "biasjax.attention.attention_init", "use_bias=False", "key"),
        "leave 'key' out of use_bias of biasjax.attention.attention_init",
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_what_to_do(name):
    made, expected = MADE[name]
    assert finding("cancelled", made=made).remedy() == expected
    absorbed = finding("absorbable", made=made, absorbed_by=("b/bias",)).remedy()
    assert absorbed == f"{expected}, while b/bias stays"


def test_what_needs_nothing_done():
    assert finding("unused").remedy() == "drop it: nothing uses it"
    assert [finding(verdict, rank=24).remedy() for verdict in ("needed", "alive", "partly absorbable")] == [
        ""
    ] * 3


def dead(*runs, size=24):
    return np.eye(size)[:, np.concatenate([np.arange(*run) for run in runs])]


BASES = {
    "uniform": ("uniform", np.full((24, 1), 24**-0.5), "a shift of all entries alike does nothing"),
    "groups": ("per group", np.eye(24)[:, :4], "shifts alike within each of its 4 groups do nothing"),
    "other": ("other", np.eye(24)[:, :2], "2 combinations of its 24 entries do nothing"),
    "part": (
        "entries",
        dead((6, 12)),
        "its entries 6:12, part 2 of 4 of a, do nothing and can be held at zero",
    ),
    "odd": ("entries", dead((5, 12)), "its entries 5:12 do nothing and can be held at zero"),
    "heads": (
        *("entries", dead((0, 1), (4, 6), (8, 10), (12, 14), (16, 18))),
        "its entries 0:1, 4:6, 8:10 and 2 more do nothing and can be held at zero",
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_which_part_is_dead(name):
    kind, vectors, expected = BASES[name]
    found = finding("partly cancelled", rank=24 - vectors.shape[1], basis=Basis(kind, vectors))
    assert found.remedy() == f"keep it: only {expected}"


def test_the_key_third_of_a_fused_projection():
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            q, k, v = jnp.split(nn.Dense(12, name="c_attn")(x), 3, -1)
            return jax.nn.softmax(q @ k.T) @ v

    x = jax.random.normal(jax.random.key(0), (5, 4))
    variables = Attention().init(jax.random.key(1), x)
    found = audit_biases(Attention().apply, variables, x, joint=False)["params/c_attn/bias"]
    assert found.verdict == "partly cancelled"
    assert found.remedy() == (
        "keep it: only its entries 4:8, the key third of c_attn, do nothing and can be held at zero"
    )
    assert found.made is not None
    assert found.made.where.startswith(__file__)


def test_short_places():
    assert words.short("/a/b/c.py:3 (f)") == "b/c.py:3 (f)"
    assert words.short("c.py:3 (f)") == "c.py:3 (f)"
