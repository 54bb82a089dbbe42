import base64
import io
import json

import fake_controls as fakes
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import biasjax as bj
from experiments import regime_map
from experiments._parts import dead_bias
from experiments._report import controls, theory
from experiments._report import page as pages


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """A page without runs, but for the controls."""
    folder = fakes.results(tmp_path_factory.mktemp("results"))
    return pages.page([], controls.controls(folder, fakes.GRID))


@pytest.fixture
def page(shown, html):
    return shown(html, 390)


def move(page, name, value):
    """Set an input as a hand would; of a list, to the entry of this value. Returns what it stands at."""
    return page.evaluate(
        """([id, value]) => {
            const input = document.getElementById(id);
            if (input.disabled) throw new Error(id + " is disabled");
            const values = JSON.parse(input.dataset.values || "null");
            if (input.type === "checkbox") input.checked = value;
            else input.value = values ? values.findIndex((x) => Math.abs(x - value) < 1e-12) : value;
            for (const event of ["input", "change"]) input.dispatchEvent(new Event(event, { bubbles: true }));
            return values ? values[input.value] : Number(input.value);
        }""",
        [f"{name}", value],
    )


def number(page, name):
    return float(page.get_attribute(f"#{name}", "data-value").replace("Infinity", "inf"))


def near(value):
    return pytest.approx(float(value), rel=1e-3, abs=1e-6)


def test_every_slider_moves_by_keyboard(page):
    for slider in page.query_selector_all(".control input[type=range]"):
        name = slider.get_attribute("id")
        before = page.text_content(f"#{name}-value")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        after = page.text_content(f"#{name}-value")
        assert after != before, name
        assert slider.get_attribute("aria-valuetext") == after


@pytest.mark.parametrize("activation", list(controls.BENDS))
def test_response_is_the_library_s(page, activation):
    phi = bj.activations.get(activation)
    page.select_option("#response-activation", activation)
    rng = np.random.default_rng(0)
    for on in (True, False, True):
        move(page, "response-biases", on)
        names = ["x", "w", "v1", "w1", "v2", "w2"] + ["b", "b1", "b2", "c"] * on
        p = {"b": 0.0, "b1": 0.0, "b2": 0.0, "c": 0.0}
        p |= {name: move(page, f"response-{name}", round(rng.uniform(-3, 3), 1)) for name in names}
        one, two = (float(phi(jnp.float32(p[f"w{i}"] * p["x"] + p[f"b{i}"]))) for i in "12")
        assert number(page, "response-unit") == near(phi(jnp.float32(p["w"] * p["x"] + p["b"])))
        assert number(page, "response-net") == near(p["v1"] * one + p["v2"] * two + p["c"])
        for i in ("", "1", "2"):
            assert number(page, f"response-bend{i}") == near(-p[f"b{i}"] / p[f"w{i}"])
        assert page.is_disabled("#response-b") is not on
    assert page.text_content("#response-bend-term") == controls.BENDS[activation]
    move(page, "response-w", 0)
    assert page.text_content("#response-bend") == "nowhere"


def iterated(b0, momentum, rate, steps):
    bias, mean = b0, 0.0
    for _ in range(steps):
        bias, mean = bias * rate, momentum * mean + (1 - momentum) * bias
    return bias - mean


def test_lag_is_the_closed_form_s_and_its_cost_the_curve_s(page):
    curve = regime_map.curve(fakes.regimes(), "accuracy")
    for b0, decay, momentum, step, std in [
        (10.0, 1e-3, 0.99, 500, 0.3),
        (-7.5, 0.0, 0.9, 20, 1.0),
        (30.0, 3e-2, 0.97, 50, 0.05),  # both fall alike
        (3.0, 1e-6, 0.0, 1, 10.0),
        (20.0, 1e-1, 0.9, 20, 0.5),  # as here
        (30.0, 1e-3, 0.99, 1000, 0.2),
        (-30.0, 1e-1, 0.999, 1, 0.1),  # beyond the curve
        (0.0, 1e-4, 0.5, 10000, 2.0),
    ]:
        numbers = {"b0": b0, "decay": decay, "momentum": momentum, "step": step, "std": std}
        assert numbers == {name: move(page, f"lag-{name}", value) for name, value in numbers.items()}
        alike = abs(1 - decay - momentum) < 1e-9  # where the formula is 0 / 0
        lag = (iterated if alike else dead_bias.lag_formula)(b0, momentum, 1 - decay, step)
        assert number(page, "lag-lag") == near(lag)
        assert number(page, "lag-shift") == near(lag / std)
        assert number(page, "lag-lost") == near(curve(lag / std))
        assert number(page, "lag-held") == near(momentum**step)
        assert page.is_visible("#lag-note") is (momentum**step > regime_map.FORGOTTEN)


@pytest.mark.parametrize("activation", fakes.GRID.activations)
def test_theory_is_the_library_s(page, activation):
    found = bj.phases.order_parameters(activation, *np.meshgrid(fakes.SIGMA_B, fakes.SIGMA_W)[::-1])
    page.select_option("#theory-activation", activation)
    assert page.evaluate("[...document.querySelectorAll('[data-group]:not([display=none])')].length") == 1
    for b, sigma_b in enumerate(fakes.SIGMA_B):
        move(page, "theory-sigma_b", sigma_b)
        for w, sigma_w in enumerate(fakes.SIGMA_W):
            move(page, "theory-sigma_w", sigma_w)
            assert number(page, "theory-q") == near(found.q[w, b])
            assert number(page, "theory-chi") == near(found.chi_1[w, b])
            assert number(page, "theory-xi") == near(found.xi_c[w, b])
            assert number(page, "theory-depth") == near(theory.TRAINS * found.xi_c[w, b])
            text = page.text_content("#theory-note")
            assert ("without end" in text) is (int(found.status[w, b]) == bj.phases.DIVERGES)
            if np.isinf(found.xi_c[w, b]):
                assert page.text_content("#theory-xi") == "infinite"


def test_denoised_is_what_the_library_s_convolutions_give(page):
    data = json.loads(page.text_content("#data-denoise"))
    for sigma in (0, 10, 73, 100):
        move(page, "denoise-sigma", sigma)
        page.wait_for_selector(f'#denoise-images[data-sigma="{sigma}"]')
        for name, found in theory.denoised(data, sigma).items():
            assert number(page, f"denoise-{name}-psnr") == near(found.psnr)
            drawn = page.evaluate(f"document.getElementById('denoise-{name}').toDataURL()")
            shown = PIL.Image.open(io.BytesIO(base64.b64decode(drawn.split(",")[1]))).convert("L")
            np.testing.assert_allclose(np.asarray(shown), 255 * found.image.clip(0, 1), atol=0.6)
    assert not page.is_visible("#denoise-with-still")


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_page(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in page.evaluate(
        "[...document.querySelectorAll('svg')].map((x) => x.getBoundingClientRect().width)"
    ):
        assert 200 < box <= width


def test_without_javascript_there_is_a_state_and_no_live_input(shown, html):
    still = shown(html, java_script_enabled=False)
    for one in still.query_selector_all(".control input, .control select"):
        assert one.is_disabled()
    assert still.is_visible("#denoise-with-still")
    assert not still.is_visible("#denoise-with")
    assert still.text_content("#response-unit") == "1.5"
    assert "need JavaScript" in still.inner_text("#control-lag")
