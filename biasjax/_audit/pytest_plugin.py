"""The fixture ``assert_no_dead_biases``, which pytest finds by itself where biasjax is installed.

pytest loads this module in every session of every project beside biasjax: JAX is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest


@pytest.fixture
def assert_no_dead_biases() -> Callable[..., None]:
    """Fail a test where a bias of a model does nothing, with the table of all, and what to do about it.

    ``assert_no_dead_biases(model, *args)`` takes a `biasjax.adapters.Pure` or a module of Flax nnx, Equinox
    or Keras, which is judged in training; ``assert_no_dead_biases(fn, params, *args)`` any pure function.
    ``verdicts=("cancelled", "partly cancelled")`` asks for others than cancelled and unused; other options
    are those of `biasjax.audit.audit_biases`.
    """
    return _assert_no_dead_biases


def _assert_no_dead_biases(
    model: Any, *args: Any, verdicts: Sequence[str] = ("cancelled", "unused"), **options: Any
) -> None:
    __tracebackhide__ = True
    from biasjax._audit.findings import COMPARED, check_verdicts
    from biasjax.adapters import Pure
    from biasjax.audit import audit_biases

    asked = options.pop("joint", not set(COMPARED).isdisjoint(verdicts))
    check_verdicts("verdicts", verdicts, asked)
    model = _pure(model)
    mode = {"train": True} if isinstance(model, Pure) else {}
    audit = audit_biases(model, *args, joint=asked, **mode, **options)
    audit.check(*verdicts)


def _pure(model: Any) -> Any:
    """Wrap a module that holds its own parameters; return all others as they are."""
    from biasjax import adapters

    wrap = {
        "flax.nnx": adapters.from_nnx,
        "equinox": adapters.from_equinox,
        "keras": adapters.from_keras,
    }
    for base in type(model).__mro__:
        if base.__name__ in ("Module", "Model"):
            for root, adapter in wrap.items():
                if f"{base.__module__}.".startswith(f"{root}."):
                    return adapter(model)
    return model
