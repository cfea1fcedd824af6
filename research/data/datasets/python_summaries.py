"""A TFDS builder of a summarization task from the running Python installation: function bodies and what they do.

The sources and splits are those of python_docs. An example is a function with a docstring that begins with a sentence
of 4 to 40 words; its body, without the docstring, has at least two statements and at most `MAX_CHARACTERS`. Equal
bodies count once.
"""

import ast
import hashlib
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from research.data.datasets.python_docs import (
    SourceFile,
    Sources,
    installed_sources,
    open_cached,
    split_by_module,
    without_collection,
)
from research.storage.lines import is_unicode
from research.storage.progress import Progress

FORMAT = 1  # increment when the same sources would give other examples
WORDS = range(4, 41)  # allowed numbers of words in a sentence
MIN_STATEMENTS = 2
MAX_CHARACTERS = 2000  # of a body: about 600 tokens


class Summary(NamedTuple):
    function: str  # the body's source, from column 0
    summary: str
    source: str  # file:qualified name


class PythonSummaries(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, sources: Sources, data_dir: Path) -> None:
        self.sources, self.fingerprint = sources, sources.fingerprint
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(dict.fromkeys(Summary._fields, tfds.features.Text()))
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        splits = split_by_module(summaries(self.sources.files))
        return {split: self._generate_examples(members) for split, members in splits.items()}

    def _generate_examples(self, members: Sequence[Summary]) -> Iterator[tuple[str, dict[str, str]]]:
        for summary in members:
            yield hashlib.sha256(summary.function.encode()).hexdigest(), summary._asdict()


def open_builder(sources: Sources | None = None) -> PythonSummaries:
    """Open the builder over `sources` (default: this installation); its data set is built if needed and cached."""
    return open_cached("python_summaries", FORMAT, PythonSummaries, sources or installed_sources())


def summaries(files: Sequence[SourceFile]) -> list[Summary]:
    """Extract the examples of `files` in order, keeping the first of equal bodies."""
    unique: dict[str, Summary] = {}
    with Progress("Reading the functions of this Python", len(files), "files") as progress, without_collection():
        for source in files:
            for summary in file_summaries(source):
                unique.setdefault(summary.function, summary)
            progress.advance()
    return list(unique.values())


def file_summaries(source: SourceFile) -> Iterator[Summary]:
    content = source.path.read_bytes()
    if b"def " not in content or (b'"""' not in content and b"'''" not in content):
        return
    try:
        text = content.decode()  # column offsets assume UTF-8
        with warnings.catch_warnings(action="ignore"):  # invalid escapes in third-party strings
            module = ast.parse(text)
    except (SyntaxError, ValueError):
        return  # templates, and files for another Python
    lines = re.split("\r\n|\r|\n", text)
    for name, function in functions(module):
        sentence, body = first_sentence(ast.get_docstring(function) or ""), body_of(function, lines)
        if len(sentence.split()) in WORDS and 0 < len(body) <= MAX_CHARACTERS and is_unicode(sentence + body):
            yield Summary(body, sentence, f"{source.name}:{name}")


def functions(node: ast.AST, name: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield (qualified name, function) of everything defined in a module, in file order."""
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{name}.{child.name}".lstrip(".")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inner, child
        if isinstance(child, ast.stmt | ast.excepthandler):
            yield from functions(child, inner)


def body_of(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]) -> str:
    """Return the source of the statements after the docstring, or "" if there are too few."""
    statements = function.body[1:]
    if len(statements) < MIN_STATEMENTS or statements[0].lineno == function.body[0].end_lineno:
        return ""
    return textwrap.dedent("\n".join(lines[statements[0].lineno - 1 : statements[-1].end_lineno])).strip()


def first_sentence(docstring: str) -> str:
    """Return the first paragraph up to its first full stop, on one line."""
    paragraph = " ".join(re.split(r"\n\s*\n", docstring.strip())[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`*\[(])", paragraph)[0]
