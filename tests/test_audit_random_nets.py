"""Random nets against brute force, and the hardest ones found against exact arithmetic."""

import os

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from biasjax import linear, norms
from biasjax.audit import audit_biases

ROWS = jax.random.normal(jax.random.key(8), (5, 6))
LAYERS = ("dense", "tanh", "relu", "batch", "layer", "group", "rms", "centre", "residual", "softmax")


def compose(layers, width=4):
    keys = iter(jax.random.split(jax.random.key(3), len(layers) + 1))
    params = {}
    for i, layer in enumerate(layers):
        if layer in ("dense", "residual"):
            params[f"{i}"] = linear.dense_init(next(keys), width, width)
        elif layer in ("batch", "layer", "group", "rms"):
            params[f"{i}"] = norms.norm_init(width)
    params["head"] = linear.dense_init(next(keys), width, width)

    def fn(params, x):
        for i, layer in enumerate(layers):
            p = params.get(f"{i}")
            x = {
                "dense": lambda x, p=p: linear.dense(p, x),
                "residual": lambda x, p=p: x + linear.dense(p, jnp.tanh(x)),
                "tanh": jnp.tanh,
                "relu": lambda x: jnp.where(x > 0, x, 0.1 * x),
                "batch": lambda x, p=p: norms.batch_norm(p, norms.batch_stats_init(width), x, train=True)[0],
                "layer": lambda x, p=p: norms.layer_norm(p, x),
                "group": lambda x, p=p: norms.group_norm(p, x[:, None], groups=2)[:, 0],
                "rms": lambda x, p=p: norms.rms_norm(p, x),
                "centre": lambda x: x - x.mean(0),
                "softmax": jax.nn.softmax,
            }[layer](x)
        return linear.dense(params["head"], x)

    return fn, params


def brute_force(fn, params, x, draws=3, inputs=24):
    """Rank and unique of each bias by singular values of float64 Jacobians at random points.

    A shift counts as reproducible if at each draw of the parameters the others reproduce it over all inputs,
    each draw in its own way: unknowns w_d per draw beside one v, [stack J_b | diag J_rest] (v, -w) = 0.
    """
    with jax.enable_x64(True):
        rng = np.random.default_rng(11)
        flat, structure = jax.tree_util.tree_flatten_with_path(params)
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
        which = [i for i, name in enumerate(names) if name.endswith("bias")]
        run = jax.jit(
            lambda biases, leaves, x: jax.jacobian(
                lambda b: fn(
                    jax.tree.unflatten(
                        structure, [dict(zip(which, b, strict=True)).get(i, v) for i, v in enumerate(leaves)]
                    ),
                    x,
                )
            )(biases)
        )
        alone: dict[int, list[np.ndarray]] = {i: [] for i in which}
        others: dict[int, list[np.ndarray]] = {i: [] for i in which}
        for _ in range(draws):
            leaves = [np.asarray(v, np.float64) for _, v in flat]
            leaves = [np.where(v == 0, 0.5, v) * 0.3 + 0.7 * rng.standard_normal(v.shape) for v in leaves]
            rows: list[np.ndarray] = []
            for _ in range(inputs):
                jac = run([leaves[i] for i in which], leaves, rng.standard_normal(x.shape))
                rows.append(np.concatenate([np.asarray(j).reshape(-1, j.shape[-1]) for j in jac], 1))
            blocks: list[np.ndarray] = np.split(np.concatenate(rows), len(which), 1)
            for k, i in enumerate(which):
                alone[i].append(blocks[k])
                rest = blocks[:k] + blocks[k + 1 :] or [np.zeros_like(blocks[k])]
                others[i].append(np.concatenate(rest, 1))
        found = []
        for i in which:
            own = np.concatenate(alone[i])
            together = np.concatenate([own, np.asarray(scipy.linalg.block_diag(*others[i]))], 1)
            found.append((names[i], svd_rank(own), svd_rank(together) - sum(map(svd_rank, others[i]))))
        return found


def svd_rank(rows, tolerance=1e-9):
    values = np.linalg.svd(rows, compute_uv=False)
    return int((values > tolerance * max(values[0], 1e-3)).sum())


# AUDIT_NETS=500 for a longer search
NETS = int(os.environ.get("AUDIT_NETS", "12"))


@hypothesis.settings(max_examples=NETS, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5))
@hypothesis.example(["group", "rms", "group", "tanh", "residual"])  # derivatives near zero in groups of two
def test_verdicts_agree_with_brute_force(layers):
    fn, params = compose(layers)
    x = ROWS[:, :4]
    audit = audit_biases(fn, params, x)
    for path, expected_rank, expected_unique in brute_force(fn, params, x):
        finding = audit[path]
        assert (finding.rank, finding.unique) == (expected_rank, min(expected_unique, expected_rank)), (
            path,
            layers,
        )


@hypothesis.settings(max_examples=NETS, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5))
@hypothesis.example(
    ["batch", "dense", "group", "centre", "rms"]
)  # combinations of a bias that round-off leaves
def test_local_proofs_agree_with_the_whole_jacobian(layers):
    fn, params = compose(layers)
    exact, local = (audit_biases(fn, params, ROWS[:, :4], joint_limit=limit) for limit in (2048, 1))
    for one, other in zip(exact.findings, local.findings, strict=True):
        assert (one.rank, one.unique, one.verdict) == (other.rank, other.unique, other.verdict), (one, other)


# Ranks and uniques in arithmetic of 120 digits (mpmath), in the order of the layers
EXACT = {
    # Round-off in the dead directions themselves, which a large shift multiplies
    ("group", "rms", "softmax", "centre", "rms", "group", "group", "softmax"): (
        (6, 5, 4, 4, 5, 6),
        (6, 5, 4, 4, 5, 6),
    ),
    # Directions a million times weaker than others of the same bias
    ("residual", "rms", "rms", "group", "group", "batch"): ((4, 4, 2, 2, 0, 4, 4), (4, 4, 2, 2, 0, 0, 0)),
    # At this width and optimisation level the compiler computes the softmax's maximum twice, differently
    ("group", "softmax", "relu"): ((3, 4), (3, 4)),
}


@pytest.mark.parametrize("layers", EXACT, ids=" ".join)
def test_verdicts_agree_with_exact_arithmetic(layers):
    width = 6 if len(layers) > 6 else 4
    fn, params = compose(layers, width)
    audit = audit_biases(fn, params, jax.random.normal(jax.random.key(8), (5, width)))
    assert (tuple(f.rank for f in audit.findings), tuple(f.unique for f in audit.findings)) == EXACT[layers]


@pytest.mark.parametrize("seed", [0, 1])
def test_rounding_with_few_outcomes_is_still_noise(seed):
    # Norms over pairs give nearly equal rows: their rounding has a few outcomes, and some neighbours agree
    fn, params = compose(["group", "group", "batch", "rms", "batch", "layer", "batch"])
    audit = audit_biases(fn, params, jax.random.normal(jax.random.key(0), (3, 4)), seed=seed)
    assert audit["0/bias"].rank == 2  # the second norm takes each pair's mean
