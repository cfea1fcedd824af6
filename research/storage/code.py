"""Users' files of a run: stored in its directory, fingerprinted in its checkpoints, executed again to read its config.

    code/FILES.json   the experiment's file, the SHA-256 of every file, and the classes that the config takes from them
    code/...          the experiment's file and the files it imports beside it, below the parent of its directory

Stored files are executed only if the config has classes that this package does not have.
"""

import ast
import hashlib
import io
import shutil
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, Experiment, classes, modules, parse_json, require
from research.config.base import digest
from research.storage import cache
from research.storage.bucket import AnyPath
from research.storage.files import write_bytes, write_json

FILES = "FILES.json"
# Functions that return values of an experiment. The config holds the values, so changes to the functions are ignored.
VALUES = ("get_config", "sweep", "search", "published", "columns")


class SourceFiles(NamedTuple):
    """The source files of an experiment, by paths below the parent of its directory."""

    file: str  # the experiment's own
    contents: Mapping[str, bytes]

    @classmethod
    def of(cls, path: Path) -> "SourceFiles":
        """Collect the sources of an experiment's file that was executed in this process."""
        path = path.resolve()
        return cls(path.relative_to(path.parent.parent).as_posix(), modules.loaded_beside(path))


def paths(file: Path) -> list[Path]:
    """Return the paths of an experiment's file and of those that it imports beside it."""
    folder = file.resolve().parent.parent
    return [folder / name for name in SourceFiles.of(file).contents]


def fingerprint(experiment: Experiment, sources: SourceFiles) -> dict[str, str]:
    """Compute a digest of each file if the config has users' classes; otherwise return {}.

    Comments, docstrings, empty lines and the functions that only return values (`VALUES`) do not count.
    """
    if not classes.own(experiment):
        return {}
    return {name: hashlib.sha256(_code(content)).hexdigest() for name, content in sources.contents.items()}


def check_same(directory: AnyPath, before: Mapping[str, str], now: Mapping[str, str], accepted: bool) -> None:
    """Check that a run continues with the same code of users' classes.

    Raises:
        ConfigError: the code has changed and this is not accepted; the message names the files.
    """
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    require(
        accepted or not changed,
        f"{directory} was trained with other code in {', '.join(changed)}, stored in {directory / 'code'}: restore it,"
        " give another --run_dir, or continue with --accept_changed_code.",
    )


def check_kept(directory: Path, sources: SourceFiles, experiment: Experiment, accepted: bool) -> None:
    """Check the files against those that the run directory stores, before they are replaced.

    Stored files that are damaged are reported and decide nothing: a checkpoint has fingerprints of its own.

    Raises:
        ConfigError: the code differs and this is not accepted.
    """
    path = directory / "code" / FILES
    if not path.parent.exists():
        return
    contents = _stored(path)
    if contents is None:
        print(f"{path.parent} is damaged: it is set aside and the files are stored again.", flush=True)
    elif contents:
        before = fingerprint(experiment, SourceFiles(sources.file, contents))
        check_same(directory, before, fingerprint(experiment, sources), accepted)


def _stored(path: Path) -> dict[str, bytes] | None:
    """Read the stored files that a FILES.json lists; None if it or one of them is missing or damaged."""
    try:
        listed = _facts(path)["files"]
        contents = {name: (path.parent / name).read_bytes() for name in listed}
    except (OSError, ConfigError):
        return None
    whole = all(hashlib.sha256(content).hexdigest() == listed[name] for name, content in contents.items())
    return contents if whole else None


def _facts(path: AnyPath) -> dict[str, Any]:
    """Read a FILES.json. Raises ConfigError if it has not the form that `keep` writes."""
    match parse_json(path.read_bytes(), str(path)):
        case {"file": str(), "files": dict(), "classes": list()} as facts:
            return facts
    raise ConfigError(f"{path} is damaged: it does not list the stored files.")


def keep(directory: Path, sources: SourceFiles, experiment: Experiment) -> None:
    """Store the files in the run directory. Files stored there with other contents are moved to code-1, code-2, ..."""
    folder = directory / "code"
    files = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(sources.contents.items())}
    facts = {"file": sources.file, "files": files, "classes": [cls.__name__ for cls in classes.own(experiment)]}
    with suppress(OSError, ConfigError):
        if _facts(folder / FILES) == facts and _stored(folder / FILES) is not None:
            return
    if folder.exists():
        number = 1
        while (directory / f"code-{number}").exists():
            number += 1
        folder.rename(directory / f"code-{number}")
    new = directory / "code.tmp"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for name, content in sources.contents.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(new / name, content)
    write_json(new / FILES, facts)
    new.rename(folder)


@contextmanager
def known(directory: AnyPath, config: Any) -> Iterator[None]:
    """Register the classes that a run's config (parsed JSON) takes from users' files, inside a `with` block.

    Raises:
        ConfigError: stored files are needed and are missing, have changed since they were stored, or raise.
    """
    path = directory / "code" / FILES
    facts = _facts(path) if path.exists() else {"classes": []}
    unknown = sorted({name for name in _types(config) if not classes.is_exported(name)})
    if not unknown and not facts["classes"]:
        yield
        return
    require(
        path.exists(),
        f"The config of {directory} names {', '.join(unknown)}, which this package lacks, and {path} is"
        " missing: copy the run's code/ too.",
    )
    with classes.using(*map(vars, _load_modules(directory / "code", facts))):
        yield


def _load_modules(folder: AnyPath, facts: Mapping[str, Any]) -> list[Any]:
    """Execute the stored files; return their modules, the experiment's own last."""
    for name in facts["files"]:
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        require(inside, f"{folder / FILES} names {name}, which is not below {folder}: the run directory was changed.")
    local = _local(folder, facts)
    for name, expected in facts["files"].items():
        kept = local / name
        require(kept.is_file(), f"{folder / name} is missing: the run's config needs it, so restore it.")
        same = hashlib.sha256(kept.read_bytes()).hexdigest() == expected
        require(same, f"{folder / name} has changed since it was stored: restore it, the run was trained with it.")
    try:
        modules.load(local / facts["file"])
    except Exception as error:
        where = modules.place_of(error) or str(folder)
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
    return modules.loaded_modules(local / facts["file"])


def _local(folder: AnyPath, facts: Mapping[str, Any]) -> Path:
    """Return a local directory as it is; copy the files of one in a bucket to the cache."""
    if isinstance(folder, Path):
        return folder
    copy = cache.directory() / "code" / digest([str(folder), facts["files"]])
    for name in facts["files"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (folder / name).exists():
            write_bytes(copy / name, (folder / name).read_bytes())
    return copy


def _types(value: Any) -> Iterator[str]:
    """Yield the names of the classes in a config (parsed JSON)."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
        for item in value.values():
            yield from _types(item)
    elif isinstance(value, list):
        for item in value:
            yield from _types(item)


def _code(source: bytes) -> bytes:
    """Keep the lines of a file that determine the behaviour of its classes."""
    tree, lines = ast.parse(source), source.decode().splitlines()
    dropped: set[int] = set()
    for top in tree.body:
        if isinstance(top, ast.FunctionDef) and top.name in VALUES:
            dropped |= {*range(top.lineno, (top.end_lineno or top.lineno) + 1)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            first = node.body[0]
            dropped |= {*range(first.lineno, (first.end_lineno or first.lineno) + 1)}
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    kept = [line.rstrip() for number, line in enumerate(lines, 1) if number not in dropped]
    return "\n".join(filter(None, kept)).encode()
