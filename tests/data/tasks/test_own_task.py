"""A task and examples of one's own: what they must give, and one sentence with file and line for each mistake."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_parts import docstring_example, load_own

from research import ExamplesInMemory, Task, TextToText
from research.config import ConfigError
from research.data.tasks.task import Example, open_task

ROWS = [{"question": "two words", "answer": "zwei"}, {"question": "one", "answer": "eins"}]

# The class is in line 9 of the file, its method in line 14 or 10.
TASK = """@dataclass(frozen=True, kw_only=True)
class Own(Task):
    @property
    def names(self):
        return Names(("question",), ("answer",))

    def example(self, record):
        return record["question"][0], record["answer"]
"""
EXAMPLES = """@dataclass(frozen=True)
class Own(ExamplesInMemory):
    def records(self, split):
        return [{"question": "q", "answer": ["a", "b"]}, {"question": "q", "answer": "c"}]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path.name


def csv_examples(folder: Path, rows: list[dict[str, str]] = ROWS) -> Any:
    cls = load_own(folder, docstring_example(ExamplesInMemory)).CSVExamples
    return cls(write(folder / "a.csv", rows), write(folder / "b.csv", rows[:1]))


def made(task: Task, split: Any = "train") -> list[Example]:
    opened = open_task(task, split)
    return opened.read(np.arange(len(opened)))


# --- What the docstrings show -----------------------------------------------------------------------------------------


def test_the_example_of_the_examples_docstring(tmp_path: Path) -> None:
    task = TextToText(examples=csv_examples(tmp_path), source="question", target="answer", prefix="de: ")
    assert made(task) == [Example("de: two words", "zwei", ("zwei",)), Example("de: one", "eins", ("eins",))]
    assert len(made(task, "held_out")) == 1
    with pytest.raises(ConfigError, match="CSVExamples has no test split: name its file with test="):
        open_task(task, "test")


def test_the_example_of_the_tasks_docstring(tmp_path: Path) -> None:
    cls = load_own(tmp_path, docstring_example(Task)).Reversal
    task = cls(examples=csv_examples(tmp_path), column="question")
    first, second = made(task)
    assert (first.source, first.references) == ("reverse: two words", ("words two",))
    assert (second.source, second.references) == ("repeat: one", ("one",))
    assert len(task.metrics) == 2


def test_several_targets_are_references(tmp_path: Path) -> None:
    task = load_own(tmp_path, EXAMPLES + "\n" + TASK.replace("class Own", "class Two")).Two
    assert made(task(examples=load_own(tmp_path, EXAMPLES).Own()))[0] == Example("q", "a", ("a", "b"))


# --- Identity: of the texts, whatever the code ------------------------------------------------------------------------


def test_the_identity_is_that_of_what_is_made(tmp_path: Path) -> None:
    examples = csv_examples(tmp_path)

    def identity(text: str = TASK) -> str:
        return open_task(load_own(tmp_path, text).Own(examples=examples), "train").identity

    first = identity()
    assert identity(TASK + "# a remark\n") == first
    assert identity(TASK.replace('return record["question"][0]', 'return "x" + record["question"][0]')) != first
    write(tmp_path / "a.csv", ROWS[::-1])
    assert identity() != first


def test_an_own_example_inherits_no_identity(tmp_path: Path) -> None:
    """Its templates do not decide what it makes."""
    examples = csv_examples(tmp_path)
    text = """@dataclass(frozen=True, kw_only=True)
class Own(TextToText):
    def example(self, record):
        return super().example(record)[0].upper(), "x"
"""
    changed = text.replace('"x"', '"y"')
    fields = {"examples": examples, "source": "question", "target": "answer"}
    identities = {open_task(load_own(tmp_path, each).Own(**fields), "train").identity for each in (text, changed)}
    assert len(identities | {open_task(TextToText(**fields), "train").identity}) == 3
    given = changed + '\n    @property\n    def identity(self):\n        return ("version 1",)\n'
    one, two = (open_task(load_own(tmp_path, each).Own(**fields), "train") for each in (given, given + "# more\n"))
    assert one.identity == two.identity


# --- Mistakes ---------------------------------------------------------------------------------------------------------

