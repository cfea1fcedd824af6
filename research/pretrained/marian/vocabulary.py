"""Marian's vocab.yml: tokens and their numbers, a line each."""

from pathlib import Path

import yaml

from research.config import ConfigError, require


def read_vocabulary(path: Path) -> list[str]:
    """The tokens of a vocab.yml in the order of their numbers.

    Read line by line: to a reader of YAML some tokens are line breaks, null or numbers, which to Marian they are not.

    Raises:
        ConfigError: the file is missing, a line is not a token and its number, or the numbers are not 0, 1, 2 ...
    """
    require(path.is_file(), f"{path} is missing.")
    try:
        lines = path.read_bytes().decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}.") from error
    tokens: dict[int, str] = {}
    key = None  # of a pair on two lines, "? token" and ": number", as long tokens are written
    for place, line in enumerate(lines, 1):
        if not line.strip() or line == "---":
            continue
        if key is None and line.startswith("? "):
            key = line.removeprefix("? ")
            continue
        token, colon, number = (key, *line.partition(":")[1:]) if key is not None else line.rpartition(":")
        whole = bool(token and colon) and number.strip().isascii() and number.strip().isdigit()
        require(whole, f"{path}, line {place}: {line!r} is not a token, a colon and a number.")
        require(int(number) not in tokens, f"{path}, line {place}: number {int(number)} is there already.")
        tokens[int(number)] = unquote(token, path, place)
        key = None
    require(
        sorted(tokens) == list(range(len(tokens))), f"{path}: its numbers are not 0 to {len(tokens) - 1}, each once."
    )
    found = [tokens[number] for number in range(len(tokens))]
    require(len(set(found)) == len(found), f"{path}: a token is there twice.")
    return found


def unquote(token: str, path: Path, place: int) -> str:
    if token[0] not in "\"'":
        return token
    try:
        return yaml.load(token, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}, line {place}: {token} is not a quoted token: {error}.") from error


def write_vocabulary(path: Path, tokens: list[str]) -> None:
    """A vocab.yml of tokens by their numbers, each in double quotes."""
    require(len(set(tokens)) == len(tokens), "A vocabulary cannot have a token twice.")
    lines = [f"{quote(token)}: {number}\n" for number, token in enumerate(tokens)]
    path.write_bytes("".join(lines).encode("utf-8"))


def quote(token: str) -> str:
    return yaml.safe_dump(token, default_style='"', allow_unicode=True, width=2**31).rstrip("\n")
