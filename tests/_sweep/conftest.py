import jax
import pytest


@pytest.fixture(scope="session")
def alone():
    """Mesh of one device."""
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((1,), ("points",), axis_types=auto, devices=jax.devices()[:1])
