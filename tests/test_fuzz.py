"""Whatever it is given, a public function works or refuses it in the one wording of the house.

Every call draws its arguments from its own number: right ones, and things that are none. Functions are
traced, not compiled, so that nothing is computed or allocated; sweeps run, over a few points.
FUZZ_CALLS=10000 is the long run.
"""

import contextlib
import functools
import importlib
import inspect
import os
import random
import re
import signal
import traceback
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import biasjax
from biasjax import (
    activations,
    attention,
    check,
    conditional,
    data,
    embedding,
    initializers,
    linear,
    network,
    norms,
    recurrent,
    report,
    stepwise,
    store,
    sweep,
    training,
    transformer,
    tree,
)
from biasjax._audit.findings import BiasAudit, Finding, Shifted
from biasjax._audit.modes import ModesAudit
from biasjax._audit.points import Draws, point
from biasjax._audit.tolerance import Limit, Tolerances
from biasjax._surgery.receipts import Change, Receipt

CALLS = int(os.environ.get("FUZZ_CALLS", "500"))
SECONDS = 20  # for one call
WORDING = re.compile(r".+: expected .+, got .+\. .+", re.DOTALL)
# Python's own words about a call, of a function of ours or of one that was passed
BINDING = re.compile(r"\(\) (takes|missing|got an unexpected|got multiple)")

EAGER = ("audit", "store", "submit", "sweep")
"""Modules whose functions are called as they are: they read and write files, or trace by themselves."""


def _ones(make, *args):
    """Array of ones for each that a function would return."""
    return jax.tree.map(lambda one: jnp.asarray(np.ones(one.shape, one.dtype)), jax.eval_shape(make, *args))


