"""A lease excludes other processes until it expires, where the kernel has no locks."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_directories import experiment

from research.config import ConfigError
from research.storage import files, lock
from research.storage.lock import FileLock, Lease, taken_in_time
from research.storage.run_directory import claim, is_held


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def refuse(file: object, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "LEASE", 0.6)
    monkeypatch.setattr(lock, "SETTLE", 0.02)
    monkeypatch.setattr(lock, "_told", set())
    return tmp_path / "lock"


def test_a_lease_excludes_others_and_is_renewed_until_it_is_released(path: Path, capsys) -> None:
    with FileLock(path) as first, FileLock(path) as second:
        assert first.take()
        assert f"{path.parent}: this file system has no locks" in capsys.readouterr().err
        assert not second.take()
        assert not taken_in_time(second)
        assert FileLock(path, "r").is_held_elsewhere()
        first.release()
        assert not FileLock(path, "r").is_held_elsewhere()
        assert second.take()
    assert [file.name for file in path.parent.iterdir()] == ["lock"]


def test_the_lease_of_a_process_that_ended_here_is_taken_at_once(path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path.with_name("lock.lease").write_text(json.dumps(Lease("it", lock._machine(), ended.pid, "token")))
    with FileLock(path) as taken:
        assert not taken.is_held_elsewhere()
        assert taken.take()


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_lease_holds_nothing(path: Path, content: str) -> None:
    path.with_name("lock.lease").write_text(content)
    with FileLock(path) as taken:
        assert taken.take()


def test_the_lease_of_another_machine_expires_and_who_slept_learns_of_it(path: Path) -> None:
    other = Lease("process 1 on another", "another", 1, "token")
    path.with_name("lock.lease").write_text(json.dumps(other))
    with FileLock(path) as taken:
        began = time.monotonic()
        assert not taken.take()
        assert taken.holder() == other.holder
        assert taken_in_time(taken)
        assert time.monotonic() - began >= lock.LEASE
        files.write_text(path.with_name("lock.lease"), json.dumps(other))
        until = time.monotonic() + 10
        while not taken.lost and time.monotonic() < until:
            time.sleep(0.05)
        assert taken.lost == other.holder
    assert json.loads(path.with_name("lock.lease").read_text()) == list(other)


def test_a_run_directory_without_locks_is_one_process_s_all_the_same(path: Path, tmp_path: Path) -> None:
    config, run = experiment(tmp_path), tmp_path / "run"
    with claim(run, config) as held:
        held.check()
        assert is_held(run)
        with pytest.raises(ConfigError, match=r"in use by process \d+ on"), claim(run, config):
            pass
        run.rename(tmp_path / "moved")
        with pytest.raises(OSError, match="run was moved or deleted while the run used it"):
            held.check()
        (tmp_path / "moved").rename(run)
        held.check()
    assert not is_held(run)
    with claim(run, config):
        pass
