"""A strict session: strict dtype promotion, two CPU devices; warnings are errors (see pyproject.toml).

Compiling is most of the time that the tests take, so compiled programs are kept beside pytest's own cache: a
second run takes a third of the time of the first.
"""

import os
import shutil

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


@pytest.fixture(scope="session")
def browser():
    """Chromium, where it and playwright are installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def shown(browser, tmp_path):
    """Show HTML at a width, without a network; the console has to stay silent."""
    said, contexts = [], []

    def show(html, width=1440, **options):
        (tmp_path / "page.html").write_text(html)
        size = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=size, offline=True, reduced_motion="reduce", **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto((tmp_path / "page.html").as_uri())
        return page

    yield show
    for one in contexts:
        one.close()
    assert not said
