"""The task made of Python's own sources: which functions it takes, and that no module is in two splits."""

from pathlib import Path

import pytest
from python_trees import tree_sources

from research.data.datasets import python_summaries
from research.data.datasets.python_summaries import Summary, first_sentence

SOURCE = '''
raise RuntimeError("this source was run")
def taken(x):
    """Return twice the number given. It says more here.

    And here.
    """
    # a comment before
    y = x + x  # twice

    return y
class Outer:
    if True:
        async def method(self):
            r"""Wait for nothing\\n at all"""
            def inner():
                """Short, here: two words"""
                a = 1
                return a
            return inner
def one_statement(x):
    """Return the number that is given."""
    return x
def on_one_line(x): """Return the number that is given."""; a = 1; return x
def no_docstring(x):
    y = x
    return y
def few_words(x):
    """Two words."""
    y = x
    return y
def copied(x):
    """Say something else of an equal body."""
    y = x + x  # twice

    return y
'''


def test_which_functions_are_taken(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE)
    (tmp_path / "b.py").write_text("def broken(:")
    found = python_summaries.summaries(tree_sources(tmp_path).files)
    assert found == [
        Summary("y = x + x  # twice\n\nreturn y", "Return twice the number given.", "a.py:taken"),
        Summary(
            'def inner():\n    """Short, here: two words"""\n    a = 1\n    return a\nreturn inner',
            "Wait for nothing\\n at all",
            "a.py:Outer.method",
        ),
        Summary("a = 1\nreturn a", "Short, here: two words", "a.py:Outer.method.inner"),
    ]


def test_long_bodies_are_left_out(tmp_path: Path) -> None:
    body = "".join(f"    x{number} = {number}\n" for number in range(400))
    (tmp_path / "a.py").write_text(f'def long():\n    """Set very many different names."""\n{body}')
    assert python_summaries.summaries(tree_sources(tmp_path).files) == []


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Do it. Then more.", "Do it."),
        ("Do e.g. this one,\n    and that.\n\n    More.", "Do e.g. this one, and that."),
        ("No full stop\n\nNext", "No full stop"),
        ("Is it? `Yes`.", "Is it?"),
        ("", ""),
    ],
)
def test_first_sentences(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


def test_no_module_is_in_two_splits(own_cache: Path, tmp_path: Path) -> None:
    root = tmp_path / "package"
    root.mkdir()
    for number in range(200):
        functions = "".join(
            f'def f{place}():\n    """Return numbers, as {number} and {place}."""\n    a = {number}\n    a+{place}\n'
            for place in range(3)
        )
        (root / f"m{number}.py").write_text(functions)
    builder = python_summaries.open_builder(tree_sources(root))
    modules, total = [], 0
    for split in ("train", "validation", "test"):
        sources = [example["source"].decode() for example in builder.as_data_source(split)]
        modules.append({source.partition(":")[0] for source in sources})
        total += len(sources)
        assert len(sources) == 3 * len(modules[-1])
    assert total == 600
    assert sum(map(len, modules)) == len(set.union(*modules)) == 200
    assert len(modules[0]) > 160
    assert min(len(modules[1]), len(modules[2])) > 2
