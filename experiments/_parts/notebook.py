"""The setting of the notebook on Xavier and the bias, the numbers that it prints, and their theory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

XAVIER = 1 / 28
CELLS = ((1.0, 0.0), (1.0, 1.0), (XAVIER, 1.0), (XAVIER, 0.0))
"""Standard deviations of weights and biases in the four cells of the notebook."""
# What the notebook prints: the standard deviation after each of the first layers, one draw
_TEXT = {
    CELLS[0]: """
        26.1706 188.7720 1162.1053 10019.8301 63094.7305 455544.7500 3361917.5000 25106340 1.8682e08
        1.3495e09 9.3639e09 6.4331e10 4.3354e11 2.6942e12 1.8670e13 1.3257e14 9.5434e14 6.2041e15 3.8465e16
        1.9924e17 1.4602e18 1.0735e19 6.6974e19 4.8939e20 3.6402e21 2.4501e22
    """,
    CELLS[1]: """
        22.5135 157.3415 1014.1555 6892.7690 42421.7539 311417.0938 2563695.5000 17689588 1.3575e08
        1.0693e09 7.3240e09 4.7974e10 3.2171e11 2.3479e12 1.6541e13 1.2849e14 9.0753e14 5.6709e15 3.5614e16
        2.2148e17 1.4494e18 9.9376e18 6.0428e19 4.4832e20 3.0153e21 2.2223e22
    """,
    CELLS[2]: """
        1.3213 0.9710 1.0783 1.1460 0.9311 1.1002 1.0311 1.0027 1.1469 1.0446 1.0336 1.1801 1.0580 1.1358
        1.0590 0.8153 0.9828 0.9944 0.9233 1.0482 1.0281 1.2260 1.1781 1.1089 1.2104 1.0585 1.0125 0.9085
        0.9092 0.9785 0.9863 0.8722
    """,
    CELLS[3]: """
        0.9502 0.2757 0.0723 0.0186 0.0047 0.0011 0.0003 7.7497e-05 1.9835e-05 5.0685e-06 1.2090e-06
        2.6407e-07 6.7252e-08 1.4054e-08 3.3937e-09 7.8351e-10 1.8582e-10 5.6959e-11 1.6890e-11 3.9216e-12
        8.8020e-13 2.2054e-13 6.0513e-14 1.4695e-14 3.8098e-15 9.7716e-16 2.5967e-16
    """,
}
PRINTED = {cell: np.array(numbers.split(), float) for cell, numbers in _TEXT.items()}
# E[ln(chi²_n / n)] for n = 50: how far a typical mean square of 50 Gaussians lies below its mean, in logs
TYPICAL = -0.020134
TYPICAL_FALL = 0.5 * math.log(50 / 784) + TYPICAL / 2  # of an rms per layer under Xavier weights


def theory(dataset: xr.Dataset, weight_std: float, sigma_b: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean square q of each layer, and 1 - c of two independent inputs.

    q -> s² q + sigma_b² with s² = width · weight_std²; q (1 - c) -> s² q (1 - c), whatever the bias.
    """
    first, growth = (dataset.attrs[name] * weight_std**2 for name in ("inputs", "width"))
    q = [first + sigma_b**2]
    for _ in range(dataset.sizes["layer"] - 1):
        q.append(growth * q[-1] + sigma_b**2)
    difference = first * growth ** np.arange(dataset.sizes["layer"], dtype=float)
    return np.array(q), difference / np.array(q)