KEYS = jax.random.wrap_key_data(jnp.asarray(np.zeros((2, 2), np.uint32)))
KEY = jax.random.wrap_key_data(jnp.asarray(np.zeros(2, np.uint32)))
NETWORK = network.Network(inputs=3, width=4, depth=2, outputs=2, order="dense-bn-relu")
PARAMS, STATE = _ones(lambda key: network.init(key, NETWORK), KEY)
DATA = _ones(lambda key: data.clusters(key, classes=2, features=3, examples=10), KEY)
DENSE = _ones(lambda key: linear.dense_init(key, 3, 4), KEY)
CONV = _ones(lambda key: linear.conv_init(key, 3, 4, (3,)), KEY)
ATTENTION = _ones(lambda key: attention.attention_init(key, 4, 2), KEY)
BLOCK = _ones(lambda key: transformer.block_init(key, 4, 2), KEY)
FILM = _ones(lambda key: conditional.film_init(key, 2, 3), KEY)
EMBEDDING = _ones(lambda key: embedding.embed_init(key, 5, 4), KEY)
LSTM, GRU = (
    _ones(lambda key, init=init: init(key, 3, 4), KEY) for init in (recurrent.lstm_init, recurrent.gru_init)
)
TABLE, IMAGES = jnp.asarray(np.ones((5, 3))), jnp.asarray(np.ones((2, 5, 3)))
SCALAR, TOKENS = jnp.asarray(np.ones(())), jnp.asarray(np.ones((2, 3), np.int32))
CELL = jnp.asarray(np.ones((5, 4)))
SGD = optax.sgd(0.1)
FIT = training.Fit({"w": TABLE}, None, SGD.init({"w": TABLE}))
NORM, STATS = _ones(lambda: norms.norm_init(3)), _ones(lambda: norms.batch_stats_init(3))
OBJECTS = [None, ..., object(), b"bytes", "", "nan", "relu", "conv-bn-relu", "x" * 200]
NUMBERS = [True, False, 0, 1, 2, 3, -1, -7, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.0, -0.5, 0.5, 1e-300]
NUMBERS += [
    1e300,
    np.nan,
    np.inf,
    -np.inf,
    1j,
    complex(np.nan, 1),
    np.float16(2),
    np.int64(-3),
    np.bool_(True),
]
CONTAINERS = [
    [],
    (),
    {},
    set(),
    [1.0],
    [[1], [2, 3]],
    (3,),
    (0, 0),
    (-1, 2),
    (3, 3, 3, 3, 3, 3),
    ["relu"],
    [None],
]
CONTAINERS += [
    {"a": 1.0},
    {"a/b": np.ones(2), "a": {"b": np.ones(3)}},
    {1: 2, "x": 3},
    {"params": {}},
    [1, [2]],
]
CALLABLES = [
    lambda x: jnp.sin(x),
    lambda x: x,
    lambda *args, **options: None,
    lambda: 1,
    lambda key, shape, dtype: jnp.zeros(2),
]
SHAPES = [(), (0,), (1,), (3,), (2, 3), (0, 3), (3, 0), (5, 4), (1, 2, 3), (2, 5, 3), (1, 2, 3, 4), (1,) * 6]
DTYPES = ["float32", jnp.bfloat16, "float16", "int32", "uint8", "bool", "complex64", "int8"]
ARRAYS = [jnp.asarray(np.ones(shape, dtype)) for shape in SHAPES for dtype in DTYPES]
ARRAYS += [
    np.ones(3),
    np.full((2, 3), np.nan),
    np.array(["a"]),
    np.array([None]),
    np.ones(3, "datetime64[s]"),
]
RECORDS = [KEY, KEYS, jax.random.key_data(KEY), NETWORK, PARAMS, STATE, DATA, DENSE, CONV]
RECORDS += [BLOCK, FILM, EMBEDDING, LSTM, GRU, FIT, conditional.Film(), recurrent.LSTMState(CELL, CELL)]
RECORDS += [
    ATTENTION,
    NORM,
    norms.Norm(),
    STATS,
    network.Scales(),
    training.Hyperparams(),
]
RECORDS += [
    DENSE._replace(kernel=SCALAR),
    DENSE._replace(bias=SCALAR),
    DATA._replace(train_y=None),
]
RECORDS += [
    norms.Norm(SCALAR, SCALAR),
    PARAMS._replace(stem=None),
    jax.ShapeDtypeStruct((3,), "int8"),
]
POOLS = [OBJECTS, NUMBERS, CONTAINERS, CALLABLES, ARRAYS, RECORDS]

