"""biasjax: what every bias of a neural network does, at initialisation, in training and at inference."""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "activations",
    "adapters",
    "attention",
    "audit",
    "check",
    "compiling",
    "data",
    "deaths",
    "double",
    "draws",
    "execute",
    "findings",
    "gaussian",
    "grid",
    "initializers",
    "jacobian",
    "joint",
    "layerwise",
    "linear",
    "meanfield",
    "network",
    "normrates",
    "norms",
    "phases",
    "plot",
    "probe",
    "propagation",
    "ranks",
    "roots",
    "sensitivity",
    "shifts",
    "stepwise",
    "store",
    "submit",
    "sweep",
    "training",
    "tree",
)

__all__ = [*_MODULES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    # Modules load when first used, so that `import biasjax` and every `--help` stay quick.
    if name in _MODULES:
        return importlib.import_module(f"biasjax.{name}")
    raise AttributeError(f"module 'biasjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
