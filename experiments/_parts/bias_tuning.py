"""Transformers on rows of the 8x8 digits: trained with some of their biases, or tuned by one kind of bias."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments._parts import transformers
from experiments._parts.transformers import KINDS, Model, Variant

if TYPE_CHECKING:
    import jax

_ALL = (*KINDS, "head", "rest")
TRAINED = {
    "all": _ALL,
    "none": ("head", "rest"),
    "no query": tuple(part for part in _ALL if part != "query"),
    "no key": tuple(part for part in _ALL if part != "key"),
    "no value": tuple(part for part in _ALL if part != "value"),
    "no out": tuple(part for part in _ALL if part != "out"),
    "no MLP": tuple(part for part in _ALL if part not in ("up", "down")),
    "no norm": tuple(part for part in _ALL if part != "norm"),
}
"""What is trained from the start; biases that are not stay zero."""
TUNED = {
    "frozen": ("head",),
    **{kind: (kind, "head") for kind in KINDS},
    "all biases": (*KINDS, "head"),
    "everything": _ALL,
}
"""What is tuned on other classes; the head, which is new, in every arm."""
PROJECTIONS = ("query", "key", "value")
"""Projections whose biases are followed."""
_SHOWN = 32  # test examples whose logits are kept
LAYOUTS = {"pre": Variant(), "post": Variant(pre_norm=False), "rotary": Variant(rotary=True)}


@functools.cache
def rows() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Digits as sequences of 8 rows of 8 pixels and their labels, a fifth of the training set held out."""
    import jax

    with jax.ensure_compile_time_eval():
        data = bj.data.digits()
        x, y, test_x, test_y = (np.asarray(part) for part in data)
    cut = len(y) - len(y) // 5
    split = {"train": (x[:cut], y[:cut]), "validation": (x[cut:], y[cut:]), "test": (test_x, test_y)}
    return {name: (images[..., 0], labels) for name, (images, labels) in split.items()}


def of_classes(first: int, last: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Those of `rows` whose label is from ``first`` to ``last``, counted from 0 there."""
    chosen = {name: (y >= first) & (y <= last) for name, (_, y) in rows().items()}
    return {name: (x[chosen[name]], y[chosen[name]] - first) for name, (x, y) in rows().items()}


def start(config: Any, key: jax.Array, variant: Variant, outputs: int) -> Model:
    """A new transformer for the digits."""
    sizes = {"inputs": 8, "length": 8, "outputs": outputs, "config": config}
    return transformers.init(key, variant, **sizes)


def fit(
    config: Any, key: jax.Array, model: Model, rates: Any, data: Any, steps: int, variant: Variant
) -> tuple[Model, Model]:
    """Train at the rates of the parts, on batches drawn with replacement; also mean squared gradients."""
    import jax
    import jax.numpy as jnp

    x, y = (jnp.asarray(part) for part in data)
    batches = jax.random.randint(key, (steps, config.batch_size), 0, len(y))

    def loss(model, batch):
        logits = transformers.classify(model, x[batch], variant, config.heads)
        return bj.training.cross_entropy(logits, y[batch])

    return transformers.train(model, rates, loss, batches)[:2]


def judged(config: Any, models: dict[str, Model], data: dict, variant: Variant) -> dict[str, jax.Array]:
    """Logits of each model for test examples; accuracies, held-out and test, of the first model."""
    import jax
    import jax.numpy as jnp

    sets = [data[name] for name in ("test", "validation")]
    x, y = (jnp.concatenate([jnp.asarray(one[i]) for one in sets]) for i in (0, 1))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models.values())
    # One after another: with one more vmap, products of a sweep have too many axes for XLA on a CPU
    logits = jax.lax.map(lambda model: transformers.classify(model, x, variant, config.heads), stacked)
    hits, cut = (jnp.argmax(logits[0], -1) == y).astype(jnp.float32), len(sets[0][1])
    shown = {name: part[:_SHOWN] for name, part in zip(models, logits, strict=True)}
    return shown | {"accuracy": hits[:cut].mean(), "validation": hits[cut:].mean()}


def trained(config: Any, key: jax.Array, *, layout: str, rms: Any, learning_rate: Any, arm: Any) -> dict:
    """Train with some kinds of bias; then take single kinds out of what was trained."""
    import jax
    import jax.numpy as jnp

    variant = LAYOUTS[layout]._replace(rms=rms.astype(jnp.float32))
    drawing, batching = jax.random.split(key)
    rates = learning_rate * jnp.asarray(transformers.table(TRAINED))[arm]
    data, model = rows(), start(config, drawing, variant, 10)
    end, squares = fit(config, batching, model, rates, data["train"], config.steps, variant)
    models = {"logits": end}
    for kind in PROJECTIONS:
        models[f"without_{kind}"] = transformers.replaced(end, functools.partial(without, kind))
    found = judged(config, models, data, variant)
    for kind in PROJECTIONS:
        found[f"size_{kind}"] = jnp.linalg.norm(biases(end, kind))
        # Root of Adam's running mean of squares
        found[f"gradient_{kind}"] = jnp.sqrt(jnp.sum(biases(squares, kind)))
    return found


def biases(model: Model, kind: str) -> jax.Array:
    """Biases of one projection in all blocks."""
    import jax.numpy as jnp

    return jnp.concatenate([getattr(block.attention, kind).bias for block in model.blocks])


def without(kind: str, block: Any) -> Any:
    """Block whose projection has a bias of zeros."""
    layer = getattr(block.attention, kind)
    zeroed = layer._replace(bias=0.0 * layer.bias)
    return block._replace(attention=block.attention._replace(**{kind: zeroed}))


def tuned(config: Any, key: jax.Array, *, variant: str, learning_rate: Any, arm: Any) -> dict:
    """Train on digits 0-4 with all biases, then tune some of them, and a new head, on a few of 5-9."""
    import jax
    import jax.numpy as jnp

    kind = transformers.VARIANTS[variant]
    drawing, first, second, picking = jax.random.split(key, 4)
    rates = jnp.full(len(transformers.PARTS), config.learning_rates[0])
    old, new = of_classes(0, 4), of_classes(5, 9)
    model = start(config, drawing, kind, 5)
    model = fit(config, first, model, rates, old["train"], config.steps, kind)[0]
    model = model._replace(head=jax.tree.map(jnp.zeros_like, model.head))
    chosen = jax.random.randint(picking, (config.examples,), 0, len(new["train"][1]))
    few = tuple(jnp.asarray(part)[chosen] for part in new["train"])
    rates = learning_rate * jnp.asarray(transformers.table(TUNED))[arm]
    rates = rates.at[transformers.PARTS.index("head")].set(config.head_rate)
    after = fit(config, second, model, rates, few, config.tuning_steps, kind)[0]
    pairs = list(zip(after.blocks, model.blocks, strict=True))
    folded = after._replace(blocks=tuple(fold(*pair) for pair in pairs))
    undone = after._replace(blocks=tuple(undo(*pair) for pair in pairs))
    return judged(config, {"logits": after, "folded": folded, "undone": undone}, new, kind)


def undo(block: Any, was: Any) -> Any:
    """Block with another's value bias."""
    value = block.attention.value._replace(bias=was.attention.value.bias)
    return block._replace(attention=block.attention._replace(value=value))


def fold(block: Any, was: Any) -> Any:
    """Block with another's value bias, what it has gained since added to the output bias through W_out."""
    value, out = block.attention.value, block.attention.out
    moved = out._replace(bias=out.bias + (value.bias - was.attention.value.bias) @ out.kernel)
    undone = undo(block, was)
    return undone._replace(attention=undone.attention._replace(out=moved))
