import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import attention_sinks
from experiments._parts import backcopy, transformers

CONFIG = dataclasses.replace(attention_sinks.SMOKE, width=8, hidden=8, blocks=2)


@pytest.fixture(scope="module")
def dataset():
    small: dict[str, Any] = {"seeds": 2, "steps": 10, "width": 8, "hidden": 8, "sequences": 128, "tested": 64}
    small["weightings"] = tuple(attention_sinks.WEIGHTINGS)
    return attention_sinks.run(dataclasses.replace(attention_sinks.SMOKE, **small))


def test_a_tiny_run_holds_what_no_training_matters_to(dataset):
    claims = {claim.name: claim for claim in attention_sinks.claims(dataset)}
    assert all(len(name) <= 38 for name in claims)
    assert claims["softmax: key bias to 0, weights move"].holds
    assert len(attention_sinks.figure(dataset).axes) == 4
    assert "softmax" in attention_sinks.table(dataset)


def test_softmax_weights_add_up_to_one_and_no_others_do(dataset):
    total = dataset.total_idle.mean(("seed", "query", "key", "block"))
    assert float(total.sel(weighting="softmax")) == pytest.approx(1.0, abs=1e-5)
    assert float(total.sel(weighting="softmax, sink")) < 0.99
    assert float(total.sel(weighting="sigmoid")) > 1.0


def test_sequences_follow_the_language():
    tokens, triggers = 8, 2
    transitions, is_trigger = backcopy.language(tokens, triggers)
    assert np.allclose(transitions.sum(1), 1.0)
    found = backcopy.sequences(tokens, triggers, 12, 4000)
    before, last, after = found[:, :-2], found[:, 1:-1], found[:, 2:]
    copies = is_trigger[last]
    assert (after[copies] == before[copies]).all()
    assert not is_trigger[after[copies]].any()
    assert (found[:, 0] == 0).all()
    assert (found[:, 1:] != 0).all()
    for token in np.flatnonzero(~is_trigger)[1:]:
        followed = np.bincount(after[last == token], minlength=tokens)
        assert np.allclose(followed / followed.sum(), transitions[token], atol=0.05)


def test_measures_of_attention_are_those_of_a_loop():
    variant = transformers.VARIANTS["sink"]
    sizes = {"inputs": CONFIG.tokens, "length": CONFIG.length - 1, "outputs": CONFIG.tokens}
    model = transformers.init(jax.random.key(0), variant, **sizes, config=CONFIG)
    inputs = jnp.asarray(backcopy.sequences(CONFIG.tokens, 2, CONFIG.length, 6)[:, :-1])
    trigger = np.asarray(backcopy.language(CONFIG.tokens, 2).triggers)[np.asarray(inputs)]
    found = backcopy.attention_of(CONFIG, model, inputs, jnp.asarray(trigger), variant)
    weights, norms = (np.asarray(x) for x in backcopy.looked_at(model, inputs, variant, CONFIG.heads))
    for block in range(2):
        for name, wanted in (("idle", False), ("busy", True)):
            seen = [
                weights[block, i, head, t]
                for i in range(6)
                for head in range(CONFIG.heads)
                for t in range(CONFIG.first, CONFIG.length - 1)
                if trigger[i, t] == wanted
            ]
            first, total = np.mean([w[0] for w in seen]), np.mean([w.sum() for w in seen])
            assert float(found[f"first_{name}"][block]) == pytest.approx(first, rel=1e-4)
            assert float(found[f"total_{name}"][block]) == pytest.approx(total, rel=1e-4)
        ratio = norms[block, :, 0].mean() / norms[block, :, 1:].mean()
        assert float(found["value"][block]) == pytest.approx(ratio, rel=1e-4)


def test_even_attention_gives_the_first_token_its_share(dataset):
    shares = [1 / (t + 1) for t in range(CONFIG.first, CONFIG.length - 1)]
    assert float(dataset.even) == pytest.approx(np.mean(shares))
