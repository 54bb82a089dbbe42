import os
import subprocess

import pytest

from biasjax import _files


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = _files.write(tmp_path / "a", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            _files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert _files.write(path, b"new").read_bytes() == b"new"


def test_what_is_there_can_be_kept(tmp_path):
    path = _files.write(tmp_path / "a", b"first", replace=False)
    with pytest.raises(FileExistsError):
        _files.write(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_provenance_needs_no_git(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert _files.provenance.__wrapped__()["git_commit"] == "unknown"
