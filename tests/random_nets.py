"""Random convolutional nets with batch norms, in plain JAX: all layers that a norm can be folded into."""

import jax
import jax.numpy as jnp
import numpy as np

from biasjax import norms
from biasjax.adapters import Pure


def conv_net(seed: int, blocks: int = 3) -> tuple[Pure, jax.Array]:
    """Blocks of convolution, batch norm and tanh, all options drawn; its input, and a norm's statistics."""
    rng = np.random.default_rng(seed)
    rank, first = int(rng.integers(1, 4)), bool(rng.integers(2))
    channels, size = int(rng.choice([2, 4])), 6
    places = "XYZ"[:rank]
    layout = f"NC{places}" if first else f"N{places}C"
    shape = (3, channels, *[size] * rank) if first else (3, *[size] * rank, channels)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    params, state, plan, at = [], [], [], jax.ShapeDtypeStruct(shape, jnp.float32)
    for _ in range(blocks):
        kind = str(rng.choice(["plain", "grouped", "depthwise", "transposed"]))
        groups = {"grouped": 2, "depthwise": channels}.get(kind, 1)
        out = int(rng.choice([4, 8])) if kind != "depthwise" else channels * int(rng.integers(1, 3))
        window = [int(n) for n in rng.integers(1, 4, rank)]
        fits = min(at.shape[2:] if first else at.shape[1:-1]) >= 3
        kernel = rng.normal(size=(*window, channels // groups, out))
        strides = [int(n) for n in rng.integers(1, 3, rank)]
        own = {"window_strides": strides, "padding": "VALID" if rng.integers(2) and fits else "SAME"}
        if kind == "transposed":
            own = {"window_strides": [1] * rank, "padding": [(1, 2)] * rank, "lhs_dilation": [2] * rank}
        options = own | {"feature_group_count": groups, "dimension_numbers": (layout, f"{places}IO", layout)}
        before = bool(rng.integers(4) == 0)
        norm_of = channels if before else out

        def conv(x, kernel, options=options):
            return jax.lax.conv_general_dilated(x, kernel, **options)

        at = jax.eval_shape(conv, at, jax.ShapeDtypeStruct(kernel.shape, jnp.float32))
        tied = (1, out, *[1] * rank) if first else (1, *[1] * rank, out)
        bias_shape = [None, tied, at.shape[1:]][int(rng.integers(3))]
        bias = None if bias_shape is None else jnp.asarray(rng.normal(size=bias_shape), jnp.float32)
        scale, shift = (
            jnp.asarray(rng.normal(size=norm_of) + offset, jnp.float32) if rng.integers(3) else None
            for offset in (2, 0)
        )
        params.append(
            {"kernel": jnp.asarray(kernel, jnp.float32), "bias": bias, "norm": norms.Norm(scale, shift)}
        )
        mean, var = rng.normal(size=norm_of), rng.uniform(0.3, 2, norm_of)
        state.append(norms.BatchStats(jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32)))
        plan.append((conv, before, float(rng.choice([1e-5, 1e-3, 0.1]))))
        channels = out

    def apply(params, state, x, train):
        new = []
        for (conv, before, epsilon), own, stats in zip(plan, params, state, strict=True):

            def norm(x, own=own, stats=stats, epsilon=epsilon):
                return norms.batch_norm(
                    own["norm"], stats, x, train=train, epsilon=epsilon, channels_first=first
                )

            if before:
                x, stats = norm(x)
            x = conv(x, own["kernel"])
            x = x if own["bias"] is None else x + own["bias"]
            if not before:
                x, stats = norm(x)
            x = jnp.tanh(x)
            new.append(stats)
        return x, new

    return Pure(apply, params, state), x
