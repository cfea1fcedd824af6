"""Files are whole or not there, locks exclude other processes, and lines of JSON survive a kill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from research.storage import files

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)

    def write() -> None:
        with files.whole(path) as file:
            file.write(b"half of the ne")
            file.flush()
            assert len(list(tmp_path.iterdir())) == 1 + (before is not None)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({} if before is None else {"file": before})


def test_a_killed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    program = f"""if True:
        import os, pathlib, signal
        from research.storage import files
        with files.whole(pathlib.Path({str(path)!r})) as file:
            file.write(b"new" * 100_000)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == -9
    assert path.read_bytes() == b"old"
    (unfinished,) = set(tmp_path.iterdir()) - {path}
    assert unfinished.suffix == files.UNFINISHED
    files.write_text(path, "new é")
    assert path.read_bytes() == "new é".encode()


def test_what_was_written_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    rename, fsync = Path.replace, files.os.fsync
    monkeypatch.setattr(Path, "replace", lambda self, path: (calls.append("rename"), rename(self, path)))
    monkeypatch.setattr(files.os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    files.write_json(tmp_path / "file.json", {"a": [1, None]})
    assert calls == ["fsync", "rename", "fsync"]
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": [1, None]}


def test_a_lock_excludes_another_process_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = f"from research.storage import files; print(files.try_lock(open({str(path)!r}, 'w')))"

    def taken_elsewhere() -> str:
        return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    with path.open("w") as lock:
        assert files.try_lock(lock)
        assert taken_elsewhere() == "False"
    assert taken_elsewhere() == "True"


def test_lines_are_read_back_whatever_their_texts_hold(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    values = [{"a": "x\ny\r\u2028\x85z"}, {"b": "é\ud83d"}, {"c": [1.5, None]}]
    assert files.read_lines(path) == []
    files.append_lines(path, values[:2])
    files.append_lines(path, values[2:])
    assert files.read_lines(path) == values
    assert path.read_bytes().count(b"\n") == 3
    assert len(path.read_text().splitlines()) == 3  # by a reader that ends lines at these letters too
    files.write_lines(path, values[1:])
    assert files.read_lines(path) == values[1:]


@pytest.mark.parametrize("torn", [b'{"a": 2, "b', b'{"a": "\xc3', b"{" * 100_000])
def test_a_line_that_a_kill_cut_short_is_left_out_and_spoils_no_other(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    files.append_lines(path, [{"a": 1}])
    with path.open("ab") as file:
        file.write(torn)
    assert files.read_lines(path) == [{"a": 1}]
    files.append_lines(path, [{"a": 3}])
    assert files.read_lines(path) == [{"a": 1}, {"a": 3}]


def test_what_is_no_object_is_left_out_and_counted(tmp_path: Path, capsys) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'[1]\n\n7\nnull\n\xff\xfe\n{"a": 1}\r\n')
    for _ in range(2):
        assert files.read_lines(path) == [{"a": 1}]
    assert capsys.readouterr().err == f"{path}: 4 lines are not JSON objects and are left out.\n"


def test_damaged_lines_are_moved_beside_the_file(tmp_path: Path, capsys) -> None:
    path, aside = tmp_path / "lines.jsonl", tmp_path / "lines.jsonl.damaged"
    assert files.keep_lines(path) == 0
    path.write_bytes('{"a": "x\u2028y"}\n[1]\n{"a": 2, "b\n\n{"a": 3}'.encode())
    assert files.keep_lines(path, lambda value: value["a"] != 3) == 2
    assert files.read_lines(path) == [{"a": "x\u2028y"}]
    assert aside.read_bytes() == b'[1]\n{"a": 2, "b\n'
    assert f"{path}: 2 lines cannot be read; they are moved to {aside}." in capsys.readouterr().err
    before = path.stat().st_mtime_ns
    assert files.keep_lines(path) == 0
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("word", ["import fcntl", "os.replace(", "flock("])
def test_nothing_else_locks_or_replaces_files(word: str) -> None:
    users = [path for room in ("research", "scripts") for path in (ROOT / room).rglob("*.py")]
    assert {path.name for path in users if word in path.read_text()} <= {"files.py"}
