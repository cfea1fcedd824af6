"""Python files of users, executed as modules whose names cannot clash.

The directory of a file is a package with a name of its own below its parent's. So `import parts` finds parts.py beside
the file first, as for a script; `from . import parts` and `from ..small import model` work as in any package; and two
directories may each have a parts.py. The modules are in sys.modules, where annotations written as text, `inspect` and
pickles of this process find them. sys.path stays as it is, and no compiled files are read or written: what is executed
is what the file holds now.
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

PREFIX = "experiment_"  # of the packages' names

executed: dict[Path, bytes] = {}  # what each file held when it was executed last


def load(path: Path) -> ModuleType:
    """The module of a Python file, executed unless it was before and no file of its package has changed since."""
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
    """What a loaded file and the users' files that it imported held, by paths below the parent of its directory."""
    path = path.resolve()
    top = path.parent.parent
    files = {Path(file) for module in loaded_modules(path) if (file := getattr(module, "__file__", None))}
    return {file.relative_to(top).as_posix(): executed[file] for file in sorted(files) if file in executed}


def loaded_modules(path: Path) -> list[ModuleType]:
    """The modules of a loaded file and of the users' files beside it, its own last."""
    path = path.resolve()
    prefix = f"{_root(path)}."
    modules = [module for name, module in sys.modules.items() if name.startswith(prefix)]
    return sorted(modules, key=lambda module: getattr(module, "__file__", None) == str(path))


def _root(path: Path) -> str:
    """The name of the package that stands for the parent of a file's directory."""
    return PREFIX + hashlib.sha256(str(path.parent.parent).encode()).hexdigest()[:10]


def is_loaded(module: str) -> bool:
    """Tell whether a module of this name, a class's `__module__`, is of a user's file."""
    return module.startswith(PREFIX)


def are_in(pickled: bytes) -> bool:
    """Tell whether a pickle needs a user's file, which must be loaded before anything is unpickled."""
    return PREFIX.encode() in pickled


def place_of(error: BaseException) -> str:
    """The `file:line` where an exception left the users' files, or where their syntax is wrong; "" if neither."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    ours = [(file, line) for file, line in places if Path(file) in executed]
    return f"{shown(Path(ours[-1][0]))}:{ours[-1][1]}" if ours else ""


def shown(path: Path) -> str:
    """A path as a message gives it: from the working directory where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)


def _name(text: str) -> str:
    return text.replace(".", "_") or "top"


def _add_package(name: str, directory: Path) -> None:
    if name not in sys.modules:
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = [str(directory)]


def _forget_if_changed(root: str) -> None:
    """Drop all modules of a package where a file of theirs has changed since it was executed."""
    names = [name for name in sys.modules if name == root or name.startswith(root + ".")]
    files = [Path(file) for name in names if (file := getattr(sys.modules[name], "__file__", None))]
    if any(not file.is_file() or file.read_bytes() != executed.get(file) for file in files):
        for name in names:
            del sys.modules[name]


class _Loader(SourceFileLoader):
    """Compiles anew each time, and lets the module import what is beside it by its plain name."""

    def get_code(self, fullname: str) -> Any:
        source = self.get_data(self.path)
        executed[Path(self.path)] = source
        return compile(source, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        importing = _importer(module.__name__.rpartition(".")[0], Path(self.path).parent)
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": importing}
        super().exec_module(module)


class _Finder:
    """Finds the modules of users' packages, for `from . import parts` and what `_importer` asks for."""

    def find_spec(
        self, name: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for directory in (path or ()) if is_loaded(name) else ():
            spec = FileFinder(directory, (_Loader, [".py"])).find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        return None  # a directory without __init__.py is found as any namespace package is


def _importer(package: str, directory: Path) -> Callable[..., ModuleType]:
    """`__import__` for the modules of a directory: what lies in it comes before what is installed."""

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
    """Tell whether a file of the directory has that name, and Python has not imported it already by that name."""
    files = (directory / f"{name}.py", directory / name / "__init__.py")
    known = getattr(sys.modules.get(name), "__file__", None)
    return any(file.is_file() and not (known and Path(known) == file) for file in files)
