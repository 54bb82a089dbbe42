"""Seconds and memory that an audit of a model of real size takes, in both modes, with all verdicts.

The claim (bars): a ResNet-50 (Keras, 64x64), a MobileNetV2 (Keras, 96x96), a ViT-S/16 (64x64) and GPT-2 small
(64 tokens) in less than 60 s and 6 GiB each on 2 idle cores, compiling included and default options; the
ResNet-18 of He et al. (arXiv 1512.03385) for 32x32 images in less than 20 s. Two examples each; every case in
its own process, for its own peak memory. Keras' cases need ``pip install keras``.

Printed on two cores of a shared machine; between runs seconds differ by a seventh (ResNet-18 took 18 to 20):

    case           entries  seconds   CPU s   peak GiB
    resnet18         9,610     20.3    34.1       1.84
    resnet50        54,120     52.1    90.2       4.00
    mobilenet_v2    18,056     58.8   103.3       5.08
    vit_s16         52,456     30.9    48.5       2.20
    gpt2           102,144     71.7   115.9       6.17

GPT-2 misses its bars: half of it goes to some thirty passes through a gigabyte of weights in float64 and to
drawing them five times, a quarter to linear algebra with bases of up to 3,072 entries. What helped on the
way: 20 rows of the Jacobian a draw and not as many as entries; constant shifts in reduced form; depthwise
convolutions as products (4 times); one audit where both modes are one program; huge leaves that are neither
nudged nor held in float64; the dead shifts of all biases followed in four passes.

Command: `python -m experiments.benchmarks.audit_speed` (all cases, or those named).
"""

from __future__ import annotations

import collections
import importlib.util
import resource
import subprocess
import sys
import time

from biasjax import audit
from experiments.benchmarks._models import CASES

_NEED_KERAS = ("resnet50", "mobilenet_v2")


def case(name: str) -> None:
    """Run one case and print its row."""
    pure, x = CASES[name]()
    wall, cpu = time.perf_counter(), time.process_time()
    modes = audit.audit_modes(pure, x)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = [dict(collections.Counter(f.verdict for f in one.findings)) for one in (modes.train, modes.eval)]
    entries = sum(f.size for f in modes.train.findings)
    print(f"{name:13s} {entries:8,d} {wall:8.1f} {cpu:8.1f} {peak:8.2f}   {found}", flush=True)


def main(names: list[str]) -> None:
    """Print the table."""
    print("case           entries  seconds   CPU s   peak GiB   verdicts in each mode", flush=True)
    for name in names or list(CASES):
        if name in _NEED_KERAS and not importlib.util.find_spec("keras"):
            print(f"{name:13s} skipped: pip install keras", flush=True)
            continue
        command = "import sys; from experiments.benchmarks import audit_speed as a; a.case(sys.argv[1])"
        subprocess.run([sys.executable, "-c", command, name], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
