"""Seconds and memory that an audit of a model of real size takes, in both modes, with all verdicts.

The claim (bars): a ResNet-50 (Keras, 64x64), a MobileNetV2 (Keras, 96x96), a ViT-S/16 (64x64) and GPT-2 small
(64 tokens) in less than 60 s and 6 GiB each on 2 idle cores, compiling included and default options; the
ResNet-18 of He et al. (arXiv 1512.03385) for 32x32 images in less than 20 s. Two examples each; every case in
its own process, for its own peak memory. Keras' cases need ``pip install keras``.

Printed on two idle cores of a shared machine; between runs seconds differ by a tenth (GPT-2 took 53 to 60):

    case           entries  seconds   CPU s   peak GiB
    resnet18         9,610     19.7    33.5       1.85
    resnet50        54,120     47.7    85.7       3.97
    mobilenet_v2    18,056     51.5    93.5       4.39
    vit_s16         52,456     25.2    40.0       2.10
    gpt2           102,144     53.1    87.1       5.44

Of GPT-2 half goes to passes through a gigabyte of weights in float64 and to drawing them, a quarter to linear
algebra with bases of up to 3,072 entries. What helped on the way: 12 rows of the Jacobian a draw and not as
many as entries; constant shifts in reduced form; depthwise convolutions as products (4 times); one audit
where both modes are one program; huge leaves that are neither nudged nor held in float64; weights put on the
device once a draw (71.7 s and 6.2 GiB before); layers alike asked once; dead shifts followed in four copies
beside one base.

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
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        sys.exit(f"expected cases among {', '.join(CASES)}, got {', '.join(unknown)}")
    print("case           entries  seconds   CPU s   peak GiB   verdicts in each mode", flush=True)
    for name in names or list(CASES):
        if name in _NEED_KERAS and not importlib.util.find_spec("keras"):
            print(f"{name:13s} skipped: pip install keras", flush=True)
            continue
        command = "import sys; from experiments.benchmarks import audit_speed as a; a.case(sys.argv[1])"
        subprocess.run([sys.executable, "-c", command, name], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
