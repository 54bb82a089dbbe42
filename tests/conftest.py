"""A strict session: strict dtype promotion, two CPU devices; warnings are errors (see pyproject.toml).

Compiling is most of the time that the tests take, so compiled programs are kept beside pytest's own cache: a
second run takes a third of the time of the first.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
)

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_configure(config):
    if hasattr(config, "cache"):  # not with -p no:cacheprovider
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Drop compiled programs after each file: thousands in one process exhaust its memory maps."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Run a test in float64 without leaking the setting."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def standard_promotion():
    """Allow implicit promotion, which optax's Adam with a traced decay rate needs."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def alone():
    """Mesh of one device."""
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((1,), ("points",), axis_types=auto, devices=jax.devices()[:1])
