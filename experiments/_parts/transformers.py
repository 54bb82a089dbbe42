"""Small transformers whose kinds of bias are switched by numbers, so that one program trains them all."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import biasjax as bj

if TYPE_CHECKING:
    import jax

KINDS = ("query", "key", "value", "out", "up", "down", "norm")
"""Kinds of bias in a block; "norm" are those of all norms."""
PARTS = (*KINDS, "head", "rest")
"""Kinds of parameters that are frozen apart: biases, the linear layer that reads the stream, all else."""


_DRAWN = ("kernel", "position")


class Variant(NamedTuple):
    """What a transformer is; all but ``rms``, which may be a traced number from 0 to 1, is static."""

    rms: Any = False
    pre_norm: bool = True
    rotary: bool = False
    qk_norm: bool = False
    sink: bool = False
    sigmoid: bool = False


VARIANTS = {
    "pre LN": Variant(),
    "post LN": Variant(pre_norm=False),
    "pre RMS": Variant(rms=True),
    "post RMS": Variant(rms=True, pre_norm=False),
    "rotary": Variant(rotary=True),
    "QK norm": Variant(qk_norm=True),
    "sink": Variant(sink=True),
    "sigmoid": Variant(sigmoid=True),
}
"""Those without a word on norms are pre LN."""


class Model(NamedTuple):
    """Parameters: what embeds, vectors by position (None with rotary embedding), blocks, last norm, head."""

    embed: Any
    position: Any
    blocks: tuple
    norm: Any
    head: Any


def init(key: jax.Array, variant: Variant, *, inputs: int, length: int, outputs: int, config: Any) -> Model:
    """Draw a transformer with all biases, zeros; ``config`` has its width, hidden, heads and blocks.

    Kernels have variance 1 / fan_in, vectors by position .01. All are cut from one draw, for compiling a
    draw for each takes longer than everything else of a run.
    """
    import jax
    import jax.numpy as jnp

    def shaped(key):
        return _drawn(key, variant, inputs, length, outputs, config)

    paths, tree = jax.tree_util.tree_flatten_with_path(jax.eval_shape(shaped, key))
    sizes = [leaf.size if path[-1].name in _DRAWN else 0 for path, leaf in paths]
    noise = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    leaves = []
    for (path, leaf), part in zip(paths, noise, strict=True):
        name = path[-1].name
        scale = 0.1 if name == "position" else leaf.shape[0] ** -0.5
        still = jnp.full(leaf.shape, float(name == "scale"))
        leaves.append(scale * part.reshape(leaf.shape) if name in _DRAWN else still)
    return tree.unflatten(leaves)


def _drawn(key: jax.Array, variant: Variant, inputs: int, length: int, outputs: int, config: Any) -> Model:
    """The same by the library's own draws."""
    import jax

    embedding, placing, heading, *drawing = jax.random.split(key, 3 + config.blocks)
    options = {"hidden": config.hidden, "qk_norm": variant.qk_norm, "sink": variant.sink}
    return Model(
        bj.linear.dense_init(embedding, inputs, config.width, use_bias=False),
        None if variant.rotary else 0.1 * jax.random.normal(placing, (length, config.width)),
        tuple(bj.transformer.block_init(k, config.width, config.heads, **options) for k in drawing),
        bj.norms.norm_init(config.width) if variant.pre_norm else None,
        bj.linear.dense_init(heading, config.width, outputs),
    )


def norm_of(variant: Variant) -> Any:
    """Layer or RMS norm: layer norm is RMS norm of what has mean 0, so that a number chooses."""
    if isinstance(variant.rms, bool):
        return bj.norms.rms_norm if variant.rms else bj.norms.layer_norm

    def norm(params, x):
        return bj.norms.rms_norm(params, x - (1 - variant.rms) * x.mean(-1, keepdims=True))

    return norm


def mixing(variant: Variant, heads: int) -> dict[str, Any]:
    """Options of attention."""
    import jax

    weighting = jax.nn.sigmoid if variant.sigmoid else jax.nn.softmax
    return {"heads": heads, "rotary": variant.rotary, "weighting": weighting}


def streams(model: Model, h: jax.Array, variant: Variant, heads: int, *, causal: bool = False) -> list:
    """Streams (..., length, width) before each block and behind the last, for embedded inputs ``h``."""
    found = [h if model.position is None else h + model.position]
    options = mixing(variant, heads) | {"norm": norm_of(variant), "pre_norm": variant.pre_norm}
    for block in model.blocks:
        found.append(bj.transformer.block(block, found[-1], causal=causal, **options))
    return found


def read(model: Model, h: jax.Array, variant: Variant) -> jax.Array:
    """Logits of the last stream."""
    h = h if model.norm is None else norm_of(variant)(model.norm, h)
    return bj.linear.dense(model.head, h)


def classify(model: Model, x: jax.Array, variant: Variant, heads: int) -> jax.Array:
    """Logits of (..., length, inputs), whose outputs are averaged over the sequence."""
    import jax.numpy as jnp

    h = bj.linear.dense(model.embed, x)
    return jnp.mean(read(model, streams(model, h, variant, heads)[-1], variant), -2)


def part_of(path: tuple) -> str:
    """Which of `PARTS` a leaf belongs to, by its path.

    Examples
    --------
    >>> from jax.tree_util import GetAttrKey
    >>> part_of((GetAttrKey("norm"), GetAttrKey("bias")))
    'norm'
    """
    names = [getattr(entry, "name", "") for entry in path]
    if names[0] == "head":
        return "head"
    if names[-1] != "bias":
        return "rest"
    return "norm" if names[-2].endswith("norm") else names[-2]


def spread(on: jax.Array, model: Model) -> Model:
    """Model of the entries of ``on``, (parts,), that belong to each leaf."""
    import jax
    import jax.numpy as jnp

    def one(path, leaf):
        return jnp.broadcast_to(on[PARTS.index(part_of(path))].astype(leaf.dtype), leaf.shape)

    return jax.tree_util.tree_map_with_path(one, model)


def table(arms: dict[str, tuple[str, ...]]) -> np.ndarray:
    """Which parts are trained in each arm, (arms, parts) of 0 and 1."""
    return np.array([[part in trained for part in PARTS] for trained in arms.values()], np.float32)


def train(model: Model, rates: jax.Array, loss: Any, batches: Any) -> tuple[Model, Model, jax.Array]:
    """Train with Adam, whose learning rate is an entry of ``rates``, (parts,), for each part; 0 freezes.

    Returns the trained model, Adam's running mean of squared gradients, and the losses. All parameters are
    one vector for Adam, which is compiled the faster.
    """
    import jax
    import optax
    from jax.flatten_util import ravel_pytree

    flat, whole = ravel_pytree(model)
    rate = ravel_pytree(spread(rates, model))[0]
    scaled = optax.stateless(lambda updates, _: jax.tree.map(lambda update: -rate * update, updates))
    adam = optax.chain(optax.scale_by_adam(), scaled)
    step = functools.partial(
        bj.training.descend, adam, lambda flat, state, rows: (loss(whole(flat), rows), state)
    )
    fit, losses = jax.lax.scan(step, bj.training.begin(adam, flat), batches)
    return whole(fit.params), whole(fit.optimizer_state[0].nu), losses


def replaced(model: Model, change: Any) -> Model:
    """Model whose blocks are ``change(block)``."""
    return model._replace(blocks=tuple(change(block) for block in model.blocks))
