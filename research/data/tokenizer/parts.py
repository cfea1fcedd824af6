"""Cuts of a long text into parts whose tokens do not depend on one another, to encode it in little memory."""

import re
from collections.abc import Iterator

BREAK = re.compile(r"(?<=[^\W_]) (?=[^\W_])")  # one space between two words
LINE_END = re.compile(r"\n")


def cut(text: str, most: int, at: re.Pattern[str] = BREAK, keep: bool = False) -> Iterator[str]:
    """Cut a text at the first match of `at` after every `most` characters.

    The match is left out or, with `keep`, begins the next part. A text without matches stays whole.
    """
    start = 0
    while start + most < len(text) and (found := at.search(text, start + most)):
        yield text[start : found.start()]
        start = found.start() if keep else found.end()
    yield text[start:]
