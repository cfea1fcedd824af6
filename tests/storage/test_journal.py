"""A batch job killed anywhere goes on by the same command, and nothing it did or found is lost or overwritten."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from research.config import ConfigError
from research.storage.journal import Journal

ASKED = ["model", {"seed": 0}, [[1, 2], [3]]]
RESULTS = [{2: ["zwei"]}, {0: ["Häuser\u2028\x85\x0b müssen\r\n 模型", "\ud800"], 1: []}, {3: [float("inf"), -0.125]}]


class Killed(BaseException):
    pass


def work(output: Path | None, asked=ASKED, killed_after: int | None = None) -> int:
    """A job of three batches, killed after some of them; returns how many it had to do."""
    count = 0
    with Journal(output, asked) as journal:
        for results in RESULTS:
            if results.keys() <= journal.done.keys():
                continue
            if count == killed_after:
                raise Killed
            journal.add(results)
            count += 1
        journal.finish(json.dumps(journal.done[number], ensure_ascii=False) for number in range(4))
    return count


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """What an uninterrupted job writes."""
    (tmp_path / "whole").mkdir()
    assert work(tmp_path / "whole" / "out.txt") == 3
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["out.txt"]
    return (tmp_path / "whole" / "out.txt").read_bytes()


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_killed_between_batches_the_same_command_does_the_rest_and_gives_the_same_file(tmp_path, whole, batches):
    output = tmp_path / "out.txt"
    with pytest.raises(Killed):
        work(output, killed_after=batches)
    assert not output.exists()
    assert work(output) == 3 - batches
    assert output.read_bytes() == whole
    assert not (tmp_path / "out.txt.partial").exists()


def test_cut_at_any_byte_the_last_line_is_done_anew_and_nothing_else(tmp_path, whole):
    output, partial = tmp_path / "out.txt", tmp_path / "out.txt.partial"
    with pytest.raises(Killed):
        work(output, killed_after=2)
    written = partial.read_bytes()
    for length in range(len(written)):
        partial.write_bytes(written[:length])
        batches = max(written[:length].count(b"\n") - 1, 0)
        assert work(output) == 3 - batches, length
        assert output.read_bytes() == whole, length
        output.unlink()


@pytest.mark.parametrize("end", ["", '{"7": ["of anoth'])
def test_what_another_command_began_is_refused_and_untouched(tmp_path, end):
    partial = tmp_path / "out.txt.partial"
    with pytest.raises(Killed):
        work(tmp_path / "out.txt", killed_after=1)
    partial.write_bytes(partial.read_bytes() + end.encode())
    before = partial.read_bytes()
    with pytest.raises(ConfigError, match=r"out\.txt\.partial was begun by another command or for other lines: move"):
        work(tmp_path / "out.txt", asked=["another"])
    assert partial.read_bytes() == before
    partial.write_text("notes of a person")
    with pytest.raises(ConfigError, match="was begun by another command"):
        work(tmp_path / "out.txt")
    assert partial.read_text() == "notes of a person"


def test_a_job_that_is_still_running_is_left_alone(tmp_path):
    with Journal(tmp_path / "out.txt", ASKED) as journal:
        journal.add(RESULTS[0])
        before = journal.partial.read_bytes()
        with pytest.raises(ConfigError, match="is being written by another process: wait for it"):
            work(tmp_path / "out.txt")
        assert journal.partial.read_bytes() == before
        journal.add(RESULTS[1])
    assert work(tmp_path / "out.txt") == 1


def test_an_output_is_never_overwritten(tmp_path):
    output = tmp_path / "out.txt"
    output.write_text("precious")
    with pytest.raises(ConfigError, match=r"out\.txt exists: nothing is overwritten, so give another --output"):
        work(output)
    output.unlink()

    def lines() -> Iterator[str]:
        yield "late"
        output.write_text("precious")

    with Journal(output, ASKED) as journal:
        journal.add(RESULTS[0])
        with pytest.raises(ConfigError, match="exists: nothing is overwritten"):
            journal.finish(lines())
    assert output.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt", "out.txt.partial"]


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no directory .*absent"):
        Journal(tmp_path / "absent" / "out.txt", ASKED)
    (tmp_path / "out.txt.partial").mkdir()
    with pytest.raises(ConfigError, match=r"out\.txt\.partial cannot be written \(Is a directory\)"):
        Journal(tmp_path / "out.txt", ASKED)


def test_a_batch_is_on_disk_when_it_is_added_and_an_error_later_loses_nothing(tmp_path, whole):
    output, found = tmp_path / "out.txt", []

    def broken_lines() -> Iterator[str]:
        yield "a"
        raise RuntimeError

    def broken_work() -> None:
        with Journal(output, ASKED) as journal:
            for results in RESULTS:
                journal.add(results)
                found.append(journal.partial.read_bytes().count(b"\n"))
            journal.finish(broken_lines())

    with pytest.raises(RuntimeError):
        broken_work()
    assert found == [2, 3, 4]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.txt.partial"]
    assert work(output) == 0
    assert output.read_bytes() == whole


def test_a_job_that_did_nothing_leaves_nothing(tmp_path):
    with pytest.raises(Killed):
        work(tmp_path / "out.txt", killed_after=0)
    assert os.listdir(tmp_path) == []


def test_without_an_output_lines_go_to_standard_output(capsys):
    with Journal(None, ASKED) as journal:
        journal.add({1: "b"})
        journal.add({0: "a"})
        journal.finish(journal.done[number] for number in range(2))
    assert capsys.readouterr().out == "a\nb\n"


def test_from_a_damaged_line_on_results_are_computed_again_and_that_is_said(tmp_path, whole, capsys):
    output, partial = tmp_path / "out.txt", tmp_path / "out.txt.partial"
    with pytest.raises(Killed):
        work(output, killed_after=2)
    first, second, *rest = partial.read_bytes().split(b"\n")
    partial.write_bytes(b"\n".join([first, second[:-3], *rest]))
    assert work(output) == 3
    assert "is damaged: what follows byte" in capsys.readouterr().err
    assert output.read_bytes() == whole
