"""How many parameters are biases, and how many of these can do nothing?

Answer: few are biases, .01% in VGG16 and .2% in ResNet-50; but before batch norm all of them are dead in
training, half of all of ResNet-50's, and in attention those of the keys.

Source: a forum thread on Keras' convolutions, 2017, which counts 1792 = 1728 + 64 parameters in VGG16's first
layer and asks why there is one bias for each channel; a lesson on biases in Keras, 2018, which reads them by
`get_weights` before training. Models are counted by their shapes alone, so none of them is allocated; which
share of a layer's biases is dead is asked of `biasjax.audit`, for models with a 32nd of the channels or less.

Expected: as published, VGG16 has 138,357,544 parameters, GPT-2 small 124,439,808, ViT-B/16 86,567,656,
ResNet-50 25,583,592 with Keras' biases in all convolutions. Before batch norm all biases of convolutions are
dead in training, 4,224 of VGG16-BN and 26,560 of ResNet-50, half of all its bias entries; in plain attention
those of the keys, 768 in each of 12 layers. One bias for each position would be 64 x 224 x 224 in the first
layer of VGG16 alone.

Measured: all of these, exactly. The lesson's biases are 0 before training, up to 1.5 after it. Biases are
.01% of the parameters of VGG16 and .2% of ResNet-50's.

Cost: about 75 s on 2 CPU cores, less when it is run again. Command: `python -m experiments parameter_count`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import biasjax as bj
from experiments.claims import CLOSED_FORM, Claim, at_least, equal

if TYPE_CHECKING:
    import xarray as xr

KERAS, LESSON = "forum thread on Keras' bias, 2017", "lesson on biases in Keras, 2018"
PUBLISHED = "published model"
COUNTS = {
    "VGG16": (138_357_544, 13_416),
    "VGG16-BN": (138_365_992, 17_640),
    "ResNet-50": (25_583_592, 54_120),
    "GPT-2 small": (124_439_808, 102_144),
    "ViT-B/16": (86_567_656, 103_912),
}
"""Parameters and bias entries, offsets of norms among them."""
DEAD = {"VGG16-BN": 4_224, "ResNet-50": 26_560, "GPT-2 small": 9_216, "ViT-B/16": 9_216}
NORMED = ("VGG16-BN", "ResNet-50")
MODELS = tuple(COUNTS)
_BIASES = ("dense.bias", "dense_1.bias")


@dataclass(frozen=True)
class Config:
    """Models to count, and the lesson's training."""

    models: tuple[str, ...] = MODELS
    """Names; some or all of the default's."""
    steps: int = 300
    """Updates of the small network whose weights are read before and after."""
    learning_rate: float = 0.5
    """Of the same."""


SMOKE = Config(models=("GPT-2 small",), steps=50)


class Model(NamedTuple):
    """A model as it is, and a small one of the same kind to audit.

    Attributes
    ----------
    shapes
        Makes the shapes of its parameters.
    small
        Makes ``(pure, x)``.
    layers
        Pattern of the paths of the layers whose biases may be dead.
    """

    shapes: Callable[[], Any]
    small: Callable[[], tuple[Any, Any]]
    layers: str


def _model(name: str) -> Model:
    from experiments._parts.architectures import VGG, ResNet50
    from experiments.benchmarks._models import GPT2, ViT

    if name.startswith("VGG"):
        whole = VGG(batch_norm=name.endswith("BN"))
        small = whole._replace(narrow=32, pixels=32, hidden=8, classes=4)
        return Model(lambda: _shapes(lambda key: whole.init(key)[0]), lambda: _vgg(small), "conv")
    if name == "ResNet-50":
        small = ResNet50(2, 4, (1, 1, 1, 1))
        return Model(*_linen(ResNet50(), (224, 224, 3), small, (32, 32, 3), False), "Conv")
    if name == "GPT-2 small":
        return Model(*_linen(GPT2(), (8,), GPT2(32, width=16, heads=2, layers=2), (6,)), "c_attn")
    small = ViT(width=16, heads=2, layers=2, classes=10)
    return Model(*_linen(ViT(768, 12), (224, 224, 3), small, (32, 32, 3)), "c_attn")


