"""Audits of a small model and of one of real size, compiling included, as `audit_speed` runs more of.

The small one is the model of Flax's front page. What a user would write for it is the exact method by hand:
a Jacobian of the outputs with respect to each bias, in float64, and its rank, at one draw, in one mode. It
tells neither where a shift dies nor what stands in for what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks._race import Contender, Race


def races(networks: int | None = None) -> dict[str, Race]:
    """Races by name."""
    small = [
        Contender("biasjax, both modes", f"{__name__}:small"),
        Contender("ranks by hand", f"{__name__}:ranks"),
    ]
    return {
        "audit-small": Race("audit", small),
        "audit-resnet18": Race("audit", [Contender("biasjax, both modes", f"{__name__}:resnet18")]),
    }


def _model() -> Any:
    import flax.linen as nn
    import jax

    from biasjax import adapters

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.gelu(nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x)))
            return nn.Dense(3)(x)

    x = jax.random.normal(jax.random.key(1), (5, 4))
    return adapters.from_linen(Model(), Model().init(jax.random.key(0), x, False)), x


def small() -> tuple[Callable[[], Any], int]:
    """Audit the small model."""
    from biasjax import audit

    pure, x = _model()
    return lambda: audit.audit_modes(pure, x), 1


def ranks() -> tuple[Callable[[], Any], int]:
    """Take the rank of the outputs' Jacobian with respect to each bias of the small model."""
    import jax

    def once() -> list[int]:
        with jax.enable_x64(True):
            pure, x = _model()
            params, state, x = jax.tree.map(lambda a: np.asarray(a, np.float64), (*pure[1:], x))
            jacobian = jax.jit(jax.jacrev(lambda params: pure.apply(params, state, x, train=True)[0]))(params)
            leaves = [leaf for leaf in jax.tree.leaves(jacobian) if leaf.ndim == 3]
            return [int(np.linalg.matrix_rank(leaf.reshape(-1, leaf.shape[-1]))) for leaf in leaves]

    return once, 1


def resnet18() -> tuple[Callable[[], Any], int]:
    """Audit the ResNet-18 for 32x32 images."""
    from biasjax import audit
    from experiments.benchmarks._models import CASES

    pure, x = CASES["resnet18"]()
    return lambda: audit.audit_modes(pure, x), 1
