import base64
import html.parser
import json
import re

import fake_controls as fakes
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import biasjax as bj
from experiments import regime_map
from experiments._parts import dead_bias
from experiments._report import controls, theory, widgets
from experiments._report.macros import macro


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    found = controls.controls(fakes.results(tmp_path_factory.mktemp("results")), fakes.SMALL)
    return {control.name: control for control in found}


def held(control):
    """Data that a control carries."""
    return json.loads(re.findall(r'id="data-\w+">(.*?)</script>', control.html)[0])


def number(control, name):
    text = re.findall(rf'id="{name}" data-value="([^"]+)"', control.html)[0]
    return float(text.replace("Infinity", "inf"))


class Tags(html.parser.HTMLParser):
    """Tags that were opened, and those left open."""

    EMPTY = ("input", "img", "br", "path", "rect")

    def __init__(self, text):
        super().__init__()
        self.seen, self.stack = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_fragments_are_whole_and_named_once(made):
    assert list(made) == ["response", "lag", "theory", "denoise"]
    tags = [tag for control in made.values() for tag in Tags(control.html).seen]
    assert not any(Tags(control.html).stack for control in made.values())
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    labelled = {attrs["for"] for tag, attrs in tags if tag == "label"}
    inputs = [attrs for tag, attrs in tags if tag in ("input", "select")]
    assert labelled == {attrs["id"] for attrs in inputs}
    assert all("disabled" in attrs for attrs in inputs)
    assert not any(name.startswith("on") or name == "style" for _, attrs in tags for name in attrs)
    assert all(attrs.get("aria-label") for tag, attrs in tags if tag == "svg")
    for name, control in made.items():
        assert control.html.startswith(f'<div class="control" id="control-{name}"')


def test_missing_and_broken_runs_are_named(tmp_path):
    (tmp_path / "denoiser").mkdir()
    (tmp_path / "denoiser" / "dataset.nc").write_bytes(b"nothing")
    bj.store.save(xr.Dataset({"else": 1}), tmp_path / "regime_map" / "dataset.nc")
    found = {control.name: control.html for control in controls.controls(tmp_path, fakes.SMALL)}
    for name, run in (("lag", "regime_map"), ("denoise", "denoiser")):
        assert f"The run of {run} cannot be read" in found[name]
        assert f"python -m experiments {run}" in found[name]
        assert "<input" not in found[name]
    one = controls._of_run(tmp_path / "nowhere", "lag", "regime_map", controls._lag)
    assert "The run of regime_map is missing" in one.html
    assert "<input" in found["response"]


def test_text_is_escaped():
    text = str(macro("controls.html", "missing", 'a"b', "<title>", "<run>", "is & was"))
    assert "<title>" not in text
    assert "<run>" not in text
    assert "a&#34;b" in text
    one = controls._control("response", {"x": "</script><b>"}, parts=[])
    assert "</script><b>" not in one.html
    assert held(one) == {"x": "</script><b>"}


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_map_is_the_library_s(made, activation):
    table, grid = held(made["theory"])["tables"][activation], np.meshgrid(fakes.SIGMA_B, fakes.SIGMA_W)
    found = bj.phases.order_parameters(activation, *grid[::-1])  # as the diagram does: one program
    for name in ("q", "chi_1", "xi_c"):
        values = np.asarray(getattr(found, name)).T.ravel()
        carried = np.array([np.inf if x is None else x for x in table[name]])
        np.testing.assert_allclose(carried, values, rtol=1e-4)
    status = np.asarray(found.status).T.ravel()
    diverges = np.array(table["phase"]) == list(theory.WORDS).index("diverges")
    np.testing.assert_array_equal(diverges, status == bj.phases.DIVERGES)


def test_the_edge_is_where_chi_is_1(made):
    tables, words = held(made["theory"])["tables"], list(theory.WORDS)
    assert words[tables["tanh"]["phase"][1]] == "edge"  # sigma_w = 1 without bias
    assert tables["tanh"]["line"][0] == [1.0, 0.0]
    assert tables["relu"]["line"] == [[pytest.approx(2**0.5, abs=1e-4), 0.0]]
    assert number(made["theory"], "theory-depth") == 6 * number(made["theory"], "theory-xi")


def test_the_curve_is_the_experiment_s(made):
    data, curve = held(made["lag"]), regime_map.curve(fakes.regimes(), "accuracy")
    np.testing.assert_allclose(data["shift"], curve.shift)
    np.testing.assert_allclose(data["lost"], curve.lost)
    shift = number(made["lag"], "lag-shift")
    assert number(made["lag"], "lag-lost") == pytest.approx(float(curve(shift)))
    start = controls.START
    lag = dead_bias.lag_formula(start["b0"], start["momentum"], 1 - start["decay"], start["step"])
    assert number(made["lag"], "lag-lag") == pytest.approx(lag)
    assert 0 < len(data["runs"]) <= 8


def test_the_response_is_the_library_s(made):
    phi = bj.activations.get("relu")
    assert number(made["response"], "response-unit") == pytest.approx(float(phi(jnp.float32(1.5))))
    assert number(made["response"], "response-net") == pytest.approx(3 - 2 * 2 - 0.5)
    assert number(made["response"], "response-bend") == 1


def test_denoised_images_are_those_of_the_weights(made):
    data, weights = held(made["denoise"]), fakes.denoisers().weights.isel(seed=0)
    for name, bias in (("with", True), ("without", False)):
        carried = np.frombuffer(base64.b64decode(data[name]), "<f4")
        np.testing.assert_array_equal(carried, weights.sel(use_bias=bias))
    found = theory.denoised(data, 50)
    for name, image in found.items():
        assert number(made["denoise"], f"denoise-{name}-psnr") == pytest.approx(image.psnr)
    # PSNR of noise is 20 log10(255 / sigma), up to what 96 x 96 draws scatter by
    assert found["noisy"].psnr == pytest.approx(20 * np.log10(255 / 50), abs=0.2)
    assert theory.denoised(data, 0)["noisy"].psnr == np.inf
    assert made["denoise"].html.count("data:image/png;base64,") == 4


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="weights"):
        theory.denoiser(fakes.denoisers().isel(weight=slice(5, None)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (-3.0, "−3"),
        (1234.56, "1235"),
        (1e-6, "1e−6"),
        (0.001, "0.001"),
    ],
)
def test_numbers_are_short(value, text):
    assert widgets.pretty(value) == text
