"""A strict session: strict dtype promotion, two CPU devices; warnings are errors (see pyproject.toml)."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
)

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


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
