"""Outputs and references are read line by line, whatever else a line holds."""

import json
from pathlib import Path

import pytest

from research.config import ConfigError
from research.score.outputs import read_predictions, read_references


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_only_the_ends_of_lines_part_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one \u2028 line\r\n\nthird\x0bstill\rthird".encode())
    expected = ["one \u2028 line", "", "third\x0bstill\rthird"]
    assert read_predictions(str(tmp_path / "a.txt")) == (expected, None, None)


def test_a_byte_order_mark_a_blank_last_line_and_bad_bytes(tmp_path: Path) -> None:
    row = json.dumps({"prediction": "a", "references": ["b"]})
    assert read_predictions(write(tmp_path / "a.jsonl", f"\ufeff{row}\n\n")) == (["a"], [("b",)], [{}])
    assert read_references([write(tmp_path / "b.txt", "\ufeffa\n")], 1, "hyp.txt") == [("a",)]
    (tmp_path / "c.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(ConfigError, match=r"c.txt is not UTF-8 text: byte 0xff at offset 2 \(line 2\)"):
        read_predictions(str(tmp_path / "c.txt"))
    assert read_references([str(tmp_path / "c.txt")], 2, "hyp.txt", "replace") == [("a",), ("\ufffd",)]


def test_references_of_several_files_stand_beside_each_other(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.txt", "a\nb\n")
    rows = [{"references": ["c", "d"]}, {"target": "e", "text": "a source"}]
    kept = write(tmp_path / "b.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read_references([plain, kept], 2, "hyp.txt") == [("a", "c", "d"), ("b", "e")]
    with pytest.raises(ConfigError, match=r"hyp.txt has 3 predictions and .*a.txt 2 lines"):
        read_references([plain, kept], 3, "hyp.txt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"references": []}', 'needs a text, or a list of one or more texts, under "references"'),
        ('{"references": [1]}', 'needs a text, or a list of one or more texts, under "references"'),
        ('{"source": "a"}', 'line 1 has no "references", "target" or "text"'),
        ("[1]", "line 1 is not a JSON object"),
        ("{", "line 1 is not JSON"),
    ],
)
def test_bad_references_are_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_references([write(tmp_path / "a.jsonl", text + "\n")], 1, "hyp.txt")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prediction": "a", "references": ["b"]}, {"prediction": "a"}], 'a.jsonl, line 2 has no "references"'),
        (
            [{"prediction": "a", "task": "x"}, {"prediction": "a", "task": "y"}],
            "outputs of several tasks, x, y: give a file with those",
        ),
    ],
)
def test_outputs_that_are_not_one_set_are_refused(tmp_path: Path, rows: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_predictions(write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
