import numpy as np

from biasjax import plot
from experiments._parts import spectra


def test_delta_orthogonal_kernels_are_isometries():
    logs = spectra.sweep((1,), width=8, kernel_size=3)
    np.testing.assert_allclose(logs.sel(net_kernel="delta_orthogonal"), 0, atol=1e-5)
    gaussian, orthogonal, isometry = spectra.claims(logs, 8)
    assert gaussian.measured > orthogonal.measured > 1.5
    assert isometry.holds
    _, (ax,) = plot.panels(["spectra"])
    spectra.draw(ax, logs)
    assert len(ax.lines) == len(spectra.KERNELS)
