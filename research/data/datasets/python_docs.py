"""A TFDS builder over the documentation inside the running Python installation: real text that needs no network.

It holds the language reference (`pydoc_data.topics`) and the docstrings of the standard library and of the packages
that this codebase requires, with what those require; other installed packages are left out, so installing one changes
nothing. Sources are read and parsed, never imported or run.

Modules are divided, by a hash of their names: 90 in 100 for train, 5 for validation and 5 for test. python_summaries
divides them likewise, so that a model that was pretrained on the one has not read what it is to write in the other.
"""

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import io
import platform
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from research.config.base import digest
from research.data.corpora.documents import is_unicode
from research.storage import cache
from research.storage.progress import Progress

FORMAT = 2  # raised when the same sources would give other documents
MIN_CHARACTERS = 40
SPLITS = {18: "validation", 19: "test"}  # of 20; the others are for train
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", ".."}  # parts of a path
TOPICS = "pydoc_data/topics.py"
PACKAGES = (
    *("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "array-record", "sentencepiece"),
    *("safetensors", "tensorboardX", "matplotlib", "rich", "jaxtyping", "numpy"),
)


class SourceFile(NamedTuple):
    """A Python file, and what to call it: its path below the standard library or below site-packages."""

    name: str
    path: Path


class Document(NamedTuple):
    text: str
    source: str  # file:qualified name


class Sources(NamedTuple):
    fingerprint: str  # of what the files hold
    find: Callable[[], Iterable[SourceFile]]  # only asked where they are read, since looking for them takes seconds

    @property
    def files(self) -> tuple[SourceFile, ...]:
        return tuple(sorted(self.find()))


class PythonDocs(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, sources: Sources, data_dir: Path) -> None:
        self.sources, self.fingerprint = sources, sources.fingerprint
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "source": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        splits = divided(documents(self.sources.files))
        return {split: self._generate_examples(members) for split, members in splits.items()}

    def _generate_examples(self, members: Sequence[Document]) -> Iterator[tuple[str, dict[str, str]]]:
        for document in members:
            yield hashlib.sha256(document.text.encode()).hexdigest(), document._asdict()


def divided(found: Sequence[Any]) -> dict[str, list[Any]]:
    """What was found in modules, by the split of each; splits that have nothing are left out."""
    splits: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    for one in found:
        splits[split_of(one.source.partition(":")[0])].append(one)
    return {split: members for split, members in splits.items() if members}


def split_of(module: str) -> str:
    number = int.from_bytes(hashlib.sha256(module.encode()).digest()[:8])
    return SPLITS.get(number % 20, "train")


def open_builder(sources: Sources | None = None) -> PythonDocs:
    """The builder over `sources` (by default those of this installation), its data set in the cache, made if needed."""
    return open_cached("python_docs", FORMAT, PythonDocs, sources or installed_sources())


def open_cached(kind: str, format: int, make: Any, sources: Sources) -> Any:
    """A builder of Python's sources, its data set in the cache, made if needed."""
    tfds.disable_progress_bar()

    def build(folder: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS would name a directory that is renamed when it is whole
            make(sources, folder).download_and_prepare()

    key = digest([format, str(make.VERSION), sources.fingerprint])
    return make(sources, cache.entry(kind, key, build))


def installed_sources() -> Sources:
    """The standard library and the distributions of `PACKAGES` with all they require, identified by their versions."""
    standard = Path(sysconfig.get_path("stdlib"))
    distributions = required_distributions(PACKAGES)

    def find() -> Iterator[SourceFile]:
        yield from tree(standard)
        for distribution in distributions.values():
            yield from distribution_files(distribution)

    versions = sorted(f"{name}=={distribution.version}" for name, distribution in distributions.items())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return Sources(digest([python, versions]), find)


def tree(root: Path) -> list[SourceFile]:
    named = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return [SourceFile(name.as_posix(), path) for name, path in named if not {*name.parts} & LEFT_OUT]


def distribution_files(distribution: importlib.metadata.Distribution) -> list[SourceFile]:
    """The Python files that a distribution installed."""
    names = [name for name in distribution.files or () if name.suffix == ".py" and not {*name.parts} & LEFT_OUT]
    return [SourceFile(name.as_posix(), Path(str(distribution.locate_file(name)))) for name in names]


def required_distributions(roots: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions among `roots` and all they require, optional extras left out, by normalised name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(roots)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in found[name].requires or ():
            required = re.match(r"[\w.-]+", requirement)
            if required and "extra ==" not in requirement:
                waiting.append(required.group())
    return found


def documents(files: tuple[SourceFile, ...]) -> list[Document]:
    """The documents of `files` in their order; of several that differ in spacing or case only, the first."""
    found: dict[str, Document] = {}
    with Progress("Reading the documentation of this Python", len(files), "files") as progress, without_collection():
        for source in files:
            for document in file_documents(source):
                if len(document.text) >= MIN_CHARACTERS:
                    found.setdefault(" ".join(document.text.lower().split()), document)
            progress.advance()
    return list(found.values())


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Syntax trees hold no cycles, and looking for some in them takes longer than parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def file_documents(source: SourceFile) -> Iterator[Document]:
    content = source.path.read_bytes()
    if b'"""' not in content and b"'''" not in content:
        return  # large generated tables, mostly
    try:
        with warnings.catch_warnings(action="ignore"):  # of invalid escapes in other people's strings
            module = ast.parse(content)
    except (SyntaxError, ValueError):
        return  # templates, and files for another Python
    found = topics(module) if source.name.endswith(TOPICS) else docstrings(module)
    for name, text in found:
        if is_unicode(text):
            yield Document(text, f"{source.name}:{name}")


def topics(module: ast.Module) -> Iterator[tuple[str, str]]:
    """The sections of the language reference, from the dictionary that `pydoc` reads."""
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            yield from ast.literal_eval(statement.value).items()


def docstrings(node: ast.AST, name: str = "") -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of a module and of all that is defined in it, in the order of the file."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield name, text
    for field in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, field, ()):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from docstrings(child, f"{name}.{child.name}".lstrip("."))
            elif hasattr(child, "body"):
                yield from docstrings(child, name)