def _shapes(make: Callable[..., Any]) -> Any:
    import jax

    return jax.eval_shape(make, jax.random.key(0))


def _linen(whole: Any, shape: tuple[int, ...], small: Any, small_shape: tuple[int, ...], *rest: Any):
    """Ways to make a Flax model's shapes, and a small one with its input; ``rest`` is what says the mode."""
    import jax

    def shapes() -> Any:
        return _shapes(lambda key: whole.init(key, _input((1, *shape)), *rest)["params"])

    def made() -> tuple[Any, Any]:
        x = _input((4, *small_shape))
        mode: dict[str, Any] = {} if rest else {"mode": lambda train: {}}
        return bj.adapters.from_linen(small, small.init(jax.random.key(0), x, *rest), **mode), x

    return shapes, made


def _input(shape: tuple[int, ...]) -> Any:
    """Images, or tokens where there is one axis beside the batch."""
    import jax

    key = jax.random.key(1)
    return jax.random.randint(key, shape, 0, 32) if len(shape) == 2 else jax.random.normal(key, shape)


def _vgg(small: Any) -> tuple[Any, Any]:
    import jax

    params, state = small.init(jax.random.key(0))
    return bj.adapters.Pure(small.apply, params, state), _input((4, 3, small.pixels, small.pixels))


def run(config: Config) -> xr.Dataset:
    """Count and audit the models, and train a small network to read its weights."""
    import xarray as xr

    from experiments import gallery

    rows = [_row(bj.check.choice("models", name, MODELS)) for name in config.models]
    counted = xr.Dataset({key: ("model", [row[key] for row in rows]) for key in rows[0]})
    first = bj.tree.count(_model("VGG16").shapes()["conv1_1"])
    pure, tokens = gallery.pre_norm_qk_norm()
    with_qk_norm, _ = _dead(pure, tokens, "key")
    return counted.assign_coords(model=list(config.models)).assign(
        first=("part", [first.total, first.biases]), qk_norm=with_qk_norm, **_lesson(config)
    )


def _row(name: str) -> dict[str, int]:
    model = _model(name)
    params = model.shapes()
    total, biases = bj.tree.count(params)
    before = {path: leaf for path, leaf in bj.tree.paths(params).items() if re.search(model.layers, path)}
    row = {"total": total, "biases": biases, "layers": bj.tree.count(before).biases}
    train, running = (round(share * row["layers"]) for share in _dead(*model.small(), model.layers))
    return row | {"dead": train, "dead_running": running}


def _dead(pure: Any, x: Any, layers: str) -> tuple[float, float]:
    """Share of some layers' bias entries that do nothing, in training and in evaluation."""
    modes = bj.audit.audit_modes(pure, x, joint=False)
    found = [[f for f in one.findings if re.search(layers, f.path)] for one in (modes.train, modes.eval)]
    train, running = (sum(f.size - f.rank for f in each) / sum(f.size for f in each) for each in found)
    return train, running


def _lesson(config: Config) -> dict[str, Any]:
    """Weights of the lesson's network, by name, before and after training on two classes."""
    import jax
    import jax.numpy as jnp

    hidden, output = jax.random.split(jax.random.key(2))
    before = {"dense": bj.linear.dense_init(hidden, 1, 4), "dense_1": bj.linear.dense_init(output, 4, 2)}
    x = jnp.linspace(-1.0, 1.0, 64)[:, None]
    labels = (x[:, 0] > 0.3).astype(int)

    def loss(params: Any) -> jax.Array:
        logits = bj.linear.dense(params["dense_1"], jax.nn.relu(bj.linear.dense(params["dense"], x)))
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(x)), labels])

    def step(params: Any, _: None) -> tuple[Any, None]:
        return jax.tree.map(lambda p, g: p - config.learning_rate * g, params, jax.grad(loss)(params)), None

    after = jax.jit(lambda params: jax.lax.scan(step, params, length=config.steps)[0])(before)
    named = {"before": bj.tree.paths(before), "after": bj.tree.paths(after)}
    return {
        f"{when}/{path}".replace("/", "."): (
            tuple(f"{path}.{i}".replace("/", ".") for i in range(leaf.ndim)),
            np.asarray(leaf),
        )
        for when, leaves in named.items()
        for path, leaf in leaves.items()
    }


