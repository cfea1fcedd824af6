"""The shipped corpus: what it takes from sources, that it never runs them, and that a build is whole or absent."""

import subprocess
import sys
from pathlib import Path

import pytest

from research.data.datasets import python_docs, python_summaries
from research.data.datasets.python_docs import SourceFile, Sources

LONG = "a docstring that is long enough to be worth a place"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    files = {
        "one.py": f'''"""Module, {LONG}."""
raise RuntimeError("this source was run")
def function():
    """Function,
        {LONG}.

    Indented.
    """
class Outer:
    if True:
        async def method(self):
            r"""Method \\d, {LONG}."""
            def inner():
                """Inner, {LONG}."""
try:
    x = 1
except ImportError:
    def fallback():
        """Fallback, {LONG}."""
''',
        "short.py": '"""Too short."""',
        "twice.py": f'"""module,  {LONG}."""\ndef same():\n    """Function,\n    {LONG}.\n\n    Indented."""',
        "broken.py": f'"""Broken, {LONG}.""" def',
        "surrogate.py": f'"""Half \\ud800, {LONG}."""',
        "tests/three.py": f'"""Test, {LONG}."""',
        "pydoc_data/topics.py": f'topics = {{"if": """The if statement, {LONG}.""", "for": """Short."""}}',
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_what_is_taken_from_sources(package: Path) -> None:
    found = python_docs.documents(python_docs.tree_sources(package).files)
    assert [(document.source, document.text) for document in found] == [
        ("one.py:", f"Module, {LONG}."),
        ("one.py:function", f"Function,\n    {LONG}.\n\nIndented."),
        ("one.py:Outer.method", f"Method \\d, {LONG}."),
        ("one.py:Outer.method.inner", f"Inner, {LONG}."),
        ("one.py:fallback", f"Fallback, {LONG}."),
        ("pydoc_data/topics.py:if", f"The if statement, {LONG}."),
    ]


def many(root: Path, count: int) -> Sources:
    root.mkdir()
    for number in range(count):
        (root / f"file{number}.py").write_text(f'"""Number {number}, {LONG}."""')
    return python_docs.tree_sources(root)


def texts(builder: python_docs.PythonDocs, split: str) -> list[str]:
    return [example["text"].decode() for example in builder.as_data_source(split)]


def test_splits_are_stable_and_disjoint(own_cache: Path, tmp_path: Path) -> None:
    builder = python_docs.open_builder(many(tmp_path / "a", 1000))
    train, validation, test = (texts(builder, split) for split in ("train", "validation", "test"))
    assert sorted(train + validation + test) == sorted(f"Number {number}, {LONG}." for number in range(1000))
    assert 25 <= len(validation) <= 75
    assert 25 <= len(test) <= 75

    more = python_docs.open_builder(many(tmp_path / "b", 1100))
    assert more.fingerprint != builder.fingerprint
    assert set(train) < set(texts(more, "train"))
    assert set(validation) <= set(texts(more, "validation"))

    again = python_docs.open_builder(many(tmp_path / "c", 1000))
    assert again.fingerprint == builder.fingerprint
    assert texts(again, "train") == train
    assert "tensorflow" not in sys.modules


def test_what_summaries_are_tested_on_is_not_in_the_training_text(own_cache: Path, tmp_path: Path) -> None:
    root = tmp_path / "package"
    root.mkdir()
    for number in range(200):
        body = f"    x = {number}\n    return x\n"
        (root / f"file{number}.py").write_text(f'def function():\n    """Returns number {number}, {LONG}."""\n{body}')
    sources = python_docs.tree_sources(root)
    read = texts(python_docs.open_builder(sources), "train")
    summaries = python_summaries.open_builder(sources)
    for split, seen in (("train", True), ("validation", False), ("test", False)):
        written = [example["summary"].decode() for example in summaries.as_data_source(split)]
        assert len(written) > 0
        assert all((summary in read) == seen for summary in written)


def test_equal_sources_build_equal_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = many(tmp_path / "a", 100)
    built = []
    for name in ("first", "second"):
        monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / name))
        python_docs.open_builder(sources)
        built.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.array_record*")})
    assert len(built[0]) == 3
    assert built[0] == built[1]
    assert capsys.readouterr().out == ""


BUILD_AND_DIE = """
import os, signal, sys
from pathlib import Path
from research.data.datasets import python_docs
write = python_docs.PythonDocs._generate_examples
def generate(self, examples):
    for number, example in enumerate(write(self, examples)):
        if number == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example
python_docs.PythonDocs._generate_examples = generate
python_docs.open_builder(python_docs.tree_sources(Path(sys.argv[1])))
"""


def test_a_killed_build_starts_afresh(own_cache: Path, tmp_path: Path) -> None:
    sources = many(tmp_path / "a", 60)
    process = subprocess.run([sys.executable, "-c", BUILD_AND_DIE, str(tmp_path / "a")], timeout=120)
    assert process.returncode == -9
    left = [path.name for path in own_cache.rglob("*")]
    assert any("incomplete" in name for name in left)

    builder = python_docs.open_builder(sources)
    assert sum(len(texts(builder, split)) for split in builder.info.splits) == 60
    left = [path.name for path in own_cache.rglob("*")]
    assert not any("incomplete" in name or "partial" in name for name in left)


def test_the_sources_of_this_installation() -> None:
    sources = python_docs.installed_sources()
    assert python_docs.installed_sources().fingerprint == sources.fingerprint
    names = {source.name: source for source in sources.files}
    for name in (
        "pydoc_data/topics.py",
        "json/decoder.py",
        "jax/__init__.py",
        "numpy/__init__.py",
        "scipy/__init__.py",
    ):
        assert names[name].path.is_file()
    # What tests install is not a part of the corpus: running them must not change the data of a run.
    assert not any(name.startswith(("pytest/", "_pytest/", "hypothesis/", "ruff/")) for name in names)
    assert not any("/tests/" in name or "site-packages" in name for name in names)
    topics = [document.source for document in python_docs.file_documents(names["pydoc_data/topics.py"])]
    assert "pydoc_data/topics.py:lambda" in topics


def test_collection_of_garbage_goes_on_after_an_error(tmp_path: Path) -> None:
    import gc

    with pytest.raises(FileNotFoundError):
        python_docs.documents((SourceFile("gone.py", tmp_path / "gone.py"),))
    assert gc.isenabled()
