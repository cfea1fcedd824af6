"""The share of the references' letters that a metric reads."""

import re
from collections.abc import Iterator

from research.config.metric import References

HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
OTHERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1a20-\u1aaf\u0f00-\u0fff"  # Thai, Lao, Burmese, Khmer, Tibetan ...
SEGMENTED = 0.1  # spaces a letter, above which a text in such a script has been split into words


def texts_of(references: References) -> Iterator[str]:
    return (text for given in references for text in given)


def share(references: References, letters: str) -> float:
    """Return the share of the letters and digits that are of the class `letters` of a regular expression; 1 of none.

    The signs of the class count as letters, such as Thai vowels above their consonants.
    """
    of_class, letter = re.compile(f"[{letters}]"), re.compile(rf"[^\W_]|[{letters}]")
    every = sum(len(letter.findall(text)) for text in texts_of(references))
    return sum(len(of_class.findall(text)) for text in texts_of(references)) / every if every else 1.0


def unspaced_share(references: References, letters: str) -> float:
    """Return the share of letters of the given scripts, which have no spaces between words; 0 if words are split."""
    spaces = re.compile(rf"(?<=[{letters}])\s+(?=[{letters}])")
    found = sum(len(re.findall(f"[{letters}]", text)) for text in texts_of(references))
    splits = sum(len(spaces.findall(text)) for text in texts_of(references))
    return share(references, letters) if found and splits / found < SEGMENTED else 0.0
