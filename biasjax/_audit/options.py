"""Options of an audit: one record for functions, modes and the command line."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from biasjax import check
from biasjax._audit.points import Varies


class Options(NamedTuple):
    """Options of `biasjax.audit.audit_biases`, where they are described, with their defaults."""

    is_bias: Any = None
    seed: int = 0
    randomize: Varies = True
    vary_inputs: Varies = True
    joint: bool = True
    draws: int = 8
    joint_limit: int = 2048


def checked(options: Options) -> Options:
    """Raise if an option is no value that it may have."""
    check.positive_int("draws", options.draws)
    check.positive_int("joint_limit", options.joint_limit)
    check.flags(joint=options.joint)
    seed: Any = options.seed
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        check.fail("seed", "an integer of at least 0", repr(seed), "Give a number, not a key.")
    for name in ("randomize", "vary_inputs"):
        value = getattr(options, name)
        if not callable(value) and not isinstance(value, (bool, np.bool_)):
            fix = "A predicate takes (path, leaf)."
            check.fail(name, "True, False or a predicate", repr(value), fix, TypeError)
    return options
