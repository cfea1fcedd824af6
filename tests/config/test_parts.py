"""What is wrong in a user's part is one sentence that names its file and line."""

import importlib.util
import pickle
import sys
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from research.config import ConfigError, parts
from research.config.parts import Part, calling, expect

BASE = "from dataclasses import dataclass\nimport numpy as np\nfrom test_base import Shape\n"


@dataclass(frozen=True)
class Shape(Part):
    """A base as the shipped ones are."""

    @abstractmethod
    def area(self, scale: float) -> float: ...

    @abstractmethod
    def name(self) -> str: ...


Shape.__module__ = "research.shape"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import text as the file own.py of the working directory; its classes begin in line 4."""
    base = ModuleType("test_base")
    base.Shape = Shape  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "test_base", base)
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> ModuleType:
        (tmp_path / "own.py").write_text(BASE + text)
        specification = importlib.util.spec_from_file_location("own", tmp_path / "own.py")
        assert specification
        assert specification.loader
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, "own", module)
        specification.loader.exec_module(module)
        return module

    return load


SQUARE = """
@dataclass(frozen=True)
class Square(Shape):
    side: float = 2.0

    def name(self):
        return "square"

    def area(self, scale):
        return helper(self.side * scale)

def helper(side):
    return np.ones(3)[int(side)]
"""


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


def called(part: Part, *arguments: object) -> object:
    with calling(part, "area"):
        return part.area(*arguments)  # type: ignore[attr-defined]


def test_a_whole_part_works(load) -> None:
    square = load(SQUARE).Square()
    assert called(square, 1.0) == 1.0
    assert pickle.loads(pickle.dumps(square)) == square


def test_the_innermost_line_of_the_users_file_is_named(load) -> None:
    assert refused(lambda: called(load(SQUARE).Square(), 3.0)) == (
        "own.py:16: Square.area raised IndexError: index 6 is out of bounds for axis 0 with size 3."
    )


def test_an_exception_below_the_users_file_is_named_where_the_file_called(load) -> None:
    square = load(SQUARE.replace("np.ones(3)[int(side)]", "np.linalg.inv(np.zeros((2, 2)))")).Square()
    assert refused(lambda: called(square, 1.0)) == "own.py:16: Square.area raised LinAlgError: Singular matrix."


def test_a_method_with_other_arguments_is_named_where_it_is_defined(load) -> None:
    message = refused(lambda: called(load(SQUARE).Square(), 1.0, 2.0))
    assert message == (
        "own.py:12: Square.area raised TypeError: Square.area() takes 2 positional arguments but 3 were given."
    )


def test_a_sentence_of_the_parts_own_passes(load) -> None:
    text = SQUARE.replace("np.ones(3)[int(side)]", "require(False, 'side is wrong.')")
    square = load("from research.config import require\n" + text).Square()
    assert refused(lambda: called(square, 1.0)) == "side is wrong."


def test_a_shipped_part_raises_its_errors_as_they_are() -> None:
    @dataclass(frozen=True)
    class Broken(Shape):
        def area(self, scale: float) -> float:
            return 1 / 0

        def name(self) -> str:
            return ""

    Broken.__module__ = "research.broken"
    with pytest.raises(ZeroDivisionError):
        called(Broken(), 1.0)


def test_a_result_that_is_wrong_is_named_where_the_method_is_defined(load) -> None:
    square = load(SQUARE).Square()
    expect(True, square, "area", "returned nothing")
    assert refused(lambda: expect(False, square, "area", "returned str, no number")) == (
        "own.py:12: Square.area returned str, no number."
    )


def test_a_part_that_lacks_a_method_cannot_be_made(load) -> None:
    assert refused(load(SQUARE.replace("def area", "def aera")).Square) == (
        "own.py:6: Square lacks area(): Shape needs it."
    )


def test_a_part_without_the_decorator_cannot_be_made(load) -> None:
    assert refused(load(SQUARE.replace("@dataclass(frozen=True)", "")).Square) == (
        "own.py:6: Square is no dataclass: write @dataclass(frozen=True) above it."
    )


def test_a_class_of_which_no_file_is_known_is_named_all_the_same() -> None:
    scope: dict[str, object] = {"Shape": Shape, "dataclass": dataclass, "__name__": "typed"}
    exec("@dataclass(frozen=True)\nclass Typed(Shape):\n    pass", scope)
    assert refused(scope["Typed"]) == "Typed lacks area(), name(): Shape needs it."  # type: ignore[arg-type]


def test_paths_are_shown_below_the_working_directory(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    square = load(SQUARE).Square
    monkeypatch.chdir("/")
    assert parts.place(square, "area") == f"{tmp_path.relative_to('/')}/own.py:12: "
