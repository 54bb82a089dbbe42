"""Singular values of linear convolutional networks: which kernels make an isometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import biasjax as bj
from experiments.claims import Claim, at_most, equal

if TYPE_CHECKING:
    import xarray as xr

LABELS = {"gaussian": "Gaussian", "orthogonal": "orthogonal", "delta_orthogonal": "delta-orthogonal"}
KERNELS = tuple(LABELS)


def sweep(depths: Sequence[int], *, width: int, kernel_size: int) -> xr.DataArray:
    """Logs of all singular values of one network each, ``(net_kernel, net_depth, value)``."""
    import jax.numpy as jnp

    def measure(key, *, net_kernel: str, net_depth: int):
        net = bj.network.Network(
            inputs=width,
            width=width,
            depth=net_depth,
            order="conv",
            kernel_init=net_kernel,
            kernel_size=(kernel_size,),
            padding="CIRCULAR",
        )
        x = jnp.ones((1, 8, width))
        return {"log_singular": bj.jacobian.singular_values(key, net, bj.network.Scales(), x)}

    static = {"net_kernel": KERNELS, "net_depth": tuple(depths)}
    found = bj.sweep.run(measure, {"seed": [0]}, static=static, dims=bj.jacobian.DIMS)
    return found.log_singular.isel(seed=0, drop=True)


def claims(logs: xr.DataArray, width: int) -> list[Claim]:
    """Blocks of Gaussian and of Haar matrices, and an isometry; another kernel is the null twin."""
    # The largest s² of a Gaussian block scatters by 2^(4/3) n^(-2/3) (Tracy & Widom), below its limit 4
    tolerance = 4 * 2 ** (4 / 3) * width ** (-2 / 3)
    largest = logs.sel(net_depth=1).max("value")
    top, made = largest.copy(data=np.exp(2 * largest.values)), []
    for name, source, expected in (("gaussian", "Marchenko-Pastur", 4.0), ("orthogonal", "Jacobi", 8 / 3)):
        pair = {"measured": top.sel(net_kernel=name), "null": top.sel(net_kernel="delta_orthogonal")}
        made.append(equal(f"linear, {name}: largest s²", source, expected, **pair, tolerance=tolerance))
    worst = abs(logs).max(("net_depth", "value"))
    pair = {"measured": worst.sel(net_kernel="delta_orthogonal"), "null": worst.sel(net_kernel="gaussian")}
    text = f"delta-orthogonal: |ln s|, {int(logs.net_depth.max())} layers"
    return [*made, at_most(text, "arXiv 1806.05393", 1e-4, **pair)]


def draw(ax: Any, logs: xr.DataArray) -> None:
    """Draw singular values by rank."""
    for color, name in zip(bj.plot.COLORS, logs.net_kernel.values, strict=False):
        for depth, style in zip(logs.net_depth.values, ("-", "--"), strict=False):
            values = np.exp(np.sort(logs.sel(net_kernel=name, net_depth=depth).values)[::-1])
            label = f"{LABELS[str(name)]}, {depth} layer{'s' if depth > 1 else ''}"
            ax.plot(np.linspace(0, 1, values.size), values, style, color=color, label=label)
    ax.text(1, 1.2, "delta-orthogonal: all at 1", ha="right", fontsize=7)
    ax.set(xlabel="rank / number", ylabel="singular value", yscale="log", ylim=(1e-4, 10))
    ax.legend(fontsize=7)
