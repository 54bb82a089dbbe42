"""How long a start takes: imports, the help of the command line, a small experiment, the same again.

A first start finds no compiled programs; a second reads those that the first kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from experiments.benchmarks._race import Contender, Race

EXPERIMENT = ("-m", "experiments", "norm_order", "--smoke")


def races(networks: int | None = None) -> dict[str, Race]:
    """Races by name."""
    commands = {
        "import jax": ("-c", "import jax"),
        "import biasjax": ("-c", "import biasjax"),
        "biasjax --help": ("-m", "biasjax", "--help"),
    }
    quick = [Contender(name, f"{__name__}:start", {"arguments": given}) for name, given in commands.items()]
    slow = [
        Contender(name, f"{__name__}:start", {"arguments": EXPERIMENT, "again": again})
        for name, again in (("norm_order --smoke, first", False), ("norm_order --smoke, again", True))
    ]
    return {"start": Race("start", quick), "start-experiment": Race("start", slow)}


def start(arguments: Sequence[str], again: bool = True) -> tuple[Callable[[], Any], int]:
    """Run Python with some arguments in a process of its own, which finds compiled programs only if again."""
    kept = tempfile.mkdtemp()
    output = ("--output", kept) if "experiments" in arguments else ()
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}

    def once() -> None:
        with tempfile.TemporaryDirectory() as fresh:
            subprocess.run(
                [sys.executable, *arguments, *output],
                env=environment | {"XDG_CACHE_HOME": kept if again else fresh},
                stdout=subprocess.DEVNULL,
                check=True,
            )

    return once, 1