RIGHT = {
    "key": [KEY],
    "dtype": ["float32", "bfloat16", jnp.float16],
    "shape": [(3,), (2, 3), (3, 2, 4)],
    "dense.x": [TABLE, IMAGES],
    "linear.x": [IMAGES],
    "attention.x": [jnp.asarray(np.ones((5, 4))), jnp.asarray(np.ones((2, 5, 4)))],
    "norms.x": [TABLE, IMAGES],
    "network.x": [TABLE],
    "propagation.x": [TABLE],
    "jacobian.x": [TABLE],
    "plot.values": [xr.DataArray(np.ones((2, 4)), dims=("seed", "layer"))],
    "confidence.over": ["seed", ("seed", "layer")],
    "confidence.level": [0.9],
    "log_grads": [xr.DataArray(np.ones((2, 4)), dims=("seed", "layer"))],
    "attention_init.features": [4],
    "attention_weights.x": [jnp.asarray(np.ones((5, 4)))],
    "block.x": [jnp.asarray(np.ones((5, 4)))],
    "block.params": [BLOCK],
    "block.norm": [norms.layer_norm, norms.rms_norm],
    "block_init.features": [4],
    "weighting": [jax.nn.softmax, jax.nn.sigmoid],
    "conditional.params": [FILM, conditional.Film()],
    "conditional.x": [TABLE],
    "conditional.state": [STATS],
    "condition": [jnp.asarray(np.ones((5, 2)))],
    "film_init.condition": [2],
    "embed.params": [EMBEDDING],
    "tokens": [TOKENS],
    "lstm_cell.params": [LSTM],
    "lstm_cell.state": [recurrent.LSTMState(CELL, CELL)],
    "gru_cell.params": [GRU],
    "gru_cell.state": [CELL],
    "recurrent.x": [TABLE],
    "begin.optimizer": [SGD],
    "begin.params": [{"w": TABLE}],
    "descend.optimizer": [SGD],
    "descend.loss": [lambda params, state, batch: (params["w"].sum(), state)],
    "fit": [FIT],
    "outputs": [TABLE],
    "targets": [TABLE],
    "logits": [TABLE],
    "labels": [jnp.asarray(np.ones(5, np.int32))],
    "where": [None],
    "examples": [3, 5],
    "heads": [1, 2],
    "groups": [1],
    "steps": [4],
    "batch_size": [2, 3],
    "train": [True, False],
    "x": [jnp.asarray(np.ones(shape)) for shape in SHAPES],
    "attention.params": [ATTENTION],
    "dense.params": [DENSE],
    "conv.params": [CONV],
    "conv_transpose.params": [CONV],
    "linear.params": [DENSE, CONV],
    "norms.params": [NORM],
    "network.params": [PARAMS],
    "batch_norm.state": [STATS],
    "network.state": [STATE],
    "tree.params": [PARAMS, DENSE, {"a": np.ones(3)}],
    "tree.fn": CALLABLES,
    "is_bias": [tree.is_bias, *CALLABLES],
    "network": [NETWORK],
    "scales": [network.Scales()],
    "data": [DATA],
    "optimizer": [*training.OPTIMIZERS],
    "init": [*initializers.NAMES],
    "activation": [*activations.NAMES],
    "kernel_size": [(3,), (2, 2)],
    "padding": ["SAME", "VALID", 1, (1,)],
    "order": ["dense-bn-relu", "conv"],
    "titles": [["loss", "accuracy"]],
    "size": [(2.0, 1.0)],
    "normrates.batch_size": [8, 16.0],
    "place": ["before", "after"],
    "window": [[0.25, 0.5, 0.25], [1.0]],
    "fluctuations.q": [TABLE],
    "conv_trajectory.q": [TABLE],
    "conv_trajectory.padding": ["SAME", "CIRCULAR"],
    "c": [0.5, 1.0, -0.3],
    "q_other": [2.0],
    "gaussian.f": [*activations.NAMES],
    "gaussian.g": [*activations.NAMES],
}
GRID, POINTS = {"seed": [0], "x": [1.0, 2.0]}, {"x": np.array([1.0, 2.0])}
POINT = lambda key, *, x: {"y": x}  # noqa: E731
STEPS = stepwise.Stepwise(POINT, lambda carry, key, *, x: carry, lambda carry, key, *, x: carry, 3)
WHOLE = xr.Dataset({"y": ("x", np.ones(2))})
PATHS = ["whole", "halved", "saved.nc", "new", "saved.nc/below", "a\0b", Path("new/one.nc"), b"whole"]
RIGHT |= {
    "run.fn": [POINT, STEPS],
    "run.axes": [GRID, {"x": [1.0]}, {"seed": [0], "z": [1.0]}],
    "run.points": [None, None, POINTS],
    "run.static": [None, None, {}, {"n": []}, {"n": [1, 2]}, {"n": "ab"}],
    "run.dims": [None, None, {}, {"y": ("a",)}, {"y": 1}, {"y": [1]}],
    "halve.dims": [None, None, {}, {"y": ("a",)}],
    "chunk_size": ["auto", 1, 2],
    "shard": [None, None, "0/2", "1/0", "slurm"],
    "stepwise": [STEPS],
    "halve.points": [POINTS, {"x": []}],
    "rungs": [(1,), (1, 2), (2, 1)],
    "keep": [0.5],
    "metric": ["y", "z"],
    "seeds": [None, [0, 1], [0.5]],
    "space": [{"a": (0.0, 1.0), "b": (1.0, 2.0, "log")}, {"a": (0, 3, "integer")}, {"a": (1, 1j)}],
    "method": ["sobol", "latin", "random"],
    "store": [None, *PATHS],
    "path": PATHS,
    "folder": PATHS,
    "logs": PATHS,
    "dataset": [WHOLE],
    "submit.run": CALLABLES,
    "cluster": ["local", "slurm"],
}
AFFINE = {"w": np.ones((3, 2)), "bias": np.zeros(2)}
_CANCELLED = Finding("bias", 2, 0, None, "cancelled", True, Shifted(0.0, 1e-16), None, (), ())
DEAD = BiasAudit((_CANCELLED,))
_PLAIN = [
    lambda params, *args: [params["bias"], *args],
    lambda params, x, *args: x @ params["w"] + params["bias"],
]
RIGHT |= {
    "audit_biases.fn": _PLAIN,
    "tolerance.fn": _PLAIN,
    "explain_difference.fn": _PLAIN,
    "apply": [lambda params, state, *args, train: ([params["bias"], state, *args], state)],
    "audit.params": [AFFINE, AFFINE, {"bias": 1.0, "n": 3}],
    "audit.args": [TABLE, KEY],
    "audit.state": [(), STATS, {"rng": KEYS, "n": 2}],
    "audit.is_bias": [None, {"w": False, "bias": True}, lambda path, leaf: path == "bias"],
    "randomize": [True, False, lambda path, leaf: path == "w"],
    "audit.audit": [None, DEAD, DEAD._replace(findings=())],
    "audit.params_a": [AFFINE, {"bias": 1.0, "n": 3}],
    "audit.params_b": [AFFINE, AFFINE | {"bias": np.ones(2)}, {"bias": 2.0, "n": 4}],
    "dtypes": [("bfloat16",), [jnp.float32, "float16"], ()],
    "within": [0.01, 1e-3],
    "vary_inputs": [True, False, lambda path, leaf: True],
    "seed": [0, 7],
    "verdicts": [["cancelled"], ("needed", "absorbable"), []],
}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><g id="a"/></svg>'
RIGHT |= {
    "report.audit": [DEAD, ModesAudit(DEAD, DEAD), DEAD._replace(findings=())],
    "tolerances": [Tolerances((), 0.01, {}), Tolerances((Limit("a", 1, 1.0, {"f": 0.5}),), 0.01, {"f": 0.1})],
    "receipts": [(), [Receipt((Change("bias", "zeroed", ("mean",), 2),), ())]],
    "title": ["Biases", "<b>"],
    "sections": [[], [report.Section("one", "One", "text")], [report.Section("main", "Main", "text")]],
    **{name: ["", "text"] for name in ("lead", "foot", "style", "script", "label", "caption")},
    "page.style": ["", "</style>"],
    "template.name": ["page.html", "table.html", "../pages.py", "none.html"],
    "template.folder": PATHS,
    "report.name": ["loss", "a-b.c", "two words"],
    "header": [("bias", "size")],
    "rows": [[], [report.Row(("a", "1"))], [report.Row(("a",))], [report.Row(("", ""), name="two words")]],
    "right": [(), (1,)],
    "choose": [None, 0, 1, 2],
    "svg": [SVG, SVG[:-1], "<p/>", SVG.replace("0 0 9 9", "0 0 9")],
}
# What a check is told by this library itself
TOLD = {"what": "x", "choices": ("a", "b"), "low": 0, "high": 1.0, "kind": linear.Linear, "fix": "Mend it."}


