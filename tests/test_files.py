import errno
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


def test_what_is_there_is_kept_without_links_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = _files.write(tmp_path / "a", b"first", replace=False)
    with pytest.raises(FileExistsError):
        _files.write(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_claim_of_a_dead_process_is_taken_over(tmp_path):
    claim = tmp_path / ".a.claiming"
    claim.touch()
    with _files._claimed(claim, seconds=0.03):
        assert claim.exists()
    assert not claim.exists()


def test_files_of_killed_writers_are_swept_up_and_no_others(tmp_path, monkeypatch):
    old, new, other = tmp_path / ".a.nc.abcdefgh", tmp_path / ".b.nc.abcdefgh", tmp_path / "result.abcdefgh"
    for file in (old, new, other):
        file.touch()
    for file in (old, other):
        os.utime(file, (0, 0))
    _files.remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == [new, other]


def test_files_can_be_read_by_others(tmp_path):
    old = os.umask(0o022)
    try:
        mode = _files.write(tmp_path / "shared", b"").stat().st_mode
    finally:
        os.umask(old)
    assert mode & 0o777 == 0o644
