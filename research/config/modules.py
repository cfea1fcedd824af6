"""Python files of users, executed as modules whose names cannot clash.

A file's directory becomes a package with a unique name, inside the package of the parent directory. So `import parts`
first finds parts.py beside the file, as in a script; `from . import parts` and `from ..small import model` work as in
any package; and two directories may each have a parts.py. The modules are in sys.modules, where annotations as text,
`inspect` and pickles of this process find them. sys.path does not change. No compiled files are read or written, so the
current contents of a file are executed.
"""

import builtins
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "experiment_"  # of the names of packages

executed: dict[Path, bytes] = {}  # contents of each file when it was last executed


def load(path: Path) -> ModuleType:
    """Import a Python file. Execute it again only if a file of its package has changed since the last time."""
    path = path.resolve()
    root = _root(path)
    _forget_if_changed(root)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    package = f"{root}.{_name(path.parent.name)}"
    _add_package(root, path.parent.parent)
    _add_package(package, path.parent)
    name = f"{package}.{_name(path.stem)}"
    if name not in sys.modules:
        loader = _Loader(name, str(path))
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
    return sys.modules[name]


def loaded_beside(path: Path) -> dict[str, bytes]:
    """Return the executed contents of a loaded file and of the user's files that it imported.

    Keys are paths relative to the parent of the file's directory.
    """
    path = path.resolve()
    top = path.parent.parent
    files = {Path(file) for module in loaded_modules(path) if (file := getattr(module, "__file__", None))}
    return {file.relative_to(top).as_posix(): executed[file] for file in sorted(files) if file in executed}


def loaded_modules(path: Path) -> list[ModuleType]:
    """Return the modules of a loaded file and of the user's files beside it, its own last."""
    path = path.resolve()
    prefix = f"{_root(path)}."
    modules = [module for name, module in sys.modules.items() if name.startswith(prefix)]
    return sorted(modules, key=lambda module: getattr(module, "__file__", None) == str(path))


def _root(path: Path) -> str:
    """Return the package name of the parent of a file's directory."""
    return PREFIX + hashlib.sha256(str(path.parent.parent).encode()).hexdigest()[:10]


def is_loaded(module: str) -> bool:
    """Tell whether a module name, such as a class's `__module__`, belongs to a user's file."""
    return module.startswith(PREFIX)


def are_in(pickled: bytes) -> bool:
    """Tell whether a pickle refers to a user's file, which must be loaded before unpickling."""
    return PREFIX.encode() in pickled


def place_of(error: BaseException) -> str:
    """Return the `file:line` of the innermost frame in a user's file, or of a syntax error in one; else ""."""
    locations = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        locations.append((error.filename, error.lineno))
    ours = [(file, line) for file, line in locations if Path(file) in executed]
    return f"{shown(Path(ours[-1][0]))}:{ours[-1][1]}" if ours else ""


def shown(path: Path) -> str:
    """Format a path for a message: relative to the working directory if inside it."""
    working = Path.cwd()
    return str(path.relative_to(working) if path.is_absolute() and path.is_relative_to(working) else path)


def _name(text: str) -> str:
    return text.replace(".", "_") or "top"


def _add_package(name: str, directory: Path) -> None:
    if name not in sys.modules:
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = [str(directory)]


def _forget_if_changed(root: str) -> None:
    """Drop all modules of a package if a file of one has changed since it was executed."""
    names = [name for name in sys.modules if name == root or name.startswith(root + ".")]
    files = [Path(file) for name in names if (file := getattr(sys.modules[name], "__file__", None))]
    if any(not file.is_file() or file.read_bytes() != executed.get(file) for file in files):
        for name in names:
            del sys.modules[name]


class _Loader(SourceFileLoader):
    """A loader that always compiles the source, and lets a module import files beside it by their plain names."""

    def get_code(self, fullname: str) -> Any:
        source = self.get_data(self.path)
        executed[Path(self.path)] = source
        return compile(source, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        importing = _importer(module.__name__.rpartition(".")[0], Path(self.path).parent)
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": importing}
        super().exec_module(module)


class _Finder:
    """A finder of the modules in users' packages, for `from . import parts` and for `_importer`."""

    def find_spec(
        self, name: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for directory in (path or ()) if is_loaded(name) else ():
            spec = FileFinder(directory, (_Loader, [".py"])).find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        return None  # Python finds a directory without __init__.py as a namespace package


def _importer(package: str, directory: Path) -> Callable[..., ModuleType]:
    """Return an `__import__` for the modules of a directory: files in it have priority over installed modules."""

    def import_beside_first(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        first = name.partition(".")[0]
        if level or not _is_beside(first, directory):
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        return module if fromlist else sys.modules[f"{package}.{first}"]

    return import_beside_first


def _is_beside(name: str, directory: Path) -> bool:
    """Tell whether a file of the directory has that name, and is not yet imported by Python under that name."""
    files = (directory / f"{name}.py", directory / name / "__init__.py")
    known = getattr(sys.modules.get(name), "__file__", None)
    return any(file.is_file() and not (known and Path(known) == file) for file in files)
