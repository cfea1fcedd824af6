"""Filters of rows in Python's syntax, such as "language == 'de' and score > 0.5": parsed, checked, and never run."""

import ast
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

from research.config import ConfigError

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
