"""A TFDS builder over the documentation in the running Python installation: real text without a network.

It contains the language reference (`pydoc_data.topics`) and the docstrings of the standard library and of the packages
that this codebase requires, with their own requirements; other installed packages are excluded, so that installing one
changes nothing. Sources are read and parsed, never imported or run.

Modules are split by a hash of their names: 90 in 100 into train, 5 into validation and 5 into test. python_summaries
uses the same split, so that a model pretrained on one has not read the test targets of the other.
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
from research.storage import cache
from research.storage.lines import is_unicode
from research.storage.progress import Progress

FORMAT = 2  # increment when the same sources would give other documents
MIN_CHARACTERS = 40
SPLITS = {18: "validation", 19: "test"}  # of 20 hash buckets; the others are train
EXCLUDED_PARTS = {"test", "tests", "idle_test", "site-packages", "dist-packages", ".."}  # excluded path components
TOPICS = "pydoc_data/topics.py"
PACKAGES = (
    *("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "array-record", "sentencepiece"),
    *("safetensors", "tensorboardX", "matplotlib", "rich", "jaxtyping", "numpy"),
)


class SourceFile(NamedTuple):
    """A Python file, named by its path below the standard library or below site-packages."""

    name: str
    path: Path


class Document(NamedTuple):
    text: str
    source: str  # file:qualified name


class Sources(NamedTuple):
    fingerprint: str  # identifies the contents of the files
    find: Callable[[], Iterable[SourceFile]]  # called only when files are read, since the search takes seconds

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
        splits = split_by_module(documents(self.sources.files))
        return {split: self._generate_examples(members) for split, members in splits.items()}

    def _generate_examples(self, members: Sequence[Document]) -> Iterator[tuple[str, dict[str, str]]]:
        for document in members:
            yield hashlib.sha256(document.text.encode()).hexdigest(), document._asdict()


def split_by_module(items: Sequence[Any]) -> dict[str, list[Any]]:
    """Group items by the split of their module; empty splits are omitted."""
    splits: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    for item in items:
        splits[split_of(item.source.partition(":")[0])].append(item)
    return {split: members for split, members in splits.items() if members}


def split_of(module: str) -> str:
    number = int.from_bytes(hashlib.sha256(module.encode()).digest()[:8])
    return SPLITS.get(number % 20, "train")


def open_builder(sources: Sources | None = None) -> PythonDocs:
    """Open the builder over `sources` (default: this installation); its data set is built if needed and cached."""
    return open_cached("python_docs", FORMAT, PythonDocs, sources or installed_sources())


def open_cached(kind: str, format: int, make: Any, sources: Sources) -> Any:
    """Open a builder over Python sources; its data set is built if needed and cached."""
    tfds.disable_progress_bar()

    def build(folder: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS would print a temporary directory name
            make(sources, folder).download_and_prepare()

    key = digest([format, str(make.VERSION), sources.fingerprint])
    return make(sources, cache.entry(kind, key, build))


def installed_sources() -> Sources:
    """Return the standard library and `PACKAGES` with all their requirements, identified by their versions."""
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
    return [SourceFile(name.as_posix(), path) for name, path in named if not {*name.parts} & EXCLUDED_PARTS]


def distribution_files(distribution: importlib.metadata.Distribution) -> list[SourceFile]:
    """List the Python files that a distribution installed."""
    names = [name for name in distribution.files or () if name.suffix == ".py" and not {*name.parts} & EXCLUDED_PARTS]
    return [SourceFile(name.as_posix(), Path(str(distribution.locate_file(name)))) for name in names]


def required_distributions(roots: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """Return the installed distributions among `roots` and all their requirements, without extras,
    by normalised name.
    """
    installed: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(roots)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in installed:
            continue
        try:
            installed[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in installed[name].requires or ():
            required = re.match(r"[\w.-]+", requirement)
            if required and "extra ==" not in requirement:
                waiting.append(required.group())
    return installed


def documents(files: tuple[SourceFile, ...]) -> list[Document]:
    """Extract the documents of `files` in order, keeping the first of those that differ only in spacing or case."""
    unique: dict[str, Document] = {}
    with Progress("Reading the documentation of this Python", len(files), "files") as progress, without_collection():
        for source in files:
            for document in file_documents(source):
                if len(document.text) >= MIN_CHARACTERS:
                    unique.setdefault(" ".join(document.text.lower().split()), document)
            progress.advance()
    return list(unique.values())


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Disable garbage collection: syntax trees hold no cycles, and searching them takes longer than parsing."""
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
        with warnings.catch_warnings(action="ignore"):  # invalid escapes in third-party strings
            module = ast.parse(content)
    except (SyntaxError, ValueError):
        return  # templates, and files for another Python
    texts = topics(module) if source.name.endswith(TOPICS) else docstrings(module)
    for name, text in texts:
        if is_unicode(text):
            yield Document(text, f"{source.name}:{name}")


def topics(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the sections of the language reference, from the dictionary that `pydoc` reads."""
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            yield from ast.literal_eval(statement.value).items()


def docstrings(node: ast.AST, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (qualified name, docstring) of a module and of everything defined in it, in file order."""
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
