"""Manifests that are edited, hostile or old; axes in any order; settings that change draws."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from biasjax import _files, store, sweep
from biasjax._sweep import manifest
from biasjax._sweep.spec import checksum


def _fn(key, *, a, b, p=0, q=0):
    return {"y": 10 * a + b + 100 * p + 1000 * q, "own": jnp.arange(2) + b}


AB = {"a": [1, 2], "b": [3, 4, 5]}
BA = {"b": AB["b"], "a": AB["a"]}


def _run(path, axes=None, **options):
    return sweep.run(_fn, AB if axes is None else axes, store=path, chunk_size=1, **options)


def test_axes_in_another_order_do_not_transpose_what_is_there(tmp_path):
    _run(tmp_path, shard="0/2")
    here = _run(tmp_path, BA)
    assert here.y.dims == ("b", "a")
    assert here.own.dims[:2] == ("b", "a")
    assert store.open(tmp_path).y.dims == ("a", "b")
    xr.testing.assert_identical(here.load(), sweep.run(_fn, BA).load())
    np.testing.assert_array_equal(here.y.isel(a=[1, 0], b=2), [25, 15])


def test_static_names_in_another_order_do_not_swap_rows(tmp_path):
    axes, static = {"a": [1], "b": [1, 2]}, {"p": [0, 1], "q": [0, 1]}
    _run(tmp_path, axes, static=static, shard="0/2")
    swapped = _run(tmp_path, axes, static={"q": [0, 1], "p": [0, 1]})
    assert swapped.y.dims == ("q", "p", "a", "b")
    xr.testing.assert_equal(swapped.y.transpose("p", "q", "a", "b"), sweep.run(_fn, axes, static=static).y)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template")
    _run(path, static={"p": [0, 1]})
    return path


@pytest.fixture
def edit(template, tmp_path):
    """Change a manifest beside the chunks that it was written with; ``sign`` gives it a right checksum."""
    (tmp_path / "chunks").symlink_to(template / "chunks")

    def edited(change, *, sign=True):
        content = json.loads((template / "manifest.json").read_text())
        content = change(content) or content
        if sign and isinstance(content, dict):
            content.pop("checksum", None)
            content = {"checksum": checksum(json.dumps(content).encode()), **content}
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        return tmp_path

    return edited


def test_an_edited_layout_reads_no_other_rows(edit):
    def layout(content):
        content["layout"] = {"axis": 0, "block": 1}

    with pytest.raises(ValueError, match=r"was edited.* run the same sweep"):
        store.open(edit(layout, sign=False))
    with pytest.raises(store.Damaged, match=r"none of the grid|a number below|other bytes"):
        store.open(edit(layout)).load()


def test_reordered_or_relabelled_manifests_read_no_other_rows(edit):
    def order(content):
        content["spec"]["axes"] = dict(reversed(content["spec"]["axes"].items()))

    def label(content):
        content["spec"]["axes"]["b"] = [5, 4, 3]

    for change in (order, label):
        with pytest.raises(ValueError, match="was edited"):
            store.open(edit(change, sign=False))
        with pytest.raises(store.Damaged, match="another sweep's"):
            store.open(edit(change)).load()


def _nested(content):
    deep = []
    for _ in range(900):
        deep = [deep]
    content["spec"]["static"]["p"] = [deep]


HOSTILE = {
    "huge axis": lambda c: c["spec"]["axes"].update(a={"size": 10**30, "sha256": "0" * 64}),
    "huge file": lambda c: c["spec"]["axes"].update(a={"size": 2**30, "sha256": "0" * 64}),
    "huge grid": lambda c: c["spec"].update(static={f"s{i}": [0] * 1000 for i in range(20)}),
    "many axes": lambda c: c["spec"].update(static={f"s{i}": [0] for i in range(99)}),
    "block": lambda c: c["layout"].update(block=10**20),
    "negative block": lambda c: c["layout"].update(block=-1),
    "axis": lambda c: c["layout"].update(axis=7),
    "float axis": lambda c: c["layout"].update(axis=0.5),
    "layout": lambda c: c.update(layout=[0, 1]),
    "object": lambda c: c["spec"]["dtypes"].update(a="O"),
    "void": lambda c: c["spec"]["dtypes"].update(a="V2000000000"),
    "text axis": lambda c: c["spec"]["axes"].update(a="12"),
    "path": lambda c: c["spec"]["axes"].update(a={"size": 2, "sha256": "../../etc/passwd"}),
    "no spec": lambda c: c.update(spec=None),
    "labels": lambda c: c["spec"]["static"].update(p=[{}]),
    "no labels": lambda c: c["spec"]["static"].update(p=[]),
    "nested": _nested,
    "list": lambda c: [c],
}


@pytest.mark.parametrize("harm", HOSTILE)
def test_a_hostile_manifest_is_refused_before_memory_is_taken(edit, harm):
    path = edit(HOSTILE[harm])
    tracemalloc.start()
    try:
        for use in (store.open, store.damaged, lambda path: _run(path, static={"p": [0, 1]})):
            with pytest.raises(
                ValueError, match=r"expected a readable manifest.json as it was written.* Restore"
            ):
                use(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**6, b"\xff", b"1" * 5000, b" " * 2**24])
def test_a_manifest_that_is_no_manifest_is_named(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a readable manifest.json as it was written.* Restore"):
        store.open(tmp_path)


def test_an_old_store_is_refused_by_its_format(edit):
    with pytest.raises(ValueError, match=r"expected format 2, got 1. Read it with the version"):
        store.open(edit(lambda content: content.pop("format") and None))


def test_a_removed_manifest_is_written_anew_and_its_chunks_kept(tmp_path):
    first = _run(tmp_path).load()
    kept = [file.stat().st_mtime_ns for file in store.finished(tmp_path).values()]
    (tmp_path / "manifest.json").unlink()
    xr.testing.assert_identical(_run(tmp_path).load(), first)
    assert kept == [file.stat().st_mtime_ns for file in store.finished(tmp_path).values()]


def test_settings_that_change_draws_are_part_of_the_sweep(tmp_path):
    axes = {"seed": [0], "x": [1.0]}

    def run():
        return sweep.run(lambda key, *, x: {"y": x * jax.random.normal(key)}, axes, store=tmp_path)

    run()
    for setting, what in [
        (
            jax.threefry_partitionable(False),
            "threefry_partitionable",
        ),
        (jax.default_prng_impl("rbg"), "default_prng_impl"),
        (jax.default_matmul_precision("float32"), "default_matmul_precision"),
        (jax.enable_x64(True), "enable_x64"),
    ]:
        with setting, pytest.raises(ValueError, match=f"draws {what}: "):
            run()


def test_another_version_of_jax_is_said(tmp_path, monkeypatch):
    _run(tmp_path)
    monkeypatch.setattr(_files, "provenance", lambda: {"jax_version": "0.0.1"})
    with pytest.warns(UserWarning, match="this is 0.0.1: digits may differ"):
        _run(tmp_path)


def test_long_and_complex_axes_are_files_of_their_own(tmp_path):
    axes = {"x": np.arange(5000.0), "z": [1j, 2.0]}
    dataset = sweep.run(lambda key, *, x, z: {"y": x * jnp.real(z)}, axes, store=tmp_path)
    np.testing.assert_array_equal(dataset.y[:, 1], 2 * np.arange(5000))
    assert store.open(tmp_path).z.values.tolist() == [1j, 2.0]
    assert (tmp_path / "manifest.json").stat().st_size < 3000
    files = list(tmp_path.glob("axis-*.bin"))
    assert sorted(file.stat().st_size for file in files) == [16, 20000]
    for file in files:
        content = file.read_bytes()
        for harmed in (content[:-1], bytes([content[0] ^ 1]) + content[1:]):
            file.write_bytes(harmed)
            with pytest.raises(ValueError, match=f"manifest.json as it was written.*{file.name} has not its"):
                store.open(tmp_path)
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"axes x\[4999\]: 4999.0 there, -1.0 here"):
        sweep.run(
            lambda key, *, x, z: {"y": x * jnp.real(z)}, axes | {"x": [*range(4999), -1.0]}, store=tmp_path
        )


def test_nan_on_an_axis_is_the_same_sweep_again(tmp_path):
    for _ in range(2):
        dataset = sweep.run(lambda key, *, x: {"y": x}, {"x": [1.0, np.nan]}, store=tmp_path)
    assert dataset.status.values.tolist() == [0, 2]


def test_a_grid_of_more_chunks_than_a_folder_bears_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"2000000 chunks.* larger chunks"):
        sweep.run(lambda key, *, x: {"y": x}, {"x": np.arange(2e6)}, store=tmp_path, chunk_size=1)


def test_a_manifest_is_read_once(tmp_path, monkeypatch):
    seen, read = [], manifest.read
    monkeypatch.setattr(manifest, "read", lambda path: seen.append(path) or read(path))
    _run(tmp_path)
    assert len(seen) == 1
