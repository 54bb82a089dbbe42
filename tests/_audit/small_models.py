"""Small models whose biases cancel, or make up for each other, in the ways that large ones know."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(0)
ROWS, TOKENS, IMAGE = (RNG.standard_normal(shape) for shape in ((6, 4), (2, 5, 4), (2, 5, 5, 2)))


class Small(NamedTuple):
    """A function of parameters and an input, and how many shifts of all its biases change nothing."""

    fn: Callable
    params: dict[str, Any]
    x: np.ndarray
    invariances: int


def new(*shape):
    return RNG.standard_normal(shape) / np.sqrt(max(shape[0], 1) if len(shape) > 1 else 4.0)


def standard(x, axes=-1):
    x = x - x.mean(axes, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).mean(axes, keepdims=True) + 1e-3)


def linear_pair(p, x):
    return (x @ p["w"] + p["a_bias"]) @ p["v"] + p["b_bias"]


def parallel(p, x):
    return jnp.tanh(x + p["a_bias"] + p["b_bias"]), jnp.sin(x[:, :2] + p["c_bias"])


def norm_into_dense(p, x):
    return jnp.tanh((standard(x @ p["w"] + p["a_bias"]) * p["g"] + p["beta"]) @ p["v"] + p["b_bias"])


def batch_norm(p, x):
    return jnp.tanh(standard(x @ p["w"] + p["a_bias"], 0) * p["g"] + p["beta"])


def eval_batch_norm(p, x):
    y = x @ p["w"] + p["a_bias"]
    return jnp.tanh((y - p["running"]) / jnp.sqrt(jnp.exp(p["spread"]) + 1e-3) * p["g"] + p["beta"])


def attention(p, x):
    y = standard(x) * p["g"] + p["beta"]
    q, k, v = (y @ p[f"w{name}"] + p[f"{name}_bias"] for name in "qkv")
    return jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2)) @ v @ p["wo"] + p["o_bias"]


def residual(p, x):
    y = x + p["a_bias"]
    y = y + jnp.tanh(y @ p["w"] + p["b_bias"]) @ p["v"] + p["c_bias"]
    y = y + jnp.tanh(standard(y) @ p["u"] + p["d_bias"]) @ p["t"] + p["e_bias"]
    return standard(y)


def convolutions(p, x):
    def convolved(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=dimensions)

    y = convolved(x, p["w"]) + p["a_bias"]
    return jnp.tanh(convolved(y, p["v"]) + p["b_bias"])


def unlike_sizes(p, x):
    # The last two entries of the one are not used, and the other makes up for none
    return jnp.tanh(x @ p["w"] + p["a_bias"][:4]) + jnp.pad(p["b_bias"], (0, 2))


MODELS = {
    "linear pair": Small(
        linear_pair, {"w": new(4, 5), "a_bias": new(5), "v": new(5, 3), "b_bias": new(3)}, ROWS, 5
    ),
    "parallel": Small(parallel, {"a_bias": new(4), "b_bias": new(4), "c_bias": new(2)}, ROWS, 4),
    # The norm does not mind all features alike; the dense layer makes up for the norm's bias
    "norm into dense": Small(
        norm_into_dense,
        {"w": new(4, 5), "a_bias": new(5), "g": new(5), "beta": new(5), "v": new(5, 3), "b_bias": new(3)},
        ROWS,
        6,
    ),
    "batch norm": Small(
        batch_norm, {"w": new(4, 5), "a_bias": new(5), "g": new(5), "beta": new(5)}, ROWS, 5
    ),
    "eval batch norm": Small(
        eval_batch_norm,
        {
            "w": new(4, 5), "a_bias": new(5), "running": new(5), "spread": new(5),
            "g": new(5), "beta": new(5),
        },
        ROWS,
        5,
    ),
    # All of the key's; the norm's by those of queries and values, and these by the output's. Queries and keys
    # are narrower than the norm: else there is a direction along which centred keys are zero.
    "attention": Small(
        attention,
        {f"w{name}": new(4, 3 if name in "qk" else 4) for name in "qkvo"}
        | {f"{name}_bias": new(3 if name in "qk" else 4) for name in "qkvo"}
        | {"g": new(4), "beta": new(4)},
        TOKENS,
        11,
    ),
    # The second bias of the stream would shift what the first layer sees: only all alike are free
    "residual": Small(
        residual,
        {"a_bias": new(4), "w": new(4, 6), "b_bias": new(6), "v": new(6, 4), "c_bias": new(4)}
        | {"u": new(4, 6), "d_bias": new(6), "t": new(6, 4), "e_bias": new(4)},
        ROWS,
        6,
    ),
    "convolutions": Small(
        convolutions,
        {"w": new(2, 2, 2, 3), "a_bias": new(3), "v": new(2, 2, 3, 4), "b_bias": new(4)},
        IMAGE,
        3,
    ),
    "unlike sizes": Small(unlike_sizes, {"w": new(4, 4), "a_bias": new(6), "b_bias": new(2)}, ROWS, 2),
}  # fmt: skip