def _functions():
    """Public functions, and what is checked when it is made, by module and name."""
    for module in sorted(set(dir(biasjax)) - {"__version__"}):
        public = importlib.import_module(f"biasjax.{module}")
        for name in public.__all__:
            value = getattr(public, name)
            if value is not check.fail and (inspect.isfunction(value) or value is network.Network):
                yield module, name, value


FUNCTIONS = list(_functions())


def _argument(draw, module, name, parameter, wild):
    """Something right for a parameter, or anything."""
    if module in ("check", "audit") and parameter.name in TOLD:
        return TOLD[parameter.name]
    if draw.random() < wild:
        return draw.choice(draw.choice(POOLS))
    keys = (f"{name}.{parameter.name}", f"{module}.{parameter.name}", parameter.name)
    right = next((RIGHT[key] for key in keys if key in RIGHT), None)
    if parameter.default is not parameter.empty and (right is None or draw.random() < 0.5):
        return parameter.default
    flag = isinstance(parameter.default, bool)
    return draw.choice(right or ([True, False] if flag else [1, 2, 3, 4, 0.5, 1.0]))


def _arguments(draw, module, name, function):
    """Positional and keyword arguments of a call; the wilder the fewer get past the first check."""
    wild = draw.choice([0.1, 0.3, 1.0])
    args, options = [], {}
    for parameter in inspect.signature(function).parameters.values():
        one = functools.partial(_argument, draw, module, name, parameter, wild)
        if parameter.kind is parameter.VAR_POSITIONAL:
            args += [one() for _ in range(draw.randrange(3))]
        elif parameter.kind is parameter.KEYWORD_ONLY:
            options[parameter.name] = one()
        elif parameter.kind is not parameter.VAR_KEYWORD:
            args.append(one())
    return args, options


