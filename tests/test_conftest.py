"""The session starts under other settings than ours, too."""

import subprocess
import sys
from pathlib import Path


def test_without_a_cache_provider():
    here = Path(__file__).parent
    options = ("-p", "no:cacheprovider", "-n0", "-q", "--collect-only", str(here / "test_check.py"))
    ended = subprocess.run((sys.executable, "-m", "pytest", *options), capture_output=True, cwd=here.parent)
    assert ended.returncode == 0, ended.stderr.decode()