def claims(dataset: xr.Dataset) -> list[Claim]:
    """Published counts, dead biases by audit, and what training does to biases that begin at zero."""
    names = [str(name) for name in dataset.model.values]
    first, of_first = (int(n) for n in dataset["first"].values)
    made = [
        equal("VGG16, first layer: parameters", KERAS, 1792, first, tolerance=0, null=first - of_first),
        equal("VGG16, first layer: biases", KERAS, 64, of_first, tolerance=0, null=64 * 224 * 224),
    ]
    for name, (total, biases) in COUNTS.items():
        if name in names:
            row = dataset.sel(model=name)
            made.append(equal(f"{name}: parameters", PUBLISHED, total, row.total, tolerance=0))
            made.append(equal(f"{name}: bias entries", PUBLISHED, biases, row.biases, tolerance=0))
    for name, dead in DEAD.items():
        if name in names:
            row = dataset.sel(model=name)
            null = row.dead_running if name in NORMED else dataset.qk_norm
            made.append(
                equal(f"{name}: dead in training", CLOSED_FORM, dead, row.dead, tolerance=0, null=null)
            )
    moved = [float(abs(dataset[f"{when}.{path}"]).max()) for path in _BIASES for when in ("before", "after")]
    before, after = max(moved[::2]), min(moved[1::2])
    made.append(equal("lesson: biases before training", LESSON, 0.0, before, tolerance=0, null=after))
    made.append(at_least("lesson: biases after training", LESSON, 0.01, after, null=before))
    return made


def table(dataset: xr.Dataset) -> str:
    """List VGG16 layer by layer, and what the lesson's `get_weights` shows before and after training."""
    import jax

    from experiments._parts.architectures import VGG

    whole = VGG()
    params, images = _model("VGG16").shapes(), jax.ShapeDtypeStruct((1, 3, 224, 224), np.float32)
    lines = [bj.tree.summary(lambda p, x: whole.apply(p, {}, x, train=False)[0], params, images), ""]
    for when in ("before", "after"):
        lines.append(f"the lesson's weights {when} training")
        named = [str(name) for name in dataset.data_vars if str(name).startswith(f"{when}.")]
        with np.printoptions(precision=3, suppress=True):
            lines += [f"{name.removeprefix(when)[1:]}: {dataset[name].values}" for name in named]
    return "\n".join(lines)


def figure(dataset: xr.Dataset):
    """Share of biases among the parameters, and what becomes of them."""
    fig, axes = bj.plot.panels(["biases among all parameters", "bias entries"], size=(5.2, 3.2))
    names = [str(name) for name in dataset.model.values]
    axes[0].barh(names, 100 * (dataset.biases / dataset.total).values, color=bj.plot.COLORS[0])
    axes[0].set(xlabel="%")
    parts = {
        "dead in training": dataset.dead,
        "others": dataset.biases - dataset.dead,
    }
    left = np.zeros(len(names))
    for (label, values), color in zip(parts.items(), bj.plot.COLORS[1:], strict=False):
        axes[1].barh(names, values.values, left=left, color=color, label=label)
        left += values.values
    axes[1].set(xlabel="number", yticklabels=[])
    axes[1].legend(loc="upper right")
    for ax in axes:
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    fig.suptitle("Few parameters are biases, and up to half of these can do nothing", fontsize=10)
    return fig