def _complaint(error):
    """What is wrong with an error, or None."""
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.filename == __file__ and frame.name == "<lambda>" for frame in frames):
        return None  # a function of the pool raised it
    if isinstance(error, TypeError) and BINDING.search(str(error)):
        return None
    # OSError where a file is missing or cannot be written
    if isinstance(error, ValueError | TypeError | OSError) and WORDING.match(str(error)):
        return None
    ours = [frame for frame in frames if f"{os.sep}biasjax{os.sep}" in frame.filename] or frames
    place = f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}"
    return f"{type(error).__name__} at {place}: {str(error)[:150]}"


@contextlib.contextmanager
def _time_limit():
    def late(signum, frame):
        raise TimeoutError(f"{SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _draw(model, options):
    """Draw once for an audit, which is not made."""
    return point(model, Draws(options.seed, options.randomize, options.vary_inputs), 1, 1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with a store, a halving and a dataset; no process starts, no audit compiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("submitit.AutoExecutor.map_array", lambda *_: [])
    monkeypatch.setattr("biasjax._audit.judging._judge", _draw)
    for compiled in ("quick_jit", "rounding_jit"):
        monkeypatch.setattr(f"biasjax._audit.compiling.{compiled}", lambda fn: fn)
    sweep.run(POINT, GRID, store="whole", chunk_size=1)
    sweep.halve(STEPS, POINTS, rungs=(1,), keep=0.5, metric="y", store="halved")
    store.save(WHOLE, "saved.nc")


@pytest.mark.usefixtures("folder")
def test_random_arguments_are_refused_in_the_wording_of_the_house():
    complaints, worked = {}, 0
    for number in range(CALLS):
        draw = random.Random(number)
        module, name, function = FUNCTIONS[number % len(FUNCTIONS)]
        args, options = _arguments(draw, module, name, function)
        call = functools.partial(_discard, function, args, options)
        try:
            with _time_limit(), warnings.catch_warnings():
                warnings.simplefilter("error")
                call() if module in EAGER else jax.make_jaxpr(call)()
                worked += 1
        except Exception as error:
            if complaint := _complaint(error):
                complaints.setdefault(f"{module}.{name}: {complaint}", f"{number}: {args} {options}"[:300])
    shown = "\n".join(f"{what}\n    in call {call}" for what, call in complaints.items())
    assert not complaints, shown
    assert worked > CALLS / 10, "nearly all calls stop at the first check"


def _discard(function, args, options):
    function(*args, **options)
    return ()
