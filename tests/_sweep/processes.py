"""Processes of their own for tests that kill them, share work between them, or wait for them."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("sweep_worker.py")


@functools.cache
def _programs():
    """Folder where the workers of this session find the programs that an earlier one compiled."""
    folder = tempfile.mkdtemp(prefix="programs")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def start(*arguments, devices=1, prefix=(), script=WORKER) -> subprocess.Popen[str]:
    """Start a worker; ``prefix`` is a command that starts it."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": _programs(),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [*prefix, sys.executable, str(script), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], *, seconds: float = 240, code: int | None = 0) -> str:
    """Wait for a process and check its exit code; return what it printed, or its errors if it failed."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _fail(f"not done after {seconds} s", process)
    assert code is None or process.returncode == code, err
    return out.strip() if code == 0 else err


def kill(process: subprocess.Popen[str]) -> None:
    """End a process as a crash would."""
    process.kill()
    process.communicate()


def wait_until(
    condition: Callable[[], bool], *processes: subprocess.Popen[str], seconds: float = 120
) -> None:
    """Wait for what processes bring about; fail with their output when one ends before, or time is up."""
    deadline = time.monotonic() + seconds
    while True:
        dead = [process for process in processes if process.poll() is not None]
        if condition():  # asked after who is dead, so that what a process did last counts
            return
        if dead:
            _fail(f"a process ended with code {dead[0].returncode}", *processes)
        if time.monotonic() > deadline:
            _fail(f"nothing came after {seconds} s", *processes)
        time.sleep(0.002)


def _fail(what, *processes):
    for process in processes:
        process.kill()
    outputs = ["\n".join(process.communicate()) for process in processes]
    pytest.fail("\n".join([what, *outputs]), pytrace=False)
