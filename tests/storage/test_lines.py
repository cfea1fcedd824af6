"""Lines of text are read by one rule: LF or CRLF ends them, a byte order mark is none of them, bad bytes are named."""

import io
from pathlib import Path

import pytest

from research.config import ConfigError
from research.storage.lines import json_objects, read_text_lines, split_lines, text_lines

LETTERS = "a\rb", "c\u2028d", "e\x0bf\x0cg", "h\x85i\x1ej", "", "k\r"  # none of these letters ends a line


def test_lf_and_crlf_end_a_line_and_nothing_else() -> None:
    content = "\n".join(LETTERS[:3]) + "\r\n" + "\n".join(LETTERS[3:])
    lines = list(text_lines(io.BytesIO(content.encode()), "a.txt"))
    assert tuple(line.content for line in lines) == LETTERS
    assert [line.number for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert content.encode()[line.start : line.stop].decode() == line.text
    assert split_lines(content)[:5] == list(LETTERS[:5])


@pytest.mark.parametrize(("content", "expected"), [("\ufeffa\n\ufeffb", ["a", "\ufeffb"]), ("\ufeff", []), ("", [])])
def test_a_byte_order_mark_is_dropped_at_the_start_alone(content: str, expected: list[str]) -> None:
    assert [line.content for line in text_lines(io.BytesIO(content.encode()), "a.txt")] == expected


def test_bytes_that_are_not_utf_8_are_refused_by_their_offset_or_replaced_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n" + "\ufffd ".encode() + b"t\xff\xe9wo\n\xc3\n")
    with pytest.raises(ConfigError, match=r"a.txt is not UTF-8 text: byte 0xff at offset 12 \(line 2\); convert"):
        list(read_text_lines(path))
    assert [line.content for line in read_text_lines(path, "replace")] == ["one", "\ufffd t\ufffd\ufffdwo", "\ufffd"]
    note = "a.txt is not UTF-8 text: U+FFFD replaces its bytes in 3 places, first byte 0xff at offset 12 (line 2)."
    assert capsys.readouterr().err == f"note: {tmp_path}/{note}\n"


def test_whitespace_of_any_kind_may_follow_json_and_blank_lines_are_none() -> None:
    content = '{"a": "\u2028"}\x0b\n{"a": 2}\xa0\u2028\r\n\n \u2003\n{"a": 3}\x1c\n\n'
    found = list(json_objects("a.jsonl", text_lines(io.BytesIO(content.encode()), "a.jsonl")))
    assert [(where, value["a"]) for _, where, value in found] == [
        ("a.jsonl, line 1", "\u2028"),
        ("a.jsonl, line 2", 2),
        ("a.jsonl, line 5", 3),
    ]
