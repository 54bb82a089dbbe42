"""biasjax: what every bias of a neural network does, at initialisation, in training and at inference."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # checkers and editors see through the lazy modules
    from biasjax import (
        activations,
        adapters,
        attention,
        audit,
        check,
        conditional,
        data,
        embedding,
        gaussian,
        initializers,
        jacobian,
        linear,
        meanfield,
        network,
        normrates,
        norms,
        phases,
        plot,
        propagation,
        recurrent,
        report,
        statistics,
        stepwise,
        store,
        submit,
        surgery,
        sweep,
        training,
        transformer,
        tree,
    )

__version__ = "0.2.0"

__all__ = [
    "__version__",
    "activations",
    "adapters",
    "attention",
    "audit",
    "check",
    "conditional",
    "data",
    "embedding",
    "gaussian",
    "initializers",
    "jacobian",
    "linear",
    "meanfield",
    "network",
    "normrates",
    "norms",
    "phases",
    "plot",
    "propagation",
    "recurrent",
    "report",
    "statistics",
    "stepwise",
    "store",
    "submit",
    "surgery",
    "sweep",
    "training",
    "transformer",
    "tree",
]


def __getattr__(name: str) -> object:
    # Modules load when first used, so that `import biasjax` and every `--help` stay quick.
    if name in __all__:
        return importlib.import_module(f"biasjax.{name}")
    raise AttributeError(f"module 'biasjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
