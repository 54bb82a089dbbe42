"""What follows from verdicts for training."""

from __future__ import annotations

from typing import Any

import jax

from biasjax import check, tree
from biasjax._audit.findings import BiasAudit
from biasjax._audit.modes import ModesAudit


def decay_mask(audit: BiasAudit | ModesAudit, params: Any) -> Any:
    """Tree like ``params`` that is False at biases that weight decay moves and nothing else does.

    A cancelled bias has no gradient: decay alone brings it to zero, and where a running mean follows it,
    evaluation suffers meanwhile (`python -m experiments regime_map`).

    Parameters
    ----------
    audit
        Of a function or of both modes, of which training counts.
    params
        Those that were audited, or a tree of the same paths.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from biasjax import audit
    >>> params = {"bias": jnp.zeros(2), "kernel": jnp.ones((3, 2))}
    >>> def fn(params, x):
    ...     y = x @ params["kernel"] + params["bias"]
    ...     return y - y.mean(0)
    >>> found = audit.audit_biases(fn, params, jnp.ones((4, 3)))
    >>> audit.decay_mask(found, params)
    {'bias': False, 'kernel': True}
    >>> tx = optax.adamw(1e-3, weight_decay=1e-2, mask=audit.decay_mask(found, params))
    """
    found: object = audit.train if isinstance(audit, ModesAudit) else audit
    if not isinstance(found, BiasAudit):
        got, fix = type(audit).__name__, "They come from audit_biases and audit_modes."
        check.fail("decay_mask", "a BiasAudit or ModesAudit", got, fix, TypeError)
    dead = {f.path for f in found.findings if f.verdict in ("cancelled", "unused")}
    missing = dead - tree.paths(params).keys()
    if missing:
        fix = "Give the parameters that were audited."
        check.fail("decay_mask", f"params with {', '.join(sorted(missing))}", "others", fix)
    return jax.tree_util.tree_map_with_path(lambda path, _: tree.path_string(path) not in dead, params)
