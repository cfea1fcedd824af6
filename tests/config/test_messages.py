"""Messages: one line, whatever the values that they quote are."""

import contextlib

import pytest

from research.config import ConfigError, require
from scripts import sweep, train


@pytest.mark.parametrize("value", ["x" * 5000, "two words " * 500, '"' * 5000, "a'b " * 1250])
def test_a_long_value_is_shortened_and_what_to_do_is_kept(value: str) -> None:
    message = str(ConfigError(f"model.width is {value!r}: it must be above 0."))
    assert len(message) < 4000
    assert message.startswith("model.width is ")
    assert message.endswith(": it must be above 0.")
    assert " letters) ... " in message


def test_sentences_and_paths_are_left_as_they_are() -> None:
    path = "/data/" + "directory/" * 60 + "file"
    message = f"{path}: the run's files and " + "others, " * 50 + "the users' too, are of another experiment."
    assert str(ConfigError(message)) == message


def test_words_between_two_quoted_values_are_no_value() -> None:
    middle = "and the sentence continues for a while, " * 12
    message = f'"first" is set, {middle}but "second" is not.'
    assert str(ConfigError(message)) == message


def test_no_control_character_of_a_name_reaches_the_terminal() -> None:
    with pytest.raises(ConfigError) as error:
        require(False, "a\nerror: b\x1b[2J\x00\u2028c is no file.")
    assert str(error.value) == r"a\nerror: b\x1b[2J\x00\u2028c is no file."
    assert str(ConfigError(str(error.value))) == str(error.value)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (train, ["no\nfile.py", "--run_dir", "r"]),
        (train, ["x.py", "--run_dir", "r", "--config." + "a" * 5000 + "=1"]),
        (sweep, ["x.py", "--dir", "d", "--jobs", "9\n" * 5000]),
        (sweep, ["x.py", "--dir", "d", "--unknown", "9" * 5000]),
    ],
)
def test_a_command_prints_one_short_line(command, arguments: list[str], capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):  # by argparse
        assert command.main(arguments) == 2
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert "error: " in last
    assert len(last) < 1000
