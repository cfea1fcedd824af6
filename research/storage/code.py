"""Users' files of a run: kept in its directory, fingerprinted in its checkpoints, executed again to read its config.

    code/FILES.json   the experiment's file, the SHA-256 of every file, and the classes that the config takes from them
    code/...          the experiment's file and what it imports beside it, below the parent of its directory

Kept files are executed only if the config holds classes that this package does not have.
"""

import ast
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, Experiment, classes, modules, parse_json, require
from research.config.base import digest
from research.storage import cache
from research.storage.bucket import AnyPath
from research.storage.files import write_bytes, write_json

FILES = "FILES.json"
# Functions that give an experiment's values, which the config holds: a change of them is not one of a part.
VALUES = ("get_config", "sweep", "search", "published")


class Sources(NamedTuple):
    """The files that an experiment was read from, by paths below the parent of its directory."""

    file: str  # the experiment's own
    contents: Mapping[str, bytes]

    @classmethod
    def of(cls, path: Path) -> "Sources":
        """The sources of an experiment's file that was executed in this process."""
        path = path.resolve()
        return cls(path.relative_to(path.parent.parent).as_posix(), modules.loaded_beside(path))


def fingerprint(experiment: Experiment, sources: Sources | None) -> dict[str, str]:
    """A digest of each file, where the config holds classes of users; {} where it holds none.

    Comments, docstrings, empty lines and the functions that only give values (`VALUES`) do not count.
    """
    if sources is None or not classes.own(experiment):
        return {}
    return {name: hashlib.sha256(_code(content)).hexdigest() for name, content in sources.contents.items()}


def check_same(directory: AnyPath, before: Mapping[str, str], now: Mapping[str, str], accepted: bool) -> None:
    """Refuse to continue a run under other code of users' classes, unless the change is accepted.

    Raises ConfigError, which names the files.
    """
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    require(
        accepted or not changed,
        f"{directory} was trained with other code in {', '.join(changed)}, kept in {directory / 'code'}: restore it,"
        " give another --run_dir, or continue with --accept_changed_code.",
    )


def check_kept(directory: Path, sources: Sources, experiment: Experiment, accepted: bool) -> None:
    """Refuse files whose code differs from what the run directory keeps, before these are replaced, unless accepted."""
    path = directory / "code" / FILES
    facts = parse_json(path.read_bytes(), str(path)) if path.is_file() else {"files": {}}
    kept = {name: path.parent / name for name in facts["files"]}
    contents = {name: file.read_bytes() for name, file in kept.items() if file.is_file()}
    if contents:
        before = fingerprint(experiment, Sources(sources.file, contents))
        check_same(directory, before, fingerprint(experiment, sources), accepted)


def keep(directory: Path, sources: Sources, experiment: Experiment) -> None:
    """Write the files into the run directory. Files kept there with other contents move to code-1, code-2, ..."""
    folder = directory / "code"
    files = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(sources.contents.items())}
    facts = {"file": sources.file, "files": files, "classes": [cls.__name__ for cls in classes.own(experiment)]}
    if (folder / FILES).is_file() and parse_json((folder / FILES).read_bytes(), str(folder / FILES)) == facts:
        return
    if folder.exists():
        number = 1
        while (directory / f"code-{number}").exists():
            number += 1
        folder.rename(directory / f"code-{number}")
    new = directory / "code.tmp"
    shutil.rmtree(new, ignore_errors=True)
    for name, content in sources.contents.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(new / name, content)
    write_json(new / FILES, facts)
    new.rename(folder)


@contextmanager
def known(directory: AnyPath, config: Any) -> Iterator[None]:
    """Make the classes that a run's config, as JSON holds it, takes from users' files known by name.

    Raises ConfigError where kept files are needed and missing, changed since they were kept, or raise.
    """
    path = directory / "code" / FILES
    facts = parse_json(path.read_bytes(), str(path)) if path.exists() else {"classes": []}
    unknown = sorted({name for name in _types(config) if not classes.is_exported(name)})
    if not unknown and not facts["classes"]:
        yield
        return
    require(
        path.exists(),
        f"The config of {directory} names {', '.join(unknown)}, which is no class of this package, and {path} is"
        " missing: copy the run's code/ too.",
    )
    with classes.using(*map(vars, _executed(directory / "code", facts))):
        yield


def _executed(folder: AnyPath, facts: Mapping[str, Any]) -> list[Any]:
    """The modules of the kept files, the experiment's own last."""
    here = _local(folder, facts)
    for name, expected in facts["files"].items():
        kept = here / name
        require(kept.is_file(), f"{folder / name} is missing: the run's config needs it, so restore it.")
        same = hashlib.sha256(kept.read_bytes()).hexdigest() == expected
        require(same, f"{folder / name} has changed since it was kept: restore it, as the run was trained with it.")
    try:
        modules.load(here / facts["file"])
    except Exception as error:
        where = modules.place_of(error) or str(folder)
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
    return modules.loaded_modules(here / facts["file"])


def _local(folder: AnyPath, facts: Mapping[str, Any]) -> Path:
    """The directory itself, or for a bucket a copy of its files in the cache."""
    if isinstance(folder, Path):
        return folder
    copy = cache.directory() / "code" / digest([str(folder), facts["files"]])
    for name in facts["files"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (folder / name).exists():
            write_bytes(copy / name, (folder / name).read_bytes())
    return copy


def _types(value: Any) -> Iterator[str]:
    """The names of classes in a config as JSON holds it."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
        for item in value.values():
            yield from _types(item)
    elif isinstance(value, list):
        for item in value:
            yield from _types(item)


def _code(source: bytes) -> bytes:
    """The lines of a file that decide what its classes do."""
    tree, lines = ast.parse(source), source.splitlines()
    dropped: set[int] = set()
    for top in tree.body:
        if isinstance(top, ast.FunctionDef) and top.name in VALUES:
            dropped |= {*range(top.lineno, (top.end_lineno or top.lineno) + 1)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            first = node.body[0]
            dropped |= {*range(first.lineno, (first.end_lineno or first.lineno) + 1)}
    kept = [line.rstrip() for number, line in enumerate(lines, 1) if number not in dropped]
    return b"\n".join(line for line in kept if line.strip() and not line.lstrip().startswith(b"#"))
