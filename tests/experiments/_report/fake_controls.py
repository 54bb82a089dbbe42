"""Runs that no network was trained for, as controls read them, and a phase map of few points."""

import dataclasses
import json

import numpy as np
import xarray as xr

import biasjax as bj
from experiments import denoiser
from experiments._report import theory

CONFIG = dataclasses.replace(denoiser.SMOKE, channels=3, depth=3)
SIGMA_W, SIGMA_B = np.array([0.5, 1.0, 1.5, 2.0]), np.array([0.0, 0.3, 0.6])
GRID = theory.Grid(("tanh", "relu", "gelu", "sigmoid"), SIGMA_W, SIGMA_B)
SMALL = GRID._replace(activations=("tanh", "relu"))


def regimes(seed=0):
    """A regime map that no network was trained for."""
    rng, report, moved = np.random.default_rng(seed), [20, 100, 500], np.sinh(np.linspace(-4.5, 4.5, 7))
    runs = {"seed": [0, 1], "decay": [0.0, 1e-3], "bn_momentum": [0.9, 0.99], "bias_value": [1.0, 10.0]}
    runs["report"] = report
    dims = tuple(runs)
    shape = tuple(len(values) for values in runs.values())
    lost = np.linspace(-1, 1, 7) ** 2
    curve = rng.uniform(0.5, 1, (2, 2, 3, 1)) * lost
    arrays = {
        "accuracy_lost": (dims, rng.uniform(0, 1, shape)),
        "lag_formula": (dims, rng.normal(size=shape)),
        "batch_std": (("seed", "decay", "report"), rng.uniform(0.2, 0.4, (2, 2, 3))),
        "curve_accuracy": (("seed", "decay", "report", "moved"), curve),
    }
    return xr.Dataset(arrays, {**runs, "moved": moved})


def denoisers(seed=0):
    """Weights that were not trained."""
    rng, channels = np.random.default_rng(seed), CONFIG.channels
    size = 9 * channels + channels + 9 * channels**2 + channels + 9 * channels + 1
    weights = 0.2 * rng.normal(size=(2, 2, size)).astype(np.float32)
    dataset = xr.Dataset({"weights": (("seed", "use_bias", "weight"), weights)})
    config = json.dumps(dataclasses.asdict(CONFIG))
    return dataset.assign_coords(seed=[0, 1], use_bias=[True, False]).assign_attrs(config=config)


def results(folder):
    """Folder of both runs."""
    bj.store.save(regimes(), folder / "regime_map" / "dataset.nc")
    bj.store.save(denoisers(), folder / "denoiser" / "dataset.nc")
    return folder
