"""Filters of rows in Python's syntax, such as "language == 'de' and score > 0.5": parsed, checked, and never run."""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from research.config import ConfigError
from research.storage.lines import json_value_at

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
ALLOWED = "columns (a/b is b within a), texts, numbers, True, False, None, lists, == != < <= > >=, in, and, or and not"


def expression(where: str, column: Callable[[str], Any], scalar: Callable[[Any], Any]) -> Any:
    """Build a filter from a library's expressions: `column` gives that of a column by its name, `scalar` of a constant.

    Raises:
        ConfigError: it has anything else than comparisons of columns and constants.
    """
    try:
        return _Builder(column, scalar).build(ast.parse(where.strip(), mode="eval").body)
    except ConfigError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        reason = (error.msg if isinstance(error, SyntaxError) else str(error)) or "it is too deep"
        raise ConfigError(f"where={where!r} is no filter ({reason}): it may have {ALLOWED}.") from None


class _Builder:
    def __init__(self, column: Callable[[str], Any], scalar: Callable[[Any], Any]) -> None:
        self._column, self._scalar = column, scalar

    def build(self, node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op, values):
                return reduce(operator.and_ if isinstance(op, ast.And) else operator.or_, map(self.build, values))
            case ast.UnaryOp(ast.Not(), operand):
                return ~self.build(operand)
            case ast.Compare(left, operators, rights):
                return reduce(operator.and_, map(self._compare, [left, *rights], operators, rights))
        name = _name(node)
        return self._column(name) if name else self._scalar(_constant(node))

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(op, ast.In | ast.NotIn):
            found = self.build(left).isin(_constants(right))
            return found if isinstance(op, ast.In) else ~found
        if isinstance(right, ast.Constant) and right.value is None and isinstance(op, ast.Eq | ast.Is):
            return self.build(left).is_null()
        if isinstance(right, ast.Constant) and right.value is None and isinstance(op, ast.NotEq | ast.IsNot):
            return self.build(left).is_valid()
        if type(op) not in COMPARISONS:
            raise ValueError(f"{ast.unparse(ast.Compare(left, [op], [right]))} is no comparison")
        return COMPARISONS[type(op)](self.build(left), self.build(right))


def _name(node: ast.expr) -> str | None:
    """Return the name of a column, or of one within others: language, meta/language or meta.language."""
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, attribute) if outer := _name(value):
            return f"{outer}/{attribute}"
        case ast.BinOp(left, ast.Div(), right) if (outer := _name(left)) and (inner := _name(right)):
            return f"{outer}/{inner}"
    return None


def _constant(node: ast.expr) -> str | bool | int | float:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} is no column and no constant") from None
    if not isinstance(value, str | bool | int | float):
        raise ValueError(f"{ast.unparse(node)} cannot be compared")
    return value


def _constants(node: ast.expr) -> list[str | bool | int | float]:
    if not isinstance(node, ast.List | ast.Tuple | ast.Set) or not node.elts:
        raise ValueError(f"{ast.unparse(node)} is no list of constants")
    return [_constant(each) for each in node.elts]


# --- Rows of JSON -----------------------------------------------------------------------------------------------------


def row_filter(where: str) -> Callable[[Mapping[str, Any], str], bool]:
    """Return a function that tells of a JSON object, by its name in errors, whether a filter selects it.

    As in tables, a comparison with a missing value selects nothing, nor does its opposite.

    Raises:
        ConfigError: it has anything else than comparisons of columns and constants; the function if a column is not
            there, or of a type that cannot be compared.
    """
    test: _Value = expression(where, _Value.column, _Value.constant)

    def selects(row: Mapping[str, Any], name: str) -> bool:
        try:
            return test.truth(row, name) is True
        except TypeError as error:
            raise ConfigError(f"{name}: where={where!r} does not fit its values ({error}).") from None

    return selects


@dataclass(frozen=True, eq=False)
class _Value:
    """A value that is computed from a row, given its name in errors; None if it is missing."""

    of: Callable[[Mapping[str, Any], str], Any]

    def truth(self, row: Mapping[str, Any], where: str) -> bool | None:
        found = self.of(row, where)
        if not isinstance(found, bool | None):
            raise TypeError(f"{found!r} is neither true nor false")
        return found

    @staticmethod
    def column(name: str) -> "_Value":
        return _Value(lambda row, where: json_value_at(row, name, where))

    @staticmethod
    def constant(value: Any) -> "_Value":
        return _Value(lambda row, where: value)

    def _compared(self, other: "_Value", compare: Callable[[Any, Any], bool]) -> "_Value":
        def value(row: Mapping[str, Any], where: str) -> bool | None:
            left, right = self.of(row, where), other.of(row, where)
            if left is None or right is None:
                return None
            if _kind(left) is not _kind(right):
                raise TypeError(f"{left!r} cannot be compared with {right!r}")
            return compare(left, right)

        return _Value(value)

    def __eq__(self, other: Any) -> Any:
        return self._compared(other, operator.eq)

    def __ne__(self, other: Any) -> Any:
        return self._compared(other, operator.ne)

    def __lt__(self, other: "_Value") -> "_Value":
        return self._compared(other, operator.lt)

    def __le__(self, other: "_Value") -> "_Value":
        return self._compared(other, operator.le)

    def __gt__(self, other: "_Value") -> "_Value":
        return self._compared(other, operator.gt)

    def __ge__(self, other: "_Value") -> "_Value":
        return self._compared(other, operator.ge)

    def __and__(self, other: "_Value") -> "_Value":
        return self._joined(other, decides=False)

    def __or__(self, other: "_Value") -> "_Value":
        return self._joined(other, decides=True)

    def _joined(self, other: "_Value", decides: bool) -> "_Value":
        """Join two tests, one of which decides alone if it gives `decides`, whatever is missing in the other."""

        def value(row: Mapping[str, Any], where: str) -> bool | None:
            sides = self.truth(row, where), other.truth(row, where)
            return decides if decides in sides else None if None in sides else not decides

        return _Value(value)

    def __invert__(self) -> "_Value":
        def value(row: Mapping[str, Any], where: str) -> bool | None:
            found = self.truth(row, where)
            return None if found is None else not found

        return _Value(value)

    def isin(self, values: list[Any]) -> "_Value":
        return reduce(operator.or_, (self.is_valid() & (self == _Value.constant(each)) for each in values))

    def is_null(self) -> "_Value":
        return _Value(lambda row, where: self.of(row, where) is None)

    def is_valid(self) -> "_Value":
        return ~self.is_null()


def _kind(value: Any) -> type:
    """Return what a value can be compared with; raise TypeError for lists and objects."""
    if isinstance(value, str | bool):
        return type(value)
    if isinstance(value, int | float):
        return float
    raise TypeError(f"{type(value).__name__} cannot be compared")
