import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import sweep


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"x": 1.0}, {}, "axis 'x': expected a non-empty 1-D array"),
        ({"x": [1.0]}, {"static": {"x": [1]}}, "names that are not axes"),
        ({"x": [1.0]}, {"dims": {"y": ("a",)}}, "0 names, got"),
        ({"x": [1.0]}, {"shard": "0/2"}, "a store that the workers share"),
        ({"x": [1.0]}, {"shard": "2/2", "store": "s"}, "0 <= i < n"),
        ({"x": [1.0]}, {"shard": "slurm", "store": "s"}, "in a job array, got 'no job array'"),
        ({"x": [1.0]}, {"root": 1.0}, "root: expected an integer of 64 bits, got 1.0"),
        ({"x": [1.0]}, {"static": {"n": []}}, "static 'n': expected at least one value"),
        ({"x": [1.0]}, {"store": ""}, "store: expected a path, got ''"),
        ({"x": [1.0]}, {"chunk_size": 0}, "chunk_size: expected an integer of at least 1"),
        ({"x": [1.0]}, {"checkpoint_every": 0}, "checkpoint_every: expected an integer of at least 1"),
    ],
)
def test_bad_input_is_refused_clearly(axes, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        sweep.run(lambda key, *, x: {"y": x}, axes, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({1: [1.0]}, {}, "axes: expected names, got 1"),
        ({"x": [[1.0], [1.0, 2.0]]}, {}, "axis 'x': expected a 1-D array of numbers"),
        ({"x": [1.0]}, {"static": {"n": "ab"}}, "static 'n': expected a list of values, got 'ab'"),
        ({"x": [1.0]}, {"dims": {"y": ("a", 1)}}, "dims 'y': expected names, got 1"),
        ({"x": [1.0]}, {"mesh": 2}, "mesh: expected a jax.sharding.Mesh"),
        ({"x": [1.0]}, {"progress": None}, "progress: expected True or False"),
        ({"x": [1.0]}, {"store": 3}, "store: expected a path, got 3"),
    ],
)
def test_what_is_no_argument_is_refused(axes, options, message):
    with pytest.raises(TypeError, match=message):
        sweep.run(lambda key, *, x: {"y": x}, axes, **options)


def test_a_sweep_inside_a_traced_function_is_refused():
    with pytest.raises(ValueError, match="sweep: expected values that are known, got a traced function"):
        jax.jit(lambda: sweep.run(lambda key, *, x: {"y": x}, {"x": [1.0]}).y.values)()
    with pytest.raises(TypeError, match="axis 'x': expected a 1-D array of numbers"):
        jax.jit(lambda x: sweep.run(lambda key, *, x: {"y": x}, {"x": x}).y.values)(jnp.ones(2))


def test_a_root_of_any_integer_type_is_written(tmp_path):
    one, same = (_draws_of(root, tmp_path) for root in (np.int64(1), 1))
    np.testing.assert_array_equal(one, same)


def _draws_of(root, path):
    return sweep.run(lambda key: {"y": jax.random.normal(key)}, {}, root=root, store=path).y.values