RETURN = 'return record["question"][0], record["answer"]'


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ('return record["other"]', "own.py:15: Own.example raised KeyError: 'other'."),
        ('return record["question"][0]', "returned 'two words': it must"),
        ("return 1, 'a'", "returned (1, 'a'): it must"),
        ("return 'a', []", "returned ('a', []): it must be a source"),
        ("return 'a', ['b', None]", "gave None: it must be text"),
        ("return 'a', ' '", "gave an empty text"),
        ("return 'a', '\\ud800'", "gave '\\ud800': it must be text"),
        ("return record['question'][0].split()[1], 'a'", "own.py:15: Own.example raised IndexError: list index"),
    ],
)  # fmt: skip
def test_a_broken_example_is_named(tmp_path: Path, change: str, sentence: str) -> None:
    task = load_own(tmp_path, TASK.replace(RETURN, change)).Own
    with pytest.raises(ConfigError) as error:
        open_task(task(examples=csv_examples(tmp_path)), "train")
    where = "" if " raised " in sentence else "own.py:14: Own.example of record 1 of CSVExamples (train) "
    assert str(error.value).startswith(where + sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ('"question"', r"own\.py:10: Own\.names returned 'question': it must be Names\(source=\(\.\.\.\), target"),
        ('Names((), ("answer",))', r"own\.py:10: Own\.names returned Names\(source=\(\), target="),
        ("Names(self.side, ())", r"own\.py:12: Own\.names raised AttributeError: 'Own' object has no attribute 'side'"),
        ('Names(("q",), ("answer",))', r"""own\.py:\d+: record 1 of CSVExamples \(train\) has no "q": its"""),
    ],
)  # fmt: skip
def test_broken_names_are_named(tmp_path: Path, names: str, sentence: str) -> None:
    text = TASK.replace('Names(("question",), ("answer",))', names)
    both = load_own(tmp_path, text + "\n\n" + docstring_example(ExamplesInMemory))
    path = write(tmp_path / "a.csv", ROWS)
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        open_task(both.Own(examples=both.CSVExamples(path, path)), "train")


GIVEN = re.search(r"\[\{.*\}\]", EXAMPLES)[0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("[]", "own.py:10: Own.records of train gave no record."),
        ("1", "own.py:10: Own.records raised TypeError: 'int' object is not iterable."),
        ("['a']", "record 1 of Own (train) is str: it must be a dictionary of texts."),
        ("[{'source': 'a', 'target': 'b'}, {'source': 'a'}]", 'record 2 of Own (train) has no "target": its names are'),
        ("[{'source': 'a', 'target': 3}]", 'record 1 of Own (train) has int as "target": it must be text'),
        ("[{'source': 'a', 'target': []}]", 'record 1 of Own (train) has an empty target ("target").'),
        ("[{'source': ' ', 'target': 'b'}]", 'record 1 of Own (train) has an empty source ("source").'),
        ("[{'source': '\\ud800', 'target': 'b'}]", "record 1 of Own (train) has half of a surrogate pair"),
        ("open('gone.csv')", "own.py:11: Own.records raised FileNotFoundError: [Errno 2] No such file or directory"),
    ],
)  # fmt: skip
def test_broken_records_are_named(tmp_path: Path, given: str, sentence: str) -> None:
    examples = load_own(tmp_path, EXAMPLES.replace(GIVEN, given)).Own()
    with pytest.raises(ConfigError) as error:
        open_task(TextToText(examples=examples), "train")
    where = "" if "Own.records" in sentence else "own.py:10: "
    assert str(error.value).startswith(where + sentence)
    assert "\n" not in str(error.value)


BY_INDEX = """class Numbers:
    name, identity = "numbers", "1"

    def __len__(self):
        return 5

    def read(self, indices):
        return [{"source": f"s{index}", "target": f"t{index}" if index < 3 else 1} for index in indices]


@dataclass(frozen=True)
class Own(Examples):
    def open(self, split, names, manual_dir):
        return Numbers()
"""


def test_examples_by_index(tmp_path: Path) -> None:
    opened = open_task(TextToText(examples=load_own(tmp_path, BY_INDEX).Own()), "train")
    assert opened.read(np.array([2, 0])) == [Example("s2", "t2", ("t2",)), Example("s0", "t0", ("t0",))]
    with pytest.raises(ConfigError, match=r'^own\.py:19: record 4 of numbers has int as "target"'):
        opened.read(np.array([3]))
    shorter = BY_INDEX.replace("return Numbers()", "return [1]")
    with pytest.raises(ConfigError, match=r"^own\.py:20: Own\.open returned list: it must have name,"):
        open_task(TextToText(examples=load_own(tmp_path, shorter).Own()), "train")
