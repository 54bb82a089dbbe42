"""Programs on devices: what they are cut into and spread over changes no result."""

import socket

import jax
import numpy as np
import pytest
from processes import finish, start
from sweep_worker import AXES, STATIC, point

from biasjax import store, sweep
from biasjax._sweep import agreement, execute, frames, grid


@pytest.fixture(scope="module")
def whole(alone):
    return sweep.run(point, AXES, static=STATIC, dims={"row": ("column",)}, mesh=alone)


def _assert_same(dataset, whole):
    np.testing.assert_array_equal(dataset.draw, whole.draw)
    np.testing.assert_allclose(dataset.moment, whole.moment, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dataset["row"], whole["row"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 1), (1, 7), (2, 3), (2, 60)])
def test_devices_and_chunks_change_nothing(alone, whole, devices, chunk):
    mesh = alone if devices == 1 else frames.default_mesh()
    assert (1 if mesh is None else mesh.size) == devices
    dims = {"row": ("column",)}
    _assert_same(sweep.run(point, AXES, static=STATIC, dims=dims, chunk_size=chunk, mesh=mesh), whole)


def test_four_devices_change_nothing(whole, tmp_path):
    assert finish(start(tmp_path, "--chunk-size", 60, devices=4)) == "computed"
    _assert_same(store.open(tmp_path).load(), whole)


def test_two_processes_work_as_one(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    path = tmp_path / "store"
    workers = [start(path, "--distributed", rank, 2, port, "--chunk-size", 30) for rank in range(2)]
    first, second = (finish(worker, seconds=120).splitlines()[-4:] for worker in workers)
    _assert_same(store.open(path).load(), whole)
    assert (first[0], first[3], second[0], second[3]) == ("120 points", "computed") * 2
    assert first[1] == second[1]  # one has the memory, the other does not
    assert "results of at most 0 GiB, the free memory" in first[1]
    assert first[2] == "OSError('no space left')"  # and the other process does not wait for what failed
    assert "OSError('no space left') on process 0" in second[2]


def test_processes_agree_on_the_least_memory(monkeypatch):
    assert agreement.least(5000) == 5000
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement, "_gather", lambda own: np.stack([own, np.int32(3)]))
    assert [agreement.least(own) for own in (2048, 2**20, 2**62)] == [2048, 3072, 3072]


def test_a_program_is_compiled_once_and_knows_its_bytes():
    where = frames.frame({"x": np.arange(4, dtype=np.float32)}, jax.random.key(0), (3,), None)
    lowered = execute.lower(lambda key, *, x: {"y": {"z": 2 * x}}, {}, where)
    assert {name: (value.shape, value.dtype) for name, value in lowered.outputs.items()} == {
        "y.z": ((3,), np.float32)
    }
    program = lowered.compile()
    assert program is lowered.compile()
    assert program.bytes >= 2 * 3 * 4
    np.testing.assert_array_equal(program.run((slice(2, 4),))["y.z"], [4, 6])  # the padding is dropped


def test_memory_is_halved_until_it_suffices():
    seen = []

    def program(region, checkpoints=None):
        seen.append(grid.shape(region))
        if np.prod(grid.shape(region)) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return {"y": np.arange(5)[region[0], None] * np.arange(3)[None, region[1]]}

    lowered = execute.Lowered({}, lambda: execute.Program(program, 0))
    halved = execute.halving(program, lambda lengths: lowered)
    whole = (slice(0, 5), slice(0, 3))
    np.testing.assert_array_equal(halved(whole)["y"], np.outer(np.arange(5), np.arange(3)))
    tried = len(seen)
    halved(whole)
    assert max(np.prod(shape) for shape in seen[tried:]) <= 2  # what did not fit is not tried again


def test_outputs_of_one_name_do_not_overwrite_each_other():
    for outputs in ({"u": {"v": 1.0}, "u.v": 2.0}, {"u": {"v": 1.0}, "u/v": 2.0}, {"": 1.0, "output": 2.0}):
        with pytest.raises(ValueError, match=r"two called '(u.v|output)'. Rename one"):
            sweep.run(lambda key, outputs=outputs: outputs, {})


def test_a_key_is_no_output():
    with pytest.raises(TypeError, match="output 'k': expected an array of numbers, got key<fry>"):
        sweep.run(lambda key: {"k": key}, {})
