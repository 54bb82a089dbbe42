"""A store as one table for other programs: a row for each point that is done."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biasjax import _files, check, store
from biasjax._sweep import manifest

if TYPE_CHECKING:
    import xarray as xr

# pandas writes these through other packages
NEEDS = {"csv": "pandas", "parquet": "pyarrow", "zarr": "zarr"}
_WIDEST = 1000


def export(folder: Path, to: str, output: Path, names: Sequence[str] = ()) -> Path:
    """Write the points that are done, whole or not at all.

    ``names`` are the outputs to write, default all. An output's own dimensions become columns, ``loss[3]``;
    "zarr" keeps them, and the grid.
    """
    package = NEEDS[check.choice("to", to, NEEDS)]
    try:
        importlib.import_module(package)
    except ImportError as error:
        fix = f"pip install {package}, or choose csv."
        check.fail(f"export to {to}", f"the package {package}", repr(error), fix, ImportError)
    dataset = store.open(folder)
    known = [str(name) for name in dataset.data_vars if name != "computed"]
    chosen = [check.choice("outputs", name, known) for name in names or known]
    dataset = dataset[[*chosen, *({"computed"} & {*dataset.data_vars})]]
    if to == "zarr":
        return _write_zarr(dataset, output)
    table = rows(dataset, manifest.read(folder).lead)
    if to == "csv":
        return _files.write(output, table.to_csv(index=False).encode())
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return _files.write(output, buffer.getvalue())


def rows(dataset: xr.Dataset, lead: Sequence[str]) -> Any:
    """Pandas table with a row for each point that is done: its coordinates, then its outputs.

    ``lead`` are the static names and axes; what lacks one of them stands in all of its rows.
    """
    flat = {}
    for name, variable in dataset.data_vars.items():
        own = [dim for dim in variable.dims if dim not in lead]
        places = [*np.ndindex(*(variable.sizes[dim] for dim in own))]
        values = variable.load() if own else variable
        for place in places:
            label = f"{name}[{','.join(map(str, place))}]" if own else str(name)
            flat[label] = values.isel(dict(zip(own, place, strict=True)), drop=True)
        if len(flat) > _WIDEST:
            fix = "Choose some with --outputs, or export to zarr."
            check.fail("export", f"at most {_WIDEST} columns", f"more, from {name!r} on", fix)
    import xarray as xr

    wide = xr.Dataset(flat)
    wide = wide if lead else wide.expand_dims("point")
    table = wide.to_dataframe(dim_order=[*lead] or ["point"]).reset_index()
    first = [*lead, *(str(name) for name in dataset.coords if name in table and name not in lead)]
    table = table[[*first, *(name for name in table if name not in first)]]
    return table[table.pop("computed")] if "computed" in table else table


def _write_zarr(dataset: xr.Dataset, output: Path) -> Path:
    if output.exists():
        check.fail(f"output {output}", "a folder that is not there yet", "one that is", "Choose another.")
    beside = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        dataset.to_zarr(beside / "whole", consolidated=False)
        os.replace(beside / "whole", output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return output
