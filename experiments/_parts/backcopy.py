"""Bigram-Backcopy (arXiv 2410.13835): a bigram language in which some tokens repeat the one before them.

A sequence begins with token 0. Behind a trigger comes the token before the trigger, behind any other one that
depends on it alone. Attention has work to do at triggers and nowhere else.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

import biasjax as bj
from experiments._parts import bias_tuning, transformers
from experiments._parts.transformers import Model, Variant


class Language(NamedTuple):
    """Transition probabilities (tokens, tokens), and which tokens are triggers (tokens,)."""

    transitions: np.ndarray
    triggers: np.ndarray


def language(tokens: int, triggers: int) -> Language:
    """The first token begins, the next are triggers, which never follow each other."""
    rng = np.random.default_rng(0)
    transitions = rng.dirichlet(np.full(tokens - 1, 0.3), size=tokens)
    # A trigger comes once in five tokens
    transitions = 0.8 * transitions / transitions[:, triggers:].sum(1, keepdims=True)
    transitions[:, :triggers] = 0.2 / triggers
    whole = np.concatenate([np.zeros((tokens, 1)), transitions], 1)
    is_trigger = (np.arange(tokens) > 0) & (np.arange(tokens) <= triggers)
    whole[0, : triggers + 1] = 0.0  # none before there is something to repeat
    return Language(whole / whole.sum(1, keepdims=True), is_trigger)


@functools.cache
def sequences(tokens: int, triggers: int, length: int, count: int) -> np.ndarray:
    """Draw sequences (count, length)."""
    transitions, is_trigger = language(tokens, triggers)
    rng, found = np.random.default_rng(1), np.zeros((count, length), np.int32)
    thresholds = np.cumsum(transitions, 1)
    for t in range(1, length):
        last = found[:, t - 1]
        drawn = (rng.random((count, 1)) > thresholds[last]).sum(1).clip(max=tokens - 1)
        found[:, t] = np.where(is_trigger[last], found[:, t - 2], drawn)
    return found


def looked_at(model: Model, tokens: Any, variant: Variant, heads: int) -> tuple[Any, Any]:
    """Attention weights (blocks, sequences, heads, queries, keys), and norms of values, heads as one.

    The latter (blocks, sequences, keys).
    """
    import jax.numpy as jnp

    found, norms = [], []
    for block, h in zip(model.blocks, flow(model, tokens, variant, heads), strict=False):
        normed = transformers.norm_of(variant)(block.norm, h)
        options = transformers.mixing(variant, heads)
        found.append(bj.attention.attention_weights(block.attention, normed, causal=True, **options))
        norms.append(jnp.linalg.norm(bj.linear.dense(block.attention.value, normed), axis=-1))
    return jnp.stack(found), jnp.stack(norms)


def flow(model: Model, tokens: Any, variant: Variant, heads: int) -> list:
    """Streams of sequences of tokens."""
    return transformers.streams(model, bj.embedding.embed(model.embed, tokens), variant, heads, causal=True)


def trained(config: Any, key: Any, *, variant: str, query: Any, key_bias: Any) -> dict:
    """Train with or without biases of queries and keys; see where attention goes."""
    import jax
    import jax.numpy as jnp

    kind, heads = transformers.VARIANTS[variant], config.heads
    drawing, batching = jax.random.split(key)
    sizes = {"inputs": config.tokens, "length": config.length - 1, "outputs": config.tokens}
    model = transformers.init(drawing, kind, **sizes, config=config)
    data = sequences(config.tokens, config.triggers, config.length, config.sequences + config.tested)
    train, test = jnp.asarray(data[: config.sequences]), jnp.asarray(data[config.sequences :])
    batches = jax.random.randint(batching, (config.steps, config.batch_size), 0, len(train))

    def logits_of(model, tokens):
        return transformers.read(model, flow(model, tokens, kind, heads)[-1], kind)

    def loss(model, rows):
        return _loss(logits_of(model, train[rows][:, :-1]), train[rows][:, 1:])

    rates = config.learning_rate * _on(query, key_bias)
    model = transformers.train(model, rates, loss, batches)[0]
    logits, inputs, following = logits_of(model, test[:, :-1]), test[:, :-1], test[:, 1:]
    trigger = jnp.asarray(language(config.tokens, config.triggers).triggers)[inputs]
    found = {"copied": (jnp.argmax(logits, -1) == following).mean(where=trigger)}
    no_key = transformers.replaced(model, functools.partial(bias_tuning.without, "key"))
    moved = looked_at(no_key, inputs, kind, heads)[0] - looked_at(model, inputs, kind, heads)[0]
    found |= {"held_out": _loss(logits, following), "key_effect": jnp.max(jnp.abs(moved))}
    return found | attention_of(config, model, inputs, trigger, kind)


def attention_of(config: Any, model: Model, inputs: Any, trigger: Any, variant: Variant) -> dict[str, Any]:
    """Means, by block, of the first token's weight and of all weights at later queries; size of its value."""
    import jax.numpy as jnp

    weights, norms = looked_at(model, inputs, variant, config.heads)
    late, found = jnp.arange(config.length - 1) >= config.first, {}
    for name, where in (("idle", ~trigger & late), ("busy", trigger & late)):
        where = jnp.broadcast_to(where[:, None], weights.shape[1:-1])
        found[f"first_{name}"] = weights[..., 0].mean((1, 2, 3), where=where)
        found[f"total_{name}"] = weights.sum(-1).mean((1, 2, 3), where=where)
    return found | {"value": norms[..., 0].mean(-1) / norms[..., 1:].mean((-2, -1))}


def _loss(logits: Any, following: Any) -> Any:
    """Cross-entropy of all tokens but the second, which nothing is known of."""
    import jax.numpy as jnp

    seen = jnp.broadcast_to(jnp.arange(following.shape[-1]) > 0, following.shape)
    return bj.training.cross_entropy(logits, following, where=seen)


def _on(query: Any, key: Any) -> Any:
    """Parts that are trained: not the biases of norms, which would be biases of queries and keys.

    Nor those of values, which output biases do the work of: so a value that is zero is one.
    """
    import jax.numpy as jnp

    on = {"norm": 0.0, "value": 0.0, "query": query.astype(jnp.float32), "key": key.astype(jnp.float32)}
    return jnp.stack([jnp.asarray(on.get(part, 1.0), jnp.float32) for part in transformers.PARTS])
