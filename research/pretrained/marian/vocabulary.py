"""Marian's vocab.yml: one line for each token and its number."""

from pathlib import Path

import yaml

from research.config import ConfigError, require
from research.storage.lines import read_text_lines


def read_vocabulary(path: Path) -> list[str]:
    """Read the tokens of a vocab.yml in the order of their numbers.

    The file is parsed line by line, since a YAML parser would take some tokens for line breaks, null or numbers.

    Raises:
        ConfigError: the file is missing, a line is not a token and its number, or the numbers are not 0, 1, 2 ...
    """
    require(path.is_file(), f"{path} is missing.")
    tokens: dict[int, str] = {}
    key = None  # token of a pair on two lines, "? token" and ": number", the form for long tokens
    for position, line in enumerate((line.content for line in read_text_lines(path)), 1):
        if not line.strip() or line == "---":
            continue
        if key is None and line.startswith("? "):
            key = line.removeprefix("? ")
            continue
        token, colon, number = (key, *line.partition(":")[1:]) if key is not None else line.rpartition(":")
        whole = bool(token and colon) and number.strip().isascii() and number.strip().isdigit()
        require(whole, f"{path}, line {position}: {line!r} is not a token, a colon and a number.")
        require(int(number) not in tokens, f"{path}, line {position}: number {int(number)} occurs twice.")
        tokens[int(number)] = unquote(token, path, position)
        key = None
    require(
        sorted(tokens) == list(range(len(tokens))), f"{path}: its numbers are not 0 to {len(tokens) - 1}, each once."
    )
    ordered = [tokens[number] for number in range(len(tokens))]
    require(len(set(ordered)) == len(ordered), f"{path}: a token occurs twice.")
    return ordered


def unquote(token: str, path: Path, line: int) -> str:
    if token[0] not in "\"'":
        return token
    try:
        return yaml.load(token, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}, line {line}: {token} is not a quoted token: {error}.") from error


def write_vocabulary(path: Path, tokens: list[str]) -> None:
    """Write a vocab.yml of tokens in the order of their numbers, each in double quotes."""
    require(len(set(tokens)) == len(tokens), "The vocabulary contains a token twice.")
    lines = [f"{quote(token)}: {number}\n" for number, token in enumerate(tokens)]
    path.write_bytes("".join(lines).encode("utf-8"))


def quote(token: str) -> str:
    return yaml.safe_dump(token, default_style='"', allow_unicode=True, width=2**31).rstrip("\n")
