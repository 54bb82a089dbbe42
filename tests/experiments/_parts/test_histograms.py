import numpy as np

from biasjax import plot
from biasjax.network import Network
from experiments._parts import histograms


def test_half_of_relu_is_in_the_bin_of_zero():
    net = Network(inputs=64, width=64, depth=2, order="dense-relu", kernel_init="he_normal")
    share = histograms.sweep({"relu": net}, [0.0, 0.5])
    assert share.dims == ("activation", "sigma_b", "layer", "value")
    middle = share.sel(value=0.0, method="nearest")
    np.testing.assert_allclose(middle, 0.51, atol=0.08)
    np.testing.assert_allclose(share.sel(value=slice(None, -0.1)), 0)
    _, (ax,) = plot.panels(["shares"])
    histograms.draw(ax, share.isel(activation=0, sigma_b=0).assign_coords(layer=[1, 2]))
    assert len(ax.collections) == 1
