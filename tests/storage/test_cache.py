"""An entry is whole or absent, whatever happens to the process that builds it."""

import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from research.config import ConfigError
from research.config.base import digest
from research.storage import cache

BUILD_AND_DIE = """
import os, signal, time
from research.storage import cache
def build(folder):
    (folder / "half").write_text("half")
    print("building", flush=True)
    time.sleep({sleep})
    {end}
path = cache.entry("kind", "key", build)
print((path / "half").read_text())
"""


def run(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write(folder: Path) -> None:
    (folder / "file").write_text("whole")


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(own_cache: Path) -> None:
    process = run(BUILD_AND_DIE.format(sleep=0, end="os.kill(os.getpid(), signal.SIGKILL)"))
    assert process.wait(60) == -9
    assert (own_cache / "kind" / "key.partial" / "half").exists()
    assert not (own_cache / "kind" / "key").exists()

    path = cache.entry("kind", "key", write)
    assert {file.name for file in path.iterdir()} == {"file", "CONTENTS.json"}
    assert not (own_cache / "kind" / "key.partial").exists()


def test_a_second_process_waits_and_takes_what_the_first_built(own_cache: Path) -> None:
    process = run(BUILD_AND_DIE.format(sleep=1, end="pass"))
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    path = cache.entry("kind", "key", lambda folder: pytest.fail("built twice"))
    assert (path / "half").read_text() == "half"
    assert process.wait(60) == 0


def test_threads_build_once(own_cache: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        write(folder)

    threads = [threading.Thread(target=cache.entry, args=("kind", "key", build)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_failed_build_is_removed_and_its_error_passes_through(own_cache: Path) -> None:
    def build(folder: Path) -> None:
        write(folder)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        cache.entry("kind", "key", build)
    assert [path.name for path in (own_cache / "kind").iterdir()] == ["key.lock"]


def test_a_full_disk_is_reported_with_what_to_do(own_cache: Path) -> None:
    def build(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConfigError, match=r"No space left on device.*KINTSUGI_CACHE"):
        cache.entry("kind", "key", build)


def test_a_cache_that_cannot_be_written_is_reported_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match=r"cannot be written.*KINTSUGI_CACHE"):
        cache.entry("kind", "key", write)


@pytest.mark.parametrize(
    ("damaging", "reason"),
    [
        (lambda path: (path / "file").unlink(), "file is missing"),
        (lambda path: (path / "file").write_text("who"), "file has another size"),
        (lambda path: (path / "file").write_text("whale"), "file was changed"),
        (lambda path: (path / "CONTENTS.json").unlink(), "CONTENTS.json is missing"),
        (lambda path: (path / "CONTENTS.json").write_text("{"), "JSONDecodeError"),
        (lambda path: [file.unlink() for file in path.iterdir()], "CONTENTS.json is missing"),
    ],
)
def test_an_entry_that_lost_or_changed_a_file_is_set_aside_aloud_and_built_again(
    own_cache: Path, capsys: pytest.CaptureFixture[str], damaging: Callable[[Path], object], reason: str
) -> None:
    path = cache.entry("kind", "key", write)
    for _ in range(2):  # the second finds what the first has set aside
        damaging(path)
        assert cache.entry("kind", "key", write) == path
        assert (path / "file").read_text() == "whole"
        assert path.with_name("key.damaged").exists()
        assert reason in capsys.readouterr().err
    assert cache.entry("kind", "key", lambda folder: pytest.fail("built again")) == path
    assert capsys.readouterr().err == ""


def test_a_file_where_the_cache_has_a_directory_is_one_sentence(own_cache: Path) -> None:
    own_cache.mkdir()
    (own_cache / "kind").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written \(File exists\).*KINTSUGI_CACHE"):
        cache.entry("kind", "key", write)


def test_digests_tell_values_apart() -> None:
    assert digest(["a", "bc"]) != digest(["ab", "c"])
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
